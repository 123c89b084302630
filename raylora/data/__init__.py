"""Training data: reading captioned images and chats, holding some out, and the cache of encoded examples."""
