"""Data sets and sweeps as they were: snapshots beside the folder, clones of them, and bundles for the backup."""
