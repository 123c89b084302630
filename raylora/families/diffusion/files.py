"""Which files make a Stable Diffusion model, and what is wrong with those that are there. Imports no torch.

A model is a *folder* in diffusers' form (model_index.json), or a *single* .safetensors file in the original layout.
The latter holds weights alone, so its configuration comes from a folder: one that is named, one that lies beside the
file, or one of those in `configs/`. Nothing is loaded that can run code: JSON and safetensors only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from raylora.data.reading import few, missing_place, shown
from raylora.errors import Problem, UserError
from raylora.families.safetensors_header import BrokenFileError, Shapes, read_shapes, sampled_hash

Kind = Literal["sd15", "sdxl"]

KEY = "base_model"
CONFIG_KEY = "base_model_config"
CONFIGS = Path(__file__).parent / "configs"
CLIP_VOCABULARY = CONFIGS / "clip"
TITLES: dict[Kind, str] = {"sd15": "Stable Diffusion 1.5", "sdxl": "Stable Diffusion XL"}

_PIPELINES: dict[str, Kind] = {"StableDiffusionPipeline": "sd15", "StableDiffusionXLPipeline": "sdxl"}
_PARTS: dict[Kind, tuple[str, ...]] = {
    "sd15": ("unet", "vae", "text_encoder"),
    "sdxl": ("unet", "vae", "text_encoder", "text_encoder_2"),
}
_TOKENIZERS: dict[Kind, tuple[str, ...]] = {"sd15": ("tokenizer",), "sdxl": ("tokenizer", "tokenizer_2")}
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_WANTED = "give a diffusers folder (with model_index.json) or a single .safetensors of Stable Diffusion 1.5 or XL"
_CONVERT = (
    "pickle files can run code when they are loaded, so they are never opened: convert it to .safetensors where you "
    "trust it, or download the .safetensors version of the same model"
)

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_CLIP = "cond_stage_model.transformer.text_model."
_CLIP_XL = "conditioner.embedders.0.transformer.text_model."
_OPEN_CLIP_XL = "conditioner.embedders.1.model."
_LORA_PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
_LORA_ENDS = (".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight", ".lora.down.weight")
_LLM_PREFIXES = ("model.layers.", "model.embed_tokens.", "lm_head.", "transformer.h.", "transformer.encoder.layers.")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model whose files are all there.

    Attributes:
        kind: which architecture.
        layout: a diffusers folder, or a single file in the original layout.
        path: that folder or file.
        config: the folder with model_index.json and the configuration of each part; `path` itself for a folder.
        halves: the parts of a folder whose weights are there only as `*.fp16.safetensors`.
        weights: the files that hold the weights, sorted.
    """

    kind: Kind
    layout: Literal["folder", "single"]
    path: Path
    config: Path
    halves: frozenset[str]
    weights: tuple[Path, ...]

    def settings(self, part: str) -> dict[str, Any]:
        """The configuration of a part: `unet`, `vae`, `text_encoder`, `text_encoder_2`, `scheduler`."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return _read_json(self.config / part / name, KEY)

    def hashes(self) -> dict[str, Any]:
        """The contents of all its files: of large ones samples are read.

        By their parts' names and not their places: the same model in another folder is the same model.
        """
        settings = [[file.parent.name, file.name, sampled_hash(file)] for file in self.settings_files()]
        return {"weights": [sampled_hash(file) for file in self.weights], "settings": settings}

    def settings_files(self) -> list[Path]:
        """All small files that say how the weights are used, sorted: configurations and vocabularies."""
        kept = (".json", ".txt")
        parts = (*_PARTS[self.kind], *_TOKENIZERS[self.kind], "scheduler")
        files = [file for part in parts for file in (self.config / part).glob("*") if file.suffix in kept]
        if any(not _has_vocabulary(self.config / name) for name in _TOKENIZERS[self.kind]):
            files += [file for file in CLIP_VOCABULARY.iterdir() if file.suffix in kept]
        return sorted(files)

    def tokenizer(self, name: str) -> tuple[Path, str]:
        """The folder with the vocabulary of `tokenizer` or `tokenizer_2`, and the token that fills short captions."""
        folder = self.config / name
        default = "!" if name == "tokenizer_2" else "<|endoftext|>"
        file = folder / "tokenizer_config.json"
        pad = _read_json(file, KEY).get("pad_token", default) if file.exists() else default
        if isinstance(pad, dict):
            pad = pad.get("content", default)
        return (folder if _has_vocabulary(folder) else CLIP_VOCABULARY), str(pad)


def looks_like(path: Path) -> bool:
    """Whether `path` is meant to be an image model, if perhaps a broken one: `describe` then says what is wrong.

    True for a folder with model_index.json or the parts of a pipeline, a pickle (`.ckpt`, ...), and every .safetensors
    file that does not hold a language model, or is not there.
    """
    if path.is_dir():
        return (path / "model_index.json").is_file() or any(
            (path / part / "config.json").is_file() for part in ("unet", "vae", "transformer")
        )
    if path.suffix.lower() in _PICKLES:
        return path.suffix.lower() == ".ckpt" or not (path.parent / "config.json").is_file()
    if path.suffix.lower() != ".safetensors":
        return False
    if not path.is_file():
        return True
    try:
        return not _is_language_model(read_shapes(path))
    except BrokenFileError:
        return not (path.parent / "config.json").is_file()


def describe(path: Path, config: Path | str | None = None) -> Checkpoint:
    """Find out what `path` holds and check that all of it is there. Reads JSON and the heads of safetensors only.

    Args:
        path: the model: a diffusers folder, or a single .safetensors in the original layout.
        config: the folder with the configuration of a single file, if one was named (`base_model_config`).

    Raises:
        UserError: it is missing, broken, of another kind, or lacks parts; says which, and what to do.
    """
    if not path.exists():
        raise UserError([missing_place(path, KEY)])
    if path.is_dir():
        if config is not None:
            raise _error(
                "is for single .safetensors files, but base_model is a diffusers folder with its own configuration",
                Path(config),
                "remove the key",
                CONFIG_KEY,
            )
        return _describe_folder(path)
    if path.suffix.lower() in _PICKLES:
        raise _error(f"{path.suffix} files are pickles, which are refused", path, _CONVERT)
    if path.suffix.lower() != ".safetensors":
        raise _error("is neither a folder nor a .safetensors file", path, _WANTED)
    shapes = _whole_file(path)
    kind = _single_kind(shapes, path)
    folder = _find_config(path, Path(config) if config is not None else None, kind, shapes)
    checkpoint = Checkpoint(kind, "single", path, folder, frozenset(), (path,))
    _check_prediction(checkpoint)
    if "v_pred" in shapes and checkpoint.settings("scheduler").get("prediction_type") != "v_prediction":
        raise _error(
            "predicts velocities (it is marked v_pred), and its configuration does not say so",
            path,
            "give base_model_config: a diffusers folder whose scheduler_config.json has "
            '"prediction_type": "v_prediction" (and "rescale_betas_zero_snr" as the model\'s authors say)',
        )
    return checkpoint


def _error(message: str, where: Path, hint: str, key: str = KEY) -> UserError:
    return UserError.one(message, where=shown(where), key=key, hint=hint)


def _read_json(path: Path, key: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _error(
            f"cannot be read: {error.strerror}", path, "it is part of the model: copy the model again", key
        ) from error
    except (ValueError, RecursionError) as error:
        raise _error("is not JSON", path, "it is part of the model: copy the model again", key) from error
    if not isinstance(value, dict):
        raise _error("holds no JSON object", path, "it is part of the model: copy the model again", key)
    return value


def _has_vocabulary(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()


def _is_language_model(shapes: Shapes) -> bool:
    return any(name.startswith(_LLM_PREFIXES) for name in shapes)


def _whole_file(path: Path) -> Shapes:
    try:
        return read_shapes(path)
    except BrokenFileError as error:
        raise _error(str(error), path, _WANTED) from error


# --- a diffusers folder


def _describe_folder(path: Path) -> Checkpoint:
    index = path / "model_index.json"
    if not index.is_file():
        raise _error(f"has no model_index.json: {_content(path)}", path, _better_place(path))
    name = str(_read_json(index, KEY).get("_class_name"))
    if name not in _PIPELINES:
        raise _error(f"is a {name}, which is not supported", index, _WANTED)
    kind = _PIPELINES[name]
    problems: list[Problem] = []
    weights: list[Path] = []
    halves: set[str] = set()
    for part in _PARTS[kind]:
        if not (path / part / "config.json").is_file():
            problems.append(_missing(path / part, "config.json"))
        try:
            found = _part_weights(path / part)
        except UserError as error:
            problems += error.problems
            continue
        if any(".fp16." in file.name or "fp16-" in file.name for file in found):
            halves.add(part)
        weights += found
    for tokenizer in _TOKENIZERS[kind]:
        if not _has_vocabulary(path / tokenizer):
            problems.append(_missing(path / tokenizer, "vocab.json"))
    if not (path / "scheduler" / "scheduler_config.json").is_file():
        problems.append(_missing(path / "scheduler", "scheduler_config.json"))
    if problems:
        raise UserError(problems)
    checkpoint = Checkpoint(kind, "folder", path, path, frozenset(halves), tuple(sorted(weights)))
    _check_settings(path, KEY)
    _check_prediction(checkpoint)
    return checkpoint


def _content(path: Path) -> str:
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in path.iterdir())
    return f"it holds {few(names)}" if names else "it is empty"


def _better_place(path: Path) -> str:
    below = sorted(
        file.parent for pattern in ("*/model_index.json", "*/*/model_index.json") for file in path.glob(pattern)
    )
    singles = sorted(
        file
        for file in path.glob("*.safetensors")
        if _looks_whole(file) and _UNET + "out.2.weight" in read_shapes(file)
    )
    if below or singles:
        return "give one of these: " + few([shown(place) for place in (*below, *singles)])
    if path.name in ("unet", "vae", "text_encoder", "transformer") and (path.parent / "model_index.json").is_file():
        return f"give the whole model: {shown(path.parent)}"
    if any(path.glob("*.ckpt")):
        return _CONVERT
    return _WANTED


def _looks_whole(file: Path) -> bool:
    try:
        read_shapes(file)
    except BrokenFileError:
        return False
    return True


def _missing(folder: Path, name: str) -> Problem:
    there = _content(folder) if folder.is_dir() else "the folder does not exist"
    return Problem(f"{name} is missing: {there}", shown(folder), KEY, "copy the whole model again")


def _part_weights(folder: Path) -> list[Path]:
    """The weight files of one part, checked to be whole; the fp16 ones where only these exist."""
    stem = "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"
    wholes = (f"{stem}.safetensors", f"{stem}.fp16.safetensors")
    indexes = (f"{stem}.safetensors.index.json", f"{stem}.safetensors.index.fp16.json")
    name = next((name for pair in zip(wholes, indexes, strict=True) for name in pair if (folder / name).is_file()), "")
    if not name:
        if folder.is_dir() and any(folder.glob("*.bin")):
            raise _error("has its weights only as .bin, which is a pickle and refused", folder, _CONVERT)
        raise UserError([_missing(folder, wholes[0])])
    if name.endswith(".json"):
        shards = _read_json(folder / name, KEY).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise _error("names no weight files", folder / name, "copy the whole model again")
        files = sorted({folder / Path(str(shard)).name for shard in shards.values()})
    else:
        files = [folder / name]
    problems = []
    for file in files:
        try:
            read_shapes(file)
        except BrokenFileError as error:
            problems.append(Problem(str(error), shown(file), KEY, "copy or download this file again"))
    if problems:
        raise UserError(problems)
    return files


def _check_settings(config: Path, key: str) -> None:
    """Refuse what loads but is something else (Stable Diffusion 2, inpainting models, ...), and sizes that are none."""
    for part in ("unet", "vae"):
        where = config / part / "config.json"
        settings = _read_json(where, key)
        channels = settings.get("block_out_channels")
        if not isinstance(channels, list) or not channels or not all(_is_size(size) for size in channels):
            raise _error(f'"block_out_channels": {channels} are not sizes', where, "copy the model again", key)
        for name in ("sample_size", "layers_per_block", "norm_num_groups"):
            if settings.get(name) is not None and not _is_size(settings[name]):
                raise _error(f'"{name}": {settings[name]} is not a size', where, "copy the model again", key)
    where = config / "unet" / "config.json"
    settings = _read_json(where, key)
    if settings.get("cross_attention_dim") == 1024:
        raise _error("is Stable Diffusion 2, which is not supported", where, _WANTED, key)
    if settings.get("in_channels") not in (None, 4) or settings.get("out_channels") not in (None, 4):
        raise _error(_special(settings.get("in_channels")), where, _WANTED, key)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1_000_000


def _special(channels: object) -> str:
    what = {9: "an inpainting", 8: "an image-editing"}.get(channels if isinstance(channels, int) else 0, "a special")
    return f"is {what} model ({channels} input channels), which is not supported"


def _check_prediction(checkpoint: Checkpoint) -> None:
    prediction = checkpoint.settings("scheduler").get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise _error(
            f'"prediction_type": "{prediction}" is not supported',
            checkpoint.config / "scheduler" / "scheduler_config.json",
            "models that predict noise (epsilon) or velocity (v_prediction) can be trained",
        )


# --- a single file


def _single_kind(shapes: Shapes, path: Path) -> Kind:
    """Which architecture a single file holds; an error that names what it is when it is something else."""
    starts = {
        prefix: any(name.startswith(prefix) for name in shapes)
        for prefix in (
            _UNET,
            _VAE,
            _CLIP,
            _CLIP_XL,
            _OPEN_CLIP_XL,
            "cond_stage_model.model.",
            "conditioner.embedders.0.model.",
        )
    }
    if any(name.startswith(_LORA_PREFIXES) or name.endswith(_LORA_ENDS) for name in shapes):
        raise _error("is a LoRA, not a base model", path, f"a LoRA is trained on top of a base model: {_WANTED}")
    if _is_language_model(shapes):
        raise _error("is a language model's weights", path, f"give its folder: {shown(path.parent)}")
    if any("double_blocks." in name for name in shapes):
        raise _error("is a Flux model, which is not supported", path, _WANTED)
    if any("joint_blocks." in name for name in shapes):
        raise _error("is Stable Diffusion 3, which is not supported", path, _WANTED)
    if starts["cond_stage_model.model."]:
        raise _error("is Stable Diffusion 2, which is not supported", path, _WANTED)
    if starts["conditioner.embedders.0.model."]:
        raise _error("is the refiner of Stable Diffusion XL, which is not supported", path, "give the base model of XL")
    if not starts[_UNET]:
        raise _error(_other_part(shapes), path, _WANTED)
    channels = (*shapes.get(f"{_UNET}input_blocks.0.0.weight", ()), 0, 0)[1]
    if channels != 4:
        raise _error(_special(channels), path, _WANTED)
    kind: Kind = "sdxl" if f"{_UNET}label_emb.0.0.weight" in shapes else "sd15"
    texts = (
        {"the text encoder": _CLIP}
        if kind == "sd15"
        else {
            "the first text encoder": _CLIP_XL,
            "the second text encoder": _OPEN_CLIP_XL,
        }
    )
    missing = [what for what, prefix in {"the VAE": _VAE, **texts}.items() if not starts[prefix]]
    if missing:
        raise _error(
            f"holds a {TITLES[kind]} UNet, but lacks {' and '.join(missing)}",
            path,
            "give a complete checkpoint (UNet, VAE and text encoder in one file), or a diffusers folder",
        )
    return kind


def _other_part(shapes: Shapes) -> str:
    names = list(shapes)
    if any(name.startswith(("input_blocks.", "down_blocks.", "time_embed")) for name in names):
        return "holds a UNet alone, without VAE and text encoder"
    if any(name.startswith(("encoder.conv_in.", "decoder.conv_in.")) for name in names):
        return "holds a VAE alone"
    if any(name.startswith("text_model.") for name in names):
        return "holds a text encoder alone"
    return f"is not a Stable Diffusion model: its tensors are {few(names)}" if names else "holds no tensors"


def _find_config(path: Path, config: Path | None, kind: Kind, shapes: Shapes) -> Path:
    if config is not None:
        if not config.exists():
            raise UserError([missing_place(config, CONFIG_KEY)])
        if not (config / "model_index.json").is_file():
            there = _content(config) if config.is_dir() else "it is a file"
            hint = (
                "give a folder in diffusers' form: model_index.json and unet/, vae/, text_encoder/, ... with their JSON"
            )
            raise _error(f"has no model_index.json: {there}", config, hint, CONFIG_KEY)
        _check_config(config, path, kind, shapes, CONFIG_KEY)
        return config
    for beside in (path.with_suffix(""), path.parent):
        if (beside / "model_index.json").is_file():
            _check_config(beside, path, kind, shapes, KEY)
            return beside
    builtin = CONFIGS / kind
    differing = list(_mismatches(builtin, kind, shapes))
    if differing:
        raise _error(
            f"is not the {TITLES[kind]} that is known here: {few(differing)}",
            path,
            "give base_model_config, or put a diffusers folder with its configuration beside it: "
            + shown(path.with_suffix("")),
        )
    return builtin


def _check_config(config: Path, path: Path, kind: Kind, shapes: Shapes, key: str) -> None:
    """Check that a configuration folder is complete and describes the file's tensors."""
    found = _PIPELINES.get(str(_read_json(config / "model_index.json", key).get("_class_name")))
    if found != kind:
        what = f"describes {TITLES[found]}" if found else "describes another kind of model"
        raise _error(f"{what}, but {path.name} is {TITLES[kind]}", config, "give the configuration of that model", key)
    names = [f"{part}/config.json" for part in _PARTS[kind]] + ["scheduler/scheduler_config.json"]
    missing = [name for name in names if not (config / name).is_file()]
    if missing:
        raise _error(f"lacks {few(missing)}", config, "copy these files from the model's diffusers folder", key)
    _check_settings(config, key)
    differing = list(_mismatches(config, kind, shapes))
    if differing:
        raise _error(f"does not fit {path.name}: {few(differing)}", config, "give the configuration of that model", key)
    for tokenizer, encoder in zip(_TOKENIZERS[kind], _PARTS[kind][2:], strict=True):
        size = _read_json(config / encoder / "config.json", key).get("vocab_size", 49408)
        if not _has_vocabulary(config / tokenizer) and size != 49408:
            raise _error(
                f"lacks {tokenizer}/vocab.json, and the model has its own vocabulary ({size} tokens)",
                config,
                "copy the tokenizer's folder from where the model was made",
                key,
            )


def _mismatches(config: Path, kind: Kind, shapes: Shapes) -> Iterator[str]:
    """In what a file's tensors differ from what a configuration makes of them, as far as telling tensors go."""
    for name, expected in _telling_shapes(config, kind).items():
        if name not in shapes:
            yield f"{name} is missing"
        elif shapes[name] != expected:
            yield f"{name} is {list(shapes[name])}, not {list(expected)}"
    settings = _read_json(config / "unet" / "config.json", KEY)
    blocks = len({name.split(".")[3] for name in shapes if name.startswith(f"{_UNET}input_blocks.")})
    layers = settings.get("layers_per_block", 2)
    expected_blocks = len(settings["block_out_channels"]) * (layers + 1 if _is_size(layers) else 0)
    if blocks != expected_blocks:
        yield f"it has {blocks} input blocks, not {expected_blocks}"


def _telling_shapes(config: Path, kind: Kind) -> Shapes:
    unet, vae, *texts = (_read_json(config / part / "config.json", KEY) for part in _PARTS[kind])
    try:
        width = unet["block_out_channels"][0]
        shapes: Shapes = {
            f"{_UNET}input_blocks.0.0.weight": (width, unet.get("in_channels", 4), 3, 3),
            f"{_UNET}time_embed.0.weight": (4 * width, width),
            f"{_UNET}out.2.weight": (unet.get("out_channels", 4), width, 3, 3),
            f"{_VAE}encoder.conv_in.weight": (vae["block_out_channels"][0], 3, 3, 3),
            f"{_VAE}decoder.conv_in.weight": (vae["block_out_channels"][-1], vae.get("latent_channels", 4), 3, 3),
        }
        names = {"sd15": (_CLIP,), "sdxl": (_CLIP_XL, _OPEN_CLIP_XL)}[kind]
        for prefix, text in zip(names, texts, strict=True):
            open_clip = prefix == _OPEN_CLIP_XL
            token = "token_embedding.weight" if open_clip else "embeddings.token_embedding.weight"
            place = "positional_embedding" if open_clip else "embeddings.position_embedding.weight"
            shapes[prefix + token] = (text["vocab_size"], text["hidden_size"])
            shapes[prefix + place] = (text["max_position_embeddings"], text["hidden_size"])
        if kind == "sdxl":
            shapes[f"{_UNET}label_emb.0.0.weight"] = (4 * width, unet["projection_class_embeddings_input_dim"])
    except (KeyError, TypeError, IndexError) as error:
        hint = "copy the configuration from the model's diffusers folder"
        raise _error(f"a config.json in it lacks what its kind must have ({error})", config, hint) from error
    return shapes
