"""Data-parallel training: workers that compute one pack's steps together."""
