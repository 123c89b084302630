"""A Stable Diffusion model whose files are all there, and what reading them shares. Imports no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from raylora.families.images.parts import KEY, has_vocabulary, read_json, refusal
from raylora.families.safetensors_header import BrokenFileError, Shapes, read_shapes, sampled_hash
from raylora.suggest import printable

Kind = Literal["sd15", "sd2", "sdxl"]

CONFIG_KEY = "base_model_config"
CONFIGS = Path(__file__).parent.parent / "configs"
CLIP_VOCABULARY = CONFIGS / "clip"
TITLES: dict[Kind, str] = {
    "sd15": "Stable Diffusion 1.5",
    "sd2": "Stable Diffusion 2",
    "sdxl": "Stable Diffusion XL",
}
#: How wide what a UNet reads of a caption is, where one pipeline serves two kinds: that of OpenCLIP's ViT-H.
_SD2_WIDTH = 1024

PIPELINES: dict[str, Kind] = {"StableDiffusionPipeline": "sd15", "StableDiffusionXLPipeline": "sdxl"}
PARTS: dict[Kind, tuple[str, ...]] = {
    "sd15": ("unet", "vae", "text_encoder"),
    "sd2": ("unet", "vae", "text_encoder"),
    "sdxl": ("unet", "vae", "text_encoder", "text_encoder_2"),
}
TOKENIZERS: dict[Kind, tuple[str, ...]] = {
    "sd15": ("tokenizer",),
    "sd2": ("tokenizer",),
    "sdxl": ("tokenizer", "tokenizer_2"),
}
WANTED = (
    "give a diffusers folder (with model_index.json) or a single .safetensors of Stable Diffusion 1.5, 2 or XL, or a "
    "diffusers folder of Stable Diffusion 3, Flux, Qwen-Image or Z-Image"
)

#: Numbers of blocks and layers in the configurations of parts, and more than the deepest has.
_DEPTHS = ("block_out_channels", "layers_per_block", "transformer_layers_per_block", "num_hidden_layers")
_DEEPEST = 256

UNET = "model.diffusion_model."  #: before the names of a UNet's tensors in the original layout


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """A model whose files are all there.

    Attributes:
        kind: which architecture.
        layout: a diffusers folder, or a single file in the original layout.
        path: that folder or file.
        config: the folder with model_index.json and the configuration of each part; `path` itself for a folder.
        halves: the parts of a folder whose weights are there only as `*.fp16.safetensors`.
        weights: the files that hold the weights, sorted.
        schedule: settings of the scheduler that go before those of its file: what marks in the weights or the keys of
            a run say.
    """

    kind: Kind
    layout: Literal["folder", "single"]
    path: Path
    config: Path
    halves: frozenset[str]
    weights: tuple[Path, ...]
    schedule: tuple[tuple[str, object], ...] = ()

    def settings(self, part: str) -> dict[str, Any]:
        """The configuration of a part: `unet`, `vae`, `text_encoder`, `text_encoder_2`, `scheduler`."""
        if part == "scheduler":
            return {**read_json(self.config / part / "scheduler_config.json", KEY), **dict(self.schedule)}
        return read_json(self.config / part / "config.json", KEY)

    @property
    def prediction_type(self) -> str:
        """The UNet's kind of prediction: "epsilon" (noise) or "v_prediction" (velocity)."""
        return str(self.settings("scheduler").get("prediction_type", "epsilon"))

    @property
    def says_prediction(self) -> bool:
        """Whether the model, or a key, says what the UNet predicts; a configuration that raylora carries does not."""
        carried = CONFIGS in self.config.parents and "prediction_type" not in dict(self.schedule)
        return not carried and "prediction_type" in self.settings("scheduler")

    def with_schedule(self, prediction_type: str, zero_terminal_snr: bool | None) -> ModelFiles:
        """These files, with what keys of a run say of the schedule: "auto" and None leave it as it is."""
        said: dict[str, object] = dict(self.schedule)
        if prediction_type != "auto":
            said["prediction_type"] = prediction_type
        if zero_terminal_snr is not None:
            said["rescale_betas_zero_snr"] = zero_terminal_snr
        return dataclasses.replace(self, schedule=tuple(sorted(said.items())))

    def hashes(self) -> dict[str, Any]:
        """The contents of all its files: of large ones samples are read.

        By their parts' names and not their places: the same model in another folder is the same model.
        """
        settings = [[file.parent.name, file.name, sampled_hash(file)] for file in self.settings_files()]
        return {"weights": [sampled_hash(file) for file in self.weights], "settings": settings}

    def settings_files(self) -> list[Path]:
        """All small files that say how the weights are used, sorted: configurations and vocabularies."""
        kept = (".json", ".txt")
        parts = (*PARTS[self.kind], *TOKENIZERS[self.kind], "scheduler")
        files = [file for part in parts for file in (self.config / part).glob("*") if file.suffix in kept]
        if any(not has_vocabulary(self.config / name) for name in TOKENIZERS[self.kind]):
            files += [file for file in CLIP_VOCABULARY.iterdir() if file.suffix in kept]
        return sorted(files)

    def tokenizer(self, name: str) -> tuple[Path, str]:
        """The folder with the vocabulary of `tokenizer` or `tokenizer_2`, and the token that fills short captions."""
        folder = self.config / name
        default = "!" if name == "tokenizer_2" else "<|endoftext|>"
        file = folder / "tokenizer_config.json"
        pad = read_json(file, KEY).get("pad_token", default) if file.exists() else default
        if isinstance(pad, dict):
            pad = pad.get("content", default)
        return (folder if has_vocabulary(folder) else CLIP_VOCABULARY), str(pad)


def kind_of(config: Path, key: str) -> Kind | None:
    """The kind of a pipeline by its model_index.json and its UNet's configuration; None if it is none of them."""
    kind = PIPELINES.get(str(read_json(config / "model_index.json", key).get("_class_name")))
    unet = config / "unet" / "config.json"
    if kind == "sd15" and unet.is_file() and read_json(unet, key).get("cross_attention_dim") == _SD2_WIDTH:
        return "sd2"
    return kind


def whole_file(path: Path) -> Shapes:
    """The shapes of the tensors of a single file; an error where it is not whole."""
    try:
        return read_shapes(path)
    except BrokenFileError as error:
        raise refusal(str(error), path, WANTED) from error


def check_settings(config: Path, key: str) -> None:
    """Refuse what loads but is something else (inpainting models, ...), and sizes that are none."""
    for part in ("unet", "vae"):
        where = config / part / "config.json"
        settings = read_json(where, key)
        channels = settings.get("block_out_channels")
        if not isinstance(channels, list) or not channels or not all(is_size(size) for size in channels):
            raise refusal(f'"block_out_channels": {channels} are not sizes', where, "copy the model again", key)
        for name in ("sample_size", "layers_per_block", "norm_num_groups"):
            if settings.get(name) is not None and not is_size(settings[name]):
                raise refusal(f'"{name}": {settings[name]} is not a size', where, "copy the model again", key)
        _check_depth(settings, where, key)
    for part in ("text_encoder", "text_encoder_2"):
        where = config / part / "config.json"
        if where.is_file():
            _check_depth(read_json(where, key), where, key)
    where = config / "unet" / "config.json"
    settings = read_json(where, key)
    if settings.get("in_channels") not in (None, 4) or settings.get("out_channels") not in (None, 4):
        raise refusal(special_model(settings.get("in_channels")), where, WANTED, key)


def _check_depth(settings: dict[str, Any], where: Path, key: str) -> None:
    """Refuse blocks and layers in numbers that no model has: all would be built before anybody noticed."""
    for name in _DEPTHS:
        found = settings.get(name)
        deep = len(found) if isinstance(found, list) and name == "block_out_channels" else found
        counts = deep if isinstance(deep, list) else [deep]
        if any(isinstance(count, int) and count > _DEEPEST for count in counts):
            raise refusal(
                f'"{name}": {printable(str(found), 40)} is more than any model has', where, "copy it again", key
            )


def is_size(value: object) -> bool:
    """Whether a value of a configuration can be a number of channels, layers or pixels."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1_000_000


def special_model(channels: object) -> str:
    """The kind of a UNet that has not four input channels, for people."""
    what = {9: "an inpainting", 8: "an image-editing"}.get(channels if isinstance(channels, int) else 0, "a special")
    return f"is {what} model ({channels} input channels), which is not supported"


def check_prediction(files: ModelFiles) -> None:
    """Refuse a model that predicts neither noise nor velocity."""
    prediction = files.prediction_type
    if prediction not in ("epsilon", "v_prediction"):
        raise refusal(
            f'"prediction_type": "{prediction}" is not supported',
            files.config / "scheduler" / "scheduler_config.json",
            "models that predict noise (epsilon) or velocity (v_prediction) can be trained",
        )
