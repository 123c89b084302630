"""What all families of image models share: sizes, forms, prompts, encoding, the loss of a row, exported metadata."""
