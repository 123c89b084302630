"""Tiny random models of transformers' own classes, one for every architecture that people bring, and their oddities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from tests.families.causal_lm.tiny_lm import VOCABULARY

_IDS = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2}


def _usual(layers: int = 2, **changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,
        **_IDS,
        **changes,
    }


def _without(name: str, **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in _usual(**changes).items() if key != name}


def _gpt(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 512,
        "initializer_range": 0.2,
        **_IDS,
        **changes,
    }


_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1}
_GROUPS = {"n_group": 1, "topk_group": 1}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_PER_LAYER = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_QWEN_VISION = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 32, "patch_size": 14}
_ROPE = {"rope_theta": 10000.0}
_LONGROPE = {
    **_ROPE,
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 64,
}

#: Name -> (class of the model, class of its configuration, its settings).
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _usual()),
    "llama_bias": ("LlamaForCausalLM", "LlamaConfig", _usual(attention_bias=True, mlp_bias=True)),
    "llama_dynamic": (
        "LlamaForCausalLM",
        "LlamaConfig",
        _usual(max_position_embeddings=32, rope_parameters={**_ROPE, "rope_type": "dynamic", "factor": 4.0}),
    ),
    "mistral": ("MistralForCausalLM", "MistralConfig", _usual(sliding_window=8)),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _usual(tie_word_embeddings=True)),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _usual()),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _usual()),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _usual(sliding_window=8, query_pre_attn_scalar=8)),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", _usual(6, sliding_window=8, query_pre_attn_scalar=8)),
    "phi": ("PhiForCausalLM", "PhiConfig", _usual()),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _usual(sliding_window=8)),
    "phi3_longrope": (
        "Phi3ForCausalLM",
        "Phi3Config",
        _usual(max_position_embeddings=512, original_max_position_embeddings=64, rope_parameters=_LONGROPE),
    ),
    "glm": ("GlmForCausalLM", "GlmConfig", _usual()),
    "glm4": ("Glm4ForCausalLM", "Glm4Config", _usual()),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _gpt()),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _usual()),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
            **_IDS,
        },
    ),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", _gpt(rotary_dim=4)),
    "codegen": ("CodeGenForCausalLM", "CodeGenConfig", _gpt(rotary_dim=4, n_ctx=512)),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", "GPTBigCodeConfig", _gpt()),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "word_embed_proj_dim": 32,
            "init_std": 0.2,
            **_IDS,
        },
    ),
    "bloom": ("BloomForCausalLM", "BloomConfig", _usual(n_layer=2, n_head=4)),
    "falcon": ("FalconForCausalLM", "FalconConfig", _without("head_dim")),
    "falcon_alibi": ("FalconForCausalLM", "FalconConfig", _without("head_dim", alibi=True)),
    "mpt": (
        "MptForCausalLM",
        "MptConfig",
        {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512, **_IDS},
    ),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", _usual(num_local_experts=4, num_experts_per_tok=2)),
    "phimoe": ("PhimoeForCausalLM", "PhimoeConfig", _usual(num_local_experts=4, sliding_window=64)),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        _usual(**_EXPERTS, shared_expert_intermediate_size=16, use_sliding_window=True, sliding_window=64),
    ),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", _usual(**_EXPERTS, mlp_only_layers=[0])),
    "olmoe": ("OlmoeForCausalLM", "OlmoeConfig", _usual(num_experts=4, num_experts_per_tok=2)),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", _usual(num_local_experts=4, sliding_window=8)),
    "glm4_moe": ("Glm4MoeForCausalLM", "Glm4MoeConfig", _usual(**_ROUTED, **_GROUPS)),
    "deepseek_v2": (
        "DeepseekV2ForCausalLM",
        "DeepseekV2Config",
        {**_without("head_dim", **_ROUTED, **_GROUPS), **_LATENT},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {**_without("head_dim", **_ROUTED, **_GROUPS), **_LATENT},
    ),
    "dots1": ("Dots1ForCausalLM", "Dots1Config", _usual(**_ROUTED, **_GROUPS, n_shared_experts=1)),
    "ernie4_5": ("Ernie4_5ForCausalLM", "Ernie4_5Config", _usual()),
    "ernie4_5_moe": (
        "Ernie4_5_MoeForCausalLM",
        "Ernie4_5_MoeConfig",
        _usual(moe_num_experts=4, moe_k=2, moe_intermediate_size=16, moe_layer_start_index=1),
    ),
    "llama4": (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        _usual(num_local_experts=4, num_experts_per_tok=1, intermediate_size_mlp=64, attention_chunk_size=8),
    ),
    "mamba": ("MambaForCausalLM", "MambaConfig", _usual(state_size=4)),
    "mamba2": (
        "Mamba2ForCausalLM",
        "Mamba2Config",
        _usual(state_size=8, num_heads=8, head_dim=8, n_groups=1, chunk_size=8),
    ),
    "falcon_mamba": ("FalconMambaForCausalLM", "FalconMambaConfig", _usual(state_size=4)),
    "falcon_h1": (
        "FalconH1ForCausalLM",
        "FalconH1Config",
        _usual(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1, mamba_chunk_size=8),
    ),
    "jamba": (
        "JambaForCausalLM",
        "JambaConfig",
        _usual(
            4,
            num_experts=2,
            attn_layer_period=2,
            attn_layer_offset=1,
            expert_layer_period=2,
            expert_layer_offset=1,
            mamba_d_state=4,
            use_mamba_kernels=False,
        ),
    ),
    "bamba": (
        "BambaForCausalLM",
        "BambaConfig",
        _usual(attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=8),
    ),
    "zamba2": (
        "Zamba2ForCausalLM",
        "Zamba2Config",
        _without("head_dim", num_hidden_layers=2, layers_block_type=["linear_attention", "hybrid"], mamba_ngroups=1),
    ),
    "granite": ("GraniteForCausalLM", "GraniteConfig", _usual(logits_scaling=4.0, residual_multiplier=0.5)),
    "granite_moe": ("GraniteMoeForCausalLM", "GraniteMoeConfig", _usual(num_local_experts=4)),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        _usual(4, **_EXPERTS, **_DELTA, shared_expert_intermediate_size=16),
    ),
    "qwen3_5": ("Qwen3_5ForCausalLM", "Qwen3_5TextConfig", _usual(4, **_DELTA)),
    "lfm2": (
        "Lfm2ForCausalLM",
        "Lfm2Config",
        _usual(4, layer_types=["conv", "full_attention", "conv", "full_attention"]),
    ),
    "rwkv": (
        "RwkvForCausalLM",
        "RwkvConfig",
        _usual(attention_hidden_size=32, context_length=512),
    ),
    "recurrent_gemma": ("RecurrentGemmaForCausalLM", "RecurrentGemmaConfig", _usual(3, attention_window_size=8)),
    "cohere": ("CohereForCausalLM", "CohereConfig", _usual()),
    "cohere2": (
        "Cohere2ForCausalLM",
        "Cohere2Config",
        _usual(sliding_window=8, layer_types=["sliding_attention", "full_attention"]),
    ),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", _usual()),
    "smollm3": ("SmolLM3ForCausalLM", "SmolLM3Config", _usual(4)),
    "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", _usual(sliding_window=8)),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", _usual()),
    "exaone4": ("Exaone4ForCausalLM", "Exaone4Config", _usual(4, sliding_window=8)),
    "gemma3n": (
        "Gemma3nForCausalLM",
        "Gemma3nTextConfig",
        _usual(
            4, **_PER_LAYER, sliding_window=8, laurel_rank=4, altup_num_inputs=2, activation_sparsity_pattern=[0.0] * 4
        ),
    ),
    "gemma4": ("Gemma4ForCausalLM", "Gemma4TextConfig", _usual(6, **_PER_LAYER, sliding_window=8, global_head_dim=8)),
    "minimax": ("MiniMaxForCausalLM", "MiniMaxConfig", _usual(num_local_experts=2, block_size=8)),
    "hunyuan": ("HunYuanDenseV1ForCausalLM", "HunYuanDenseV1Config", _usual()),
    "xglm": (
        "XGLMForCausalLM",
        "XGLMConfig",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "ffn_dim": 64,
            "num_layers": 2,
            "attention_heads": 4,
            "max_position_embeddings": 512,
            "init_std": 0.2,
            **_IDS,
        },
    ),
    "nemotron": ("NemotronForCausalLM", "NemotronConfig", _usual()),
    "persimmon": ("PersimmonForCausalLM", "PersimmonConfig", _usual(num_key_value_heads=4)),
    "gemma3_vision": (
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        {
            "text_config": _usual(6, sliding_window=8, query_pre_attn_scalar=8),
            "vision_config": {**_VISION, "model_type": "siglip_vision_model"},
            "mm_tokens_per_image": 4,
            "image_token_index": 300,
            "boi_token_index": 301,
            "eoi_token_index": 302,
        },
    ),
    "gemma4_vision": (
        "Gemma4ForConditionalGeneration",
        "Gemma4Config",
        {"text_config": _usual(6, **_PER_LAYER, sliding_window=8, global_head_dim=8)},
    ),
    "mistral3_vision": (
        "Mistral3ForConditionalGeneration",
        "Mistral3Config",
        {"text_config": {**_usual(), "model_type": "mistral"}, "vision_config": {**_VISION, "model_type": "pixtral"}},
    ),
    "llama4_vision": (
        "Llama4ForConditionalGeneration",
        "Llama4Config",
        {
            "text_config": _usual(
                num_local_experts=4, num_experts_per_tok=1, intermediate_size_mlp=64, attention_chunk_size=8
            ),
            "vision_config": {
                **_VISION,
                "vision_output_dim": 32,
                "projector_input_dim": 32,
                "projector_output_dim": 32,
            },
        },
    ),
    "qwen2_5_vision": (
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLConfig",
        {
            "text_config": _usual(rope_parameters={**_ROPE, "rope_type": "default", "mrope_section": [1, 1, 2]}),
            "vision_config": {**_QWEN_VISION, "intermediate_size": 32},
        },
    ),
    "qwen3_5_vision": (
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5Config",
        {"text_config": _usual(4, **_DELTA), "vision_config": {**_QWEN_VISION, "intermediate_size": 32}},
    ),
}


def make(name: str) -> PreTrainedModel:
    """A model of an architecture, random but the same each time, in float32."""
    model, config, settings = ARCHITECTURES[name]
    kind: Callable[[Any], PreTrainedModel] = getattr(transformers, model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(getattr(transformers, config)(**settings)).float()
