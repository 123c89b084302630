"""Prompts of samples as sd-scripts writes them: a text, and behind it options such as `--n blurry --w 768 --d 1`."""

from __future__ import annotations

import dataclasses
import re

from raylora.data.reading import shown

_OPTION = re.compile(r"\s--(?=[A-Za-z])")
_NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclasses.dataclass(frozen=True)
class SamplePrompt:
    """A prompt and how its picture is made; what is None is left to raylora.

    Attributes:
        text: what is to be seen.
        negative: what is not (`--n`).
        width: pixels (`--w`).
        height: pixels (`--h`).
        guidance: scale of the guidance (`--l`).
        steps: of the sampler (`--s`).
        seed: of the noise (`--d`).
    """

    text: str
    negative: str = ""
    width: int | None = None
    height: int | None = None
    guidance: float | None = None
    steps: int | None = None
    seed: int | None = None


#: Letter to attribute, and the smallest and largest number it takes.
_NUMBERS = {
    "w": ("width", 64, 4096),
    "h": ("height", 64, 4096),
    "l": ("guidance", 0, 100),
    "s": ("steps", 1, 1000),
    "d": ("seed", 0, 2**63 - 1),
}


def parse(line: str) -> SamplePrompt:
    """Read a prompt with its options.

    Raises:
        ValueError: an option that is none, or a value that it does not take; the text says what is right.

    >>> parse("a cat --n dog --w 512 --l 7.5 --d 3")
    SamplePrompt(text='a cat', negative='dog', width=512, height=None, guidance=7.5, steps=None, seed=3)
    """
    text, *options = _OPTION.split(f" {line}")
    found: dict[str, str | int | float] = {}
    for option in options:
        letter, _, value = option.partition(" ")
        value = value.strip()
        if letter.lower() == "n" and value:
            found["negative"] = value
            continue
        if letter.lower() not in _NUMBERS:
            raise ValueError(f"--{shown(letter)} is no option of a sample; there are --n --w --h --l --s --d")
        name, least, most = _NUMBERS[letter.lower()]
        number = float(value) if _NUMBER.fullmatch(value) else -1.0
        if not least <= number <= most or (name != "guidance" and "." in value):
            raise ValueError(f"--{letter} {shown(value)} is not valid: it must be a number from {least} to {most}")
        found[name] = number if name == "guidance" else int(value)
    return SamplePrompt(text.strip(), **found)  # type: ignore[arg-type]
