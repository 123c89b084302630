"""Adapters: many of them in one frozen model at once, and the files they leave as."""
