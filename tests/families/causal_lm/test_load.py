"""Loading a language model: what it is told by, and what cannot be loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    LlamaForCausalLM,
)

from raylora.errors import UserError
from raylora.families.causal_lm.export.usage import text_usage
from raylora.families.causal_lm.files import architecture, check
from tests.families.causal_lm.architectures import make
from tests.families.causal_lm.models import CPU, chats, config_of, load64, rows_of, save
from tests.families.causal_lm.tiny_lm import (
    CHATML,
    SPECIAL,
    tiny_llama,
)
from tests.families.loading import load


def test_fingerprint_names_all_that_encoding_depends_on(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "a")
    found = {
        load64(base).fingerprint,
        load64(base, max_length=99).fingerprint,
        load64(tiny_llama(tmp_path / "b", seed=1)).fingerprint,
        load64(tiny_llama(tmp_path / "c", template=CHATML + " ")).fingerprint,
    }
    assert len(found) == 4
    assert load64(base).fingerprint == load64(tiny_llama(tmp_path / "d")).fingerprint


def test_what_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())

    def refused(**changes: object) -> str:
        (base / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(UserError) as caught:
            load64(base)
        (problem,) = caught.value.problems
        assert problem.where == str(base) and problem.hint
        return str(problem)

    assert "lacks 9 tensors" in refused(num_hidden_layers=3)
    assert "cannot be loaded" in refused(hidden_size=64, head_dim=16)
    assert "never runs code" in refused(model_type="chatglm", auto_map={"AutoModel": "x.Y"})
    assert "newer transformers" in refused(model_type="llama9")
    assert "not a causal language model" in refused(architectures=None, model_type="bert")
    (base / "config.json").write_text(json.dumps(config))
    (base / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="tokenizer cannot be read"):
        load64(base)


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path)
    model = LlamaForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(base)
    with pytest.raises(UserError, match="not finite"):
        load64(base)


def write_gguf(path: Path, base: Path) -> Path:
    """The tiny LLaMA as llama.cpp's converter writes it: q and k with rotary halves interleaved."""
    import gguf

    model = LlamaForCausalLM.from_pretrained(base)
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([token for token, _ in vocabulary])
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token in SPECIAL else normal for token, _ in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(2)
    writer.add_bos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_chat_template(CHATML)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        value = tensor.numpy()
        if heads:
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_text_part_of_a_model_that_sees_pictures_is_trained(tmp_path: Path) -> None:
    for name in ("gemma3_vision", "mistral3_vision"):
        base = save(tmp_path / name, make(name))
        settings = json.loads((base / "config.json").read_text())
        settings.pop("eos_token_id", None)  # as Gemma 3's and 4's are
        (base / "config.json").write_text(json.dumps(settings))
        model = load64(base)
        assert model.tokens.stops == (2,)
        targets = model.targets("linear")
        assert targets and all("language_model" in target for target in targets)
        assert "AutoModelForImageTextToText.from_pretrained" in text_usage("a", str(base), tmp_path / "a", 8)[0].code


def test_numbers_that_json_has_not_are_read(tmp_path: Path) -> None:
    base = save(tmp_path, make("mamba2"))
    assert "__float__" in (base / "config.json").read_text()  # as transformers writes an infinite time step
    assert load64(base).targets("linear")


def test_a_model_with_its_head_in_another_precision(tmp_path: Path) -> None:
    base = save(tmp_path, make("mamba"))
    model = load(config_of(base), CPU, torch.bfloat16)
    with torch.no_grad():
        assert model.losses(rows_of(model, chats(2))).isfinite().all()


def test_a_gguf_file_is_the_model_it_was_made_from(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    path = write_gguf(tmp_path / "tiny.gguf", base)
    model, original = load64(path), load64(base)
    assert model.targets("linear") == original.targets("linear")
    assert architecture(check(path)) == architecture(check(base))
    examples = chats(2)
    for one, other in zip(model.encode(examples), original.encode(examples), strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"]) and torch.equal(one["loss_mask"], other["loss_mask"])
    rows = rows_of(model, examples)
    with torch.no_grad():
        assert torch.allclose(model.losses(rows), original.losses(rows), rtol=1e-6)
    model.model.save_pretrained(tmp_path / "converted")  # nothing of the GGUF quantizer is left
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(UserError, match="tiny.gguf"):
        load64(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="tiny.gguf"):
        architecture(check(path))
