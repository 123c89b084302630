"""The step-time model, who moves where by it, and how near the best schedule that comes (a simulation)."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.heterogeneous import Case, Simulation, cases
from raylora.tuning.devices.step_time_model import (
    Move,
    Place,
    Running,
    StepTimes,
    View,
    best_move,
    finish_times,
    first_place,
)

SLOW, FAST = ("a", "0"), ("b", "0")
CARDS: dict[Place, str] = {SLOW: "slow", FAST: "fast"}


def times(slow: float = 2.0, fast: float = 1.0) -> StepTimes:
    """Packs that cost half as much again for each further trial."""
    model = StepTimes()
    for card, seconds in (("slow", slow), ("fast", fast)):
        for rows in (1, 2, 3):
            model.note(card, rows, seconds * (1 + rows) / 2)
    return model


def test_a_model_without_measurements_only_compares_cards() -> None:
    model = StepTimes({"fast": 2.0, "slow": 1.0}.get)
    assert model.seconds("fast", 1) is None
    assert model.guess("slow", 3) == 2 * model.guess("fast", 3)


def test_a_card_that_was_not_measured_follows_one_that_was() -> None:
    model = StepTimes({"fast": 2.0, "slow": 1.0}.get)
    model.note("slow", 4, 1.0)
    slow, fast, other = (model.seconds(card, 4) for card in ("slow", "fast", "other"))
    assert (slow, fast, other) == (1.0, 0.5, 1.0)
    model.note("fast", 4, 0.9)
    assert model.seconds("fast", 4) == 0.9
    model.note("fast", 4, 0.4)
    assert 0.4 < (model.seconds("fast", 4) or 0) < 0.9


def test_a_card_that_nobody_knows_counts_as_fast_as_those_beside_it() -> None:
    cards: dict[Place, str] = {SLOW: "GeForce-RTX-3090", FAST: "GeForce-RTX-6090"}
    model, packs = StepTimes(), {SLOW: 0, FAST: 0}
    assert model.guess(cards[FAST], 2, cards.values()) == model.guess(cards[SLOW], 2, cards.values())
    for _ in range(6):
        place = first_place(packs, cards, model, 1)
        assert place
        packs[place] += 1
    assert packs == {SLOW: 3, FAST: 3}
    assert model.guess("one", 1, ["one", "other"]) == model.guess("other", 1, ["one", "other"])
    known = ("GeForce-RTX-3090", "GeForce-RTX-4090", "GeForce-RTX-5090", "A100", "H100")
    guesses = [model.guess(card, 1, known) for card in known]
    assert guesses == sorted(guesses, reverse=True)
    assert guesses[0] < 3 * guesses[2]


def test_measured_sizes_give_a_line() -> None:
    assert times().seconds("slow", 7) == pytest.approx(8.0)
    noisy = StepTimes()
    for rows, seconds in ((1, 2.0), (4, 1.9)):
        noisy.note("card", rows, seconds)
    assert noisy.seconds("card", 8) == pytest.approx(1.95)  # more rows are never faster


def test_finish_times_follow_a_pack_that_shrinks() -> None:
    pack = [Running("short", FAST, 10, 1), Running("long", FAST, 30, 1)]
    assert finish_times(times(), "fast", pack) == pytest.approx({"short": 15.0, "long": 35.0})


def test_new_trials_go_where_they_add_most() -> None:
    packs = {SLOW: 0, FAST: 0}
    for _ in range(6):
        place = first_place(packs, CARDS, times(slow=3.0), 1)
        assert place
        packs[place] += 1
    assert packs == {SLOW: 2, FAST: 4}
    assert first_place({}, CARDS, times(), 1) is None


def test_a_slow_cards_last_trial_moves_to_a_free_fast_card() -> None:
    view = View([Running("t", SLOW, 100, 1)], CARDS, frozenset(CARDS))
    assert best_move(view, times(), "t", cost=10) == Move("t", FAST)
    assert best_move(view, times(), "t", cost=100) is None
    assert best_move(view, StepTimes(), "t", cost=0) is None
    assert best_move(View(view.running, {SLOW: "slow"}, frozenset()), times(), "t", cost=0) is None


def test_nobody_moves_from_a_fast_card_to_a_slow_one() -> None:
    view = View([Running("t", FAST, 100, 1)], CARDS, frozenset(CARDS))
    assert best_move(view, times(), "t", cost=0) is None


def test_a_crowded_card_gives_one_away() -> None:
    running = [Running(name, FAST, 100, 1) for name in "abcd"]
    assert best_move(View(running, CARDS, frozenset(CARDS)), times(fast=1.5), "a", cost=10) == Move("a", SLOW)


def test_full_cards_exchange_who_is_behind_for_who_is_nearly_done() -> None:
    running = [Running("behind", SLOW, 100, 1), Running("ahead", FAST, 30, 1)]
    view = View(running, CARDS, frozenset())
    assert best_move(view, times(), "behind", cost=10) == Move("behind", FAST, "ahead")
    assert best_move(view, times(), "ahead", cost=10) is None
    assert best_move(View(running, CARDS, frozenset(), frozenset({"ahead"})), times(), "behind", cost=10) is None


def test_makespans_are_near_the_best_there_can_be() -> None:
    ratios: dict[bool, list[float]] = {False: [], True: []}
    staying = []
    for case in cases(quick=True):
        simulation = Simulation(case)
        makespan = simulation.run()
        ratios[case.asha].append(makespan / case.bound([trial.done for trial in simulation.trials]))
        if not case.asha:
            staying.append(makespan / case.staying())
    assert statistics.mean(staying) <= 1  # of the best schedule that moves nobody
    assert max(staying) <= 1.15
    assert min(ratios[False]) >= 1  # the bound is one
    assert statistics.mean(ratios[False]) <= 1.1
    assert max(ratios[False]) <= 1.15
    assert statistics.median(ratios[True]) <= 1.1  # in hindsight: nobody knows whom ASHA will stop


def test_trials_that_stay_where_they_are_take_longer() -> None:
    case = Case("images", ("GeForce-RTX-3090", "GeForce-RTX-4090"), slots=4, trials=4, asha=False)
    assert Simulation(case).run() < 0.6 * Simulation(case, moving=False).run()
