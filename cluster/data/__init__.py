"""Data sets, models and adapters, to the shared folder of a cluster and back: over a service of ours on its head."""
