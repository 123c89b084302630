"""Checks the parts of a machine that raylora needs: a line each, good or not, and what to do."""
