"""What a person may write in YAML: the schema, and the loader that reads it."""
