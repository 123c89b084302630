"""The headline of a report, in plain words."""

from __future__ import annotations

import re

from raylora.tuning.results.report.explanation import explanation, headline
from tests.tuning.results.sweeps import SWEEPS, all_diverged, ranked
from tests.tuning.results.synthetic import image_sweep, text_sweep


def test_the_headline_says_who_won_how_sure_and_who_is_as_good() -> None:
    outcome = image_sweep()
    ranking = ranked(outcome)
    said = headline(outcome, ranking)
    assert re.match(
        r"Rank 4 at learning rate 2\.07e-3, batch_size 2, lr_scheduler linear won: J = -0\.16\d+ ± 0\.0", said
    )
    assert "clearly better than the base model" in said
    assert f"{len(ranking.ties)} others are within one standard error; of these the lowest rank wins" in said
    assert headline(text_sweep(1), ranked(text_sweep(1))).startswith("Rank 8: loss per token = ")
    assert headline(all_diverged(), ranked(all_diverged())) == "All 15 trials diverged."
    assert headline(SWEEPS["nothing ran"][0], ranked(SWEEPS["nothing ran"][0])) == "No trial was run."


def test_the_explanation_says_what_judged_and_that_the_best_of_many_is_flattered() -> None:
    many, one = image_sweep(), text_sweep(1)
    assert "12 held-out examples" in explanation(many, ranked(many))
    assert "a little flattered" in explanation(many, ranked(many))
    assert "80 held-out examples" in explanation(one, ranked(one))
    assert "flattered" not in explanation(one, ranked(one))
    assert explanation(all_diverged(), ranked(all_diverged())) == ""
