"""The life of nodes: placed, provisioned, reconciled, terminated."""
