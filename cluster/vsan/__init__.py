"""vSAN underneath a cluster: storage policies, and the gate before a sweep."""
