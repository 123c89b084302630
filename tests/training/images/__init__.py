"""Training on image data of every kind."""
