"""What of a machine raylora needs, looked at part by part: a line each, good or not, and what to do."""
