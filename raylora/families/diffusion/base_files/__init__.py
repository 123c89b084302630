"""The files of a Stable Diffusion model: which there are, and what is wrong with them. Imports no torch."""
