"""The head of an exported image adapter: what it says of its training, under sd-scripts' names and Stability's."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path, PurePath

import torch
from safetensors.torch import save
from torch import Tensor

from raylora import __version__
from raylora.config.keys.optimizer import OptimizerName
from raylora.config.schema import TrainConfig

#: Optimizers as sd-scripts names them.
_OPTIMIZERS: dict[OptimizerName, str] = {
    "adamw": "torch.optim.adamw.AdamW",
    "lion": "lion_pytorch.lion_pytorch.Lion",
    "adafactor": "torch.optim._adafactor.Adafactor",
    "prodigy": "prodigyopt.prodigy.Prodigy",
    "schedule_free_adamw": "schedulefree.adamw_schedulefree.AdamWScheduleFree",
}


def saved(tensors: Mapping[str, Tensor], config: TrainConfig) -> dict[str, Tensor]:
    """Tensors in the precision that `save_precision` names; in float32 where float16 would make a number infinite."""
    dtype: torch.dtype = getattr(torch, config.save_precision)
    most = torch.finfo(dtype).max
    if any(bool((tensor.abs() > most).any()) for tensor in tensors.values()):
        dtype = torch.float32
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def training_metadata(path: Path, config: TrainConfig, own_side: int, *, convolved: bool) -> dict[str, str]:
    """What is known from a configuration alone.

    Args:
        path: the adapter's file.
        config: of the trial.
        own_side: pixels of a square image that the base model was made for.
        convolved: whether convolutions larger than a point have updates.
    """
    side = config.resolution or own_side
    rank, of_kernels = config.exported_rank(config.lora_rank), config.exported_rank(config.rank_of_kernels)
    alpha = _number(config.scale * rank)
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
    return {"format": "pt"} | told


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


def hashes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, str]:
    """The hashes by which A1111 and Civitai find a LoRA again, taken as sd-scripts and the extensions take them.

    The first is over the tensors' bytes alone; the legacy one over 64 KiB at 1 MiB of a file that has only the `ss_`
    part of the metadata.
    """
    data = save(tensors, {name: value for name, value in metadata.items() if name.startswith("ss_")})
    start = 8 + int.from_bytes(data[:8], "little")
    legacy = hashlib.sha256(data[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
    return {"sshs_model_hash": hashlib.sha256(memoryview(data)[start:]).hexdigest(), "sshs_legacy_hash": legacy}
