"""Image models that learn by flow matching (Stable Diffusion 3, Flux, ...): transformers that predict velocities."""
