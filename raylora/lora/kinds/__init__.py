"""Kinds of LoRA: what they train beside A and B, and where these start."""
