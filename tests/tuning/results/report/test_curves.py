"""The learning curves."""

from __future__ import annotations

import dataclasses
import json
import math

from raylora.tuning.results.report.curves import curves, key_charts
from tests.tuning.results.sweeps import SWEEPS, all_diverged, ranked
from tests.tuning.results.synthetic import image_sweep, text_sweep


def test_curves_show_every_trial_that_reported_and_cut_what_hides_the_rest() -> None:
    outcome = image_sweep()
    wild = dataclasses.replace(
        outcome.trials[0], history=[{**report, "value": 40.0} for report in outcome.trials[0].history]
    )
    outcome = dataclasses.replace(outcome, trials=[wild, *outcome.trials[1:]])
    chart = curves(outcome, ranked(outcome))
    assert chart is not None
    assert sum(trace["mode"] == "lines+markers" for trace in chart.figure["data"]) == 14
    assert chart.figure["layout"]["yaxis"]["range"][1] < 1
    assert "1 line leaves the top" in chart.caption
    assert curves(SWEEPS["nothing ran"][0], ranked(SWEEPS["nothing ran"][0])) is None


def test_a_report_of_nan_in_a_history_is_left_out_of_the_curve() -> None:
    outcome = text_sweep()
    first = outcome.trials[0]
    broken = dataclasses.replace(first, history=[*first.history, {**first.history[-1], "value": math.nan}])
    outcome = dataclasses.replace(outcome, trials=[broken, *outcome.trials[1:]])
    assert "NaN" not in json.dumps([chart.figure for chart in [curves(outcome, ranked(outcome))] if chart])


def test_keys_beside_the_map_have_a_chart_each_if_they_varied() -> None:
    outcome = image_sweep()
    names = [chart.figure["layout"]["xaxis"]["title"]["text"] for chart in key_charts(outcome, ranked(outcome), True)]
    assert names == ["batch size", "lr scheduler"]
    types = [chart.figure["layout"]["xaxis"]["type"] for chart in key_charts(outcome, ranked(outcome), True)]
    assert types == ["log", "category"]
    rate = key_charts(outcome, ranked(outcome), mapped=False)[0].figure
    assert rate["layout"]["xaxis"]["title"]["text"] == "learning rate"
    same = [dataclasses.replace(item, params={**item.params, "batch_size": 4}) for item in outcome.trials]
    outcome = dataclasses.replace(outcome, trials=same)
    charts = key_charts(outcome, ranked(outcome), True)
    assert [chart.figure["layout"]["xaxis"]["title"]["text"] for chart in charts] == ["lr scheduler"]
    assert key_charts(all_diverged(), ranked(all_diverged()), True) == []
