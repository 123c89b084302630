"""Sweeps: the search space, Ray Tune around the trainers, the ranking and the report."""
