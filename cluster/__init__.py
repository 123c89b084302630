"""Machines, never training: what makes a plain vCenter a cloud for Ray's autoscaler."""
