"""The live view: a pure function from what is known of a sweep to what rich draws, for a terminal of any width.

Nothing is cut in the middle of a word: columns that do not fit go, the least useful first, and long lines wrap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from raylora.formatting import duration, estimate, number, things
from raylora.tuning.live.state import GOING, LiveState, TrialLine

_BARS = "▁▂▃▄▅▆▇█"
#: Marks of the last reports; fewer where there is no room.
_TREND = 10
#: Seconds for which machines that came or went are told of.
_NEWS = 60.0
_STYLES = {"running": "", "finished": "green", "stopped": "dim", "diverged": "red", "failed": "red"}
_GAP = 2


def render(state: LiveState, now: float, width: int, most: int) -> Group:
    """The view of a sweep.

    Args:
        state: what is known.
        now: the time, by the clock that `state` was told.
        width: columns of the terminal.
        most: trials that are shown; of more the least interesting are counted only.
    """
    parts: list[Text | Table] = [_head(state, now)]
    shown, rest = _chosen(state, most)
    if shown:
        parts += [Text(""), _table(state, shown, width)]
    if rest:
        parts.append(Text(rest, "dim"))
    parts += [Text(""), *(Text(line, style) for line, style in _foot(state, now))]
    return Group(*parts)


def sparkline(values: Sequence[float], most: int = _TREND) -> str:
    """The last values as bars, the highest one full.

    >>> sparkline([3.0, 2.0, 1.0]), sparkline([1.0]), sparkline([])
    ('█▅▁', '▁', '')
    """
    last = [value for value in values if math.isfinite(value)][-most:]
    low, high = min(last, default=0.0), max(last, default=0.0)
    step = (high - low) / (len(_BARS) - 1) or math.inf
    return "".join(_BARS[math.floor((value - low) / step + 0.5)] for value in last)


def _head(state: LiveState, now: float) -> Text:
    if state.run is None:
        return Text("starting")
    done = f"{state.over} of {things(state.run.trials, 'trial')} over"
    left = state.time_left(now)
    times = [f"{duration(now - state.began)} so far", *([f"about {duration(left)} left"] if left else [])]
    return Text.assemble((state.run.name, "bold"), "  ", "  ".join([done, *times, state.devices]))


def _foot(state: LiveState, now: float) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    if state.run is None:
        return lines
    if state.stage and not state.ended:
        lines.append((state.stage, ""))
    if state.best_value is not None:
        error = math.nan if state.best_error is None else state.best_error
        words = f"best so far: {state.run.objective} {estimate(state.best_value, error)}"
        if state.best is not None:
            values = ", ".join(f"{key} {number(value)}" for key, value in state.best.params.items())
            words += f" by {state.best.id}" + (f" ({values})" if values else "")
        lines.append((words, "bold"))
    if state.news is not None and now - state.news[1] < _NEWS:
        change, when = state.news
        told = [f"{name} joined" for name in change.joined] + [f"{name} has gone" for name in change.left]
        lines.append((f"machines: {', '.join(told)} ({duration(now - when)} ago)", ""))
    if len(state.nodes) > 1:
        lines.append((f"{len(state.nodes)} machines: {', '.join(state.nodes)}", "dim"))
    if not state.ended:
        lines.append(("Ctrl-C saves every trial and leaves; twice: at once", "dim"))
    return lines


def _chosen(state: LiveState, most: int) -> tuple[list[TrialLine], str]:
    """The trials that fit, those that run and the best ones first, in their order; and how many others there are."""
    lines = list(state.trials.values())
    waiting = max(0, state.run.trials - state.over - sum(line.state in GOING for line in lines)) if state.run else 0
    ranked = sorted(lines, key=lambda line: (line.state not in GOING, min(line.values, default=math.inf)))
    kept = {line.id for line in ranked[:most]}
    hidden = len(lines) - len(kept)
    rest = [f"{hidden} more"] if hidden else []
    rest += [f"{waiting} not begun"] if waiting else []
    return sorted((line for line in lines if line.id in kept), key=lambda line: line.id), ", ".join(rest)


def _table(state: LiveState, lines: Sequence[TrialLine], width: int) -> Table:
    assert state.run is not None
    swept = list(state.run.swept)
    columns: dict[str, list[str]] = {"trial": [line.id.removeprefix("trial_").lstrip("0") or line.id for line in lines]}
    for key in swept:
        columns[key] = [number(line.params[key]) if key in line.params else "" for line in lines]
    columns[state.run.objective] = [_value(line) for line in lines]
    columns["trend"] = [sparkline(line.values) for line in lines]
    columns["step"] = [f"{line.step}/{line.total_steps}" if line.total_steps else "" for line in lines]
    columns["examples/s"] = [f"{line.rate:.3g}" if line.rate and line.state in GOING else "" for line in lines]
    columns["card"] = [line.card if line.state in GOING else "" for line in lines]
    columns["state"] = [line.state for line in lines]
    # What can be missed goes first; the trial, its value and how it is stay.
    for name in ("examples/s", "trend", "card", *reversed(swept[2:]), "step", *reversed(swept[:2])):
        if _needed(columns) <= width:
            break
        del columns[name]
    table = Table(box=None, show_edge=False, padding=(0, _GAP, 0, 0), header_style="dim", pad_edge=False)
    left = ("trial", "trend", "card", "state")
    for name, cells in columns.items():
        header = _header(name, cells)
        table.add_column(header, justify="left" if name in left else "right", no_wrap=True, overflow="ellipsis")
    for at, line in enumerate(lines):
        style = "bold" if line is state.best else _STYLES.get(line.state, "dim")
        table.add_row(*(cells[at] for cells in columns.values()), style=style)
    return table


def _value(line: TrialLine) -> str:
    if not line.values:
        return ""
    return estimate(line.values[-1], math.nan if line.error is None else line.error)


def _header(name: str, cells: Sequence[str]) -> str:
    """A column's name on as few lines as its cells' width allows, broken between words alone."""
    room = max([cell_len(cell) for cell in cells] + [len(word) for word in name.replace("_", " ").split()])
    lines = [""]
    for word in name.replace("_", " ").split():
        lines = [*lines[:-1], f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < room else [*lines, word]
    return "\n".join(filter(None, lines))


def _needed(columns: dict[str, list[str]]) -> int:
    widths = [
        max(cell_len(text) for text in [*cells, *_header(name, cells).split("\n")]) for name, cells in columns.items()
    ]
    return sum(widths) + _GAP * len(widths)
