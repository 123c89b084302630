"""What training costs a device's memory, and what fits into it."""
