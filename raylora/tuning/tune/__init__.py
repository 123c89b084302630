"""The layer between raylora and Ray Tune: search space, trainable, callback, journal."""
