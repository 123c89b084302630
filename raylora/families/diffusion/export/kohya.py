"""Writes an image adapter in kohya's layout: one .safetensors that ComfyUI, Forge, A1111 and diffusers all load."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path, PurePath

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from raylora import __version__
from raylora.config.keys.optimizer import OptimizerName
from raylora.config.schema import TrainConfig
from raylora.families.diffusion.base_files.model_files import Kind
from raylora.files import write_atomically
from raylora.lora.columns import has_kernel
from raylora.lora.updates import updates

#: kohya's name of the base, Stability's modelspec architecture and implementation.
_NAMES: dict[Kind, tuple[str, str, str]] = {
    "sd15": ("sd_v1", "stable-diffusion-v1/lora", "diffusers"),
    "sdxl": (
        "sdxl_base_v1-0",
        "stable-diffusion-xl-v1-base/lora",
        "https://github.com/Stability-AI/generative-models",
    ),
}
#: Optimizers as sd-scripts names them.
_OPTIMIZERS: dict[OptimizerName, str] = {
    "adamw": "torch.optim.adamw.AdamW",
    "lion": "lion_pytorch.lion_pytorch.Lion",
    "adafactor": "torch.optim._adafactor.Adafactor",
    "prodigy": "prodigyopt.prodigy.Prodigy",
    "schedule_free_adamw": "schedulefree.adamw_schedulefree.AdamWScheduleFree",
}
_MAGNITUDE = ".lora_magnitude_vector"
_SIDES: dict[Kind, int] = {"sd15": 512, "sdxl": 1024}  #: pixels of an image that they were made for


def export_kohya(path: Path, tensors: Mapping[str, Tensor], config: TrainConfig, info: Mapping[str, str]) -> Path:
    """Write an adapter in kohya's layout: `lora_unet_<module>.lora_down.weight`, `.lora_up.weight`, `.alpha`.

    Every reader multiplies up·down by alpha / rank, so `.alpha` carries the true alpha, and with rsLoRA
    alpha·sqrt(rank), which is the same update. DoRA's magnitudes are `.dora_scale`, (outputs, 1, ...), which readers
    take for those of outputs by that shape. Weights are written in `config.save_precision`.

    Args:
        path: the file, ending in .safetensors; it is whole or absent.
        tensors: `<module>.lora_A.weight` (r, in[, kh, kw]) and `<module>.lora_B.weight` (out, r[, 1, 1]), module names
            as diffusers' UNet has them; with DoRA `<module>.lora_magnitude_vector`.
        config: rank, alpha, targets, and what the metadata says of the training.
        info: more metadata, and better values for what is guessed here (`ss_num_train_images`, ...).

    Raises:
        UserError: there is no room, or the place cannot be written to.
        ValueError: `tensors` is no adapter of a UNet. That is a mistake of the caller.
    """
    converted = _convert(tensors, config)
    metadata = _metadata(path, tensors, config, info)
    model_hash, legacy_hash = _hashes(converted, metadata)
    metadata |= {"sshs_model_hash": model_hash, "sshs_legacy_hash": legacy_hash}
    size = sum(tensor.nbytes for tensor in converted.values())
    write_atomically(path, lambda partial: save_file(converted, partial, metadata), size=size)
    return path


def _convert(tensors: Mapping[str, Tensor], config: TrainConfig) -> dict[str, Tensor]:
    from diffusers.utils import convert_state_dict_to_kohya

    count = len(updates(tensors))
    written = saved({name: tensor.detach().cpu() for name, tensor in tensors.items()}, config)
    magnitudes = {name: written.pop(name) for name in tensors if name.endswith(_MAGNITUDE)}
    converted: dict[str, Tensor] = convert_state_dict_to_kohya(
        {f"unet.{name}": tensor for name, tensor in written.items()}
    )
    for name in [name for name in converted if name.endswith(".lora_down.weight")]:
        # diffusers writes the rank here, which would change the update's strength.
        down = converted[name]
        alpha = config.scale_of(down.shape) * down.shape[0]
        converted[name.replace(".lora_down.weight", ".alpha")] = torch.tensor(alpha)
    wrong = [name for name in converted if not name.startswith("lora_unet_") or name.count(".") not in (1, 2)]
    if wrong or len(converted) != 3 * count:
        raise ValueError(f"diffusers converted to unknown names: {wrong[:5]}")
    for name, magnitude in magnitudes.items():
        module = name.removesuffix(_MAGNITUDE)
        inputs = tensors[f"{module}.lora_A.weight"].shape[1:]
        key = f"lora_unet_{module.replace('.', '_')}.dora_scale"
        converted[key] = magnitude.reshape(-1, *(1 for _ in inputs))
    return {name: tensor.contiguous() for name, tensor in sorted(converted.items())}


def saved(tensors: Mapping[str, Tensor], config: TrainConfig) -> dict[str, Tensor]:
    """Tensors in the precision that `save_precision` names; in float32 where float16 would make a number infinite."""
    dtype: torch.dtype = getattr(torch, config.save_precision)
    most = torch.finfo(dtype).max
    if any(bool((tensor.abs() > most).any()) for tensor in tensors.values()):
        dtype = torch.float32
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def _metadata(
    path: Path, tensors: Mapping[str, Tensor], config: TrainConfig, info: Mapping[str, str]
) -> dict[str, str]:
    kind = _kind(tensors)
    side = config.resolution or _SIDES[kind]
    rank, of_kernels = config.exported_rank(config.lora_rank), config.exported_rank(config.rank_of_kernels)
    alpha = _number(config.scale * rank)
    convolved = any(name.endswith(".lora_A.weight") and has_kernel(tensor.shape) for name, tensor in tensors.items())
    arguments = {}
    if convolved:
        arguments = {"conv_dim": str(of_kernels), "conv_alpha": _number(config.scale_of_kernels * of_kernels)}
    if config.use_dora:  # by the names that LyCORIS has for these
        arguments |= {"dora_wd": "True", "wd_on_output": "True"}
    if config.lora_plus_ratio != 1.0:
        arguments["loraplus_lr_ratio"] = _number(config.lora_plus_ratio)
    title = PurePath(config.output_dir).name or path.stem
    now = time.time()
    known: dict[str, object] = {
        "ss_output_name": title,
        "ss_sd_model_name": PurePath(config.base_model).name,
        "ss_v2": False,
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": alpha,
        "ss_network_args": json.dumps(arguments),
        "ss_network_dropout": config.lora_dropout or None,
        "ss_resolution": f"({side}, {side})",
        "ss_enable_bucket": True,
        "ss_bucket_info": "null",
        "ss_tag_frequency": "{}",
        "ss_num_train_images": 0,
        "ss_training_started_at": now,
        "ss_training_finished_at": now,
        "ss_learning_rate": config.peak_learning_rate,
        "ss_unet_lr": config.peak_learning_rate,
        "ss_text_encoder_lr": None,
        "ss_lr_scheduler": config.lr_scheduler,
        "ss_lr_warmup_steps": config.warmup_steps,
        "ss_optimizer": _OPTIMIZERS[config.optimizer],
        "ss_max_grad_norm": config.max_grad_norm,
        "ss_num_epochs": config.epochs,
        "ss_max_train_steps": config.max_steps,
        "ss_total_batch_size": config.batch_size,
        "ss_seed": config.seed,
        "ss_min_snr_gamma": config.min_snr_gamma,
        "ss_noise_offset": config.noise_offset or None,
        "ss_caption_dropout_rate": config.caption_dropout,
        "ss_caption_tag_dropout_rate": config.tag_dropout,
        "ss_shuffle_caption": config.caption_shuffle,
        "ss_keep_tokens": config.keep_tokens,
        "ss_flip_aug": config.flip_augment,
        "ss_random_crop": config.crop_jitter > 0,
        "ss_masked_loss": config.masked_loss,
        "ss_loss_type": config.loss,
        "ss_huber_c": config.huber_delta,
        "ss_debiased_estimation": config.debiased_estimation,
        "ss_ip_noise_gamma": config.ip_noise_gamma or None,
        "ss_multires_noise_iterations": config.multires_noise_iterations or None,
        "ss_multires_noise_discount": config.multires_noise_discount,
        "ss_gradient_checkpointing": config.gradient_checkpointing,
        "ss_cache_latents": True,
        "ss_cache_text_encoder_outputs": True,
        "ss_batch_size_per_device": config.batch_size,
        "ss_gradient_accumulation_steps": 1,
        "ss_mixed_precision": config.precision,
        "ss_full_fp16": False,
        "ss_lowram": False,
        "ss_clip_skip": None,
        "ss_max_token_length": config.caption_tokens,
        "ss_prior_loss_weight": config.prior_loss_weight if config.reg_data_dir else None,
        "ss_num_reg_images": 0,
        "ss_num_batches_per_epoch": None,
        "ss_epoch": None,
        "ss_steps": None,
        "ss_session_id": None,
        "ss_training_comment": f"raylora {__version__}",
        "ss_sd_model_hash": _base_model_hash(Path(config.base_model)),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": title,
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)),
    }
    # kohya writes what is unknown as "None".
    told = {name: str(value) for name, value in known.items()}
    return {"format": "pt"} | told | architecture(kind) | dict(info)


def architecture(kind: Kind) -> dict[str, str]:
    """Metadata that say for which base model an adapter is."""
    return dict(
        zip(("ss_base_model_version", "modelspec.architecture", "modelspec.implementation"), _NAMES[kind], strict=True)
    )


def _kind(tensors: Mapping[str, Tensor]) -> Kind:
    """The kind of UNet, as far as the names of adapted layers tell; `info` of an export goes before it.

    Only XL has a second transformer block one behind the other, and none on its first level.
    """
    return "sdxl" if any(".transformer_blocks.1." in name for name in tensors) else "sd15"


def _base_model_hash(path: Path) -> str | None:
    """The hash by which A1111 shows a checkpoint: over 64 KiB at 1 MiB; None for a folder, or a file that has gone."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def _number(value: float) -> str:
    """16 and not 16.0, also where rounding has left something: tools compare these texts with the rank's."""
    near = round(value, 9)
    return str(int(near)) if near == int(near) else str(near)


def _hashes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> tuple[str, str]:
    """The hashes by which A1111 and Civitai find a LoRA again, taken as sd-scripts and the extensions take them.

    The first is over the tensors' bytes alone; the legacy one over 64 KiB at 1 MiB of a file that has only the `ss_`
    part of the metadata.
    """
    data = save(tensors, {name: value for name, value in metadata.items() if name.startswith("ss_")})
    start = 8 + int.from_bytes(data[:8], "little")
    legacy = hashlib.sha256(data[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
    return hashlib.sha256(memoryview(data)[start:]).hexdigest(), legacy
