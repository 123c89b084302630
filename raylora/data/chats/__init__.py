"""Chats, completions and texts from files of every kind and shape that fine-tuning tools use."""
