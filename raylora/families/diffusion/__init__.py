"""Stable Diffusion 1.5 and XL."""
