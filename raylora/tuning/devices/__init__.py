"""The cluster's devices: slots, the pool of trainers, cards of different speed."""
