"""The ranking as a table for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from raylora.formatting import estimate, number
from raylora.tuning.results.ranking import Ranking

#: Columns that a trial's status gets, for which others go; and at least, where none is left to go.
_STATUS, _LEAST_STATUS = 24, 12


def console_table(ranking: Ranking, width: int = 100) -> str:
    """The ranking as aligned plain text of at most `width` columns: `*` is the winner, `=` ties with it.

    Nothing is cut: what does not fit beside the other columns of a trial goes on below, broken between words.
    """
    swept = list(dict.fromkeys(key for row in ranking.rows for key in row.trial.params))
    if "lora_rank" not in swept:
        swept.insert(0, "lora_rank")
    titles = ["", "trial", *swept, "value", "examples", "status"]
    lines = []
    for row in ranking.rows:
        values = {"lora_rank": row.trial.rank, **row.trial.params}
        lines.append(
            [
                "*" if row is ranking.best else "=" if row.tie else "",
                row.trial.id,
                *(number(values[key]) if key in values else "" for key in swept),
                estimate(row.value, row.error) if row.place else "-",
                str(row.trial.best.examples) if row.trial.best and row.place else "",
                row.trial.status_text(row.reason),
            ]
        )
    # The least useful columns go first when the line is too long: examples, then the last of the swept keys.
    removable = [len(titles) - 2, *range(len(titles) - 4, 2, -1)]
    columns = list(range(len(titles)))
    for column in removable:
        if _line_width(columns, titles, lines) <= width:
            break
        columns.remove(column)
    table = [[cells[column] for column in columns] for cells in [titles, *lines]]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(columns))]
    before = sum(widths[:-1]) + 2 * (len(widths) - 1)
    text: list[str] = []
    for *cells, status in table:
        head = "".join(f"{cell.ljust(size)}  " for cell, size in zip(cells, widths, strict=False))
        first, *rest = textwrap.wrap(status, max(_LEAST_STATUS, width - before)) or [""]
        text += [f"{head}{first}".rstrip(), *(f"{' ' * before}{line}" for line in rest)]
    if ranking.ties:
        legend = "* best   = within one standard error of the lowest value; of these the lowest rank wins"
        text += textwrap.wrap(legend, width, break_on_hyphens=False)
    return "\n".join(text)


def _line_width(columns: Sequence[int], titles: Sequence[str], lines: Sequence[Sequence[str]]) -> int:
    """Width of the table, with as little for the status as reads well on several lines."""
    sizes = [max(len(cells[column]) for cells in [titles, *lines]) for column in columns]
    return sum(sizes[:-1]) + min(sizes[-1], _STATUS) + 2 * (len(sizes) - 1)
