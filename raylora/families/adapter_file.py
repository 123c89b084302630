"""Inspects a LoRA file, whoever made it: its contents, and which programs load it, from head and scalars alone."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raylora.data.reading import few, missing_place, shown
from raylora.errors import UserError
from raylora.families.safetensors_header import BrokenFileError, Shapes, read_shapes

#: What the first matrix of an update is called, by the kind of adapter; the rank is its smaller side.
_FIRST = {
    ".lora_down.weight": "LoRA",
    ".lora_A.weight": "LoRA",
    ".lora_A.default.weight": "LoRA",
    ".lora.down.weight": "LoRA",
    ".hada_w1_b": "LoHa",
    ".lokr_w1": "LoKr",
    ".lokr_w1_a": "LoKr",
    ".oft_blocks": "OFT",
    ".oft_diag": "OFT",
}
_END = re.compile(
    r"\.(lora_(down|up|mid|A|B)(\.default)?\.weight|lora\.(down|up)\.weight|alpha|dora_scale|lora_magnitude_vector"
    r"(\.default)?(\.weight)?|hada_\w+|lokr_\w+|oft_\w+|diff|diff_b)$"
)
_LAYOUTS = (
    ("kohya", re.compile(r"lora_(unet|te|te1|te2|te3)_")),
    ("PEFT", re.compile(r"base_model\.model\.")),
    ("diffusers", re.compile(r"(unet|transformer|text_encoder|text_encoder_2)\.")),
    ("ComfyUI", re.compile(r"(diffusion_model|text_encoders|clip)\.")),
)
#: Cross-attention widths of UNets, which tell what a LoRA was made for.
_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
_CROSS = re.compile(r"attn2[._]to_[kv]|attn2[._]processor[._]to_[kv]")
_NAMES = (
    ("Flux", ("double_blocks",)),
    ("Flux", ("single_transformer_blocks",)),
    ("Stable Diffusion 3", ("joint_blocks",)),
    ("Stable Diffusion 3", ("transformer.transformer_blocks", ".attn.")),
    ("Wan", ("self_attn", "cross_attn", "ffn")),
    ("a language model", ("self_attn.q_proj",)),
    ("a language model", ("query_key_value",)),
)


@dataclasses.dataclass(frozen=True)
class AdapterFile:
    """The contents of a LoRA file.

    Attributes:
        path: the file.
        kinds: LoRA, LoHa, LoKr, OFT; and DoRA, where an update has magnitudes too.
        layout: whose names its tensors have: kohya, PEFT, diffusers, ComfyUI; "unknown".
        base: the base model it is for, as far as its shapes tell.
        modules: how many modules of each part get an update.
        ranks: rank to the number of modules that have it.
        alphas: alpha to the number of modules that have it; none where the file has no alphas.
        tensors: how many there are.
        size: bytes of the file.
        metadata: of its head.
        warnings: what would not load, or load otherwise than it was trained, and where.
    """

    path: Path
    kinds: tuple[str, ...]
    layout: str
    base: str
    modules: Mapping[str, int]
    ranks: Mapping[int, int]
    alphas: Mapping[float, int]
    tensors: int
    size: int
    metadata: Mapping[str, str]
    warnings: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """The contents as JSON values."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {"path": str(self.path)}

    def text(self) -> str:
        """The contents for people: one fact a line."""
        modules = ", ".join(f"{count} in {part}" for part, count in self.modules.items())
        rows = [
            ("kind", f"{' + '.join(self.kinds)}, names as in {self.layout}"),
            ("base model", self.base),
            ("rank", _counted(self.ranks)),
            ("alpha", _counted(self.alphas) or "none: programs take the rank for it, or 1 as the scale"),
            ("modules", modules),
            ("size", f"{self.size / 1e6:.1f} MB in {self.tensors} tensors"),
            *((key, _short(value)) for key, value in sorted(self.metadata.items()) if key != "format"),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        return "\n".join([*lines, *(f"note: {warning}" for warning in self.warnings)])


def inspect(path: Path) -> AdapterFile:
    """Find out what a LoRA file holds; of a PEFT folder the file in it.

    Raises:
        UserError: there is no such file, it is not whole, or it is no LoRA.
    """
    file = weights_of(path)
    try:
        shapes = read_shapes(file)
    except BrokenFileError as error:
        raise UserError.one(str(error), where=shown(file), hint="give a .safetensors file of a LoRA") from error
    kinds = {kind for name in shapes for end, kind in _FIRST.items() if name.endswith(end)}
    if not kinds:
        hint = "give the file of a LoRA, not a base model's"
        raise UserError.one(f"is no LoRA: its tensors are {few(list(shapes)) or 'none'}", where=shown(file), hint=hint)
    if any(name.endswith("dora_scale") or "lora_magnitude_vector" in name for name in shapes):
        kinds.add("DoRA")
    metadata, alphas = _scalars(file, shapes)
    config = _peft_config(file)
    if not alphas and isinstance(config.get("lora_alpha"), int | float):
        alphas = Counter({float(config["lora_alpha"]): len(_modules(shapes))})
    layout = next((name for name, start in _LAYOUTS if any(start.match(key) for key in shapes)), "unknown")
    ranks = _ranks(shapes)
    return AdapterFile(
        path=file,
        kinds=tuple(sorted(kinds)),
        layout=layout,
        base=_base(shapes, metadata, config),
        modules=Counter(_part(module) for module in _modules(shapes)),
        ranks=ranks,
        alphas=alphas,
        tensors=len(shapes),
        size=file.stat().st_size,
        metadata=metadata,
        warnings=tuple(_warnings(shapes, kinds, layout, ranks, alphas, metadata, config)),
    )


def weights_of(path: Path) -> Path:
    """The file with the weights: the file itself, or that in a PEFT folder.

    Raises:
        UserError: there is none.
    """
    if not path.exists():
        raise UserError([missing_place(path, "")])
    file = path / "adapter_model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UserError.one("holds no adapter_model.safetensors", where=shown(path), hint="name a .safetensors file")
    return file


def _modules(shapes: Shapes) -> set[str]:
    return {_END.sub("", name) for name in shapes if _END.search(name)}


def _ranks(shapes: Shapes) -> Counter[int]:
    found: Counter[int] = Counter()
    for name, shape in shapes.items():
        if any(name.endswith(end) for end in _FIRST) and shape:
            found[min(shape[:2])] += 1
    return found


def _scalars(file: Path, shapes: Shapes) -> tuple[dict[str, str], Counter[float]]:
    from safetensors import safe_open

    alphas: Counter[float] = Counter()
    opened: Any = safe_open(file, framework="pt")
    with opened as tensors:
        for name, shape in shapes.items():
            if name.endswith(".alpha") and len(shape) <= 1 and shape in ((), (1,)):
                alphas[round(float(tensors.get_tensor(name)), 6)] += 1
        return dict(tensors.metadata() or {}), alphas


def _peft_config(file: Path) -> dict[str, Any]:
    """The configuration beside a PEFT adapter; empty where there is none that can be read."""
    try:
        found = json.loads((file.parent / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and file.name == "adapter_model.safetensors" else {}


def _base(shapes: Shapes, metadata: Mapping[str, str], config: Mapping[str, Any]) -> str:
    widths = {shape[1] for name, shape in shapes.items() if _CROSS.search(name) and _is_first(name) and len(shape) > 1}
    known = next((_WIDTHS[width] for width in widths if width in _WIDTHS), "")
    if not known:
        known = next((title for title, parts in _NAMES if all(any(p in n for n in shapes) for p in parts)), "")
    if not known and widths:
        known = f"a UNet whose cross-attention is {min(widths)} wide"
    named = metadata.get("ss_sd_model_name") or str(config.get("base_model_name_or_path") or "")
    return f"{known or 'unknown'}{f' ({named})' if named and named != 'None' else ''}"


def _is_first(name: str) -> bool:
    return any(name.endswith(end) for end in _FIRST)


def _part(module: str) -> str:
    if re.match(r"lora_te|text_encoder|text_encoders|clip", module):
        return "text encoders"
    if re.search(r"attn|attention(?!s)", module):
        return "attention"
    if re.search(r"resnets|downsamplers|upsamplers|conv|input_blocks_\d+_0|in_layers|out_layers", module):
        return "convolutions"
    return "other layers"


def _warnings(
    shapes: Shapes,
    kinds: Iterable[str],
    layout: str,
    ranks: Mapping[int, int],
    alphas: Mapping[float, int],
    metadata: Mapping[str, str],
    config: Mapping[str, Any],
) -> Iterable[str]:
    names = list(shapes)
    transformer = any(name.startswith("transformer.") for name in names)  # whose names all programs know
    image = layout in ("kohya", "diffusers", "ComfyUI") or any(_CROSS.search(name) for name in names)
    if layout == "kohya" and "lora_adapter_metadata" in metadata:
        yield "diffusers refuses it: kohya's names and lora_adapter_metadata in one file"
    if layout in ("diffusers", "PEFT") and image and not transformer:
        yield (
            "ComfyUI, Forge and A1111 match few of these names or none: convert it to kohya's layout, or load it with "
            "diffusers"
        )
    told = "ss_network_alpha" in metadata and transformer  # B is written times the scale, as raylora does
    if not alphas and "lora_adapter_metadata" not in metadata and not config and not told:
        yield "it has no alphas: if it was trained with another alpha than its rank, it works too strongly or weakly"
    if any(name.startswith(("lora_te_encoder", "lora_te1_encoder", "lora_te2_encoder")) for name in names):
        yield "ComfyUI and A1111 do not know the names of its text encoder, which lack `text_model_`"
    if any("lora_magnitude_vector" in name for name in names) and layout == "kohya":
        yield "its DoRA magnitudes are called lora_magnitude_vector, and programs look for dora_scale"
    if "DoRA" in kinds and layout == "kohya":
        yield "diffusers leaves DoRA's magnitudes out of files with these names: load it in its own layout, or merge it"
    if {"LoHa", "LoKr", "OFT"} & set(kinds):
        yield "diffusers loads no LoHa, LoKr or OFT; ComfyUI, Forge and A1111 do"
    if config and max(ranks, default=0) > 16:
        yield f"vLLM wants --max-lora-rank {max(ranks)} or more for it"
    if config.get("use_dora") or config.get("modules_to_save") or config.get("bias", "none") != "none":
        yield "vLLM refuses it: DoRA, biases and whole modules (modules_to_save) are not for it"
    if config.get("use_rslora"):
        yield "llama.cpp ignores use_rslora, and applies it too weakly: merge it, or write alpha * sqrt(rank)"


def _counted(found: Mapping[Any, int]) -> str:
    if len(found) == 1:
        return f"{next(iter(found)):g}"
    return ", ".join(f"{value:g} ({count} modules)" for value, count in sorted(found.items()))


def _short(value: str) -> str:
    return shown(value if len(value) <= 100 else f"{value[:90]}... ({len(value):,} characters)")
