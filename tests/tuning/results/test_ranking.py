"""Ranking: order, ties, standard errors, and what must not change them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylora.families.registry import named
from raylora.tuning.results.console_table import console_table
from raylora.tuning.results.ranking import RankedTrial, Ranking, rank
from raylora.tuning.results.types import Losses, Status, SweepOutcome, TrialOutcome, Validation
from tests.tuning.results.synthetic import diffusion_objective, image_sweep, mean_loss, text_sweep


def made(
    losses: list[Losses], ranks: list[int], base: Losses | None = None, statuses: list[Status] | None = None
) -> SweepOutcome:
    """A sweep of trials with these losses, all counts 1."""
    reference = np.full_like(losses[0], 2.0) if base is None else base
    trials = [
        TrialOutcome(
            f"t{index}",
            {"lora_rank": ranks[index]},
            ranks[index],
            statuses[index] if statuses else "finished",
            [{"step": 1.0, "examples": 4.0, "value": float(own.mean())}],
            Validation(1, 4, float(own.mean()), own, np.ones_like(own)),
        )
        for index, own in enumerate(losses)
    ]
    return SweepOutcome("made", "causal_lm", reference, float(reference.mean()), trials, "loss")


@st.composite
def sweeps(draw: st.DrawFn) -> SweepOutcome:
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, examples, rows = draw(st.integers(1, 6)), draw(st.integers(1, 10)), draw(st.integers(1, 3))
    common = generator.lognormal(0, 0.5, (examples, rows))
    losses = [common * generator.lognormal(draw(st.floats(-0.3, 0.3)), 0.1, (examples, rows)) for _ in range(count)]
    ranks = draw(st.lists(st.sampled_from([1, 2, 4, 8]), min_size=count, max_size=count))
    statuses: list[Status] = draw(
        st.lists(st.sampled_from(["finished", "stopped", "diverged", "failed"]), min_size=count, max_size=count)
    )
    return made(losses, ranks, common, statuses)


def order(ranking: Ranking) -> list[tuple[str, int | None, bool]]:
    return [(row.trial.id, row.place, row.tie) for row in ranking.rows]


@settings(max_examples=40, deadline=None)
@given(sweeps(), st.randoms())
def test_the_order_of_the_trials_changes_nothing(outcome: SweepOutcome, random: object) -> None:
    shuffled = list(outcome.trials)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one = rank(outcome, mean_loss, resamples=40)
    other = rank(dataclasses.replace(outcome, trials=shuffled), mean_loss, resamples=40)
    assert order(one) == order(other)
    np.testing.assert_array_equal([row.error for row in one.rows], [row.error for row in other.rows])


@settings(max_examples=40, deadline=None)
@given(sweeps(), st.sampled_from([0.25, 2.0, 1024.0]))
def test_the_unit_of_the_losses_changes_no_order_and_scales_the_errors(outcome: SweepOutcome, unit: float) -> None:
    scaled = dataclasses.replace(
        outcome,
        base=outcome.base * unit,
        base_value=outcome.base_value * unit,
        trials=[
            dataclasses.replace(t, best=dataclasses.replace(t.best, losses=t.best.losses * unit) if t.best else None)
            for t in outcome.trials
        ],
    )
    one, other = rank(outcome, mean_loss, resamples=40), rank(scaled, mean_loss, resamples=40)
    assert order(one) == order(other)
    assert one.verdict == other.verdict
    # A power of two: not even the last bit may differ.
    np.testing.assert_array_equal([row.error * unit for row in one.rows], [row.error for row in other.rows])


@settings(max_examples=40, deadline=None)
@given(sweeps())
def test_what_holds_for_every_ranking(outcome: SweepOutcome) -> None:
    ranking = rank(outcome, mean_loss, resamples=40)
    assert sorted(row.trial.id for row in ranking.rows) == sorted(trial.id for trial in outcome.trials)
    places = [row.place for row in ranking.ranked]
    assert places == list(range(1, len(places) + 1))
    assert all(row.trial.status in ("diverged", "failed") for row in ranking.rows[len(places) :])
    ties = [row for row in ranking.ranked if row.tie]
    if ties:
        assert ranking.best is ties[0]
        assert ties[0].trial.rank == min(row.trial.rank for row in ties)
        assert [row.value for row in ranking.ties] == sorted(row.value for row in ranking.ties)
        rest = [row.value for row in ranking.ranked if not row.tie]
        assert rest == sorted(rest)
        assert ranking.lowest is not None
        assert ranking.lowest.tie
        assert ranking.lowest.difference == 0
    assert len(ranking.frame()) == len(outcome.trials)
    assert max(map(len, console_table(ranking).splitlines())) <= 100


@settings(max_examples=25, deadline=None)
@given(st.permutations([2, 4, 8, 16]), st.integers(1, 6))
def test_identical_trials_tie_and_the_lowest_rank_wins(ranks: list[int], examples: int) -> None:
    losses = np.random.default_rng(examples).lognormal(0, 1, (examples, 2))
    ranking = rank(made([losses] * 4, ranks), mean_loss, resamples=30)
    assert ranking.best is not None
    assert ranking.best.trial.rank == 2
    assert len(ranking.ties) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_trial_without_a_finite_value_never_wins(bad: float) -> None:
    good, broken = np.full((3, 2), 5.0), np.full((3, 2), 0.1)
    broken[1, 0] = bad
    ranking = rank(made([broken, good], [1, 8]), mean_loss, resamples=20)
    assert [row.trial.id for row in ranking.rows] == ["t1", "t0"]
    assert ranking.rows[1].place is None
    assert "not a finite number" in ranking.rows[1].reason


def test_a_diverged_trial_is_last_however_good_it_was() -> None:
    ranking = rank(
        made([np.full((3, 2), 0.1), np.full((3, 2), 5.0)], [1, 8], statuses=["diverged", "finished"]), mean_loss
    )
    assert ranking.best is not None
    assert ranking.best.trial.id == "t1"


def test_nothing_to_rank() -> None:
    ranking = rank(made([np.ones((3, 2))], [4], statuses=["failed"]), mean_loss)
    assert ranking.best is None
    assert ranking.lowest is None
    assert ranking.ties == ()
    assert ranking.verdict == "unknown"
    assert len(ranking.frame()) == 1
    assert rank(dataclasses.replace(text_sweep(), trials=[]), mean_loss).frame().empty


def test_one_held_out_example_has_no_error_and_ties_only_with_its_equal() -> None:
    one = np.array([[1.0]])
    ranking = rank(made([one, one * 1.0001, one], [8, 1, 4]), mean_loss, resamples=20)
    assert [row.trial.id for row in ranking.rows] == ["t2", "t0", "t1"]
    assert [row.tie for row in ranking.rows] == [True, True, False]
    assert all(math.isnan(row.error) for row in ranking.rows)
    assert ranking.verdict == "unknown"


def test_the_standard_error_is_that_of_a_mean() -> None:
    losses = np.random.default_rng(1).normal(3, 1, (400, 1))
    ranking = rank(made([losses], [4]), mean_loss, resamples=2000)
    assert ranking.best is not None
    assert ranking.best.error == pytest.approx(losses.std(ddof=1) / 20, rel=0.08)


def test_pairing_tells_apart_what_single_errors_cannot() -> None:
    hard = np.random.default_rng(2).lognormal(0, 1, (30, 1))
    ranking = rank(made([hard, hard + 0.01], [8, 1], hard + 0.5), mean_loss)
    first, second = ranking.rows
    assert first.trial.id == "t0"
    assert not second.tie
    assert first.error > 10 * second.difference
    assert ranking.verdict == "clearly better"
    assert ranking.gain == pytest.approx(0.5)


def test_a_tie_of_lower_rank_wins_over_the_lowest_value() -> None:
    generator = np.random.default_rng(4)
    losses = generator.normal(3, 0.5, (20, 1))
    noisy = losses + 0.01 + generator.normal(0, 0.5, (20, 1))
    noisy += losses.mean() + 0.01 - noisy.mean()
    ranking = rank(made([losses, noisy, losses + 1], [16, 2, 1]), mean_loss)
    assert [row.trial.id for row in ranking.rows] == ["t1", "t0", "t2"]
    assert ranking.lowest is ranking.rows[1]
    assert ranking.lowest is not ranking.best


@pytest.mark.parametrize(
    ("gain", "spread", "verdict"),
    [(1.0, 0.1, "clearly better"), (0.3, 1.0, "better"), (0.0, 1.0, "equal"), (-1.0, 0.1, "worse")],
)
def test_the_verdict_against_the_base_model(gain: float, spread: float, verdict: str) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (25, 1))
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    base = np.full((25, 1), 5.0)
    assert rank(made([base - gain + spread * noise], [4], base), mean_loss).verdict == verdict


def test_the_same_seed_gives_the_same_errors_and_another_does_not() -> None:
    errors = [[row.error for row in rank(image_sweep(), diffusion_objective, seed=seed).ranked] for seed in (0, 0, 1)]
    assert errors[0] == errors[1]
    assert errors[0] != errors[2]


def test_inputs_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of shape"):
        rank(made([np.ones((3, 2))], [4], np.ones((3, 1))), mean_loss)
    with pytest.raises(ValueError, match="resamples"):
        rank(made([np.ones((3, 2))], [4]), mean_loss, resamples=1)
    outcome = made([np.ones((3, 2))], [4])
    with pytest.raises(ValueError, match="same id"):
        rank(dataclasses.replace(outcome, trials=[*outcome.trials, *outcome.trials]), mean_loss)


def test_the_table_of_the_terminal() -> None:
    lines = console_table(rank(image_sweep(), diffusion_objective)).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].split()[:4] == ["trial", "learning_rate", "lora_rank", "batch_size"]
    assert lines[1].startswith("*")
    assert lines[2].startswith("=")
    assert any("diverged at 240 examples: the" in line for line in lines)
    assert "lowest rank wins" in lines[-1]


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_breaks_no_word_and_cuts_nothing(width: int) -> None:
    ranking = rank(image_sweep(), diffusion_objective)
    lines = console_table(ranking, width).splitlines()
    assert max(map(len, lines)) <= width
    assert max(map(len, console_table(ranking, 60).splitlines())) <= 60
    words = set(" ".join(lines).split())
    assert {word for row in ranking.rows for word in row.trial.status_text(row.reason).split()} <= words


def test_the_frame_holds_what_the_ranking_holds() -> None:
    outcome = text_sweep()
    ranking = rank(outcome, mean_loss)
    frame = ranking.frame()
    assert list(frame["trial"]) == [row.trial.id for row in ranking.rows]
    assert list(frame["place"]) == list(range(1, 9))
    assert frame["learning_rate"].iloc[0] == ranking.rows[0].trial.params["learning_rate"]
    assert Path(frame["folder"].iloc[0]) == ranking.rows[0].trial.folder
    assert list(frame.columns).count("lora_rank") == 1


@pytest.mark.parametrize("sweep", [image_sweep, text_sweep])
def test_a_bootstrap_is_what_drawing_examples_one_after_the_other_gives(sweep: Callable[[], SweepOutcome]) -> None:
    outcome, resamples = sweep(), 50
    objective = named(outcome.family).objective
    examples = len(outcome.base)
    drawn = np.random.default_rng(3).integers(examples, size=(resamples, examples))
    ranking = rank(outcome, objective, seed=3, resamples=resamples)
    assert ranking.lowest is not None

    def values(row: RankedTrial) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        best = row.trial.best
        assert best is not None
        return np.array([float(objective(best.losses[d], best.counts[d], outcome.base[d])) for d in drawn])

    lowest = values(ranking.lowest)
    for row in ranking.ranked:
        assert row.error == pytest.approx(values(row).std(ddof=1), rel=1e-12)
        assert row.difference_error == pytest.approx((values(row) - lowest).std(ddof=1), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("family", "rows"), [("diffusion", 16), ("causal_lm", 1)])
def test_two_thousand_trials_are_ranked_in_a_second(family: str, rows: int) -> None:
    generator = np.random.default_rng(0)
    common = generator.lognormal(0, 0.5, (64, rows))
    outcome = made([common * generator.lognormal(-0.1, 0.1, common.shape) for _ in range(2000)], [4] * 2000, common)
    calls, taken = [], []

    def objective(*arrays: Losses) -> Losses:
        calls.append(arrays)
        return named(family).objective(*arrays)

    for _ in range(3):  # of this process alone, whatever else the machine does
        begun = time.process_time()
        rank(outcome, objective)
        taken.append(time.process_time() - begun)
    assert len(calls) < 3 * 100
    assert min(taken) < 5.0  # 0.2 (chats) to 0.9 at rest; each draw of each trial by itself took 18
