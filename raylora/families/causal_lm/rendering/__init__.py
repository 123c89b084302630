"""Chats as text: what a chat template makes of messages, and where in it the assistant speaks."""
