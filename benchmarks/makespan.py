"""Claim: a sweep takes raylora a fraction of the time that Ray Tune with the usual training scripts takes.

16 trials (4 ranks x 4 learning rates), 100 optimizer steps each at batch 4 on the quickstart's data, nothing stopped
early, start-up included: once with `raylora sweep`, and once with Ray Tune over PEFT and transformers' Trainer (llm) or
over the loop of diffusers' train_text_to_image_lora.py (images), on the same device and the same split. A short probe
finds the peer's fastest precision and number of trials at once. The ratio is the peer's seconds / raylora's, and
counts only where the final objectives agree. What raylora does beyond the trials (samples, report) is told apart.

    python benchmarks/makespan.py [--quick] [--family llm|images|both] [--probe-only] [--precision ...]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import measuring, tasks
from common.work import Work, row
from safetensors.torch import load_file

from raylora.config.dump import dump_config
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.data.order import DataOrder
from raylora.families.base import BaseModel
from raylora.families.objectives import TIMESTEPS
from raylora.families.resolve import resolve
from raylora.training.base_losses import prepare
from raylora.training.pack import Pack
from raylora.tuning.devices.trainer_pool import ON_CPU
from raylora.tuning.results import store
from raylora.tuning.run_folder import RunFolder

PRECISIONS = {"llm": ("float32", "bfloat16", "mixed"), "images": ("float32", "mixed")}
HERE = Path(__file__).resolve().parent


@dataclasses.dataclass
class Run:
    """One sweep: seconds from the start of its process until all trials are trained, saved and judged.

    Attributes:
        seconds: that time; for raylora the export of the best adapter is in it, for the peer the end of its process.
        before: seconds of it before the first trial's first step.
        training: seconds of it in which trials were at their steps (raylora's validations, at their end, are in it).
        after: seconds that followed: raylora's samples and report.
        trials: for each trial its params, and for raylora its value; for the peer where its adapter lies.
    """

    seconds: float
    before: float
    training: float
    after: float
    trials: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Variant:
    """How the peer runs: its precision, trials at once, and threads of each."""

    precision: str
    at_once: int
    threads: int


@dataclasses.dataclass(frozen=True)
class Probed:
    """Seconds of one variant: of a trial's load, of a step, and what of a step the encoders take."""

    variant: Variant
    load: float
    step: float
    encode: float


class Comparison:
    """One family's two contestants on one task."""

    def __init__(self, family: tasks.Family, folder: Path, arguments: argparse.Namespace) -> None:
        self.family = family
        self.folder = folder
        self.steps = 2 if arguments.smoke else 25 if arguments.quick else 100
        rates = tasks.LEARNING_RATES[family]
        few = arguments.quick or arguments.smoke
        ranks: tuple[int, ...] = (4,) if arguments.smoke else (4, 16) if few else tasks.RANKS
        self.sweep: SweepConfig = tasks.grid(ranks, rates[1:3] if few else rates)
        slots = arguments.slots or (1 if arguments.smoke else None)
        if slots:
            self.sweep = self.sweep.model_copy(update={"slots_per_device": slots})
        values = {"max_steps": self.steps, "validate_every": self.steps * 4, "precision": arguments.precision}
        self.config: TrainConfig = tasks.config(family, folder, arguments.smoke, **values)
        self.dataset = tasks.dataset(self.config)
        self.paths = tasks.write_for_peer(self.dataset, folder / "peer-data")
        self._runs = 0
        self._pack_size, self._trainers = 1, 1  # trials that raylora had in a pack at most, and packs

    def raylora(self) -> Run:
        """`raylora sweep` in a fresh process with a fresh cache."""
        self._runs += 1
        place = self.folder / f"raylora-{self._runs}"
        place.mkdir()
        values = {"output_dir": str(place / "output"), "cache_dir": str(place / "cache")}
        config = self.config.with_values({**values, "sweep": self.sweep})
        file = place / "sweep.yaml"
        file.write_text(dump_config(config), encoding="utf-8")
        started = time.time()
        _call([sys.executable, "-m", "raylora", "sweep", str(file), "--json", "--no-dashboard"], place / "log")
        ended = time.time()
        folder = RunFolder(place / "output")
        outcome = store.load(folder)
        done = folder.best_config.stat().st_mtime  # written when trials are ranked and the best is exported
        lines = [json.loads(line) for line in folder.events.read_text().splitlines()]
        self._pack_size = max(event["pack"] or 1 for event in lines)
        self._trainers = len({event["trainer"] for event in lines if event["event"] == "report"})
        joined = min(event["time"] for event in lines if event["event"] == "join")
        left = max(event["time"] for event in lines if event["event"] == "report")
        trials = [
            {"params": dict(trial.params), "losses": trial.best.losses, "value": trial.best.value}
            for trial in outcome.trials
            if trial.best is not None
        ]
        return Run(done - started, joined - started, left - joined, ended - done, trials)

    def peer(self, variant: Variant) -> Run:
        """The peer's sweep in a fresh process."""
        self._runs += 1
        place = self.folder / f"peer-{self._runs}"
        place.mkdir()
        started = time.time()
        trials = self._peer_process(place, dataclasses.asdict(variant))
        seconds = time.time() - started
        training = sum(trial["marks"]["trained"] - trial["marks"]["loaded"] for trial in trials) / variant.at_once
        return Run(seconds, min(trial["marks"]["loaded"] for trial in trials) - started, training, 0.0, trials)

    def probe(self, variants: list[Variant], steps: int) -> list[Probed]:
        """For each variant the seconds of a trial's start (imports apart) and of a step, all measured in turn.

        As many processes run as the variant has trials at once.
        """
        found = []
        for at_once, threads in dict.fromkeys((v.at_once, v.threads) for v in variants):
            precisions = [v.precision for v in variants if v.at_once == at_once]
            self._runs += 1
            processes = []
            for number in range(at_once):
                place = self.folder / f"probe-{self._runs}-{number}"
                place.mkdir()
                own = {"precisions": precisions, "threads": threads, "steps": steps}
                processes.append((place, self._peer_start(place, own, "--probe")))
            results = [self._peer_end(place, process) for place, process in processes]
            for precision in precisions:
                load = statistics.mean(result[precision]["load"] for result in results)
                step, encode = (
                    statistics.mean(statistics.median(result[precision][key][1:]) for result in results)
                    for key in ("steps", "encode")
                )
                found.append(Probed(Variant(precision, at_once, threads), load, step, encode))
        return found

    def _peer_settings(self, place: Path, own: dict[str, Any]) -> dict[str, Any]:
        config = self.config
        grid = {key: list(domain.values) for key, domain in self.sweep.space.items()}
        settings = {
            **self.paths,
            "model": config.base_model,
            "output": str(place / "output"),
            "results": str(place / "results.json"),
            "grid": grid,
            "steps": self.steps,
            "batch_size": config.batch_size,
            "lora_alpha": config.alpha,
            "lr_scheduler": config.lr_scheduler,
            "warmup_steps": config.warmup(self.steps),
            "weight_decay": config.weight_decay,
            "max_grad_norm": config.max_grad_norm,
            "max_length": config.max_length,
            "seed": config.seed,
        }
        if self.family == "images":
            base: Any = self.base()
            settings |= {
                "targets": base.targets(config.lora_targets),
                "resolution": base.resolution,
                "snr_gamma": config.min_snr_gamma,
                "held_out_timesteps": TIMESTEPS,
            }
        return settings | own

    def _peer_start(self, place: Path, own: dict[str, Any], *flags: str) -> subprocess.Popen[bytes]:
        file = place / "settings.json"
        file.write_text(json.dumps(self._peer_settings(place, own)), encoding="utf-8")
        command = [sys.executable, str(HERE / "peers" / f"{self.family}.py"), str(file), *flags]
        with (place / "log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=_environment())

    def _peer_end(self, place: Path, process: subprocess.Popen[bytes]) -> Any:
        if process.wait() != 0:
            raise SystemExit(f"the peer failed:\n{(place / 'log').read_text()[-3000:]}")
        return json.loads((place / "results.json").read_text())

    def _peer_process(self, place: Path, own: dict[str, Any]) -> Any:
        return self._peer_end(place, self._peer_start(place, own))

    def base(self, dtype: torch.dtype | None = None) -> BaseModel:
        """See `load_base`."""
        return load_base(self.config, dtype)

    def judge(self, trials: list[dict[str, Any]]) -> None:
        """Give each of the peer's trials raylora's own objective, from the adapter it saved."""
        base = self.base()
        pack = Pack(base, prepare(base, self.dataset, self.folder / "cache"))
        for number, trial in enumerate(trials):
            member = pack.join(f"peer{number}", self.config.with_values(trial["params"]))
            member.adapter.load(_saved_adapter(Path(trial["adapter"])))
            trial["losses"], counts = pack.held_out_losses(member)
            trial["value"] = base.objective(trial["losses"], counts, pack.data.base_losses)
            pack.leave(f"peer{number}")
        self._counts, self._base_losses, self._objective = counts, pack.data.base_losses, base.objective

    def agreement(self, own: list[dict[str, Any]], peers: list[dict[str, Any]]) -> list[list[float]]:
        """For each trial rank, learning rate, raylora's value, its standard error, the peer's value, and the gap."""
        by_params = {json.dumps(trial["params"], sort_keys=True): trial for trial in peers}
        lines = []
        for trial in sorted(own, key=lambda trial: (trial["params"]["lora_rank"], trial["params"]["learning_rate"])):
            peer = by_params[json.dumps(trial["params"], sort_keys=True)]
            error = self._error(trial["losses"])
            gap = peer["value"] - trial["value"]
            rank, rate = trial["params"]["lora_rank"], trial["params"]["learning_rate"]
            lines.append([rank, rate, trial["value"], error, peer["value"], gap])
        return lines

    def _error(self, losses: Any) -> float:
        """Standard error of a value: a bootstrap over held-out examples."""
        random = np.random.default_rng(0)
        draws = random.integers(0, len(losses), (1000, len(losses)))
        values = [self._objective(losses[d], self._counts[d], self._base_losses[d]) for d in draws]
        return float(np.std(values))

    def roofline(self) -> tuple[float, float, float, float]:
        """FLOPs that the training needs, what the peer does with padding, and with logits for every token on top.

        The last is the least seconds: the first by the GEMM peak of the faster precision.
        """
        base = self.base()
        encoded = prepare(base, self.dataset, self.folder / "cache").train
        work = Work(self.config, base.targets(self.config.lora_targets), base)
        batches = [
            [row(base, encoded[index]) for index in DataOrder(self.config.seed, len(encoded), 4).batch(step)]
            for step in range(self.steps)
        ]
        longest = [max(entry.tokens for entry in batch) for batch in batches]
        rows = [entry for batch in batches for entry in batch]
        whole = [dataclasses.replace(entry, with_loss=entry.tokens) for entry in rows]
        padded = [
            dataclasses.replace(entry, tokens=most, with_loss=most)
            for batch, most in zip(batches, longest, strict=True)
            for entry in batch
        ]
        ranks = [point["lora_rank"] for point in tasks.grid_points(self.sweep)]
        flops, with_logits, with_padding = (sum(work.flops(r, rank) for rank in ranks) for r in (rows, whole, padded))
        rates = []
        for dtype in (torch.float32, torch.bfloat16):
            peak = measuring.GemmPeak(work.gemms(rows[:32]), dtype)
            peak.measure(5)
            rates.append(peak.rate)
        print(
            f"useful work {flops / 1e12:.2f} TFLOP; GEMM peak at its shapes {rates[0] / 1e9:.0f} GFLOP/s in float32, "
            f"{rates[1] / 1e9:.0f} in bfloat16\n"
        )
        return flops, with_logits, with_padding, flops / max(rates)

    def trial_steps(self, rounds: int) -> dict[str, float]:
        """Seconds of a trial's step in the sweep's trainers: with one trial each, as swept, and all in one trainer."""
        points = tasks.grid_points(self.sweep)
        count = self._trainers * self._pack_size
        chosen = [points[i * len(points) // count] for i in range(count)]  # of every rank
        packs = [chosen[first :: self._trainers] for first in range(self._trainers)]
        alone = [self._seconds([[pack[i]] for pack in packs], None, rounds) for i in range(self._pack_size)]
        # What would be the same measurement is made once.
        swept = self._seconds(packs, None, rounds) if self._pack_size > 1 else alone[0]
        return {
            "not packed": statistics.mean(alone) / self._trainers,
            "swept": swept / count,
            "swept in float32": self._seconds(packs, torch.float32, rounds) / count,
            "in one trainer": (self._seconds([chosen], None, rounds) if self._trainers > 1 else swept) / count,
        }

    def _seconds(self, packs: list[list[dict[str, Any]]], dtype: torch.dtype | None, rounds: int) -> float:
        """Mean over packs, each in a process of its own and all at the same time, of the median seconds of a step."""
        spawn = multiprocessing.get_context("spawn")
        barrier, found = spawn.Barrier(len(packs)), spawn.SimpleQueue()
        threads = max(1, torch.get_num_threads() // len(packs))
        arguments = (self.family, self.config, dtype, self.folder / "cache", threads, rounds, barrier, found)
        with _trainers_environment():
            processes = [
                spawn.Process(target=_time_pack, args=(number, pack, *arguments)) for number, pack in enumerate(packs)
            ]
            for process in processes:
                process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit("a process whose steps were to be timed failed")
        return statistics.mean(found.get() for _ in processes)


@contextlib.contextmanager
def _trainers_environment() -> Iterator[None]:
    """What raylora sets for its trainers on this device, for processes that start within."""
    before = dict(os.environ)
    if not torch.cuda.is_available():
        os.environ.update(ON_CPU)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _time_pack(
    number: int,
    points: list[dict[str, Any]],
    family: tasks.Family,
    config: TrainConfig,
    dtype: torch.dtype | None,
    cache: Path,
    threads: int,
    rounds: int,
    barrier: Any,
    found: Any,
) -> None:
    torch.set_num_threads(threads)
    if torch.cuda.is_available() and barrier.parties > 1:
        torch.cuda.set_device(number)
    base = load_base(config, dtype)
    pack = Pack(base, prepare(base, tasks.dataset(config), cache))
    for number, point in enumerate(points):
        pack.join(f"trial{number}", config.with_values({**point, "max_steps": 10_000}))
    pack.step()
    barrier.wait(timeout=600)
    found.put(statistics.median(measuring.seconds(pack.step) for _ in range(rounds)))


def load_base(config: TrainConfig, dtype: torch.dtype | None = None) -> BaseModel:
    """The base model as raylora runs it, or in another precision."""
    device = measuring.device()
    found = resolve(config)
    return found.load(config, device, dtype or found.dtype(config, device))


def _saved_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter that a peer saved, under raylora's names."""
    (file,) = folder.glob("*.safetensors")
    renamed = {}
    for name, tensor in load_file(file).items():
        plain = name.removeprefix("base_model.model.").removeprefix("unet.")
        renamed[plain.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B.")] = tensor.float()
    return renamed


def _environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "RAY_USAGE_STATS_ENABLED": "0"}


def _call(command: list[str], log: Path) -> None:
    with log.open("wb") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=_environment(), cwd=tasks.ROOT)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")


def variants(family: tasks.Family, smoke: bool) -> list[Variant]:
    """What is probed: on a CPU one trial with all cores or one a core; on a GPU one, two or four trials on it."""
    if torch.cuda.is_available():
        layouts = [(1, 1), (2, 1), (4, 1)]
    else:
        cores = len(os.sched_getaffinity(0))
        layouts = sorted({(1, cores), (cores, 1)})
    precisions = PRECISIONS[family][:1] if smoke else PRECISIONS[family]
    return [Variant(precision, *layout) for layout in layouts[: 1 if smoke else None] for precision in precisions]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 trials of 25 steps: within five minutes on two cores")
    parser.add_argument("--family", choices=[*tasks.FAMILIES, "both"], default="both")
    parser.add_argument("--probe-only", action="store_true", help="only find the peer's fastest variant")
    parser.add_argument("--precision", default="auto", help="raylora's precision: auto, float32 or bfloat16")
    parser.add_argument("--slots", type=int, help="raylora's slots_per_device; without it its default")
    parser.add_argument(
        "--once", action="store_true", help="run raylora before the peer and not after it again, as --quick does"
    )
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for family in tasks.FAMILIES:
        if arguments.family in (family, "both"):
            with tempfile.TemporaryDirectory(prefix="raylora-makespan-") as folder:
                results[family] = compare(family, Path(folder), arguments)
    ratios = {f"ratio_{family}": result["ratio"] for family, result in results.items()}
    measuring.last_line("makespan", ratio=next(iter(ratios.values())), **ratios, families=results)


def compare(family: tasks.Family, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Probe the peer, run both, and print what came out."""
    both = Comparison(family, folder, arguments)
    points = tasks.grid_points(both.sweep)
    examples = f"{len(both.dataset.train)} examples, {len(both.dataset.held_out)} held out"
    print(f"== {family}: {len(points)} trials of {both.steps} steps, batch {both.config.batch_size}, {examples}\n")
    probed = both.probe(variants(family, arguments.smoke), 2 if arguments.smoke else 4 if arguments.quick else 12)

    def expected(found: Probed) -> float:
        return -(-len(points) // found.variant.at_once) * (found.load + both.steps * found.step)

    print("the peer's variants, by a probe:")
    measuring.table(
        ["precision", "at once", "threads", "load s", "step s", "of it encoding", "expected s"],
        [
            [p.variant.precision, p.variant.at_once, p.variant.threads, p.load, p.step, p.encode, expected(p)]
            for p in probed
        ],
    )
    best = min(probed, key=expected)
    exact = min((p for p in probed if p.variant.precision == "float32"), key=expected)
    result: dict[str, Any] = {"peer": dataclasses.asdict(best.variant), "peer_step": best.step, "ratio": None}
    if arguments.probe_only:
        return result
    # raylora before and after the longer run: a machine that changes its speed meanwhile shows
    own = [both.raylora()]
    peer = both.peer(best.variant)
    if not (arguments.smoke or arguments.quick or arguments.once):
        own.append(both.raylora())
    seconds, before, training, after = (
        statistics.mean(getattr(run, key) for run in own) for key in ("seconds", "before", "training", "after")
    )
    both.judge(peer.trials)
    lines = both.agreement(own[-1].trials, peer.trials)
    measuring.table(["rank", "learning rate", "raylora", "std. error", "peer", "gap"], lines)
    agree = len(lines) == len(points) and all(abs(gap) <= error for *_, error, _, gap in lines)
    print(f"final objectives agree within a standard error: {'yes' if agree else 'NO, so the ratio does not count'}\n")
    flops, with_logits, with_padding, least = both.roofline()
    step = both.trial_steps(1 if arguments.smoke else 2 if arguments.quick else 10)
    words = f"{best.variant.precision}, {best.variant.at_once} at once"
    measuring.table(
        ["", "seconds", "before the first step", "at the steps", "samples and report after it"],
        [
            *([f"raylora, run {i + 1}", r.seconds, r.before, r.training, r.after] for i, r in enumerate(own)),
            [f"peer ({words})", peer.seconds, peer.before, peer.training, None],
            ["least, by FLOPs and GEMM peak", least, None, least, None],
        ],
    )
    start = (peer.seconds - peer.training) - (seconds - training)
    parts = {
        "start-up, imports, model loads, evaluation, saving": (start, "clocks of both runs"),
        "padding": (peer.training * (1 - with_logits / with_padding), "counted FLOPs"),
        "logits without loss": (peer.training * (with_logits - flops) / with_padding, "counted FLOPs"),
        "encoding at every step": (
            best.encode * both.steps * len(points) / best.variant.at_once,
            "the probe's clock around the encoders",
        ),
        "packing": (
            training * (step["not packed"] / step["swept"] - 1),
            "steps of the sweep's trainers with one trial each and with their packs",
        ),
    }
    rest = peer.seconds - seconds - sum(part for part, _ in parts.values())
    parts["the rest: layers, optimizer, validation between the steps"] = rest, "what remains"
    print("where the difference comes from:")
    measuring.table(
        ["cause", "seconds", "of the difference %", "how it is known"], _shares(parts, peer.seconds - seconds)
    )
    print(
        f"precision: in float32 the peer's steps take {exact.step / exact.variant.at_once:.3f} s a trial-step in place "
        f"of {best.step / best.variant.at_once:.3f}, raylora's {step['swept in float32']:.3f} in place of "
        f"{step['swept']:.3f}; in one trainer with all cores it takes {step['in one trainer']:.3f}\n"
    )
    print(f"{family}: {peer.seconds:.0f} s / {seconds:.0f} s = {peer.seconds / seconds:.2f}x")
    print(f"{family}: at the steps alone {peer.training:.0f} s / {training:.0f} s = {peer.training / training:.2f}x\n")
    return result | {
        "ratio": peer.seconds / seconds,
        "agree": agree,
        "largest_gap_in_errors": max(abs(gap) / error for *_, error, _, gap in lines),
        "seconds": seconds,
        "seconds_with_report": seconds + after,
        "seconds_before_first_step": before,
        "peer_seconds": peer.seconds,
        "ratio_at_the_steps": peer.training / training,
        "least_seconds": least,
        "causes": {cause: part for cause, (part, _) in parts.items()},
        "trial_step_float32": {"raylora": step["swept in float32"], "peer": exact.step / exact.variant.at_once},
        "trial_step": {"raylora": step, "peer": best.step / best.variant.at_once},
    }


def _shares(parts: dict[str, tuple[float, str]], whole: float) -> list[list[object]]:
    return [[cause, part, 100 * part / whole, how] for cause, (part, how) in parts.items()]


if __name__ == "__main__":
    main()
