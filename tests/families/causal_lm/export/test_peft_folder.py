""""""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from raylora.errors import UserError
from raylora.families.causal_lm.export.peft_folder import export_peft
from raylora.families.causal_lm.export.peft_targets import target_modules
from tests.families.causal_lm.export.adapters import config_of, random_adapter
from tests.families.causal_lm.tiny_lm import CHATML, tiny_glm, tiny_llama, tiny_qwen


def merged_logits(base: Path, tensors: dict[str, Tensor], scale: float, ids: Tensor, dtype: torch.dtype) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    with torch.no_grad():
        for name, module in model.named_modules():
            if f"{name}.lora_A.weight" in tensors:
                module.weight += scale * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
        logits: Tensor = model(ids).logits
    return logits


@pytest.mark.parametrize(
    ("make", "rank", "alpha", "rslora", "which", "dtype", "tolerance"),
    [
        (tiny_llama, 4, 16.0, False, "linear", torch.float64, 1e-10),
        (tiny_llama, 8, 5.0, True, "attention", torch.float64, 1e-10),
        (tiny_qwen, 2, "rank", False, "all", torch.float64, 1e-10),
        (tiny_glm, 3, 7.5, True, "linear", torch.float64, 1e-10),
        (tiny_llama, 4, 0.3, False, "linear", torch.float64, 1e-10),
        (tiny_llama, 16, 16.0, True, "linear", torch.float32, 1e-5),
    ],
)
def test_peft_gives_the_logits_of_the_merged_weights(
    tmp_path: Path,
    make,
    rank,
    alpha,
    rslora,
    which,
    dtype,
    tolerance,  # type: ignore[no-untyped-def]
) -> None:
    base = make(tmp_path / "base")
    config = config_of(base, lora_rank=rank, lora_alpha=alpha, use_rslora=rslora)
    tensors = random_adapter(base, config, dtype, which)
    folder = export_peft(tmp_path / "out" / "adapter", tensors, config, str(base))

    ids = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    without = plain(ids).logits.detach()
    loaded = PeftModel.from_pretrained(plain, folder, autocast_adapter_dtype=False)
    assert next(p for n, p in loaded.named_parameters() if "lora_A" in n).dtype == dtype
    with torch.no_grad():
        got = loaded(ids).logits
    expected = merged_logits(base, tensors, config.scale, ids, dtype)
    size = expected.abs().max()
    assert (got - expected).abs().max() <= tolerance * size
    assert (without - expected).abs().max() > 0.01 * size


def test_files_are_what_vllm_and_llama_cpp_read(tmp_path: Path) -> None:
    from safetensors import safe_open

    base = tiny_llama(tmp_path / "base")
    config = config_of(base, lora_rank=32, lora_alpha=16.0, use_rslora=True)
    tensors = random_adapter(base, config, torch.float32)
    folder = export_peft(tmp_path / "adapter", tensors, config, str(base))

    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        keys = set(file.keys())
        weights = {name: file.get_tensor(f"base_model.model.{name}") for name in tensors}
    assert keys and all(key.startswith("base_model.model.model.layers.") for key in keys)
    assert all(".lora_A" in key or ".lora_B" in key for key in keys)
    written = json.loads((folder / "adapter_config.json").read_text())
    assert written["r"] == 32
    assert written["use_rslora"] is False
    assert (written["lora_alpha"], type(written["lora_alpha"])) == (91, int)  # 90.5 to Ollama is no number at all
    for name, tensor in tensors.items():
        scale = 16.0 * math.sqrt(32) / 91 if ".lora_B." in name else 1.0
        torch.testing.assert_close(weights[name], tensor * scale, rtol=1e-6, atol=0)
    assert written["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (written["task_type"], written["bias"], written["use_dora"]) == ("CAUSAL_LM", "none", False)
    assert written["base_model_name_or_path"] == str(base)
    assert not written["modules_to_save"]
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [2]
    assert AutoTokenizer.from_pretrained(folder).chat_template == CHATML
    readme = (folder / "README.md").read_text()
    assert f"vllm serve {base} --enable-lora --max-lora-rank 32 --lora-modules adapter=adapter" in readme
    assert f"convert_lora_to_gguf.py --base {base} --outfile adapter.gguf adapter" in readme
    assert 'PARAMETER stop "<|im_end|>"' in (folder / "Modelfile").read_text()


def test_target_names_are_full_where_short_ones_would_take_more(tmp_path: Path) -> None:
    names = ["layers.0.q", "layers.0.head.q", "layers.1.q", "layers.1.v"]
    assert target_modules(["layers.0.q", "layers.1.q"], names) == ("layers.0.q", "layers.1.q")
    assert target_modules(["layers.1.v"], names) == ("v",)

    base = tiny_llama(tmp_path / "base")
    config = config_of(base, lora_rank=2)
    everything = random_adapter(base, config, torch.float32)
    some = {key: value for key, value in everything.items() if ".layers.1." in f".{key}"}
    folder = export_peft(tmp_path / "adapter", some, config, str(base))
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    assert sum("lora_" in name for name, _ in loaded.named_parameters()) == len(some)


def test_replaces_an_older_adapter_and_nothing_else(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    config = config_of(base, lora_rank=2)
    tensors = random_adapter(base, config, torch.float32)
    folder = export_peft(tmp_path / "out" / "adapter", tensors, config, str(base))
    (folder / "stale.txt").write_text("old")
    export_peft(folder, tensors, config, str(base))
    assert not (folder / "stale.txt").exists()
    assert [entry.name for entry in folder.parent.iterdir()] == ["adapter"]

    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.png").write_text("mine")
    with pytest.raises(UserError, match="no adapter"):
        export_peft(other, tensors, config, str(base))
    assert (other / "cat.png").read_text() == "mine"


@pytest.mark.parametrize(("rank", "alpha", "rslora"), [(3, 7.0, False), (49, 3.0, True), (7, "rank", False)])
def test_an_alpha_that_is_whole_changes_no_weight(tmp_path: Path, rank: int, alpha: object, rslora: bool) -> None:
    base = tiny_llama(tmp_path / "base")
    config = config_of(base, lora_rank=rank, lora_alpha=alpha, use_rslora=rslora)
    tensors = random_adapter(base, config, torch.float32, "attention")
    folder = export_peft(tmp_path / "adapter", tensors, config, str(base))
    assert json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] == {3: 7, 49: 21, 7: 7}[rank]
    written = load_file(folder / "adapter_model.safetensors")
    assert all(torch.equal(written[f"base_model.model.{name}"], tensor) for name, tensor in tensors.items())


def test_a_wrong_rank_writes_nothing(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    tensors = random_adapter(base, config_of(base, lora_rank=2), torch.float32)
    with pytest.raises(ValueError, match="ranks"):
        export_peft(tmp_path / "adapter", tensors, config_of(base, lora_rank=4), str(base))
    assert not (tmp_path / "adapter").exists()


def test_all_files_have_the_mode_that_the_umask_says(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    config = config_of(base, lora_rank=4)
    tensors = random_adapter(base, config, torch.float32)
    before = os.umask(0o027)
    try:
        folder = export_peft(tmp_path / "adapter", tensors, config, str(base))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert "adapter_model.safetensors" in modes
    assert set(modes.values()) == {0o640}, modes
