"""Captions and tags for a folder of pictures, by a model that sees them."""
