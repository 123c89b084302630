"""Ray's side of a cluster: node provider, autoscaler configuration, user data."""
