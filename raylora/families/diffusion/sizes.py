"""The sizes that a Stable Diffusion model takes. Imports no torch."""

from __future__ import annotations

from raylora.config.schema import TrainConfig
from raylora.families.diffusion.base_files.model_files import ModelFiles
from raylora.families.images.sizes import Sizes, sizes_for


def vae_factor(files: ModelFiles) -> int:
    """Pixels along a side that the VAE makes one latent."""
    return int(2 ** (len(files.settings("vae")["block_out_channels"]) - 1))


def sizes(files: ModelFiles, config: TrainConfig) -> Sizes:
    """The sizes that pictures are brought to for a model.

    Raises:
        UserError: `config.resolution` is too small for the model.
    """
    unet = files.settings("unet")
    granule = vae_factor(files) * 2 ** (len(unet["block_out_channels"]) - 1)
    own = int(unet.get("sample_size") or 64) * vae_factor(files)
    return sizes_for(config.resolution or own, granule, own)
