"""Captioned images from a folder, in every layout that trainers use."""
