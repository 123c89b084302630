"""The exported image adapter, and how people use it."""
