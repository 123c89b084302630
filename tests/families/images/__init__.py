"""What families of image models share."""
