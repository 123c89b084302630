"""What vSAN does for a cluster: storage policies, and whether it is fit for a sweep."""
