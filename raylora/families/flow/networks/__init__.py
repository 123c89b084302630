"""What differs between the transformers of flow-matching image models, a file each."""
