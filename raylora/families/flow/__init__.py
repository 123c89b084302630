"""Image models that learn by flow matching (Stable Diffusion 3, Flux): a transformer that predicts velocities."""
