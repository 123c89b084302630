"""Nothing of a sweep is lost, whatever goes wrong while it runs: its trials end, to the values of an undisturbed one.

A packed sweep of 16 trials on three nodes, again and again, and random faults while it runs: a trial's process, a
trainer, a raylet, a machine, a host, the head's GCS or the driver killed; SIGTERM and SIGHUP to the driver's group; the
laptop closed; the shared folder full, read-only or hanging; a node's network dropping or away; the vCenter away. What a
person would do is done: a command that has ended without its sweep is run again.

    python benchmarks/chaos.py [--quick] [--local] [--seed N] [--faults N] [--only FAULT]

Every fourth sweep has one trial a card, the others four: alone in its pack a trial's values must be those of an
undisturbed one to the last bit, among neighbours to 1e-6. A fault may cost a trial the steps since its last checkpoint,
`save_steps` at most. At a sweep's end none of its processes may be left, and at the end no machine. Exit status 1
otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

# Before anything reads them: one trainer may not take the cores from all others, and Ray's workers are not to wait.
os.environ |= {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}

from common import disturbed, measuring  # noqa: E402 - it makes tests/ importable

from raylora.config.load import load_config  # noqa: E402
from raylora.sealed_json import unsealed  # noqa: E402
from tests.cluster.people.laptop import Command, undisturbed  # noqa: E402
from tests.families.causal_lm.tiny_lm import tiny_llama  # noqa: E402
from tests.training.fixtures import write_chats  # noqa: E402
from tests.tuning.runs import Event, events  # noqa: E402

FAULTS: Final = {"full": 200, "quick": 6}
A_SWEEP: Final = 8  #: faults of one sweep
STEPS: Final = 300  #: of a trial
SAVE_STEPS: Final = 20
BATCH: Final = 2
RATES: Final = (1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3)
RANKS: Final = (2, 4)
TRIALS: Final = len(RATES) * len(RANKS)
#: How far apart two values of packs of other neighbours may be, relative to the greater.
APART: Final = 1e-6
PATIENCE: Final = 300.0  #: seconds without a report after which a sweep does not go on
ENDS: Final = 60.0  #: seconds that its processes have when it is over
SWEEP: Final = """\
train_data_dir: {shared}/data/chats.jsonl
base_model: {shared}/models/llama
cache_dir: {shared}/cache
output_dir: {shared}/sweeps/{name}
max_steps: {steps}
batch_size: {batch}
precision: float64
save_steps: {save_steps}
validate_every: {every}
validation_examples: 2
lr_scheduler: constant
sample_prompts: []
sweep:
  space: {{learning_rate: {rates}, lora_rank: {ranks}}}
  searcher: grid
  scheduler: none
  max_failures: 100
  slots_per_device: {slots}
"""


@dataclasses.dataclass
class Tally:
    """What a kind of fault did: how often it was injected and hit, the worst seconds and steps that it cost."""

    injected: int = 0
    hit: int = 0
    again: int = 0
    seconds: float = 0.0
    steps: int = 0

    def add(self, one: Tally) -> None:
        """Count a fault in."""
        self.injected += one.injected
        self.hit += one.hit
        self.again += one.again
        self.seconds = max(self.seconds, one.seconds)
        self.steps = max(self.steps, one.steps)


class Sweep:
    """One sweep that is disturbed.

    Args:
        place: where it runs.
        name: of its folder.
        slots: trials a card.
        kinds: of the faults, in their order.
        draw: decides whom they hit.
    """

    def __init__(self, place: disturbed.Place, name: str, slots: int, kinds: list[str], draw: random.Random) -> None:
        self._place, self._draw, self._kinds = place, draw, kinds
        self.folder = place.shared / "sweeps" / name
        self._yaml = write_yaml(place.shared, name, slots)
        self.slots = slots
        self.tallies: list[tuple[str, Tally]] = []
        self._begun: list[float] = []  # when each fault came
        self.wrong: list[str] = []
        self.worst = 0.0
        self.exact = 0

    def run(self, references: dict[str, list[dict[str, float]]]) -> None:
        """Run it to its end, and compare."""
        command = self._place.sweep(self._yaml)
        try:
            while (code := self._watch(command)) != 0:
                if self.wrong or not self._may_run_again(code, command):
                    return
                time.sleep(2)
                command = self._place.sweep(self._yaml)
        finally:
            command.process.kill()
            command.process.wait()
        self._compare(references)
        deadline = time.monotonic() + ENDS
        while (strays := self._place.strays()) and time.monotonic() < deadline:
            time.sleep(1)
        self.wrong += [f"{self.folder.name}: left running: {words}" for words in strays]

    def _may_run_again(self, code: int | None, command: Command) -> bool:
        if self.tallies:
            self.tallies[-1][1].again += 1
        said = command.errors.read_text()[-2000:]
        if "Traceback" in said or "our mistake" in said:
            self.wrong.append(f"{self.folder.name}: {self._last()}: the command ended with {code}: {said}")
        if sum(tally.again for _, tally in self.tallies) > 3 * len(self.tallies) + 10:
            self.wrong.append(f"{self.folder.name}: run again and again, and never to its end: {code}: {said}")
        return not self.wrong

    def _watch(self, command: Command) -> int | None:
        """Inject faults while the command runs; gives its exit code."""
        quiet = time.monotonic()
        seen = len(self._reports())
        while command.process.poll() is None:
            time.sleep(0.2)
            there = self._reports()
            if len(there) > seen:
                seen, quiet = len(there), time.monotonic()
            done = len(self.tallies)
            due = (done + 1) * TRIALS * STEPS // SAVE_STEPS // (len(self._kinds) + 1)
            if done < len(self._kinds) and seen >= due:
                self._inject(self._kinds[done])
                quiet = time.monotonic()
            if time.monotonic() - quiet > PATIENCE:
                self.wrong.append(f"{self.folder.name}: {self._last()}: no report for {PATIENCE:.0f} s")
                command.process.kill()
        return command.process.wait()

    def _inject(self, kind: str) -> None:
        tally = Tally(injected=1)
        self.tallies.append((kind, tally))
        self._begun.append(time.time())
        hit = self._place.faults[kind](self._draw)
        tally.hit = bool(hit)
        print(f"  {self.folder.name}: {kind}: {hit or 'nobody'}", flush=True)

    def _reports(self) -> set[tuple[str, int]]:
        return {(event["trial"], event["step"]) for event in events(self.folder, "report")}

    def _last(self) -> str:
        return self.tallies[-1][0] if self.tallies else "undisturbed"

    def _compare(self, references: dict[str, list[dict[str, float]]]) -> None:
        found = events(self.folder)
        self._count(found)
        outcome = unsealed((self.folder / "sweep.json").read_bytes())
        if len(outcome["trials"]) != TRIALS:
            self.wrong.append(f"{self.folder.name}: {len(outcome['trials'])} trials")
        for trial in outcome["trials"]:
            name = f"{self.folder.name}/{trial['id']}"
            if trial["status"] != "finished":
                self.wrong.append(f"{name} is {trial['status']}: {trial['reason']}")
                continue
            reference = references[key_of(trial["params"])]
            values = [(entry["step"], entry["value"]) for entry in trial["history"]]
            wanted = [(entry["step"], entry["value"]) for entry in reference]
            if [step for step, _ in values] != [step for step, _ in wanted]:
                self.wrong.append(f"{name} reported at {[step for step, _ in values]}")
                continue
            apart = max(abs(a - b) / max(abs(a), abs(b)) for (_, a), (_, b) in zip(values, wanted, strict=True))
            self.exact += values == wanted
            self.worst = max(self.worst, apart)
            if apart > APART or (self.slots == 1 and apart):
                self.wrong.append(f"{name} is {apart:.1e} from the undisturbed one")

    def _count(self, found: list[Event]) -> None:
        """The longest time without a report of any trial after each fault, and how many steps it cost."""
        ends = [*self._begun[1:], max(event["time"] for event in found)]
        for (_, tally), start, end in zip(self.tallies, self._begun, ends, strict=True):
            times = [e["time"] for e in found if e["event"] == "report" and start < e["time"] <= end]
            tally.seconds = max(b - a for a, b in itertools.pairwise([start, *times, end]))
        furthest: dict[str, int] = {}
        for event in found:
            if event["event"] == "report":
                furthest[event["trial"]] = max(furthest.get(event["trial"], 0), event["step"])
            if event["event"] != "join" or event["trial"] not in furthest:
                continue
            lost = furthest[event["trial"]] - event["step"]
            before = [
                tally for (_, tally), start in zip(self.tallies, self._begun, strict=True) if start < event["time"]
            ]
            if before:
                before[-1].steps = max(before[-1].steps, lost)
            furthest[event["trial"]] = event["step"]
            if lost > SAVE_STEPS:
                self.wrong.append(f"{self.folder.name}/{event['trial']} lost {lost} steps")


def key_of(params: dict[str, Any]) -> str:
    """The name of a combination of values."""
    return f"{params['learning_rate']:g}/{params['lora_rank']}"


def write_yaml(shared: Path, name: str, slots: int) -> Path:
    """The configuration of a sweep."""
    path = shared / f"{name}.yaml"
    path.write_text(
        SWEEP.format(
            shared=shared,
            name=name,
            slots=slots,
            steps=STEPS,
            batch=BATCH,
            save_steps=SAVE_STEPS,
            every=SAVE_STEPS * BATCH,
            rates=list(RATES),
            ranks=list(RANKS),
        )
    )
    return path


def reference(shared: Path) -> dict[str, list[dict[str, float]]]:
    """What each trial reports that nothing happens to, alone in its pack; also fills the cache."""
    config = load_config(write_yaml(shared, "reference", 1))
    found = {}
    for rate in RATES:
        for rank in RANKS:
            values = {"learning_rate": rate, "lora_rank": rank}
            found[key_of(values)] = undisturbed(config.with_values(values), shared / "cache", SAVE_STEPS * BATCH)
    return found


def main() -> None:
    """Disturb, compare, and print what each fault cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{FAULTS['quick']} faults instead of {FAULTS['full']}")
    parser.add_argument("--local", action="store_true", help="raylets on the loopback device instead of machines")
    parser.add_argument("--seed", type=int, default=1, help="of which faults come, and whom they hit")
    parser.add_argument("--faults", type=int, help="so many faults")
    parser.add_argument("--only", help="this fault alone")
    parser.add_argument("--log", type=Path, help="write there what the machines said")
    arguments = parser.parse_args()
    count = arguments.faults or FAULTS["quick" if arguments.quick else "full"]
    at = disturbed.local if arguments.local else disturbed.cluster
    whole = Whole()
    with (
        tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder,
        at(Path(folder)) as place,
    ):
        if arguments.only and arguments.only not in place.faults:
            parser.error(f"no such fault: {arguments.only}; there are: {', '.join(place.faults)}")
        try:
            whole.disturb(place, count, [arguments.only] if arguments.only else list(place.faults), arguments.seed)
            whole.left = place.close()
        finally:
            if arguments.log:
                arguments.log.write_text(place.log())
    rows = [[kind, *dataclasses.astuple(tally)] for kind, tally in sorted(whole.tallies.items())]
    print(f"seed {arguments.seed}, {whole.sweeps} sweeps of {TRIALS} trials", flush=True)
    measuring.table(["fault", "injected", "hit", "run again", "worst s without a report", "steps lost"], rows)
    wrong = [*whole.wrong, *(f"left behind: {name}" for name in whole.left)]
    for words in wrong:
        print(words, flush=True)
    measuring.last_line(
        "chaos",
        faults=sum(tally.hit for tally in whole.tallies.values()),
        sweeps=whole.sweeps,
        trials=whole.sweeps * TRIALS,
        to_the_last_bit=whole.exact,
        furthest_apart=whole.worst,
        most_steps_lost=max((tally.steps for tally in whole.tallies.values()), default=0),
        left_behind=len(whole.left),
        wrong=len(whole.wrong),
        seed=arguments.seed,
    )
    sys.exit(1 if wrong else 0)


@dataclasses.dataclass
class Whole:
    """All sweeps together.

    Attributes:
        tallies: by fault.
        wrong: what did not hold.
        left: what is left when all is taken down.
        sweeps: how many there were.
        exact: trials whose values were the undisturbed ones to the last bit.
        worst: how far apart the others were at most.
    """

    tallies: dict[str, Tally] = dataclasses.field(default_factory=lambda: defaultdict(Tally))
    wrong: list[str] = dataclasses.field(default_factory=list)
    left: list[str] = dataclasses.field(default_factory=list)
    sweeps: int = 0
    exact: int = 0
    worst: float = 0.0

    def disturb(self, place: disturbed.Place, count: int, names: list[str], seed: int) -> None:
        """Run sweeps until so many faults were injected, or something is wrong."""
        draw = random.Random(seed)
        (place.shared / "data").mkdir()
        write_chats(place.shared / "data/chats.jsonl")
        tiny_llama(place.shared / "models/llama")
        references = reference(place.shared)
        order: list[str] = []
        while not self.wrong and count > 0:
            while len(order) < A_SWEEP:  # each kind once before any comes again
                order += draw.sample(names, len(names))
            kinds, order = order[: min(A_SWEEP, count)], order[min(A_SWEEP, count) :]
            count -= len(kinds)
            sweep = Sweep(place, f"run-{self.sweeps}", 1 if self.sweeps % 4 == 3 else 4, kinds, draw)
            sweep.run(references)
            for kind, tally in sweep.tallies:
                self.tallies[kind].add(tally)
            self.sweeps, self.exact = self.sweeps + 1, self.exact + sweep.exact
            self.worst, self.wrong = max(self.worst, sweep.worst), sweep.wrong
            print(f"{sweep.folder.name}: {sweep.exact} of {TRIALS} to the last bit, {sweep.worst:.1e}", flush=True)


if __name__ == "__main__":
    main()
