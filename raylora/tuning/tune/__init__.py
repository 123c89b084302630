"""What stands between raylora and Ray Tune: search space, trainable, callback, experiment state."""
