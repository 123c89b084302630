"""The merged model gives what base model and adapter give together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from raylora.errors import UserError
from raylora.families.causal_lm.export.merged import export_merged
from raylora.families.causal_lm.export.peft_folder import export_peft
from tests.families.causal_lm.export.adapters import config_of, random_adapter
from tests.families.causal_lm.tiny_lm import tiny_glm, tiny_llama, tiny_qwen


@pytest.mark.parametrize(
    ("make", "which", "rslora"),
    [(tiny_llama, "linear", False), (tiny_qwen, "all", True), (tiny_glm, "attention", False)],
)
def test_the_merged_model_is_base_and_adapter(tmp_path: Path, make: Any, which: str, rslora: bool) -> None:
    base = make(tmp_path / "base")
    config = config_of(base, lora_rank=4, lora_alpha=6.0, use_rslora=rslora)
    tensors = random_adapter(base, config, torch.float32, which)
    folder = export_merged(tmp_path / "merged", tensors, config)
    adapter = export_peft(tmp_path / "adapter", tensors, config, str(base))
    ids = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        wanted = PeftModel.from_pretrained(plain, adapter)(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        torch.testing.assert_close(merged(ids).logits, wanted, atol=1e-4, rtol=1e-4)
        before = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)(ids).logits
        assert (wanted - before).abs().max() > 1e-2
    assert AutoTokenizer.from_pretrained(folder).chat_template == AutoTokenizer.from_pretrained(adapter).chat_template
    stops = [GenerationConfig.from_pretrained(place).eos_token_id for place in (folder, adapter)]
    assert stops[0] == stops[1]


def test_a_shared_output_layer_gets_weights_of_its_own(tmp_path: Path) -> None:
    """An update of the output layer alone must not reach the embedding, whose weights it shares."""
    base = tiny_llama(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(base)
    config = config_of(base, lora_rank=2)
    torch.manual_seed(3)
    vocabulary, width = model.lm_head.weight.shape
    tensors = {
        "lm_head.lora_A.weight": torch.randn(2, width) * 0.1,
        "lm_head.lora_B.weight": torch.randn(vocabulary, 2) * 0.1,
    }
    merged = AutoModelForCausalLM.from_pretrained(export_merged(tmp_path / "merged", tensors, config))
    embedding = model.get_input_embeddings().weight
    torch.testing.assert_close(merged.get_input_embeddings().weight, embedding)
    update = config.scale * tensors["lm_head.lora_B.weight"] @ tensors["lm_head.lora_A.weight"]
    torch.testing.assert_close(merged.lm_head.weight, embedding + update)


def test_nothing_is_replaced_by_a_merged_model(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    config = config_of(base, lora_rank=2)
    before = sorted(path.name for path in base.iterdir())
    with pytest.raises(UserError, match="a model is not replaced"):
        export_merged(base, random_adapter(base, config, torch.float32), config)
    assert sorted(path.name for path in base.iterdir()) == before
