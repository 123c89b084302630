"""The graphics cards: what the driver sees, what torch can use, and what else is running on them."""

from __future__ import annotations

import csv
import dataclasses
import io
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from raylora.doctor.finding import Finding, bad, good, warning
from raylora.gpus import tensor_tflops

_QUERY = ("index", "name", "memory.total", "memory.used", "driver_version")
_PATIENCE = 20.0  # seconds that nvidia-smi may take; a hanging driver takes for ever
#: Of a card's memory, what may be taken before a sweep begins and is not worth a word: a desktop takes as much.
_IN_USE = 0.1


@dataclasses.dataclass(frozen=True)
class Card:
    """A card as its driver tells of it; memory in MiB."""

    index: int
    name: str
    total: int
    used: int
    driver: str


def cards() -> Iterator[Finding]:
    """The cards of this machine."""
    program = shutil.which("nvidia-smi")
    if program is None:
        yield warning(
            "card",
            "no nvidia-smi: there is no NVIDIA card here, or no driver; sweeps run on the CPU",
            "with a card: install NVIDIA's driver (on WSL, the one for Windows)",
        )
        return
    try:
        found = _ask(program)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        hint = "restart the machine if the driver was updated just now; else install it again"
        yield bad("driver", f"nvidia-smi fails: {_why(error)}", hint)
        return
    if not found:
        yield bad("driver", "sees no card", "see that the card is passed through to this machine: lspci -d 10de:")
        return
    yield good("driver", found[0].driver)
    yield from _usable(found)
    for card in found:
        yield _looked_at(card)


def _ask(program: str) -> list[Card]:
    query = f"--query-gpu={','.join(_QUERY)}"
    done = subprocess.run(
        [program, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True, timeout=_PATIENCE
    )
    rows = csv.reader(io.StringIO(done.stdout), skipinitialspace=True)
    return [Card(int(row[0]), row[1], _mib(row[2]), _mib(row[3]), row[4]) for row in rows if row]


def _mib(text: str) -> int:
    return int(text) if text.strip().isdigit() else 0  # "[N/A]", where the card shares the machine's memory


def _why(error: Exception) -> str:
    text = f"{getattr(error, 'stdout', '') or ''}{getattr(error, 'stderr', '') or ''}".strip()
    return text.splitlines()[0] if text else str(error)


def _usable(found: Sequence[Card]) -> Iterator[Finding]:
    """Whether torch can use what the driver sees."""
    import torch

    if torch.version.cuda is None:
        yield bad(
            "torch",
            f"{torch.__version__} is a build without CUDA: sweeps run on the CPU",
            "install a build with CUDA: https://pytorch.org/get-started/locally",
        )
    elif not torch.cuda.is_available():
        yield bad(
            "torch",
            f"{torch.__version__} (CUDA {torch.version.cuda}) cannot use driver {found[0].driver}",
            "a driver that is older than this CUDA has to be updated; see also CUDA_VISIBLE_DEVICES",
        )
    else:
        yield good("torch", f"{torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.device_count()} cards")


def _looked_at(card: Card) -> Finding:
    subject = f"card {card.index}"
    text = f"{card.name}, {card.total / 1024:.0f} GiB"
    if card.total and card.used > _IN_USE * card.total:
        return warning(
            subject,
            f"{text}, of which {card.used / 1024:.1f} are taken",
            "nvidia-smi names the programs: end them, or fewer trials fit on the card",
        )
    if tensor_tflops(card.name) is None:
        return warning(
            subject,
            f"{text}: not in raylora's table of cards",
            "it is used; until its steps are measured it counts as fast as the others",
        )
    if "microsoft" in platform.release().lower():
        return warning(
            subject,
            f"{text}, under WSL: a driver for Windows lets memory spill into the machine's",
            "in NVIDIA's Control Panel: CUDA - Sysmem Fallback Policy, Prefer No Sysmem Fallback; a spill makes steps "
            "many times as slow",
        )
    return good(subject, text)
