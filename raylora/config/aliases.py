"""Names and values that people know from other trainers, and what stands for them here."""

from __future__ import annotations

#: The name of a key elsewhere to the key here; `sweep.` leads into that section.
KEY_ALIASES = {
    **dict.fromkeys(("rank", "r", "lora_r", "lora_dim", "network_dim", "network_rank", "dim"), "lora_rank"),
    **dict.fromkeys(("alpha", "network_alpha"), "lora_alpha"),
    **dict.fromkeys(("dropout", "network_dropout"), "lora_dropout"),
    **dict.fromkeys(("target_modules", "lora_target_modules", "lora_target"), "lora_targets"),
    **dict.fromkeys(("rslora", "use_rs_lora"), "use_rslora"),
    **dict.fromkeys(("lr", "unet_lr", "text_encoder_lr", "step_size"), "learning_rate"),
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
    **dict.fromkeys(("max_token_length", "cutoff_len", "max_seq_length", "sequence_len", "seq_len"), "max_length"),
    **dict.fromkeys(("model", "base_model_name_or_path", "model_name_or_path", "checkpoint"), "base_model"),
    "pretrained_model_name_or_path": "base_model",
    **dict.fromkeys(("dataset", "dataset_path", "data_dir", "train_dir", "instance_data_dir"), "train_data_dir"),
    **dict.fromkeys(("metadata", "in_json", "caption_file"), "metadata_path"),
    **dict.fromkeys(("output", "out_dir", "logging_dir", "save_dir"), "output_dir"),
    **dict.fromkeys(("search_space", "param_space"), "sweep.space"),
    **dict.fromkeys(("num_trials", "n_trials", "num_samples"), "sweep.trials"),
    **dict.fromkeys(("search_alg", "sampler"), "sweep.searcher"),
    **dict.fromkeys(("time_budget", "time_budget_s", "max_time"), "sweep.time_budget_minutes"),
}
#: A value as it is written elsewhere to the value here, where the key takes that.
VALUE_ALIASES = {
    **dict.fromkeys(("fp32", "float", "no"), "float32"),
    **dict.fromkeys(("bf16", "fp16", "float16", "half"), "bfloat16"),
    **dict.fromkeys(("fp64", "double"), "float64"),
    **dict.fromkeys(("constant_with_warmup",), "constant"),
    **dict.fromkeys(("cosine_with_restarts", "cosine_with_min_lr", "polynomial"), "cosine"),
    **dict.fromkeys(("attn", "qkv", "q_proj", "cross_attention"), "attention"),
    **dict.fromkeys(("all-linear", "all_linear", "mlp"), "linear"),
    **dict.fromkeys(("full", "conv", "everything"), "all"),
    **dict.fromkeys(("tpe", "bayes", "bayesian", "auto"), "optuna"),
    **dict.fromkeys(("halving", "hyperband", "median"), "asha"),
    **dict.fromkeys(("fifo", "null", "off"), "none"),
}
