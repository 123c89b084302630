"""The YAML files that people write: one loader for all of them, and the schema of a training run."""
