"""Which names of layers other programs know, and what they apply them to: data, a row a layer of a block.

ComfyUI: `comfy/lora.py` (model_lora_keys_unet: `transformer.` before diffusers' names, which are Qwen-Image's own) with
`flux_to_diffusers`, `mmdit_to_diffusers` and `z_image_to_diffusers` of `comfy/utils.py`; sd-scripts: the layers of
`library/flux_models.py` and `library/sd3_models.py`, named
as `networks/lora_flux.py` and `networks/lora_sd3.py` do (`lora_unet_`, `_` for `.`).
A row is diffusers' layer, the original's, and the first row and number of rows of its part of that, in hidden sizes.
"""

from __future__ import annotations

Row = tuple[str, str, int, int]

#: A part that is the whole of a layer.
WHOLE = (0, 0)

FLUX_DOUBLE: tuple[Row, ...] = (
    ("attn.to_q", "img_attn.qkv", 0, 1),
    ("attn.to_k", "img_attn.qkv", 1, 1),
    ("attn.to_v", "img_attn.qkv", 2, 1),
    ("attn.add_q_proj", "txt_attn.qkv", 0, 1),
    ("attn.add_k_proj", "txt_attn.qkv", 1, 1),
    ("attn.add_v_proj", "txt_attn.qkv", 2, 1),
    ("attn.to_out.0", "img_attn.proj", *WHOLE),
    ("attn.to_add_out", "txt_attn.proj", *WHOLE),
    ("norm1.linear", "img_mod.lin", *WHOLE),
    ("norm1_context.linear", "txt_mod.lin", *WHOLE),
    ("ff.net.0.proj", "img_mlp.0", *WHOLE),
    ("ff.net.2", "img_mlp.2", *WHOLE),
    ("ff_context.net.0.proj", "txt_mlp.0", *WHOLE),
    ("ff_context.net.2", "txt_mlp.2", *WHOLE),
)
FLUX_SINGLE: tuple[Row, ...] = (
    ("attn.to_q", "linear1", 0, 1),
    ("attn.to_k", "linear1", 1, 1),
    ("attn.to_v", "linear1", 2, 1),
    ("proj_mlp", "linear1", 3, 4),
    ("proj_out", "linear2", *WHOLE),
    ("norm.linear", "modulation.lin", *WHOLE),
)
SD3_JOINT: tuple[Row, ...] = (
    ("attn.to_q", "x_block.attn.qkv", 0, 1),
    ("attn.to_k", "x_block.attn.qkv", 1, 1),
    ("attn.to_v", "x_block.attn.qkv", 2, 1),
    ("attn.add_q_proj", "context_block.attn.qkv", 0, 1),
    ("attn.add_k_proj", "context_block.attn.qkv", 1, 1),
    ("attn.add_v_proj", "context_block.attn.qkv", 2, 1),
    ("attn2.to_q", "x_block.attn2.qkv", 0, 1),
    ("attn2.to_k", "x_block.attn2.qkv", 1, 1),
    ("attn2.to_v", "x_block.attn2.qkv", 2, 1),
    ("attn.to_out.0", "x_block.attn.proj", *WHOLE),
    ("attn2.to_out.0", "x_block.attn2.proj", *WHOLE),
    ("attn.to_add_out", "context_block.attn.proj", *WHOLE),
    ("norm1.linear", "x_block.adaLN_modulation.1", *WHOLE),
    ("norm1_context.linear", "context_block.adaLN_modulation.1", *WHOLE),
    ("ff.net.0.proj", "x_block.mlp.fc1", *WHOLE),
    ("ff.net.2", "x_block.mlp.fc2", *WHOLE),
    ("ff_context.net.0.proj", "context_block.mlp.fc1", *WHOLE),
    ("ff_context.net.2", "context_block.mlp.fc2", *WHOLE),
)
FLUX2_DOUBLE: tuple[Row, ...] = (
    *(row for row in FLUX_DOUBLE if row[0].startswith("attn.")),
    ("ff.linear_in", "img_mlp.0", *WHOLE),
    ("ff.linear_out", "img_mlp.2", *WHOLE),
    ("ff_context.linear_in", "txt_mlp.0", *WHOLE),
    ("ff_context.linear_out", "txt_mlp.2", *WHOLE),
)
FLUX2_SINGLE: tuple[Row, ...] = (
    ("attn.to_qkv_mlp_proj", "linear1", *WHOLE),
    ("attn.to_out", "linear2", *WHOLE),
)
QWEN: tuple[Row, ...] = tuple(
    (layer, layer, *WHOLE)
    for layer in (
        *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "to_add_out")),
        *(f"attn.add_{letter}_proj" for letter in "qkv"),
        *(f"{side}_{name}" for side in ("img", "txt") for name in ("mod.1", "mlp.net.0.proj", "mlp.net.2")),
    )
)
Z_IMAGE: tuple[Row, ...] = (
    ("attention.to_q", "attention.qkv", 0, 1),
    ("attention.to_k", "attention.qkv", 1, 1),
    ("attention.to_v", "attention.qkv", 2, 1),
    ("attention.to_out.0", "attention.out", *WHOLE),
    *((f"feed_forward.w{number}", f"feed_forward.w{number}", *WHOLE) for number in (1, 2, 3)),
    ("adaLN_modulation.0", "adaLN_modulation.0", *WHOLE),
)
#: Architecture to diffusers' lists of blocks, each with the original's and its rows.
BLOCKS: dict[str, dict[str, tuple[str, tuple[Row, ...]]]] = {
    "flux": {
        "transformer_blocks": ("double_blocks", FLUX_DOUBLE),
        "single_transformer_blocks": ("single_blocks", FLUX_SINGLE),
    },
    "sd3": {"transformer_blocks": ("joint_blocks", SD3_JOINT)},
    "flux2": {
        "transformer_blocks": ("double_blocks", FLUX2_DOUBLE),
        "single_transformer_blocks": ("single_blocks", FLUX2_SINGLE),
    },
    "qwen_image": {"transformer_blocks": ("transformer_blocks", QWEN)},
    "z_image": {name: (name, Z_IMAGE) for name in ("layers", "noise_refiner", "context_refiner")},
}


def known(architecture: str, module: str) -> tuple[str, int, int] | None:
    """The original's layer that a module of diffusers' is, or is a part of: name, first row, rows; None if unknown."""
    blocks, number, layer = module.split(".", 2)
    if blocks not in BLOCKS[architecture]:
        return None
    original, rows = BLOCKS[architecture][blocks]
    found = {name: (f"{original}.{number}.{layer}", first, count) for name, layer, first, count in rows}
    return found.get(layer)


def sd_scripts_name(layer: str) -> str:
    """sd-scripts' name of the LoRA of an original's layer."""
    return "lora_unet_" + layer.replace(".", "_")
