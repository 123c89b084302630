"""Tests of workers that compute a pack's steps together."""
