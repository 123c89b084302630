"""The report: complete, self-contained, safe to open, and right in what it says."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from plotly.offline import get_plotlyjs
from safetensors.numpy import save_file

from raylora.errors import UserError
from raylora.families.causal_lm.export.usage import vllm_rank
from raylora.tuning.results.hints import hints
from raylora.tuning.results.ranking import Ranking, rank
from raylora.tuning.results.report.curves import curves, key_charts
from raylora.tuning.results.report.explanation import headline
from raylora.tuning.results.report.html import render, write_report
from raylora.tuning.results.report.search_map import search_map
from raylora.tuning.results.report.usage import usage
from raylora.tuning.results.types import Sample, SweepOutcome, TrialOutcome
from tests.tuning.results.synthetic import diffusion_objective, image_sweep, mean_loss, text_sweep, trial

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"


class Page(HTMLParser):
    """What a browser would see: tags with attributes, the text outside scripts, and the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data
        else:
            self.text += data


def ranked(outcome: SweepOutcome) -> Ranking:
    objective = diffusion_objective if outcome.family == "diffusion" else mean_loss
    return rank(outcome, objective, resamples=100)


def page(outcome: SweepOutcome, samples: list[Sample] | None = None) -> Page:
    return Page(render(outcome, ranked(outcome), samples or []))


def all_diverged() -> SweepOutcome:
    outcome = image_sweep()
    lost = [dataclasses.replace(t, status="diverged", best=None, reason="NaN at step 3") for t in outcome.trials]
    return dataclasses.replace(outcome, trials=lost, adapter=None)


def pictures() -> list[Sample]:
    return [
        Sample("red heart", Image.new("RGB", (64, 64), "red"), Image.new("RGBA", (64, 64), "pink")),
        Sample(EVIL, Image.new("P", (1024, 512)), Image.new("L", (64, 64)), Image.new("RGB", (64, 64))),
    ]


def answers() -> list[Sample]:
    return [
        Sample("Define: politeness", "Being polite.", "The most acceptable hypocrisy.", "…"),
        Sample(EVIL, "", EVIL),
    ]


SWEEPS: dict[str, tuple[SweepOutcome, list[Sample]]] = {
    "dots": (image_sweep(), pictures()),
    "grid": (image_sweep(grid=True), pictures()),
    "text": (text_sweep(), answers()),
    "one trial": (text_sweep(1), []),
    "all diverged": (all_diverged(), []),
    "nothing ran": (dataclasses.replace(text_sweep(), trials=[], adapter=None), []),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_report_asks_for_nothing_and_runs_nothing_of_others(name: str) -> None:
    outcome, samples = SWEEPS[name]
    seen = page(outcome, samples)
    policies = [attrs["content"] for tag, attrs in seen.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'")
    for tag, attrs in seen.tags:
        assert tag not in ("link", "iframe", "object", "embed", "form", "base")
        assert (attrs.get("src") or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attrs)
        assert tag != "script" or "src" not in attrs
    ours = [script for script in seen.scripts if "plotly.js v" not in script[:200]]
    assert not any("://" in script for script in ours)
    assert "://" not in seen.text.replace("http://localhost", "")
    assert len([script for script in seen.scripts if "plotly.js v" in script[:200]]) <= 1


@pytest.mark.parametrize("name", SWEEPS)
def test_figures_are_what_plotly_accepts(name: str) -> None:
    outcome, _ = SWEEPS[name]
    ranking = ranked(outcome)
    mapped = search_map(outcome, ranking)
    for chart in [mapped, curves(outcome, ranking), *key_charts(outcome, ranking, mapped is not None)]:
        if chart:
            go.Figure(_colored(chart.figure))  # raises ValueError on an unknown property or value
            json.dumps(chart.figure, allow_nan=False)


def _colored(value: Any) -> Any:
    """The figure with colours in the place of CSS variables."""
    if isinstance(value, dict):
        return {key: _colored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_colored(item) for item in value]
    if value == "--scale":
        return [[0, "#000000"], [1, "#ffffff"]]
    return "#123456" if isinstance(value, str) and value.startswith("--") else value


@pytest.mark.parametrize("name", SWEEPS)
def test_every_chart_has_its_place_and_every_color_its_variable(name: str) -> None:
    outcome, samples = SWEEPS[name]
    html = render(outcome, ranked(outcome), samples)
    seen = Page(html)
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', html, re.S)
    charts = json.loads(found[1]) if found else []
    assert {chart["id"] for chart in charts} <= set(ids)
    for variable in set(re.findall(r'"(--[a-z0-9-]+)"', json.dumps(charts))) - {"--scale"}:
        assert html.count(f"{variable}: #") == 2, variable  # light and dark


def test_plotly_is_inlined_once_and_whole() -> None:
    html = render(image_sweep(), ranked(image_sweep()))
    assert html.count("* plotly.js v") == get_plotlyjs().count("* plotly.js v")
    longest = max(Page(html).scripts, key=len)
    assert len(longest) >= len(get_plotlyjs())


def test_whatever_comes_from_outside_is_only_text() -> None:
    outcome = image_sweep()
    marked = [
        dataclasses.replace(t, id=f"{t.id}{EVIL}", params={**t.params, EVIL: f"{index % 2}{EVIL}"}, reason=EVIL)
        for index, t in enumerate(outcome.trials)
    ]
    outcome = dataclasses.replace(
        outcome,
        name=EVIL,
        trials=marked,
        objective_name=EVIL,
        config_yaml=EVIL,
        base_model=EVIL,
        notes=[EVIL],
        device=EVIL,
        versions={EVIL: EVIL},
        adapter=Path("out") / EVIL.replace("/", "_"),
    )
    samples = [Sample(EVIL, EVIL, EVIL, EVIL)]
    seen, clean = page(outcome, samples), page(image_sweep(), answers()[:1])
    assert [tag for tag, _ in seen.tags if tag in ("script", "img", "iframe")] == [
        tag for tag, _ in clean.tags if tag in ("script", "img", "iframe")
    ]
    assert seen.text.count(EVIL) > 20
    assert "{{7*7}}" in seen.text


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_can_be_written(prompt: str, answer: str) -> None:
    assert "Before and after" in page(text_sweep(1), [Sample(prompt, answer, answer)]).text


def test_half_a_surrogate_pair_does_not_keep_the_file_from_being_written(tmp_path: Path) -> None:
    outcome = text_sweep(1)
    path = write_report(tmp_path / "deep" / "report.html", outcome, ranked(outcome), [Sample("\ud83d", "a", "b")])
    assert path.read_text("utf-8").startswith("<!doctype html>")
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_written_is_the_persons_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        write_report(tmp_path / "file" / "report.html", text_sweep(1), ranked(text_sweep(1)))


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


def test_the_table_says_how_every_trial_ended() -> None:
    text = page(image_sweep()).text
    assert "stopped early at 480 examples" in text
    assert "diverged at 240 examples: the loss became NaN at step 61" in text
    assert "failed: OutOfMemoryError" in text
    assert text.count("as good") >= len(ranked(image_sweep()).ties)


def test_the_map_is_a_grid_where_trials_form_one_and_dots_where_not() -> None:
    grid, dots = (search_map(outcome, ranked(outcome)) for outcome in (image_sweep(grid=True), image_sweep()))
    assert grid is not None
    assert dots is not None
    assert [trace["type"] for trace in grid.figure["data"]] == ["heatmap", "scatter"]
    assert len(grid.figure["data"][0]["z"]) == 3
    assert sum(cell is None for row in grid.figure["data"][0]["z"] for cell in row) == 2
    assert [trace["type"] for trace in dots.figure["data"]] == ["scatter", "scatter"]
    assert sum(len(trace["x"]) for trace in dots.figure["data"]) == len(image_sweep().trials)
    assert search_map(text_sweep(1), ranked(text_sweep(1))) is None


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


def _sweep_of(points: list[tuple[float, int, str]], family: Any = "diffusion") -> SweepOutcome:
    outcome = image_sweep() if family == "diffusion" else text_sweep()
    shape = (outcome.base, outcome.base * 0 + 1)
    trials: list[TrialOutcome] = [
        trial(f"t{i}", family, shape, rate, lora_rank, status)  # type: ignore[arg-type]
        for i, (rate, lora_rank, status) in enumerate(points)
    ]
    return dataclasses.replace(outcome, trials=trials)


def test_an_optimum_at_the_edge_is_pointed_out_with_a_range_to_try() -> None:
    outcome = _sweep_of([(1e-5, 8, "finished"), (3e-5, 8, "finished"), (1e-4, 8, "finished")])
    said = " ".join(hints(outcome, ranked(outcome)))
    assert "The best learning rate, 1e-4, is the highest tried (1e-5 to 1e-4)" in said
    assert "Sweep learning_rate from 5e-5 to 1e-3" in said


def test_an_optimum_bounded_by_a_trial_that_diverged_is_not_at_the_edge() -> None:
    outcome = _sweep_of([(1e-5, 8, "finished"), (1e-4, 8, "finished"), (1e-2, 8, "diverged")])
    said = " ".join(hints(outcome, ranked(outcome)))
    assert "highest tried" not in said
    assert "Learning rates from 0.01 up diverged" in said


def test_hints_of_a_sweep_without_a_winner() -> None:
    assert "Try learning rates around" in hints(all_diverged(), ranked(all_diverged()))[0]
    failed = _sweep_of([(1e-4, 8, "failed")])
    failed = dataclasses.replace(failed, trials=[dataclasses.replace(failed.trials[0], best=None)])
    assert "the reasons are in the table" in hints(failed, ranked(failed))[0]


def test_a_large_rank_needs_a_flag_of_vllm() -> None:
    outcome = _sweep_of([(1.2e-3, 48, "finished")], "causal_lm")
    assert any("--max-lora-rank 64" in hint for hint in hints(outcome, ranked(outcome)))
    assert any("--max-lora-rank 64" in snippet.code for snippet in usage(outcome, ranked(outcome)))
    assert [vllm_rank(size) for size in (1, 8, 9, 512)] == [8, 8, 16, 512]


def test_usage_names_the_real_files() -> None:
    images = {snippet.title: snippet for snippet in usage(image_sweep(), ranked(image_sweep()))}
    assert images["ComfyUI"].code == "cp output/my_style/adapter.safetensors ComfyUI/models/loras/my_style.safetensors"
    assert "load_lora_weights('output/my_style', weight_name='adapter.safetensors')" in images["diffusers"].code
    compile(images["diffusers"].code, "snippet", "exec")
    texts = {snippet.title: snippet for snippet in usage(text_sweep(), ranked(text_sweep()))}
    compile(texts["transformers + PEFT"].code, "snippet", "exec")
    assert "--lora-modules devils-dictionary=output/devil/adapter" in texts["vLLM"].code
    assert usage(all_diverged(), ranked(all_diverged())) == []


def snippets(outcome: SweepOutcome) -> dict[str, str]:
    return {snippet.title: snippet.code for snippet in usage(outcome, ranked(outcome))}


@pytest.mark.parametrize(
    ("architecture", "pipeline"),
    [
        ("stable-diffusion-xl-v1-base/lora", "StableDiffusionXLPipeline"),
        ("stable-diffusion-v1/lora", "StableDiffusionPipeline"),
        (None, "StableDiffusionPipeline"),
    ],
)
def test_a_single_file_is_loaded_by_the_pipeline_of_its_kind(
    architecture: str | None, pipeline: str, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter.safetensors"
    if architecture:
        save_file({"x": np.zeros(1)}, adapter, {"modelspec.architecture": architecture})
    outcome = dataclasses.replace(image_sweep(), base_model="models/xl.safetensors", adapter=adapter)
    code = snippets(outcome)["diffusers"]
    assert f"\npipe = {pipeline}.from_single_file('models/xl.safetensors')\n" in code
    assert code.startswith(f"from diffusers import {pipeline}\n")


def test_usage_over_a_gguf_file_and_with_spaces_in_paths() -> None:
    adapter = Path("my output/adapter")
    outcome = dataclasses.replace(text_sweep(), base_model="my models/tiny.gguf", adapter=adapter)
    found = snippets(outcome)
    assert "AutoModelForCausalLM.from_pretrained('my models', gguf_file='tiny.gguf')" in found["transformers + PEFT"]
    compile(found["transformers + PEFT"], "snippet", "exec")
    serve = shlex.split(found["vLLM"])
    assert serve[:5] == ["vllm", "serve", "my models/tiny.gguf", "--tokenizer", str(adapter)]
    assert serve[-2:] == ["--lora-modules", f"devils-dictionary={adapter}"]
    convert, run = map(shlex.split, found["llama.cpp"].splitlines())
    assert convert[1:] == ["--base", f"{adapter}/base", "--outfile", "devils-dictionary.gguf", str(adapter)]
    assert run == ["llama-cli", "-m", "my models/tiny.gguf", "--lora", "devils-dictionary.gguf"]
    folder = snippets(text_sweep())
    assert folder["vLLM"].startswith("vllm serve ./models/SmolLM2-135M-Instruct --enable-lora ")
    assert "--base ./models/SmolLM2-135M-Instruct --outfile" in folder["llama.cpp"]


def test_large_pictures_are_scaled_down_and_small_ones_stay_crisp() -> None:
    seen = page(image_sweep(), pictures())
    sizes = [(attrs["width"], attrs["height"], attrs.get("class")) for tag, attrs in seen.tags if tag == "img"]
    assert sizes[0] == ("64", "64", "small")
    assert sizes[2] == ("512", "256", None)
    assert len(sizes) == 5
