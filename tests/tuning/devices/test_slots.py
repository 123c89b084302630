"""What a card takes: counted without weights, for models of full size."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

from raylora.config.schema import SweepConfig, TrainConfig
from raylora.config.space import Domain
from raylora.data.examples import ChatExample, Example
from raylora.errors import UserError
from raylora.families.causal_lm.family import CausalLMFamily
from raylora.families.diffusion.base_files.model_files import CLIP_VOCABULARY, CONFIGS
from raylora.training.memory.budget import GIB, Cost, reserve
from raylora.tuning.devices import slots
from raylora.tuning.plan import make_plan
from tests.families.causal_lm.tiny_lm import tiny_tokenizer
from tests.families.loading import expected_cost
from tests.training.fixtures import config

MIB = 2**20


def hollow_sd(folder: Path, kind: str) -> Path:
    """The configuration of Stable Diffusion at full size, with files of weights that hold none."""
    shutil.copytree(CONFIGS / kind, folder)
    for part in [entry for entry in folder.iterdir() if (entry / "config.json").is_file()]:
        name = "model" if part.name.startswith("text_encoder") else "diffusion_pytorch_model"
        save_file({"nothing": torch.zeros(1)}, part / f"{name}.safetensors")
    for tokenizer in ("tokenizer", "tokenizer_2") if kind == "sdxl" else ("tokenizer",):
        shutil.copytree(CLIP_VOCABULARY, folder / tokenizer, dirs_exist_ok=True)
    return folder


def hollow_llama(folder: Path) -> Path:
    """LLaMA-2-7B's shape."""
    LlamaConfig(
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    # As many weights, and as long ones, as its configuration claims.
    weights = {f"{number}.weight": torch.zeros(32_000, 1, dtype=torch.float16) for number in range(32)}
    save_file(weights, folder / "model.safetensors")
    return folder


def settings(model: Path, **values: object) -> TrainConfig:
    return TrainConfig(train_data_dir="x", base_model=str(model)).with_values(values)


def chat(tokens: int) -> Example:
    return ChatExample(id="long", messages=(("user", "why?"), ("assistant", "because " * tokens)))


def on_24_gib(cost: Cost, batch_size: int, most: int = slots.ON_CARD) -> slots.Fit:
    limit = slots.card_limit("GeForce-RTX-4090", settings(Path("x")))
    assert 22 * GIB < limit < 24 * GIB
    return slots.fit("RTX 4090", limit, cost, most, batch_size, True)


def test_sd15_on_a_card_of_24_gib(tmp_path: Path) -> None:
    model = hollow_sd(tmp_path / "sd15", "sd15")
    cost = expected_cost(settings(model, lora_targets="attention"), [], torch.bfloat16)
    # Counted with torch's FLOP counter's own pass: 0.79 GiB of activations a row, 1.6M parameters of rank 8.
    assert cost.row == pytest.approx(0.79 * GIB, rel=0.05)
    assert cost.base == pytest.approx(1.6 * GIB, rel=0.01)
    assert cost.trial == pytest.approx(1.6e6 * 18, rel=0.03)
    assert (on_24_gib(cost, 4).slots, on_24_gib(cost, 1).slots, on_24_gib(cost, 1, most=3).slots) == (6, 8, 3)


@pytest.mark.slow
def test_sdxl_with_checkpointing_on_a_card_of_24_gib(tmp_path: Path) -> None:
    model = hollow_sd(tmp_path / "sdxl", "sdxl")
    cost = expected_cost(settings(model, gradient_checkpointing=True), [], torch.bfloat16)
    # 0.45 GiB are kept between the passes; at the peak one block is computed again.
    assert 0.45 * GIB < cost.row < 0.7 * GIB
    assert cost.base == pytest.approx(4.78 * GIB, rel=0.01)
    fit = on_24_gib(cost, 4)
    assert (fit.rows, fit.slots) == (24, 6)


@pytest.mark.slow
def test_7b_in_four_bits_on_a_card_of_24_gib(tmp_path: Path) -> None:
    model = hollow_llama(tmp_path / "llama")
    cost = expected_cost(settings(model, quantize="4bit", max_length=512), [chat(1000)], torch.bfloat16)
    assert cost.row == pytest.approx(2.7 * GIB, rel=0.05)
    assert 3.4 * GIB < cost.base < 3.8 * GIB
    assert cost.trial == pytest.approx(20e6 * 18, rel=0.03)
    assert (on_24_gib(cost, 1).slots, on_24_gib(cost, 4).slots) == (6, 1)


def test_the_largest_trial_counts() -> None:
    space = {
        "lora_rank": Domain(kind="choice", values=(4, 64, 16)),
        "batch_size": Domain(kind="int", values=(1, 8)),
        "lora_targets": Domain(kind="choice", values=("all", "attention")),
    }
    largest = slots.largest(config("causal_lm"), SweepConfig.model_validate({"space": space}))
    assert (largest.lora_rank, largest.batch_size, largest.lora_targets) == (64, 8, "all")
    kinds = {
        "conv_rank": Domain(kind="choice", values=(None, 4)),
        "use_dora": Domain(kind="choice", values=(False, True)),
        "init_lora_weights": Domain(kind="choice", values=("default", "pissa")),
    }
    largest = slots.largest(config("diffusion"), SweepConfig.model_validate({"space": {**space, **kinds}}))
    assert (largest.conv_rank, largest.use_dora, largest.init_lora_weights) == (64, True, "pissa")


def test_slots_never_exceed_trials_or_memory() -> None:
    cost = Cost(base=1000 * MIB, trial=100 * MIB, fixed=0, row=100 * MIB)

    def count(limit: int, most: int, batch_size: int, on_card: bool = True) -> int:
        return slots.fit("", limit * MIB, cost, most, batch_size, on_card).slots

    assert count(20_000, most=8, batch_size=1) == 8
    assert count(1800, most=8, batch_size=1) == 4  # with 4 trials and 4 rows it is full
    assert count(1800, most=8, batch_size=4) == 1
    assert count(1050, most=8, batch_size=1) == 1  # it does not fit, which the trainer tells
    assert count(20_000, most=4, batch_size=100, on_card=False) == 4
    assert count(1300, most=8, batch_size=8, on_card=False) == 2


def test_more_share_a_cpu_where_none_is_chosen_by_what_others_came_to() -> None:
    settings = config("causal_lm")

    def count(**values: object) -> int:
        sweep = SweepConfig.model_validate({"space": {"lora_rank": {"grid": list(range(1, 17))}}, **values})
        return slots.slots_per_device(CausalLMFamily(Path("x")), settings, sweep, 16, [], [])

    assert count(searcher="grid", scheduler="none") == slots.ON_CPU_UNGUIDED
    assert count(searcher="grid", scheduler="asha") == slots.ON_CPU


def test_trainers_of_a_machine_use_all_cores_and_half_its_memory_for_base_models(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    with weights.open("wb") as file:
        file.truncate(50 * MIB)  # 100 in float32
    settings = config("causal_lm").with_values({"base_model": str(tmp_path)})

    def trainers(at_once: int, cpus: int, memory: int) -> int:
        return slots.cpu_trainers(settings, at_once, cpus, memory * MIB)

    assert [trainers(4, cpus, 10_000) for cpus in (1, 2, 3, 4, 5, 6, 8, 9)] == [1, 2, 3, 4, 4, 3, 4, 4]
    assert [trainers(slots, 8, 10_000) for slots in (1, 2, 3, 8)] == [1, 2, 3, 8]
    assert [trainers(8, 8, memory) for memory in (0, 199, 400, 800)] == [1, 1, 2, 4]
    limited = settings.with_values({"memory_limit_gib": 8})
    assert slots.cpu_trainers(limited, 4, 4, 10_000 * MIB) == 1


@pytest.mark.parametrize("family", ["diffusion", "causal_lm"])
def test_a_plan_tells_what_each_card_takes(family: str) -> None:
    sweep = SweepConfig.model_validate({"space": {"lora_rank": [4, 8, 16]}, "trials": 3})
    kind = {"use_dora": True, **({"conv_rank": 2, "lora_targets": "all"} if family == "diffusion" else {})}
    plan = make_plan(config(family).with_values(kind), sweep)
    lines = plan.text().splitlines()
    (lora,) = [line for line in lines if line.startswith("LoRA")]
    assert re.search(r"alpha 16, (of convolutions 2 and 16, )?DoRA, on (all|linear) layers$", lora)
    assert any(line.startswith("note: use_dora: ") and "--layout merged" in line for line in lines)
    start = next(number for number, line in enumerate(lines) if line.startswith("memory"))
    assert lines[start].split("  ")[0] == "memory"
    assert lines[start].endswith("rows at once  slots")
    assert [line.split("  ")[0] for line in lines[start + 1 : start + 3]] == list(slots.USUAL)
    assert [line.split()[-1] for line in lines[start + 1 : start + 4]] == ["3", "3", "3"]
    (updated,) = [line for line in lines if line.startswith("updated")]
    assert re.fullmatch(r"updated +\d+ layers, >?\d+% of the weights of the blocks(; without an update: .*)?", updated)


def test_a_plan_shows_what_a_language_model_reads() -> None:
    shown = make_plan(config("causal_lm"), None).encoded_text(2).split("\n\n")
    assert len(shown) == 2 and all("⟦" in one and "asked with: " in one for one in shown)
    with pytest.raises(UserError, match="an image model reads no tokens"):
        make_plan(config("diffusion"), None).encoded_text(1)


def test_slots_of_a_sweep_follow_the_memory() -> None:
    sweep = SweepConfig.model_validate({"space": {"lora_rank": [4, 8, 16]}, "trials": 3})
    plan = make_plan(config("causal_lm"), sweep)
    assert (plan.slots([]), plan.slots(["GeForce-RTX-3090", "H100"])) == (3, 3)
    tight = make_plan(config("causal_lm").with_values({"memory_limit_gib": 1e-4}), sweep)
    assert "does not fit" in tight.text()
    assert (tight.slots([]), tight.slots(["GPU"])) == (1, 1)
    assert make_plan(config("causal_lm"), sweep.model_copy(update={"slots_per_device": 7})).slots(["GPU"]) == 7
    assert make_plan(config("causal_lm"), None).slots(["GPU"]) == 1


@pytest.mark.parametrize(
    ("name", "gib"),
    [("L40S", 48), ("L4", 24), ("RTX-A4000", 16), ("A40", 48), ("GeForce-RTX-4080", 16), ("T4", 16), ("A100", 40)],
)
def test_a_cards_memory_is_that_of_its_whole_name(name: str, gib: int) -> None:
    assert slots.card_limit(name, config("causal_lm")) == gib * GIB - reserve(gib * GIB)
    assert slots.card_limit("GPU", config("causal_lm")) == slots.card_limit("RTX 3090", config("causal_lm"))
