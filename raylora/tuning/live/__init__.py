"""What a running sweep tells: its events, and the views that are made of them."""
