"""What packs ask of a device, on one that is simulated."""
