"""Names and values that people know from other trainers, and what stands for them here."""

from __future__ import annotations

#: The name of a key elsewhere to the key here; `sweep.` leads into that section.
KEY_ALIASES = {
    **dict.fromkeys(("rank", "r", "lora_r", "lora_dim", "network_dim", "network_rank", "dim"), "lora_rank"),
    **dict.fromkeys(("alpha", "network_alpha"), "lora_alpha"),
    **dict.fromkeys(("dropout", "network_dropout"), "lora_dropout"),
    **dict.fromkeys(("target_modules", "lora_target_modules", "lora_target"), "lora_targets"),
    **dict.fromkeys(("rslora", "use_rs_lora"), "use_rslora"),
    **dict.fromkeys(("lr", "unet_lr", "step_size"), "learning_rate"),
    **dict.fromkeys(("lr_scheduler_type", "scheduler", "lr_schedule"), "lr_scheduler"),
    **dict.fromkeys(("lr_warmup_steps", "num_warmup_steps", "warmup"), "warmup_steps"),
    **dict.fromkeys(("train_batch_size", "micro_batch_size", "per_device_train_batch_size", "bs"), "batch_size"),
    **dict.fromkeys(("max_train_epochs", "num_train_epochs", "num_epochs", "n_epochs"), "epochs"),
    **dict.fromkeys(("max_train_steps", "num_train_steps", "steps", "train_steps"), "max_steps"),
    **dict.fromkeys(("max_norm", "gradient_clipping", "gradient_clip_val", "clip_grad_norm"), "max_grad_norm"),
    **dict.fromkeys(("save_every_n_steps", "checkpointing_steps", "save_every"), "save_steps"),
    **dict.fromkeys(("eval_steps", "validation_steps", "eval_every"), "validate_every"),
    **dict.fromkeys(("mixed_precision", "dtype", "torch_dtype"), "precision"),
    **dict.fromkeys(("load_in_4bit", "quantization", "bits", "qlora"), "quantize"),
    **dict.fromkeys(("max_memory", "memory_limit", "gpu_memory_limit", "vram_limit"), "memory_limit_gib"),
    **dict.fromkeys(("validation_prompt", "validation_prompts", "sample_prompt", "prompts"), "sample_prompts"),
    "snr_gamma": "min_snr_gamma",
    "caption_dropout_rate": "caption_dropout",
    "loss_type": "loss",
    "huber_c": "huber_delta",
    "debiased_estimation_loss": "debiased_estimation",
    "max_token_length": "caption_tokens",
    **dict.fromkeys(("v_parameterization", "v_pred", "v_prediction"), "prediction_type"),
    **dict.fromkeys(("rescale_betas_zero_snr", "ztsnr"), "zero_terminal_snr"),
    **dict.fromkeys(("cutoff_len", "max_seq_length", "sequence_len", "seq_len"), "max_length"),
    **dict.fromkeys(("model", "base_model_name_or_path", "model_name_or_path", "checkpoint"), "base_model"),
    "pretrained_model_name_or_path": "base_model",
    **dict.fromkeys(("dataset", "dataset_path", "data_dir", "train_dir", "instance_data_dir"), "train_data_dir"),
    **dict.fromkeys(("eval_dataset", "val_dataset", "validation_file", "val_file", "eval_file"), "validation_path"),
    **dict.fromkeys(("validation_dir", "val_data_dir", "eval_data_dir", "val_set", "test_datasets"), "validation_path"),
    **dict.fromkeys(("metadata", "in_json", "caption_file"), "metadata_path"),
    **dict.fromkeys(("train_on_inputs", "train_on_prompt", "completion_only_loss", "assistant_only_loss"), "train_on"),
    **dict.fromkeys(("mask_prompt", "train_on_input", "loss_on"), "train_on"),
    **dict.fromkeys(("output", "out_dir", "logging_dir", "save_dir"), "output_dir"),
    **dict.fromkeys(("search_space", "param_space"), "sweep.space"),
    **dict.fromkeys(("num_trials", "n_trials", "num_samples"), "sweep.trials"),
    **dict.fromkeys(("search_alg", "sampler"), "sweep.searcher"),
    **dict.fromkeys(("time_budget", "time_budget_s", "max_time"), "sweep.time_budget_minutes"),
}
#: Keys of other trainers that need none here, and why; said in place of a key that was probably meant.
KEY_REMARKS = {
    **dict.fromkeys(
        ("network_train_unet_only", "train_unet_only", "train_unet"),
        "raylora trains the UNet alone: remove the key",
    ),
    **dict.fromkeys(
        ("network_train_text_encoder_only", "train_text_encoder", "text_encoder_lr", "text_encoder_learning_rate"),
        "raylora trains the UNet alone, and no text encoder: remove the key",
    ),
    **dict.fromkeys(
        ("lora_type", "network_module", "network_type", "algo"),
        "raylora trains LoRA and no other kind of adapter: remove the key",
    ),
    **dict.fromkeys(
        ("enable_bucket", "bucket_reso_steps", "min_bucket_reso", "max_bucket_reso", "bucket_no_upscale"),
        "images of all shapes are brought to buckets by themselves: remove the key",
    ),
    **dict.fromkeys(
        ("cache_latents", "cache_latents_to_disk", "cache_text_encoder_outputs"),
        "everything is encoded once and kept in cache_dir: remove the key",
    ),
    **dict.fromkeys(
        ("xformers", "sdpa", "mem_eff_attn", "use_xformers"),
        "torch's own fast attention is always used: remove the key",
    ),
    **dict.fromkeys(
        ("reg_data_dir", "class_data_dir", "prior_loss_weight", "with_prior_preservation"),
        "there is no prior preservation yet: remove the key",
    ),
    **dict.fromkeys(
        ("num_repeats", "repeats", "dataset_repeats"),
        "every example is seen once an epoch: give more epochs, and remove the key",
    ),
    **dict.fromkeys(
        ("gradient_accumulation_steps", "gradient_accumulation"),
        "batch_size is what a step learns from, however many passes it takes: multiply it, and remove the key",
    ),
    **dict.fromkeys(("clip_skip",), "the layer of CLIP that the base model was made for is used: remove the key"),
}
#: A value as it is written elsewhere to the value here, where the key takes that.
VALUE_ALIASES = {
    **dict.fromkeys(("fp32", "float", "no"), "float32"),
    **dict.fromkeys(("bf16", "float16"), "bfloat16"),
    **dict.fromkeys(("fp16", "half"), "float16"),
    **dict.fromkeys(("fp64", "double"), "float64"),
    **dict.fromkeys(("constant_with_warmup",), "constant"),
    **dict.fromkeys(("cosine_with_restarts", "cosine_with_min_lr", "polynomial"), "cosine"),
    **dict.fromkeys(("attn", "qkv", "q_proj", "cross_attention"), "attention"),
    **dict.fromkeys(("all-linear", "all_linear", "mlp"), "linear"),
    **dict.fromkeys(("mse", "l2_loss"), "l2"),
    **dict.fromkeys(("smooth_l1", "pseudo_huber"), "huber"),
    **dict.fromkeys(("full", "conv", "everything"), "all"),
    **dict.fromkeys(("tpe", "bayes", "bayesian", "auto"), "optuna"),
    **dict.fromkeys(("halving", "hyperband", "median"), "asha"),
    **dict.fromkeys(("fifo", "null", "off"), "none"),
}
