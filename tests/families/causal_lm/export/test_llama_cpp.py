"""llama.cpp's converters: found or named, and what they write gives the loss that raylora reports.

The second half needs llama.cpp: `git clone https://github.com/ggml-org/llama.cpp`, `pip install llama-cpp-python
sentencepiece`, and `export LLAMA_CPP=the clone` before the tests. It is left out where these are missing.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from raylora.errors import UserError
from raylora.families.causal_lm.export import llama_cpp
from raylora.families.causal_lm.export.llama_cpp import converter, export_adapter, export_model
from raylora.families.causal_lm.export.loading import load_with_adapter
from raylora.families.causal_lm.export.peft_folder import export_peft
from raylora.families.causal_lm.files import check
from tests.families.causal_lm.export.adapters import CPU, config_of, random_adapter
from tests.families.causal_lm.tiny_lm import tiny_llama

ROOT = Path(__file__).parents[4]


def test_a_converter_that_is_not_there_is_named_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    with pytest.raises(UserError, match=r"convert_lora_to_gguf\.py is not on the PATH") as caught:
        converter("convert_lora_to_gguf.py")
    assert "export LLAMA_CPP=" in caught.value.problems[0].hint
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    with pytest.raises(UserError, match="has no convert_lora_to_gguf") as caught:
        converter("convert_lora_to_gguf.py")
    assert (caught.value.problems[0].where, caught.value.problems[0].key) == (str(tmp_path), "LLAMA_CPP")
    (tmp_path / "convert_lora_to_gguf.py").touch()
    assert converter("convert_lora_to_gguf.py") == tmp_path / "convert_lora_to_gguf.py"


@pytest.mark.parametrize(
    ("script", "words", "hint"),
    [
        ("raise SystemExit('Model FooForCausalLM is not supported')", "FooForCausalLM is not supported", "vLLM"),
        ("print('nothing')", "it ended with 0", "vLLM"),
        ("import no_such_module", "No module named", "pip install sentencepiece gguf"),
    ],
)
def test_what_a_converter_refuses_is_told_in_its_words_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str, hint: str
) -> None:
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    (tmp_path / "convert_lora_to_gguf.py").write_text(script)
    base = tiny_llama(tmp_path / "base")
    config = config_of(base, lora_rank=2)
    out = tmp_path / "out" / "adapter.gguf"
    with pytest.raises(UserError, match=r"convert_lora_to_gguf\.py refuses it: ") as caught:
        export_adapter(out, random_adapter(base, config, torch.float32), config)
    assert words in str(caught.value) and hint in caught.value.problems[0].hint
    assert list(out.parent.iterdir()) == []


def test_only_an_adapter_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--to` may name a model by mistake: it stays, whatever converts."""
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    for name in ("convert_lora_to_gguf.py", "convert_hf_to_gguf.py"):
        (tmp_path / name).write_text("import sys; open(sys.argv[2], 'w').write('new')")
    base = tiny_llama(tmp_path / "base")
    config = config_of(base, lora_rank=2)
    tensors = random_adapter(base, config, torch.float32)
    for kind in ("model", "adapter"):
        writer = gguf.GGUFWriter(tmp_path / f"{kind}.gguf", "llama")
        writer.add_type(kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    (tmp_path / "text.gguf").write_text("notes")
    before = (tmp_path / "model.gguf").read_bytes()
    for export, name in ((export_adapter, "model"), (export_adapter, "text"), (export_model, "model")):
        with pytest.raises(UserError, match="there is something already"):
            export(tmp_path / f"{name}.gguf", tensors, config)
    assert (tmp_path / "model.gguf").read_bytes() == before
    assert (tmp_path / "text.gguf").read_text() == "notes"
    assert export_adapter(tmp_path / "adapter.gguf", tensors, config).read_text() == "new"
    assert export_model(tmp_path / "merged.gguf", tensors, config).read_text() == "new"


@pytest.fixture(scope="module")
def llama() -> Any:
    """llama.cpp's bindings, where they and the converters are installed."""
    if not os.environ.get(llama_cpp.HOME):
        pytest.skip("LLAMA_CPP names no clone of llama.cpp")
    return pytest.importorskip("llama_cpp", reason="pip install llama-cpp-python")


def test_llama_cpp_gives_the_loss_of_adapter_and_of_merged_model(llama: Any, tmp_path: Path) -> None:
    """SmolLM2's base and a random adapter on a chat: within 1 % of transformers and PEFT."""
    base = ROOT / "models/SmolLM2-135M-Instruct"
    files = check(base)
    config = config_of(base, lora_rank=4)
    tensors = {name: tensor * 0.2 for name, tensor in random_adapter(base, config, torch.float32).items()}
    adapter = export_peft(tmp_path / "adapter", tensors, config, str(base))
    loaded = load_with_adapter(files, config, torch.float32, CPU, adapter)
    text = "Define: optimism. The belief that everything is beautiful, including what is ugly, and everything good."
    ids = loaded.tokens.tokenizer(text)["input_ids"]
    with torch.no_grad():
        logits = loaded.model(torch.tensor([ids])).logits[0, :-1]
    wanted = float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])))

    def loss(model: Path, lora: Path | None) -> float:
        loaded = llama.Llama(str(model), lora_path=lora and str(lora), n_ctx=256, logits_all=True, verbose=False)
        assert loaded.tokenize(text.encode(), add_bos=False) == ids
        loaded.eval(ids)
        scores = torch.tensor(loaded.scores[: len(ids) - 1])
        return float(torch.nn.functional.cross_entropy(scores, torch.tensor(ids[1:])))

    merged = export_model(tmp_path / "merged.gguf", tensors, config)
    assert math.isclose(loss(merged, None), wanted, rel_tol=0.01)
    plain = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    whole = export_model(tmp_path / "base.gguf", plain, config)
    lora = export_adapter(tmp_path / "adapter.gguf", tensors, config)
    assert math.isclose(loss(whole, lora), wanted, rel_tol=0.01)
    assert not math.isclose(loss(whole, None), wanted, rel_tol=0.01)
