"""The two tasks that benchmarks train: the quickstart's chats and its drawing style, at batch 4."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

from raylora.config.load import load_config
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.data.examples import ChatExample, Dataset, ImageExample
from raylora.data.images.decoding import open_rgb
from raylora.families.resolve import read_dataset, resolve

Family = Literal["llm", "images"]
FAMILIES: tuple[Family, ...] = ("llm", "images")
ROOT = Path(__file__).resolve().parents[2]

_FILES = {"llm": "configs/quickstart/chat.yaml", "images": "configs/quickstart/style.yaml"}
RANKS = (4, 8, 16, 32)
LEARNING_RATES = {"llm": (1e-4, 3e-4, 1e-3, 3e-3), "images": (3e-4, 1e-3, 3e-3, 1e-2)}


def config(family: Family, folder: Path, smoke: bool = False, **values: Any) -> TrainConfig:
    """The task's configuration: outputs and a fresh cache below `folder`, batch 4, and `values` on top.

    With `smoke` the same over a tiny random model and a handful of examples: it measures nothing, and shows in
    seconds that a benchmark runs.
    """
    own = {"output_dir": str(folder / "output"), "cache_dir": str(folder / "cache"), "batch_size": 4, "sweep": None}
    if smoke:
        sys.path.insert(0, str(ROOT))
        from tests.training import fixtures

        base = fixtures.config("causal_lm" if family == "llm" else "diffusion")
        own |= {"sample_prompts": []}
    else:
        base = load_config(ROOT / _FILES[family])
    return base.with_values({**own, **values})


def grid(ranks: tuple[int, ...], learning_rates: tuple[float, ...]) -> SweepConfig:
    """Every rank with every learning rate, each trial to its end."""
    space = {"lora_rank": {"grid": list(ranks)}, "learning_rate": {"grid": list(learning_rates)}}
    return SweepConfig.model_validate({"space": space, "searcher": "grid", "scheduler": "none"})


def grid_points(sweep: SweepConfig) -> list[dict[str, Any]]:
    """The trials of a grid, as values to set."""
    points: list[dict[str, Any]] = [{}]
    for key, domain in sweep.space.items():
        points = [{**point, key: value} for point in points for value in domain.values]
    return points


def write_for_peer(dataset: Dataset, folder: Path) -> dict[str, str]:
    """Write the examples of raylora's split as a peer's user would have them; gives the paths by role.

    Chats become two JSONL files with `messages`; pictures RGB files in a folder with diffusers' own `metadata.jsonl`.
    """
    folder.mkdir(parents=True)
    paths = {"train": folder / "train", "held_out": folder / "held_out"}
    for role, examples in (("train", dataset.train), ("held_out", dataset.held_out)):
        if isinstance(examples[0], ChatExample):
            lines: list[dict[str, Any]] = [
                {"messages": [{"role": r, "content": c} for r, c in e.messages]}
                for e in examples
                if isinstance(e, ChatExample)
            ]
            paths[role] = paths[role].with_suffix(".jsonl")
            target = paths[role]
        else:
            paths[role].mkdir()
            target = paths[role] / "metadata.jsonl"
            lines = []
            for number, example in enumerate(examples):
                assert isinstance(example, ImageExample)
                open_rgb(example.path).save(paths[role] / f"{number:04}.png")
                lines.append({"file_name": f"{number:04}.png", "text": example.caption})
        target.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return {role: str(path) for role, path in paths.items()}


def dataset(settings: TrainConfig) -> Dataset:
    """The examples of a task, split."""
    return read_dataset(resolve(settings), settings)
