"""Images and captions of flow-matching models as the tensors that training draws from: latents, text embeddings."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from raylora.families.base import Tensors
from raylora.families.flow.base_files import FlowFiles
from raylora.families.flow.components import load_texts, load_vae
from raylora.families.flow.networks.network import Network
from raylora.families.images.encoded import filled
from raylora.families.images.encoders import PictureEncoders
from raylora.families.images.encoding import pixels_of
from raylora.families.images.loading import quiet


class Encoders(PictureEncoders):
    """A model's VAE and text encoders, loaded when they are needed.

    Args:
        files: the model's.
        network: its architecture.
        device: where they compute.
        dtype: of the transformer: where that is bfloat16, so are the text encoders, of which T5 alone has 4.7 billion
            weights. The VAE, which is small, is always float32.
    """

    def __init__(self, files: FlowFiles, network: Network, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(files.path, device)
        self._files = files
        self._network = network
        self._text_dtype = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        self._empty: Tensors = {}

    @torch.no_grad()
    def caption(self, text: str) -> Tensors:
        """A caption's embeddings."""
        if self._texts is None:
            self._texts = load_texts(self._files, self._text_dtype).to(self._device)
        with quiet():  # pipelines tell of each text that is cut off
            return self._network.caption(self._texts, text)

    def empty_caption(self) -> Tensors:
        """The empty caption's embeddings, made once; not part of the cache, since only some trials want them."""
        if not self._empty:
            loaded = self._texts is not None
            self._empty = self.caption("")
            if not loaded:
                self.release()
        return self._empty

    def _captions(self, captions: tuple[str, ...]) -> Tensors:
        once = {caption: self.caption(caption) for caption in dict.fromkeys(captions)}
        each = [once[caption] for caption in captions]
        stacked = {name: torch.stack([texts[name] for texts in each]) for name in each[0] if name != "prompt"}
        return {"prompt": filled([texts["prompt"] for texts in each]), **stacked}

    def _latents(self, picture: Image.Image) -> Tensor:
        if self._vae is None:
            self._vae = load_vae(self._files, torch.float32).to(self._device)
        pixels = pixels_of(picture)[None].to(self._device)
        return self._network.latents(self._vae, pixels).float().cpu().contiguous()
