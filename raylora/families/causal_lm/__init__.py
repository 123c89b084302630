"""Causal language models of transformers: LLaMA, Qwen, Mistral, GLM, ..."""
