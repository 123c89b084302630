"""Sweeps that never ran: outcomes with the shape and the noise of real ones."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Literal

import numpy as np

from raylora.tuning.results.types import Losses, SearchRange, Status, SweepOutcome, TrialOutcome, Validation


def diffusion_objective(losses: Losses, counts: Losses, base: Losses) -> Losses:
    """Mean over 8 timesteps of the log ratio of losses; (..., examples, 8 * noises)."""
    own, before = (part.reshape((*part.shape[:-1], 8, -1)).sum(axis=(-3, -1)) for part in (losses, base))
    return np.asarray(np.mean(np.log(own / before), axis=-1))


def mean_loss(losses: Losses, counts: Losses, base: Losses) -> Losses:
    """Negative log-likelihood a token."""
    return np.asarray(losses.sum((-2, -1)) / counts.sum((-2, -1)))


def base_losses(family: str, examples: int = 12, seed: int = 0) -> tuple[Losses, Losses]:
    """Losses and counts of a base model: (examples, 16) for images, (examples, 1) for text."""
    generator = np.random.default_rng(seed)
    if family == "diffusion":
        timesteps = np.repeat(np.geomspace(0.6, 0.02, 8), 2)
        losses = timesteps * generator.lognormal(0, 0.35, (examples, 1)) * generator.lognormal(0, 0.05, (examples, 16))
        return losses, np.ones_like(losses)
    counts = generator.integers(8, 40, (examples, 1)).astype(np.float64)
    return counts * generator.normal(4.1, 0.4, (examples, 1)), counts


def trial(
    name: str,
    family: Literal["diffusion", "causal_lm"],
    base: tuple[Losses, Losses],
    learning_rate: float,
    rank: int,
    status: Status = "finished",
    reason: str = "",
    reports: int = 8,
    extra: dict[str, object] | None = None,
) -> TrialOutcome:
    """A trial whose quality has an optimum at learning rate 1.2e-3 and hardly depends on the rank."""
    losses, counts = base
    generator = np.random.default_rng([rank, int(learning_rate * 1e7)])
    miss = np.log10(learning_rate / 1.2e-3)
    depth = 0.16 - 0.09 * miss**2 - 0.01 * abs(np.log2(rank / 8)) if family == "diffusion" else 0.42 - 0.3 * miss**2
    # An example that suits a trial suits it in all its rows.
    suits = generator.lognormal(0, 0.025, (len(losses), 1))
    own = losses * (1 - depth) * suits * generator.lognormal(0, 0.012, losses.shape)
    objective = diffusion_objective if family == "diffusion" else mean_loss
    value = float(objective(own, counts, losses))
    start = float(objective(losses, counts, losses))
    history = []
    for report in range(1, reports + 1):
        progress = 1 - np.exp(-3.2 * report / 8)
        worse = 0.15 * max(0.0, miss) * (report / 8) ** 2
        history.append(
            {
                "step": float(60 * report),
                "examples": float(240 * report),
                "value": float(start + (value - start) * progress / (1 - np.exp(-3.2 * reports / 8)) + worse),
                "train_loss": 0.1,
                "learning_rate": learning_rate,
                "seconds": 3.1 * report,
            }
        )
    kept = None
    if reports > 1 or (history and status not in ("failed", "diverged")):
        best = min(history, key=lambda item: item["value"])
        kept = Validation(int(best["step"]), int(best["examples"]), float(value), own, counts)
    params = {"learning_rate": learning_rate, "lora_rank": rank, **(extra or {})}
    return TrialOutcome(name, params, rank, status, history, kept, reason, Path("sweeps") / name, 3.1 * reports)


def image_sweep(grid: bool = False) -> SweepOutcome:
    """Twelve trials of an image sweep, with every way to end."""
    base = base_losses("diffusion")
    trials: list[TrialOutcome] = []
    if grid:
        for rate in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2):
            for rank in (2, 8, 32):
                lost: Status = "diverged" if rate > 5e-3 and rank > 2 else "stopped" if rate < 2e-4 else "finished"
                reason = "the loss became NaN at step 61" if lost == "diverged" else ""
                reports = 1 if lost == "diverged" else 3 if lost == "stopped" else 8
                trials.append(trial(f"t{len(trials):02}", "diffusion", base, rate, rank, lost, reason, reports))
    else:
        generator = np.random.default_rng(3)
        for index in range(14):
            rate = float(10 ** generator.uniform(-4.3, -2.1))
            rank = int(generator.choice([4, 8, 16, 32]))
            status: Status = "diverged" if rate > 5e-3 else "stopped" if index % 3 == 1 else "finished"
            reports = {"diverged": 1, "stopped": 2, "finished": 8}[status]
            reason = "the loss became NaN at step 61" if status == "diverged" else ""
            batch: dict[str, object] = {
                "batch_size": (1, 2, 4, 8)[index % 4],
                "lr_scheduler": ("cosine", "linear")[index % 2],
            }
            trials.append(trial(f"t{index:02}", "diffusion", base, rate, rank, status, reason, reports, batch))
        reason = "OutOfMemoryError: the card has 24 GiB, 31 GiB were needed; set gradient_checkpointing: true"
        trials.append(trial("t14", "diffusion", base, 2e-3, 32, "failed", reason, 0))
    return SweepOutcome(
        name="my_style",
        family="diffusion",
        base=base[0],
        base_value=0.0,
        trials=trials,
        objective_name="J",
        config_yaml="train_data_dir: ./data/style_train\nbase_model: ./models/emoji-sd\nlora_rank: 8\n",
        base_model="./models/emoji-sd",
        train_examples=48,
        held_out_examples=12,
        notes=["2 images have no caption: their file names were used.", "<script>alert('note')</script>"],
        search=[SearchRange("learning_rate", 5e-5, 1e-2), SearchRange("lora_rank", choices=(4, 8, 16, 32))],
        adapter=Path("output/my_style/adapter.safetensors"),
        best_config=Path("output/my_style/best.yaml"),
        device="2 × GeForce RTX 4090",
        versions={"raylora": "0.1.0", "torch": "2.13.0", "ray": "2.60.0"},
        started=datetime.datetime(2026, 3, 1, 9, 30, tzinfo=datetime.UTC),
        seconds=312.0,
    )


def text_sweep(trials: int = 8) -> SweepOutcome:
    """A sweep of a language model over the learning rate and the rank; with `trials=1`, a training run."""
    base = base_losses("causal_lm", 80)
    rates = [float(rate) for rate in np.geomspace(1e-4, 1.6e-3, 8)]
    made = [
        trial(
            f"t{index}",
            "causal_lm",
            base,
            rate,
            (4, 8, 16)[index % 3],
            "finished" if index % 2 else "stopped",
            "",
            4 + 4 * (index % 2),
        )
        for index, rate in enumerate(rates[:trials])
    ]
    if trials == 1:
        made = [TrialOutcome("devil", {}, 8, "finished", made[0].history, made[0].best, "", None, 41.0)]
    return SweepOutcome(
        name="devils dictionary",
        family="causal_lm",
        base=base[0],
        base_value=float(mean_loss(*base, base[0])),
        trials=made,
        objective_name="loss per token",
        config_yaml="train_data_dir: ./data/devil.jsonl\nbase_model: ./models/SmolLM2-135M-Instruct\n",
        base_model="./models/SmolLM2-135M-Instruct",
        train_examples=762,
        held_out_examples=80,
        adapter=Path("output/devil/adapter"),
        device="CPU (2 cores)",
        seconds=204.0,
    )
