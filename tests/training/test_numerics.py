"""The numerics contract: a packed trial is the same trial alone, and that is what PEFT with torch's AdamW trains."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylora.config.keys.optimizer import HABITS
from raylora.config.schema import TrainConfig
from raylora.data.order import DataOrder
from raylora.families.causal_lm.model import CausalLM
from raylora.lora.columns import has_kernel
from raylora.lora.updates import updates
from raylora.rng import generator
from raylora.training.member import Member
from raylora.training.pack import Pack
from raylora.training.settings import optimizer_settings
from tests.training.fixtures import FAMILIES, Lab, lab, variants

TRIALS = [
    {"lora_rank": 2, "learning_rate": 1e-3, "batch_size": 1, "seed": 1, "max_steps": 9},
    {"lora_rank": 4, "learning_rate": 5e-3, "batch_size": 2, "seed": 2, "max_steps": 8, "lr_scheduler": "constant"},
    {"lora_rank": 8, "learning_rate": 2e-3, "batch_size": 4, "seed": 3, "max_steps": 6, "use_rslora": True},
    {"lora_rank": 16, "learning_rate": 1e-4, "batch_size": 3, "seed": 1, "max_steps": 7, "max_grad_norm": 0.01},
]
#: Kinds of adapters; convolutions have a kernel where there are some.
KINDS: list[dict[str, object]] = [
    {**TRIALS[0], "conv_rank": 3, "conv_alpha": "rank"},
    {**TRIALS[1], "use_dora": True, "conv_rank": 1},
    {**TRIALS[2], "use_dora": True, "conv_alpha": 3.0},
    {**TRIALS[1], "init_lora_weights": "pissa", "conv_rank": 2, "weight_decay": 0.1},
    {**TRIALS[2], "init_lora_weights": "pissa_niter_4", "use_dora": True},
]


class Watched:
    """A pack that remembers each trial's loss at each of its own steps."""

    def __init__(self, lab: Lab, max_rows: int = 64, together: int | None = None) -> None:
        self.pack = Pack(lab.base, lab.data, max_rows, together=together)
        self.losses: dict[str, list[float]] = {}
        self.done: dict[str, Member] = {}

    def join(self, trial: str, config: TrainConfig) -> None:
        self.pack.join(trial, config)
        self.losses[trial] = []

    def step(self) -> None:
        before = {name: member.loss_sum for name, member in self.pack.members.items()}
        self.pack.step()
        for name, member in list(self.pack.members.items()):
            self.losses[name].append(member.loss_sum - before[name])
            if member.status != "running":
                self.done[name] = self.pack.leave(name)

    def finish(self) -> None:
        while self.pack.members:
            self.step()


def alone(lab: Lab, config: TrainConfig) -> tuple[list[float], dict[str, torch.Tensor]]:
    watched = Watched(lab)
    watched.join("alone", config)
    watched.finish()
    return watched.losses["alone"], watched.done["alone"].adapter.tensors()


def with_peft(lab: Lab, config: TrainConfig) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same trial by PEFT and torch alone: its injection, its autograd, torch's AdamW, clipping and schedule."""
    targets = lab.base.updated(config)
    start = Pack(lab.base, lab.data).join("start", config).adapter.tensors()
    model = copy.deepcopy(lab.base.model)
    for name in targets:
        vars(model.get_submodule(name)).pop("forward", None)  # by which packs apply adapters, over the first weights
    fixed = {name: update.half(1) for name, update in updates(start).items() if config.starts_with_pissa}
    for name, update in fixed.items():  # what PEFT takes off the base model's weights
        weight = model.get_submodule(name).weight
        scaled = config.scale_of(update.a.shape) * update.b.flatten(1) @ update.a.flatten(1)
        weight.copy_(weight + scaled.view_as(weight))
    start |= {
        f"{name}.lora_{letter}.weight": tensor
        for name, update in updates(start).items()
        if config.starts_with_pissa
        for letter, tensor in zip("AB", update.half(0)[:2], strict=True)
    }
    kernels = [name for name in targets if has_kernel(tuple(start[f"{name}.lora_A.weight"].shape))]
    settings = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # PEFT divides it, whole or not
        rank_pattern={name: config.rank_of_kernels for name in kernels},
        alpha_pattern={name: config.alpha_of_kernels for name in kernels},  # type: ignore[arg-type]
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        target_modules=targets,
        bias="none",
    )
    peft.inject_adapter_in_model(settings, model)
    named = {
        name.replace(".default.weight", "" if "magnitude" in name else ".weight"): parameter
        for name, parameter in model.named_parameters()
        if name.endswith(".default.weight") and ".lora_" in name
    }
    assert named.keys() == start.keys()
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(start[name])
    base = copy.copy(lab.base)
    base.model = model
    if isinstance(base, CausalLM):  # as transformers runs it: padded rows, torch's attention, and its own norms
        base._sharing = dataclasses.replace(base._sharing, in_sequence=False)
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                vars(module).pop("forward", None)
        model.set_attn_implementation("sdpa")
    optimizer = torch.optim.AdamW(
        named.values(),
        lr=config.peak_learning_rate,
        betas=config.betas,
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
    )
    losses = []
    optimizer_of = optimizer_settings(config, len(lab.data.train))
    order = DataOrder(config.seed, len(lab.data.train), config.batch_size)
    for step in range(config.total_steps(len(lab.data.train))):
        picked = order.batch(step)
        rows = [
            (
                base.shape_key(lab.data.train[index]),
                base.training_row(lab.data.train[index], config, generator(key, "draw")),
            )
            for key, index in ((f"{config.seed}/{step}/{i}", index) for i, index in enumerate(picked))
        ]
        count = sum(float(row["count"]) for _, row in rows)
        loss = sum(base.losses([row]).sum() for _, row in rows) / count
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(named.values(), config.max_grad_norm)
        optimizer.param_groups[0]["lr"] = optimizer_of.rate(step)
        optimizer.step()
        losses.append(float(loss.detach()))
    trained = {name: parameter.detach() for name, parameter in named.items()}
    for name, update in fixed.items():
        trained[f"{name}.lora_A.weight"] = torch.cat([trained[f"{name}.lora_A.weight"], update.a])
        trained[f"{name}.lora_B.weight"] = torch.cat([trained[f"{name}.lora_B.weight"], update.b], 1)
    return losses, trained


def assert_same(
    ours: tuple[Sequence[float], dict[str, torch.Tensor]],
    theirs: tuple[Sequence[float], dict[str, torch.Tensor]],
    dtype: torch.dtype,
) -> None:
    tolerance = 1e-8 if dtype == torch.float64 else 1e-3
    assert ours[0] == pytest.approx(theirs[0], rel=tolerance, abs=0)
    if dtype == torch.float64:  # AdamW magnifies float32 rounding in its first steps
        for name, tensor in theirs[1].items():
            error = (ours[1][name] - tensor).norm() / tensor.norm()
            assert error < tolerance, name


def staggered(lab: Lab, configs: Sequence[TrainConfig], max_rows: int = 64, together: int | None = None) -> Watched:
    """All trials in one pack, each joining two steps after the one before."""
    watched = Watched(lab, max_rows, together)
    for i, config in enumerate(configs):
        watched.join(str(i), config)
        watched.step()
        watched.step()
    watched.finish()
    return watched


@pytest.mark.parametrize(
    ("targets", "kinds", "dtype"),
    [
        *((targets, TRIALS, dtype) for targets in ("linear", "all") for dtype in (torch.float64, torch.float32)),
        ("all", KINDS, torch.float64),
    ],
    ids=["linear-exact", "linear-single", "all-exact", "all-single", "kinds-exact"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_alone_equals_peft(
    family: str, targets: str, kinds: list[dict[str, object]], dtype: torch.dtype
) -> None:
    bench = lab(family, dtype)
    configs = variants(bench.config, [{**values, "lora_targets": targets} for values in kinds])
    watched = staggered(bench, configs)
    for i, config in enumerate(configs):
        packed = watched.losses[str(i)], watched.done[str(i)].adapter.tensors()
        single = alone(bench, config)
        assert len(packed[0]) == config.max_steps
        assert_same(packed, single, dtype)
        assert_same(single, with_peft(bench, config), dtype)


@pytest.mark.parametrize(("max_rows", "together"), [(2, 0), (64, 256), (3, 12)])
@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_and_products_of_several_trials_change_nothing(family: str, max_rows: int, together: int) -> None:
    bench = lab(family, torch.float64)
    configs = variants(bench.config, TRIALS)
    whole, pieces = staggered(bench, configs), staggered(bench, configs, max_rows, together)
    for name, member in whole.done.items():
        assert_same(
            (pieces.losses[name], pieces.done[name].adapter.tensors()),
            (whole.losses[name], member.adapter.tensors()),
            torch.float64,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_follows_the_trial(family: str) -> None:
    bench = lab(family, torch.float64)
    kinds = [*TRIALS[:2], {**TRIALS[2], "use_dora": True}]
    configs = variants(bench.config, [{**values, "lora_dropout": 0.3} for values in kinds])
    watched = staggered(bench, configs)
    for i, config in enumerate(configs):
        losses, weights = alone(bench, config)
        assert_same((watched.losses[str(i)], watched.done[str(i)].adapter.tensors()), (losses, weights), torch.float64)
        # From the second step on B is not zero, and what is dropped matters.
        assert losses != pytest.approx(alone(bench, config.with_values({"lora_dropout": 0.0}))[0], rel=1e-8)


drawn_trials = st.fixed_dictionaries(
    {
        "lora_rank": st.sampled_from([1, 2, 3, 5, 8]),
        "lora_alpha": st.sampled_from([1.0, 16.0, "rank"]),
        "learning_rate": st.sampled_from([1e-4, 1e-3, 1e-2]),
        "batch_size": st.integers(1, 4),
        "seed": st.integers(0, 2),
        "max_steps": st.integers(1, 4),
        "lora_targets": st.sampled_from(["attention", "linear", "all"]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "optimizer": st.sampled_from([*HABITS]),
        "lora_plus_ratio": st.sampled_from([1.0, 4.0]),
        "use_dora": st.sampled_from([False, False, True]),
        "conv_rank": st.sampled_from([None, None, 2]),
        "init_lora_weights": st.sampled_from(["default", "default", "pissa"]),
    }
)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12, deadline=None)
@given(
    plan=st.lists(
        st.tuples(drawn_trials, st.integers(0, 3), st.one_of(st.none(), st.integers(1, 3))), min_size=2, max_size=5
    ),
    max_rows=st.sampled_from([2, 64]),
    together=st.sampled_from([0, 6, 256]),
)
def test_any_pack_with_any_joins_and_leaves(
    family: str, plan: list[tuple[dict[str, object], int, int | None]], max_rows: int, together: int
) -> None:
    bench = lab(family, torch.float64)
    watched = Watched(bench, max_rows, together)
    leaving = {}
    for i, (values, wait, leave_after) in enumerate(plan):
        watched.join(str(i), bench.config.with_values(values))
        leaving[str(i)] = leave_after
        for _ in range(wait):
            watched.step()
            for name, limit in leaving.items():
                if name in watched.pack.members and limit is not None and len(watched.losses[name]) >= limit:
                    watched.done[name] = watched.pack.leave(name)
    watched.finish()
    for i, (values, _, _) in enumerate(plan):
        losses, weights = alone(bench, bench.config.with_values(values))
        packed = watched.losses[str(i)]
        assert packed == pytest.approx(losses[: len(packed)], rel=1e-8, abs=0)
        if len(packed) == len(losses):
            assert_same((packed, watched.done[str(i)].adapter.tensors()), (losses, weights), torch.float64)


@pytest.mark.parametrize("together", [0, 256])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_diverging_trial_ends_alone(family: str, together: int) -> None:
    bench = lab(family, torch.float64)
    good, bad = variants(bench.config, [TRIALS[1], {**TRIALS[2], "learning_rate": 1e290, "lr_scheduler": "constant"}])
    watched = Watched(bench, together=together)
    watched.join("good", good)
    watched.join("bad", bad)
    watched.finish()
    assert watched.done["bad"].status == "diverged"
    assert "step" in watched.done["bad"].reason
    assert watched.done["good"].status == "finished"
    assert_same((watched.losses["good"], watched.done["good"].adapter.tensors()), alone(bench, good), torch.float64)
    assert all(math.isfinite(loss) for loss in watched.losses["good"])


@pytest.mark.parametrize("together", [0, 256])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_a_pack_is_as_near_to_a_trial_alone_as_rounding_is(family: str, together: int) -> None:
    """bfloat16 keeps 8 bits, so that a product that is summed in another order differs by 2^-8 (0.4 %) at its worst.

    A loss is a mean over hundreds of such numbers, and updates are float32: a few times that much is rounding, and what
    a wrong row, rank or scale would change is more (the trials here lose from 1 % to 20 % in as many steps).
    """
    bench = lab(family, torch.bfloat16)
    configs = variants(bench.config, [*TRIALS, KINDS[1]])
    watched = staggered(bench, configs, together=together)
    for i, config in enumerate(configs):
        assert watched.losses[str(i)] == pytest.approx(alone(bench, config)[0], rel=2**-7)
        assert watched.done[str(i)].adapter.dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_model_is_never_changed(family: str) -> None:
    bench = lab(family, torch.float32)
    before = {name: tensor.clone() for name, tensor in bench.base.model.state_dict().items()}
    watched = staggered(bench, variants(bench.config, TRIALS[:2]))
    assert watched.done
    after = bench.base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in bench.base.model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_out_of_memory_splits_the_pack_and_changes_nothing(family: str) -> None:
    bench = lab(family, torch.float64)
    configs = variants(bench.config, TRIALS[:3])
    roomy = staggered(bench, configs)
    # A device that takes two rows and no more, as torch would say it.
    tight = copy.copy(bench.base)
    tight.losses = lambda rows: bench.base.losses(rows) if len(rows) <= 2 else _no_room()  # type: ignore[method-assign]
    narrow = staggered(dataclasses.replace(bench, base=tight), configs)
    assert narrow.pack.max_rows <= 2
    narrow.pack.join("again", configs[0])
    assert math.isfinite(narrow.pack.validate("again"))
    for name, member in roomy.done.items():
        assert_same(
            (narrow.losses[name], narrow.done[name].adapter.tensors()),
            (roomy.losses[name], member.adapter.tensors()),
            torch.float64,
        )


def _no_room() -> torch.Tensor:
    raise torch.OutOfMemoryError("no room for more than two rows")
