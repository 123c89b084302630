"""What one run of a model tells of it: layers, head, attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from raylora.errors import UserError
from tests.families.causal_lm.architectures import make
from tests.families.causal_lm.models import (
    SHAPE,
    chats,
    heads,
    load64,
    rows_of,
    save,
    transformers_loss,
)
from tests.families.causal_lm.tiny_lm import (
    VOCABULARY,
    tiny_glm,
    tiny_llama,
)


def test_a_model_that_takes_no_sequence_gets_padded_rows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = save(tmp_path, BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)))
    model = load64(base)
    rows = rows_of(model, chats(5))
    assert model.lengths(rows) is None
    with torch.no_grad():
        losses = model.losses(rows)
    for row, loss in zip(rows, losses, strict=True):
        assert loss / row["count"] == pytest.approx(float(transformers_loss(base, row)), rel=1e-6)


@pytest.mark.parametrize(("kind", "config", "linear"), heads())
def test_heads_that_do_more_than_multiply(tmp_path: Path, kind: type, config: object, linear: bool) -> None:
    torch.manual_seed(0)
    base = save(tmp_path, kind(config))
    model = load64(base)
    assert model._head_is_linear is linear
    rows = rows_of(model, chats(3))
    with torch.no_grad():
        together = model.losses(rows)
        alone = torch.cat([model.losses([row]) for row in rows])
    assert torch.allclose(together, alone, rtol=1e-10, atol=0)
    for row, loss in zip(rows, together, strict=True):
        assert loss / row["count"] == pytest.approx(float(transformers_loss(base, row)), rel=1e-6)


def test_targets_follow_the_structure(tmp_path: Path) -> None:
    llama = load64(tiny_llama(tmp_path / "llama"))
    attention = [f"model.layers.{n}.self_attn.{p}_proj" for n in (0, 1) for p in "qkvo"]
    assert llama.targets("attention") == attention
    everything = llama.targets("linear")
    assert everything == llama.targets("all")
    assert len(everything) == 14 and "lm_head" not in everything
    assert load64(tiny_glm(tmp_path / "glm")).targets("linear")[4] == "model.layers.0.mlp.gate_up_proj"

    mixtral = load64(save(tmp_path / "moe", MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4))))
    assert mixtral.targets("linear") == attention  # routers and experts see tokens without their rows

    fused = load64(save(tmp_path / "neox", GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE))))
    names = ["attention.query_key_value", "attention.dense"]
    assert fused.targets("attention") == [f"gpt_neox.layers.{n}.{name}" for n in (0, 1) for name in names]
    assert len(fused.targets("linear")) == 8


def test_layers_may_be_chosen_by_name_or_pattern(tmp_path: Path) -> None:
    llama = load64(tiny_llama(tmp_path / "llama"))
    assert llama.targets(["v_proj", "q_proj"]) == [f"model.layers.{n}.self_attn.{p}_proj" for n in (0, 1) for p in "qv"]
    assert llama.targets(r".*layers\.1\.mlp\..*") == [
        f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down")
    ]
    with pytest.raises(UserError) as caught:
        llama.targets(["q_proj", "k_porj", "lm_head"])
    assert [problem.key for problem in caught.value.problems] == ["lora_targets"] * 2
    assert "no layer 'k_porj'" in str(caught.value) and "did you mean k_proj?" in str(caught.value)
    with pytest.raises(UserError, match="matches no layer"):
        llama.targets("layers.*")


def test_layers_that_peft_refuses_are_no_targets(tmp_path: Path) -> None:
    mamba = load64(save(tmp_path, make("mamba")))
    assert not any(name.endswith("out_proj") for name in mamba.targets("linear"))
    with pytest.raises(UserError, match="PEFT, by which the adapter is loaded, refuses out_proj"):
        mamba.targets(["in_proj", "out_proj"])


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    sizes = {key: SHAPE[key] for key in SHAPE if key != "num_key_value_heads"}
    base = save(tmp_path, BertLMHeadModel(BertConfig(**sizes, is_decoder=False)))
    with pytest.raises(UserError, match="depends on later tokens"):
        load64(base)
