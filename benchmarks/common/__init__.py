"""Helpers that benchmarks share: clocks and tables, counted work, tasks, the simulated vCenter, a process to kill."""
