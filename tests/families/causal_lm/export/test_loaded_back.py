"""What is exported is what was trained: for every architecture PEFT gives the value that raylora gives."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raylora.errors import UserError
from raylora.families.base import Tensors
from raylora.families.causal_lm.export.llama_cpp import export_adapter
from raylora.families.causal_lm.export.loading import held_out_loss, load_with_adapter
from raylora.families.causal_lm.export.merged import export_merged
from raylora.families.causal_lm.export.peft_folder import export_peft
from raylora.families.causal_lm.export.usage import text_usage
from raylora.families.causal_lm.files import check
from raylora.families.causal_lm.model import CausalLM
from raylora.lora.adapter import Adapter, LoraSettings
from raylora.lora.coverage import coverage
from raylora.lora.packed import PackedLora, Segment
from raylora.training.settings import lora_settings
from tests.families.causal_lm.architectures import ARCHITECTURES, make
from tests.families.causal_lm.models import CPU, chats, config_of, rows_of, save
from tests.families.loading import load

#: Layers that get no update: PEFT refuses those of Mamba's mixers; others see tokens without their rows.
WITHOUT = {
    "mamba": "mixer.out_proj",
    "mamba2": "mixer.out_proj",
    "falcon_h1": "mamba.out_proj",
    "opt": "layers.fc1",
    "deepseek_v3": "self_attn.kv_b_proj",
    "glm4_moe": "experts.down_proj",
}


def value(model: CausalLM, adapter: Adapter | None, rows: list[Tensors]) -> float:
    """The loss per token over rows, as a pack computes it: those that may share a pass do."""
    lora = PackedLora(model.model, model.dtype)
    if adapter is not None:
        lora.attach(adapter.targets)
    groups: dict[object, list[Tensors]] = defaultdict(list)
    for row in rows:
        groups[model.shape_key(row)].append(row)
    losses: list[Tensor] = []
    with torch.no_grad():
        for group in groups.values():
            segments = [] if adapter is None else [Segment(0, len(group), adapter)]
            with lora.rows(segments, model.lengths(group)):
                losses.append(model.losses(group))
    return float(torch.cat(losses).sum()) / sum(float(row["count"]) for row in rows)


@pytest.mark.slow  # all of them together
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_export_is_what_was_trained(tmp_path: Path, name: str) -> None:
    base = save(tmp_path / "base", make(name))
    config = config_of(base, lora_rank=4, lora_dropout=0.1, max_length=300)
    model = load(config, CPU, torch.float32)
    targets = model.targets("linear")
    adapter = Adapter(model.model, targets, LoraSettings(4, config.scale), CPU, torch.float32)
    torch.manual_seed(1)
    for name in targets:
        adapter.pair(name)[1].normal_(0, 0.05)
    examples = chats(4)
    rows = rows_of(model, examples)
    before, trained = value(model, None, rows), value(model, adapter, rows)
    without = dict(coverage(model.model, targets).without)
    assert WITHOUT.get(name, "") in {"", *without}

    folder = export_peft(tmp_path / "adapter", adapter.tensors(), config, str(base))
    loaded = load_with_adapter(check(base), config, torch.float32, CPU, folder)
    found = held_out_loss(loaded, examples, config.max_length)
    assert found == pytest.approx(trained, rel=1e-5)
    assert abs(found - trained) < 0.02 * abs(trained - before)


def test_dense_layers_beside_experts_are_named_by_their_weights(tmp_path: Path) -> None:
    base = save(tmp_path / "base", make("glm4_moe"))
    config = config_of(base, lora_rank=2, lora_dropout=0.1)
    model = load(config, CPU, torch.float32)
    targets = model.targets("linear")
    tensors = Adapter(model.model, targets, LoraSettings(2, 1.0), CPU, torch.float32).tensors()
    folder = export_peft(tmp_path / "adapter", tensors, config, str(base))
    written = json.loads((folder / "adapter_config.json").read_text())
    assert "model.layers.0.mlp.gate_proj.weight" in written["target_parameters"]
    assert written["lora_dropout"] == 0  # PEFT takes none for these
    assert all("experts.gate" not in name or "shared" in name for name in written["target_parameters"])


@pytest.mark.parametrize("start", ["default", "pissa"])
def test_an_adapter_of_dora_is_what_was_trained(tmp_path: Path, start: str) -> None:
    base = save(tmp_path / "base", make("llama"))
    config = config_of(base, lora_rank=4, lora_alpha=7.5, use_dora=True, init_lora_weights=start)
    model = load(config, CPU, torch.float32)
    adapter = Adapter(model.model, model.updated(config), lora_settings(config), CPU, torch.float32)
    torch.manual_seed(1)
    for name in adapter.targets:
        adapter.pair(name)[1].normal_(0, 0.05)
    PackedLora(model.model, torch.float32).set_magnitudes(adapter)
    assert adapter.magnitude is not None
    adapter.magnitude.weights.mul_(torch.rand(adapter.magnitude.weights.shape) + 0.5)
    examples = chats(3)
    trained = value(model, adapter, rows_of(model, examples))
    folder = export_peft(tmp_path / "adapter", adapter.tensors(), config, str(base))
    found = held_out_loss(load_with_adapter(check(base), config, torch.float32, CPU, folder), examples, 300)
    assert found == pytest.approx(trained, rel=1e-5)
    assert (
        "--layout merged" in (folder / "README.md").read_text()
        and "vllm serve" not in (folder / "README.md").read_text()
    )
    assert [snippet.title for snippet in text_usage("x", str(base), folder, 4)] == [
        "transformers + PEFT",
        "other programs",
    ]
    merged = export_merged(tmp_path / "merged", adapter.tensors(), config)
    alone = load_with_adapter(check(merged), config, torch.float32, CPU, None)
    assert held_out_loss(alone, examples, 300) == pytest.approx(trained, rel=1e-4)
    with pytest.raises(UserError, match="no place for the magnitudes"):
        export_adapter(tmp_path / "a.gguf", adapter.tensors(), config)
    plain = config.with_values({"use_dora": False})
    with pytest.raises(ValueError, match="magnitudes"):
        export_peft(tmp_path / "other", adapter.tensors(), plain, str(base))


def test_dora_is_refused_where_peft_takes_none(tmp_path: Path) -> None:
    config = config_of(save(tmp_path / "base", make("glm4_moe")), use_dora=True)
    model = load(config, CPU, torch.float32)
    with pytest.raises(UserError, match="takes no DoRA for model.layers.0.mlp"):
        model.updated(config)
    assert model.updated(config.with_values({"lora_targets": ["q_proj", "v_proj"]}))
