from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from raylora.config.schema import TrainConfig
from raylora.data.cache import EncodedCache
from raylora.data.examples import ChatExample, ImageExample
from raylora.errors import UserError
from raylora.families.base import Tensors
from raylora.families.causal_lm.files import architecture, check
from raylora.families.causal_lm.kernels import packed_attention as sequence
from raylora.families.causal_lm.kernels.linear_cross_entropy import head_loss
from raylora.families.causal_lm.kernels.packed_attention import Layout
from raylora.families.causal_lm.model import CausalLM
from tests.families.causal_lm.tiny_lm import (
    CHATML,
    SPECIAL,
    VOCABULARY,
    tiny_glm,
    tiny_llama,
    tiny_qwen,
    tiny_tokenizer,
)
from tests.families.loading import load

CPU = torch.device("cpu")
MAKERS = [tiny_llama, tiny_qwen, tiny_glm]
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "bos_token_id": None,
}


def config_of(base: Path, **changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"train_data_dir": "unused", "base_model": str(base), **changes})


def load64(base: Path, **changes: object) -> CausalLM:
    return load(config_of(base, **changes), CPU, torch.float64)


def save(folder: Path, model: PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def chats(count: int) -> list[ChatExample]:
    draw = random.Random(0)
    words = ["the", "assistant", "answers", "every", "user", "and", "so", "on", "until", "despair"]

    def say(longest: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, longest)))

    return [
        ChatExample(str(n), (("user", say(4)), ("assistant", say(12)), ("user", say(9)), ("assistant", say(3))))
        for n in range(count)
    ]


def rows_of(model: CausalLM, examples: Sequence[ChatExample]) -> list[Tensors]:
    config = config_of(Path("unused"))
    return [model.training_row(encoded, config, torch.Generator()) for encoded in model.encode(examples)]


def transformers_loss(base: Path, row: Tensors) -> Tensor:
    """The mean loss as transformers' own model computes it, of one row alone, with labels of -100."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64, experts_implementation="eager")
    labels = row["input_ids"].where(row["loss_mask"], torch.tensor(-100))
    loss: Tensor = model(input_ids=row["input_ids"][None], labels=labels[None]).loss
    return loss.detach()


@pytest.mark.parametrize("make", MAKERS)
def test_loss_is_that_of_transformers_and_independent_of_neighbours(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    base = make(tmp_path)
    model = load64(base)
    rows = rows_of(model, chats(5))
    assert len({len(row["input_ids"]) for row in rows}) > 2
    assert model.lengths(rows) == [len(row["input_ids"]) for row in rows]  # nothing is padded
    with torch.no_grad():
        together = model.losses(rows)
        alone = torch.cat([model.losses([row]) for row in rows])
        turned = model.losses(rows[::-1]).flip(0)
    assert together.dtype == torch.float64 and together.shape == (5,)
    assert torch.allclose(together, alone, rtol=1e-12, atol=0)
    assert torch.allclose(together, turned, rtol=1e-12, atol=0)
    for row, loss in zip(rows, together, strict=True):
        assert row["count"].shape == () and row["count"].is_floating_point()
        assert loss / row["count"] == pytest.approx(float(transformers_loss(base, row)), rel=1e-6)  # labels' is float32


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("longest", [256, 8])  # of weights that are written out, which longer texts' are not
def test_texts_in_one_sequence_do_not_see_each_other(
    window: int | None, longest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "_WRITTEN_OUT", longest)
    torch.manual_seed(0)
    base = save(tmp_path, MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=window)))
    model = load64(base)
    lengths = (12, 3, 9, 2, 30, 4, 5, 11, 6)
    torch.manual_seed(1)
    rows = [
        {"input_ids": torch.randint(4, VOCABULARY, (length,)), "loss_mask": torch.ones(length).bool()}
        for length in lengths
    ]
    assert model.lengths(rows) == list(lengths)
    assert len(Layout.of(lengths, CPU).groups) > 1
    wanted = [float(transformers_loss(base, row)) * (len(row["input_ids"]) - 1) for row in rows]
    with torch.no_grad():
        found = model.losses(rows)
    assert found.tolist() == pytest.approx(wanted, rel=1e-6)


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


def heads() -> list[tuple[type[PreTrainedModel], object, bool]]:
    return [
        (Gemma2ForCausalLM, Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=5.0), False),
        (CohereForCausalLM, CohereConfig(**SHAPE, logit_scale=0.25), False),
        (GPTNeoXForCausalLM, GPTNeoXConfig(**SHAPE), True),
        (MixtralForCausalLM, MixtralConfig(**SHAPE, num_local_experts=4), True),
    ]


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


def test_the_base_is_frozen_and_in_eval_mode(tmp_path: Path) -> None:
    model = load64(tiny_llama(tmp_path))
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert not any(module.training for module in model.model.modules())
    assert (type(model), model.device, model.dtype) == (CausalLM, CPU, torch.float64)


def gradients(model: CausalLM, rows: list[Tensors]) -> tuple[Tensor, list[Tensor], int]:
    """Loss and gradients of additions to the outputs of all targets, and how often a target ran."""
    modules = dict(model.model.named_modules())
    torch.manual_seed(0)
    factors: dict[str, Tensor] = {}
    calls = 0

    def adding(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return output + inputs[0] @ factors[name]

        return hook

    hooks = []
    for name in model.targets("linear"):
        module = modules[name]
        assert isinstance(module, nn.Linear)
        drawn = torch.randn(module.in_features, module.out_features, dtype=model.dtype) * 0.01
        factors[name] = drawn.requires_grad_()
        hooks.append(module.register_forward_hook(adding(name)))
    loss = model.losses(rows).sum()
    loss.backward()
    for hook in hooks:
        hook.remove()
    return loss.detach(), [factor.grad for factor in factors.values() if factor.grad is not None], calls


@pytest.mark.parametrize("make", MAKERS)
def test_gradient_checkpointing_changes_nothing_but_memory(make: Callable[[Path], Path], tmp_path: Path) -> None:
    base = make(tmp_path)
    config = json.loads((base / "config.json").read_text())
    config["attention_dropout"] = 0.5  # must stay inactive
    (base / "config.json").write_text(json.dumps(config))
    plain, checkpointed = load64(base), load64(base, gradient_checkpointing=True)
    rows = rows_of(plain, chats(3))
    loss, grads, calls = gradients(plain, rows)
    again, regrads, recalls = gradients(checkpointed, rows)
    assert recalls == 2 * calls == 2 * len(grads)
    assert torch.equal(loss, again)
    assert all(torch.equal(one, other) for one, other in zip(grads, regrads, strict=True))
    assert not any(module.training for module in checkpointed.model.modules())


def test_gradient_through_the_head_is_that_of_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "raylora.families.causal_lm.kernels.linear_cross_entropy._LOGITS", (3 * 11, 3 * 11)
    )  # blocks of three tokens
    torch.manual_seed(0)
    hidden = torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(11, 4, dtype=torch.float64), torch.randn(11, dtype=torch.float64)
    wanted, factor = torch.randint(0, 11, (10,)), torch.randn(10, dtype=torch.float64)
    expected = nn.functional.cross_entropy(hidden @ weight.T + bias, wanted, reduction="none")
    (grad,) = torch.autograd.grad(expected @ factor, hidden)
    found = head_loss(hidden, weight, bias, wanted)
    (own,) = torch.autograd.grad(found @ factor, hidden)
    assert torch.allclose(found, expected, rtol=1e-13) and torch.allclose(own, grad, rtol=1e-12, atol=1e-14)


def test_bfloat16_sums_its_losses_in_float32(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path)
    low = load(config_of(base), CPU, torch.bfloat16)
    exact = load64(base)
    rows = rows_of(exact, chats(3))
    with torch.no_grad():
        found, expected = low.losses(rows), exact.losses(rows)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=0.05)
    assert low.fingerprint != exact.fingerprint


def test_nothing_is_random_and_validation_is_one_row(tmp_path: Path) -> None:
    model = load64(tiny_llama(tmp_path))
    (example,) = chats(1)
    (encoded,) = model.encode([example])
    (row,) = model.validation_rows(example, encoded)
    training = model.training_row(encoded, config_of(tmp_path), torch.Generator())
    assert row.keys() == training.keys() == model.largest_row([example]).keys()
    assert row.keys() == {"input_ids", "loss_mask", "cut", "count"}
    assert all(torch.equal(row[key], training[key]) for key in row)
    assert float(row["count"]) == float(encoded["loss_mask"].sum())
    assert model.shape_key(encoded) == model.shape_key(model.encode(chats(2))[1])
    losses, counts = np.array([[4.0], [2.0]]), np.array([[2.0], [1.0]])
    assert model.objective(losses, counts, losses) == 2.0


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


def test_it_tells_how_many_chats_were_cut_even_those_of_the_cache(tmp_path: Path) -> None:
    base, examples = tiny_llama(tmp_path / "base"), chats(4)
    lengths = sorted(len(row["input_ids"]) for row in load64(base).encode(examples))
    for _ in range(2):
        model, cache = load64(base, max_length=lengths[-1] - 1), EncodedCache(tmp_path / "cache")
        encoded = cache.get_or_encode(model.fingerprint, examples, model.encode, batch=2)
        longer = sum(length > model.max_length for length in lengths)
        assert model.notes(encoded) == [
            f"chats cut at max_length {model.max_length}: {longer} of 4; raise it to learn whole answers"
        ]
    assert cache.hits == 4
    whole = load64(base)
    assert whole.notes(whole.encode(examples)) == []


def test_images_are_not_chats(tmp_path: Path) -> None:
    model = load64(tiny_llama(tmp_path))
    with pytest.raises(UserError, match="learns from chats"):
        model.encode([ImageExample("1", tmp_path, "a cat")])


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


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    sizes = {key: SHAPE[key] for key in SHAPE if key != "num_key_value_heads"}
    base = save(tmp_path, BertLMHeadModel(BertConfig(**sizes, is_decoder=False)))
    with pytest.raises(UserError, match="depends on later tokens"):
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
