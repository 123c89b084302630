"""A Stable Diffusion model as one file in the original layout, and the configuration for it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from raylora.data.reading import few, missing_place, shown
from raylora.errors import UserError
from raylora.families.diffusion.base_files.model_files import (
    CONFIG_KEY,
    CONFIGS,
    PARTS,
    TITLES,
    TOKENIZERS,
    UNET,
    WANTED,
    Kind,
    check_settings,
    is_size,
    kind_of,
    special_model,
)
from raylora.families.images.parts import KEY, content_of, has_vocabulary, read_json, refusal
from raylora.families.safetensors_header import Shapes

T = TypeVar("T")

_VAE = "first_stage_model."
_CLIP = "cond_stage_model.transformer.text_model."
_OLD_CLIP = "cond_stage_model.transformer."  #: before the names of the first fine-tunes, such as NovelAI's
_OPEN_CLIP = "cond_stage_model.model."
_CLIP_XL = "conditioner.embedders.0.transformer.text_model."
_OPEN_CLIP_XL = "conditioner.embedders.1.model."
_LORA_PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
_LORA_ENDS = (".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight", ".lora.down.weight")
#: Other image and video models, each with parts of names that all must be among its tensors'.
_OTHERS = {
    "Flux": ("double_blocks.",),
    "Stable Diffusion 3": ("joint_blocks.",),
    "Qwen-Image": ("transformer_blocks.0.img_mod.", "img_in."),
    "Wan": ("blocks.0.self_attn.", "patch_embedding."),
    "Z-Image or Lumina": ("cap_embedder.", "x_embedder."),
    "PixArt": ("blocks.0.scale_shift_table", "y_embedder."),
    "Hunyuan-DiT": ("blocks.0.default_modulation.", "text_embedding_padding"),
    "AuraFlow": ("double_layers.", "single_layers."),
    "Stable Cascade": ("clip_txt_mapper.",),
    "LTX-Video": ("transformer_blocks.0.scale_shift_table", "patchify_proj."),
    "Cosmos": ("blocks.0.adaln_modulation_self_attn.",),
}
_LLM_PREFIXES = ("model.layers.", "model.embed_tokens.", "lm_head.", "transformer.h.", "transformer.encoder.layers.")


def is_language_model(shapes: Shapes) -> bool:
    """Whether the tensors of a file are a language model's."""
    return any(name.startswith(_LLM_PREFIXES) for name in shapes)


def has_old_clip(shapes: Shapes) -> bool:
    """Whether the text encoder of a single file has the names of the first fine-tunes, without `text_model`."""
    return f"{_OLD_CLIP}embeddings.token_embedding.weight" in shapes


def with_new_clip(tensors: Mapping[str, T]) -> dict[str, T]:
    """Tensors (or their shapes) of a single file, those of a text encoder with old names under the usual ones."""
    parts = ("embeddings.", "encoder.", "final_layer_norm.")
    old = tuple(_OLD_CLIP + part for part in parts)
    return {
        _CLIP + name.removeprefix(_OLD_CLIP) if name.startswith(old) else name: tensor
        for name, tensor in tensors.items()
    }


def single_kind(shapes: Shapes, path: Path) -> Kind:
    """Which architecture a single file holds; an error that names what it is when it is something else."""
    starts = {
        prefix: any(name.startswith(prefix) for name in shapes)
        for prefix in (
            UNET,
            _VAE,
            _CLIP,
            _CLIP_XL,
            _OPEN_CLIP_XL,
            _OPEN_CLIP,
            "conditioner.embedders.0.model.",
        )
    }
    if any(name.startswith(_LORA_PREFIXES) or name.endswith(_LORA_ENDS) for name in shapes):
        raise refusal("is a LoRA, not a base model", path, f"a LoRA is trained on top of a base model: {WANTED}")
    if is_language_model(shapes):
        raise refusal("is a language model's weights", path, f"give its folder: {shown(path.parent)}")
    for title, parts in _OTHERS.items():
        if all(any(part in name for name in shapes) for part in parts):
            raise refusal(f"is a model of {title}, which is not supported", path, WANTED)
    if starts["conditioner.embedders.0.model."]:
        raise refusal(
            "is the refiner of Stable Diffusion XL, which is not supported", path, "give the base model of XL"
        )
    if not any(name.startswith(f"{UNET}input_blocks.") for name in shapes):
        raise refusal(_other_part(shapes), path, WANTED)
    channels = (*shapes.get(f"{UNET}input_blocks.0.0.weight", ()), 0, 0)[1]
    if channels != 4:
        raise refusal(special_model(channels), path, WANTED)
    kind: Kind = "sd2" if starts[_OPEN_CLIP] else "sd15"
    if f"{UNET}label_emb.0.0.weight" in shapes:
        kind = "sdxl"
    texts = {
        "sd15": {"the text encoder": _CLIP},
        "sd2": {"the text encoder": _OPEN_CLIP},
        "sdxl": {"the first text encoder": _CLIP_XL, "the second text encoder": _OPEN_CLIP_XL},
    }[kind]
    missing = [what for what, prefix in {"the VAE": _VAE, **texts}.items() if not starts[prefix]]
    if missing:
        raise refusal(
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


def find_config(path: Path, config: Path | None, kind: Kind, shapes: Shapes) -> Path:
    """The folder whose configuration fits a single file: the named one, one beside it, or one that raylora carries."""
    if config is not None:
        if not config.exists():
            raise UserError([missing_place(config, CONFIG_KEY)])
        if not (config / "model_index.json").is_file():
            there = content_of(config) if config.is_dir() else "it is a file"
            hint = (
                "give a folder in diffusers' form: model_index.json and unet/, vae/, text_encoder/, ... with their JSON"
            )
            raise refusal(f"has no model_index.json: {there}", config, hint, CONFIG_KEY)
        _check_config(config, path, kind, shapes, CONFIG_KEY)
        return config
    for beside in (path.with_suffix(""), path.parent):
        if (beside / "model_index.json").is_file():
            _check_config(beside, path, kind, shapes, KEY)
            return beside
    builtin = CONFIGS / kind
    differing = list(_mismatches(builtin, kind, shapes))
    if differing:
        raise refusal(
            f"is not the {TITLES[kind]} that is known here: {few(differing)}",
            path,
            "give base_model_config, or put a diffusers folder with its configuration beside it: "
            + shown(path.with_suffix("")),
        )
    return builtin


def _check_config(config: Path, path: Path, kind: Kind, shapes: Shapes, key: str) -> None:
    """Check that a configuration folder is complete and describes the file's tensors."""
    found = kind_of(config, key)
    if found != kind:
        what = f"describes {TITLES[found]}" if found else "describes another kind of model"
        raise refusal(f"{what}, but {path.name} is {TITLES[kind]}", config, "give the configuration of that model", key)
    names = [f"{part}/config.json" for part in PARTS[kind]] + ["scheduler/scheduler_config.json"]
    missing = [name for name in names if not (config / name).is_file()]
    if missing:
        raise refusal(f"lacks {few(missing)}", config, "copy these files from the model's diffusers folder", key)
    check_settings(config, key)
    differing = list(_mismatches(config, kind, shapes))
    if differing:
        raise refusal(
            f"does not fit {path.name}: {few(differing)}", config, "give the configuration of that model", key
        )
    for tokenizer, encoder in zip(TOKENIZERS[kind], PARTS[kind][2:], strict=True):
        size = read_json(config / encoder / "config.json", key).get("vocab_size", 49408)
        if not has_vocabulary(config / tokenizer) and size != 49408:
            raise refusal(
                f"lacks {tokenizer}/vocab.json, and the model has its own vocabulary ({size} tokens)",
                config,
                "copy the tokenizer's folder from where the model was made",
                key,
            )


def _mismatches(config: Path, kind: Kind, shapes: Shapes) -> Iterator[str]:
    """The differences between a file's tensors and those that a configuration makes, as far as telling tensors go."""
    for name, expected in _telling_shapes(config, kind).items():
        if name not in shapes:
            yield f"{name} is missing"
        elif shapes[name] != expected:
            yield f"{name} is {list(shapes[name])}, not {list(expected)}"
    settings = read_json(config / "unet" / "config.json", KEY)
    blocks = len({name.split(".")[3] for name in shapes if name.startswith(f"{UNET}input_blocks.")})
    layers = settings.get("layers_per_block", 2)
    expected_blocks = len(settings["block_out_channels"]) * (layers + 1 if is_size(layers) else 0)
    if blocks != expected_blocks:
        yield f"it has {blocks} input blocks, not {expected_blocks}"


def _telling_shapes(config: Path, kind: Kind) -> Shapes:
    unet, vae, *texts = (read_json(config / part / "config.json", KEY) for part in PARTS[kind])
    try:
        width = unet["block_out_channels"][0]
        shapes: Shapes = {
            f"{UNET}input_blocks.0.0.weight": (width, unet.get("in_channels", 4), 3, 3),
            f"{UNET}time_embed.0.weight": (4 * width, width),
            f"{UNET}out.2.weight": (unet.get("out_channels", 4), width, 3, 3),
            f"{_VAE}encoder.conv_in.weight": (vae["block_out_channels"][0], 3, 3, 3),
            f"{_VAE}decoder.conv_in.weight": (vae["block_out_channels"][-1], vae.get("latent_channels", 4), 3, 3),
        }
        names = {"sd15": (_CLIP,), "sd2": (_OPEN_CLIP,), "sdxl": (_CLIP_XL, _OPEN_CLIP_XL)}[kind]
        for prefix, text in zip(names, texts, strict=True):
            open_clip = prefix in (_OPEN_CLIP, _OPEN_CLIP_XL)
            token = "token_embedding.weight" if open_clip else "embeddings.token_embedding.weight"
            place = "positional_embedding" if open_clip else "embeddings.position_embedding.weight"
            shapes[prefix + token] = (text["vocab_size"], text["hidden_size"])
            shapes[prefix + place] = (text["max_position_embeddings"], text["hidden_size"])
        if kind == "sdxl":
            shapes[f"{UNET}label_emb.0.0.weight"] = (4 * width, unet["projection_class_embeddings_input_dim"])
    except (KeyError, TypeError, IndexError) as error:
        hint = "copy the configuration from the model's diffusers folder"
        raise refusal(f"a config.json in it lacks what its kind must have ({error})", config, hint) from error
    return shapes
