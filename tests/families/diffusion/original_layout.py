"""Writes a diffusers pipeline folder as one .safetensors in the original Stable Diffusion layout .

Works for any number of levels and layers. The names are those of the CompVis and Stability checkpoints, which
A1111 and ComfyUI read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def convert(folder: Path, path: Path) -> Path:
    """Write the pipeline in `folder` to `path`; the configuration is not part of such a file."""
    tensors = {
        f"model.diffusion_model.{unet_name(name, _config(folder))}": t for name, t in _load(folder, "unet").items()
    }
    vae = json.loads((folder / "vae/config.json").read_text())
    for name, tensor in _load(folder, "vae").items():
        new = vae_name(name, len(vae["block_out_channels"]))
        # The original's attention is made of 1x1 convolutions.
        square = ".attn_1." in new and new.endswith("weight") and tensor.ndim == 2
        tensors[f"first_stage_model.{new}"] = tensor[:, :, None, None] if square else tensor
    if (folder / "text_encoder_2").is_dir():
        tensors |= _clip(folder, "conditioner.embedders.0.transformer.text_model.")
        tensors |= _open_clip(_load(folder, "text_encoder_2"), "conditioner.embedders.1.model.")
    elif _config(folder)["cross_attention_dim"] == 1024:
        text = _load(folder, "text_encoder")
        tensors |= _open_clip(text | {"text_projection.weight": torch.eye(1024)}, "cond_stage_model.model.")
    else:
        tensors |= _clip(folder, "cond_stage_model.transformer.text_model.")
    # What such files carry beside the weights, and every reader must pass over.
    tensors |= {"betas": torch.linspace(0.0, 1.0, 8), "model_ema.decay": torch.tensor(0.9999)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def unet_name(name: str, config: dict[str, Any]) -> str:
    """The original name of a UNet tensor."""
    each = int(config["layers_per_block"]) + 1
    module, end = name.rsplit(".", 1)
    if module in _UNET_ENDS:
        return f"{_UNET_ENDS[module]}.{end}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", module):
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{place}.{_inner(match[1], match[3])}.{end}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", module)
    assert match, name
    side, block, sort, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if side == "down":
        number = 1 + block * each + (each - 1 if sort == "downsamplers" else layer)
        inner = "op" if sort == "downsamplers" else _inner(sort, rest)
        return f"input_blocks.{number}.{1 if sort == 'attentions' else 0}.{inner}.{end}"
    number = block * each + (each - 1 if sort == "upsamplers" else layer)
    if sort == "upsamplers":
        attends = config["up_block_types"][block] == "CrossAttnUpBlock2D"
        return f"output_blocks.{number}.{2 if attends else 1}.conv.{end}"
    return f"output_blocks.{number}.{1 if sort == 'attentions' else 0}.{_inner(sort, rest)}.{end}"


def vae_name(name: str, levels: int) -> str:
    """The original name of a VAE tensor; the decoder's levels count from the other end there."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{levels - 1 - int(m[1])}.upsample.", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0." in name:
        name = name.replace("mid_block.attentions.0.", "mid.attn_1.")
        for new, old in _VAE_ATTENTION.items():
            name = name.replace(f"attn_1.{new}.", f"attn_1.{old}.")
    return name


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "unet/config.json").read_text())
    return config


def _inner(sort: str, rest: str) -> str:
    return _RESNET[rest] if sort == "resnets" else rest


def _load(folder: Path, part: str) -> dict[str, Tensor]:
    (file,) = (folder / part).glob("*.safetensors")
    tensors: dict[str, Tensor] = load_file(file)
    return tensors


def _clip(folder: Path, prefix: str) -> dict[str, Tensor]:
    text = _load(folder, "text_encoder")
    named = {prefix + name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    positions = named[prefix + "embeddings.position_embedding.weight"].shape[0]
    return named | {prefix + "embeddings.position_ids": torch.arange(positions)[None]}


def _open_clip(text: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    text = {name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    named = {
        "positional_embedding": text.pop("embeddings.position_embedding.weight"),
        "token_embedding.weight": text.pop("embeddings.token_embedding.weight"),
        "ln_final.weight": text.pop("final_layer_norm.weight"),
        "ln_final.bias": text.pop("final_layer_norm.bias"),
        "text_projection": text.pop("text_projection.weight").T,
        "logit_scale": torch.tensor(4.6),
    }
    for name in [name for name in text if ".q_proj." in name]:
        parts = [text.pop(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        new = re.sub(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.", r"transformer.resblocks.\1.attn.in_proj_", name)
        named[new] = torch.cat(parts)
    for name, tensor in text.items():
        new = re.sub(r"encoder\.layers\.(\d+)\.", r"transformer.resblocks.\1.", name)
        for now, then in (("self_attn", "attn"), ("layer_norm", "ln_"), ("fc1", "c_fc"), ("fc2", "c_proj")):
            new = new.replace(now, then)
        named[new] = tensor
    return {prefix + name: tensor for name, tensor in named.items()}
