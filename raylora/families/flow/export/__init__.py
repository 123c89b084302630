"""The exported adapter of a flow-matching model, and how people use it."""
