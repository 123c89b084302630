"""The memory that training takes: measured, estimated, and kept within a device's limit."""
