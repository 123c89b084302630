"""Exported image adapters: what their head says, and the layouts of libraries."""
