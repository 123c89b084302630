"""What `raylora cluster` does."""
