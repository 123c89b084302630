"""Images and captions as the tensors that training draws from: latents, text embeddings, masks."""

from __future__ import annotations

import gc

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from raylora.data.examples import Forms, ImageExample
from raylora.data.images.decoding import open_rgb, open_with_alpha
from raylora.data.reading import shown
from raylora.errors import UserError
from raylora.families.base import Tensors
from raylora.families.diffusion import buckets
from raylora.families.diffusion.base_files.model_files import ModelFiles
from raylora.families.diffusion.components import load_vae
from raylora.families.diffusion.texts import TextEncoders


class Encoders:
    """A model's VAE and text encoders, loaded when they are needed, in float32.

    Args:
        files: the model's.
        device: where they compute.
        most_chunks: of a caption, see `texts.py`.
    """

    def __init__(self, files: ModelFiles, device: torch.device, most_chunks: int) -> None:
        self._files = files
        self._device = device
        self.most_chunks = most_chunks
        self._vae: torch.nn.Module | None = None
        self._texts: TextEncoders | None = None
        self._empty: dict[int, Tensors] = {}

    def release(self) -> None:
        """Drop them; they are loaded again when they are needed."""
        self._vae = self._texts = None
        gc.collect()  # pipelines refer to themselves
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def encode(self, example: ImageExample, sizes: list[tuple[int, int]]) -> Tensors:
        """An image brought to its bucket, of `sizes`, and its caption; see `DiffusionModel.encode`.

        Raises:
            UserError: it cannot be decoded, or the model gives numbers that are not finite.
        """
        image, alpha = open_with_alpha(example.path)
        forms = example.forms or Forms((example.caption,))
        bucket = buckets.choose(image.size, sizes)
        fitted = [buckets.fit(image, bucket, view) for view in forms.views]
        found = {"latents": torch.stack([self._latents(one.image) for one in fitted]), **self._captions(forms.captions)}
        for name, part in (("latents", "VAE"), ("prompt", "text encoder")):
            if not bool(found[name].isfinite().all()):
                raise _gives_nan(self._files, part, example)
        if self._files.kind == "sdxl":
            found["time_ids"] = torch.tensor([_time_ids(one) for one in fitted], dtype=torch.float32)
        if example.forms is None:
            return {name: tensor[0].contiguous() for name, tensor in found.items()}
        if forms.masked and example.mask is not None:
            white = alpha if example.mask == example.path else open_rgb(example.mask).convert("L")
            white = (white or Image.new("L", image.size, 255)).resize(image.size)
            cut = [buckets.fit(white, bucket, view).image for view in forms.views]
            found["mask"] = torch.stack([_at_latents(one, found["latents"]) for one in cut])
        if forms.prior:
            found["prior"] = torch.tensor(1.0)
        return found

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
        pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32).copy()).permute(2, 0, 1)
        inputs = (pixels / 127.5 - 1.0)[None].to(self._device)
        mean: Tensor = vae.encode(inputs).latent_dist.mean[0]  # type: ignore[operator]
        return (mean * vae.config.scaling_factor).float().cpu().contiguous()  # type: ignore[union-attr,operator]

    def _loaded_texts(self) -> TextEncoders:
        if self._texts is None:
            self._texts = TextEncoders.load(self._files, self._device, torch.float32, self.most_chunks)
        return self._texts


def _time_ids(fitted: buckets.Fitted) -> list[int]:
    """What SDXL is told of a picture: original size, crop, and the size that it is brought to."""
    (width, height), (left, top) = fitted.original, fitted.crop
    return [height, width, top, left, fitted.image.height, fitted.image.width]


def _at_latents(mask: Image.Image, latents: Tensor) -> Tensor:
    """A mask as what share of each latent is white: (1, h, w), 0 to 1."""
    white = torch.from_numpy(np.asarray(mask, dtype=np.float32).copy()) / 255.0
    height, width = latents.shape[-2:]
    return functional.adaptive_avg_pool2d(white[None], (height, width))


def _gives_nan(files: ModelFiles, part: str, example: ImageExample) -> UserError:
    return UserError.one(
        f"its {part} gives numbers that are not finite, for {shown(example.path.name)} first",
        where=shown(files.path),
        key="base_model",
        hint="the file is broken, as merged models often are: use another copy or another model",
    )
