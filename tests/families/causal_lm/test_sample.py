"""Answers of base model and exported adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raylora.errors import UserError
from raylora.families.causal_lm.export.peft_folder import export_peft
from tests.families.causal_lm.export.adapters import config_of, random_adapter
from tests.families.causal_lm.tiny_lm import CHATML, tiny_llama
from tests.families.loading import generate


def test_samples_come_from_the_exported_folder(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    config = config_of(base, lora_rank=8, lora_alpha=64.0, precision="float32")
    folder = export_peft(tmp_path / "adapter", random_adapter(base, config, torch.float32), config, str(base))
    plain, adapted = generate(config, None, ["Define: hope"]), generate(config, folder, ["Define: hope"])
    assert len(plain) == len(adapted) == 1
    assert plain != adapted
    assert adapted == generate(config, folder, ["Define: hope"])
    asked = (("user", "Define: hope"),)
    assert adapted == generate(config, folder, [asked])
    assert adapted != generate(config, folder, [(("system", "The assistant answers the user."), *asked)])


def test_a_prompt_that_the_template_refuses_is_named(tmp_path: Path) -> None:
    strict = "{% if messages[-1]['content'] == 'no' %}{{ raise_exception('Not this') }}{% endif %}" + CHATML
    base = tiny_llama(tmp_path / "base", template=strict)
    with pytest.raises(UserError, match="refuses the prompt 'no': Not this"):
        generate(config_of(base, precision="float32"), None, ["yes", "no"])
