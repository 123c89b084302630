"""The pack's loop, its checkpoints and its validation, in plain PyTorch; `actor.py` wraps it for Ray."""
