"""Recipes of training: what each key does, and that it does so in any company."""
