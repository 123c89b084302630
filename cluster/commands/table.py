"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Rows in columns that are as wide as they must be; the last one is not padded.

    >>> print(table([("node", "age"), ("cats-head", "3 min")]))
    node       age
    cats-head  3 min
    """
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(42), duration(200), duration(4 * 3600 + 120), duration(3 * 86400)
    ('42 s', '3 min', '4 h 2 min', '3 d 0 h')
    """
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 60:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{days} d {hours % 24} h"
