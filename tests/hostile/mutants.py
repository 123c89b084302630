"""Two thousand spoiled inputs: a person gets an error in words, never a traceback, a hang, or half a file.

Configurations, a cluster's file, pictures, chats, base models, heads of weight files, adapters, runs, archives and
snapshots are read by the commands that would read them: `plan` and then `train` or `sweep`, `report`, `export`,
`inspect`, `archive verify`, `snapshot`. Each input in a process of its own, forked from one that has imported
everything, with bounds on its time and memory; Ray's part of a run is done in that process (`tests/hostile/whole.py`),
so that what a plan takes is trained.

    python -m tests.hostile.mutants [--seed N] [--inputs N] [--from N] [--only N]

Each command must end by itself within a minute and a gibibyte, with an exit code of a person's mistake or none, and in
words. What refuses leaves every file as it was, nothing leaves a partial one, and what `plan` says of an input, `train`
says too. Exit status 1 if that does not hold for one of them; `--only N` shows it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Final

from tests.hostile.mutations import KINDS, Command, Draw, Mutant, mutant

INPUTS: Final = 2000
SECONDS: Final = 60.0  #: of a command
MEMORY: Final = 1 << 30  #: bytes of a process, with what it has imported
#: The same in address space, most of which nobody ever touches: beyond what the imports have reserved.
SPACE: Final = 3 << 30
CODES: Final = (0, 2, 3)  #: done, a person's mistake, nothing to resume
BEGUN: Final = "begun"  #: in the place of a code: training went on for longer than is waited for


@dataclasses.dataclass
class Ended:
    """How a command ended.

    Attributes:
        words: the command.
        code: its exit code, or BEGUN.
        out, err: what it printed.
        seconds: how long it took.
        changed: files that are others than before, or new, or gone.
        partial: files among them that are not whole.
    """

    words: Command
    code: int | str
    out: str
    err: str
    seconds: float
    changed: list[str]
    partial: list[str]


def main() -> None:
    """Spoil, read, and print what did not end as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of what is wrong with the inputs")
    parser.add_argument("--inputs", type=int, default=INPUTS, help="so many inputs")
    parser.add_argument("--from", dest="first", type=int, default=0, help="begin with this one (0)")
    parser.add_argument("--only", type=int, help="this input alone, and all that its commands say")
    arguments = parser.parse_args()
    last = arguments.first + arguments.inputs
    numbers = [arguments.only] if arguments.only is not None else range(arguments.first, last)
    with tempfile.TemporaryDirectory(prefix="mutations-") as temporary:
        reader = Reader(Path(temporary))
        for number in numbers:
            reader.read(arguments.seed, number, verbose=arguments.only is not None)
    reader.print_table()
    print(f"{len(numbers)} inputs from {numbers[0]} on, seed {arguments.seed}: {len(reader.wrong)} wrong", flush=True)
    sys.exit(1 if reader.wrong else 0)


@dataclasses.dataclass
class Tally:
    """What became of the inputs of a kind; seconds of a command and MiB of a process are the worst."""

    inputs: int = 0
    refused: int = 0
    trained: int = 0
    seconds: float = 0.0
    mib: float = 0.0


class Reader:
    """Reads spoiled inputs, each in a process that is forked from this one.

    Args:
        folder: for whole things and spoiled ones.
    """

    def __init__(self, folder: Path) -> None:
        os.environ.update(
            OMP_NUM_THREADS="1",
            HF_HUB_OFFLINE="1",
            TOKENIZERS_PARALLELISM="false",
            RAY_ENABLE_AUTO_CONNECT="0",
            HOME=str(_made(folder / "home")),
            XDG_CONFIG_HOME=str(folder / "home"),
            TMPDIR=str(_made(folder / "scratch")),
        )
        tempfile.tempdir = None
        from tests.hostile import whole

        whole.without_ray()
        self.store, self._place, self._scratch = folder / "store", folder / "here", folder / "scratch"
        with Caught() as said:
            whole.make(self.store, _made(self._place))
            said.take()
        self.tallies = {kind: Tally() for kind in KINDS}
        self.wrong: list[str] = []

    def read(self, seed: int, number: int, verbose: bool = False) -> None:
        """Spoil an input, run its commands, and note what became of it."""
        shutil.rmtree(self._place)
        home = _made(self._place)
        made = mutant(Draw(seed, number), self.store, home)
        ended, memory, how = self._in_a_process(made, home)
        tally = self.tallies[made.kind]
        tally.inputs += 1
        tally.refused += any(one.code in (2, 3) for one in ended)
        tally.trained += any(one.words[0] in ("train", "sweep") and one.code in (0, BEGUN) for one in ended)
        tally.seconds = max([tally.seconds, *(one.seconds for one in ended)])
        tally.mib = max(tally.mib, memory / 2**20)
        found = [*how, *(words for one in ended for words in complaints(one)), *disagreements(ended)]
        if memory > MEMORY:
            found.append(f"took {memory / 2**20:,.0f} MiB")
        found += [f"left {path.name} in the folder for scratch files" for path in self._scratch.glob("raylora-s*")]
        for path in self._scratch.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if verbose:
            for one in ended:
                print(f"$ raylora {' '.join(one.words)}\n{one.out}{one.err}[{one.code}, {one.seconds:.1f} s]\n")
            print(f"{made.kind}: {memory / 2**20:,.0f} MiB; {found or 'as it should be'}")
        for words in found:
            self.wrong.append(f"{seed}/{number} {made.kind}: {words}")
            print(self.wrong[-1], flush=True)

    def print_table(self) -> None:
        """Print what became of the inputs, by kind."""
        print(f"{'spoiled':15}{'inputs':>8}{'refused':>9}{'trained':>9}{'worst s':>9}{'worst MiB':>11}")
        for kind, tally in self.tallies.items():
            counts = f"{tally.inputs:8}{tally.refused:9}{tally.trained:9}"
            print(f"{kind:15}{counts}{tally.seconds:9.1f}{tally.mib:11,.0f}")

    def _in_a_process(self, made: Mutant, home: Path) -> tuple[list[Ended], int, list[str]]:
        """How the commands ended, the most memory that their process had, and what is wrong with its own end."""
        receive, send = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os.close(receive)
            _run_all(made.commands, home, send)
        os.close(send)
        lines, how = b"", []
        deadline = time.monotonic() + SECONDS * len(made.commands)
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([receive], [], [], left)
            if ready:
                more = os.read(receive, 1 << 20)
                if not more:
                    break
                lines += more
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        os.close(receive)
        ended = [Ended(**json.loads(line)) for line in lines.splitlines() if line.endswith(b"}")]
        if len(ended) < len(made.commands):
            words = " ".join(made.commands[len(ended)])
            how.append(f"`{words}` did not end" if left <= 0 else f"`{words}` ended its process: status {status}")
        return ended, usage.ru_maxrss * 1024, how


def complaints(one: Ended) -> list[str]:
    """What is wrong with a command's end; a run that has begun before it was refused is whole, and may go on."""
    begun = one.words[0] in ("train", "sweep") and any(name.endswith("/journal.jsonl") for name in one.changed)
    said = f"`{' '.join(one.words)}`"
    found = []
    if "Traceback" in one.out + one.err or "our mistake" in one.err:
        found.append(f"{said} failed: {one.err.strip()[-600:]}")
    elif one.code not in (*CODES, BEGUN) and not (one.words[0] == "cluster" and one.code == 1):
        found.append(f"{said} ended with {one.code}: {one.err.strip()[-600:]}")
    elif one.code not in (0, BEGUN) and not one.err.strip():
        found.append(f"{said} ended with {one.code} and said nothing")
    if one.code not in (0, BEGUN) and one.changed and not begun:
        found.append(f"{said} refused and changed {', '.join(one.changed[:4])}")
    if one.partial:
        found.append(f"{said} left {', '.join(one.partial)}")
    if one.words[0] == "plan" and one.changed:
        found.append(f"{said} changed {', '.join(one.changed[:4])}")
    if one.seconds > SECONDS:
        found.append(f"{said} took {one.seconds:.0f} s")
    return found


def disagreements(ended: list[Ended]) -> list[str]:
    """What a plan said otherwise than the run that it was the plan of."""
    plans = [one for one in ended if one.words[0] == "plan"]
    runs = [one for one in ended if one.words[0] in ("train", "sweep") and "--fresh" not in one.words]
    return [
        f"`plan` ended with {plan.code} and `{run.words[0]}` with {run.code}: {(plan.err or run.err).strip()[-600:]}"
        for plan in plans
        for run in runs
        if (plan.code == 0) != (run.code in (0, BEGUN))
    ]


def _run_all(commands: list[Command], home: Path, send: int) -> None:
    """Run commands in a folder, one after the other, in this process, which ends with them."""
    try:
        os.setsid()
        os.chdir(home)
        reserved = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + SPACE
        resource.setrlimit(resource.RLIMIT_AS, (reserved, reserved))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for words in commands:
            line = json.dumps(dataclasses.asdict(_run(words, home))) + "\n"
            with os.fdopen(os.dup(send), "w") as stream:
                stream.write(line)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)
    os._exit(0)


def _run(words: Command, home: Path) -> Ended:
    from raylora.cli import exit_code
    from tests.hostile.whole import Begun

    before = _files(home)
    start = time.monotonic()
    code: int | str
    with Caught() as said:
        try:
            code = exit_code(words)
        except Begun:
            code = BEGUN
        out, err = said.take()
    seconds = time.monotonic() - start
    after = _files(home)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    partial = [name for name in changed if name in after and ".partial-" in name]
    return Ended(words, code, out, err, seconds, changed, partial)


class Caught:
    """What this process, and whatever it starts, prints within a block."""

    def __enter__(self) -> Caught:
        self._files = [tempfile.TemporaryFile("w+b", dir="/tmp") for _ in range(2)]  # noqa: SIM115 - closed at exit
        self._before = [os.dup(number) for number in (1, 2)]
        for number, file in zip((1, 2), self._files, strict=True):
            os.dup2(file.fileno(), number)
        return self

    def take(self) -> tuple[str, str]:
        """Standard output and standard error so far, of each the beginning."""
        sys.stdout.flush()
        sys.stderr.flush()
        for file in self._files:
            file.seek(0)
        out, err = (file.read(200_000).decode("utf-8", "replace") for file in self._files)
        return out, err

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, file, before in zip((1, 2), self._files, self._before, strict=True):
            os.dup2(before, number)
            os.close(before)
            file.close()


def _files(folder: Path) -> dict[str, Any]:
    """What lies in a folder, but for the locks, which stay where a run was and say nothing."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)  # noqa: PTH118 - names may be no text
            told = os.lstat(path)
            if name not in (".lock", ".lease"):
                is_folder = name in folders
                found[os.fsencode(path).decode("utf-8", "replace")] = (
                    told.st_mode, 0 if is_folder else told.st_size, 0 if is_folder else told.st_mtime_ns
                )  # fmt: skip
    return found


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
