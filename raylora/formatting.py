"""Numbers as people read them; shared by the terminal, the report and its charts."""

from __future__ import annotations

import math

MINUS = "\N{MINUS SIGN}"


def number(value: object) -> str:
    """A configuration value, short: as few digits as it needs, and never `0.00012`.

    >>> number(0.0012), number(8), number(0.05), number(True), number("cosine"), number(2e-5)
    ('1.2e-3', '8', '0.05', 'true', 'cosine', '2e-5')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value) or value == 0 or 0.01 <= abs(value) < 1e4:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number of things and the verb "to be": what English changes when there is one.

    >>> counted(1, "image"), counted(2, "image"), counted(2, "copy", "copies")
    ('1 image is', '2 images are', '2 copies are')
    """
    return f"1 {noun} is" if count == 1 else f"{things(count, noun, plural)} are"


def things(count: int, noun: str, plural: str = "") -> str:
    """A number of things.

    >>> things(1, "image"), things(0, "image")
    ('1 image', '0 images')
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def no_formula(text: str) -> str:
    """A text for a cell of CSV, quoted where a spreadsheet would run it as a formula.

    >>> no_formula("=1+1"), no_formula("alice")
    ("'=1+1", 'alice')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def measured(value: float, error: float = math.nan) -> str:
    """A value with the digits its standard error leaves meaningful; four decimals if the error is not known."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.{_decimals(error)}f}"


def estimate(value: float, error: float) -> str:
    """A value and its standard error, rounded to two digits of the error.

    >>> estimate(-0.13212, 0.01099), estimate(2.5, float("nan"))
    ('-0.132 ± 0.011', '2.5000')
    """
    if not math.isfinite(error) or not math.isfinite(value):
        return measured(value)
    return f"{measured(value, error)} ± {error:.{_decimals(error)}f}"


def typographic(text: str) -> str:
    """Hyphens before digits become minus signs, except in exponents, and no line breaks around ±."""
    text = text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
    return "".join(
        MINUS if char == "-" and text[at + 1 : at + 2].isdigit() and text[at - 1 : at] != "e" else char
        for at, char in enumerate(text)
    )


def duration(seconds: float) -> str:
    """Seconds in the two units that matter.

    >>> duration(42.4), duration(130), duration(7260)
    ('42 s', '2 min 10 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _decimals(error: float) -> int:
    if not math.isfinite(error) or error <= 0:
        return 4
    return min(max(1 - math.floor(math.log10(error)), 0), 6)
