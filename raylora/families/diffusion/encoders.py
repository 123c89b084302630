"""Images and captions as the tensors that training draws from: latents, text embeddings, masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from raylora.families.base import Tensors
from raylora.families.diffusion.base_files.model_files import ModelFiles
from raylora.families.diffusion.components import load_vae
from raylora.families.diffusion.texts import TextEncoders
from raylora.families.images import buckets
from raylora.families.images.encoders import PictureEncoders
from raylora.families.images.encoding import pixels_of


class Encoders(PictureEncoders):
    """A model's VAE and text encoders, loaded when they are needed, in float32.

    Args:
        files: the model's.
        device: where they compute.
        most_chunks: of a caption, see `texts.py`.
    """

    def __init__(self, files: ModelFiles, device: torch.device, most_chunks: int) -> None:
        super().__init__(files.path, device)
        self._files = files
        self.most_chunks = most_chunks
        self._empty: dict[int, Tensors] = {}

    def caption(self, caption: str, chunks: int | None = None) -> Tensors:
        """A caption's embeddings, in as many chunks as it needs or as are given."""
        texts = self._loaded_texts()
        found = texts.encode(caption, chunks or texts.chunks(caption))
        return {name: tensor.float().cpu().contiguous() for name, tensor in found.items()}

    def empty_caption(self, tokens: int) -> Tensors:
        """The empty caption's embeddings, as long as a caption that it replaces.

        Made once; not part of the cache, since only some trials want them.
        """
        if not self._empty:
            loaded = self._texts is not None
            made = [self.caption("", chunks) for chunks in range(1, self.most_chunks + 1)]
            self._empty = {texts["prompt"].shape[0]: texts for texts in made}
            if not loaded:
                self.release()
        return self._empty[tokens]

    def _captions(self, captions: tuple[str, ...]) -> Tensors:
        """The embeddings of all forms of a caption, as long as those of the longest."""
        chunks = max(self._loaded_texts().chunks(caption) for caption in captions)
        once = {caption: self.caption(caption, chunks) for caption in dict.fromkeys(captions)}
        each = [once[caption] for caption in captions]
        return {name: torch.stack([texts[name] for texts in each]) for name in each[0]}

    def _latents(self, picture: Image.Image) -> Tensor:
        """The scaled mean of the VAE's posterior."""
        if self._vae is None:
            # Never fp16: SDXL's VAE overflows in it.
            self._vae = load_vae(self._files, torch.float32).to(self._device)
        vae = self._vae
        inputs = pixels_of(picture)[None].to(self._device)
        mean: Tensor = vae.encode(inputs).latent_dist.mean[0] * vae.config.scaling_factor
        return mean.float().cpu().contiguous()

    def _told(self, fitted: Sequence[buckets.Fitted]) -> Tensors:
        """What the UNet is told of each view of a picture."""
        if self._files.kind != "sdxl":
            return {}
        return {"time_ids": torch.tensor([_time_ids(one) for one in fitted], dtype=torch.float32)}

    def _loaded_texts(self) -> TextEncoders:
        if self._texts is None:
            self._texts = TextEncoders.load(self._files, self._device, torch.float32, self.most_chunks)
        loaded: TextEncoders = self._texts
        return loaded


def _time_ids(fitted: buckets.Fitted) -> list[int]:
    """What SDXL is told of a picture: original size, crop, and the size that it is brought to."""
    (width, height), (left, top) = fitted.original, fitted.crop
    return [height, width, top, left, fitted.image.height, fitted.image.width]
