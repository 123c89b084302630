"""A plan resolves its family once, and opens each file of the base model once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raylora.config.dump import dump_config
from raylora.families.resolve import read_dataset, resolve
from tests.training.fixtures import config, write_images

#: Counts who opens what below a folder while `raylora plan` runs; an audit hook cannot be taken away again.
_COUNTING = """
import collections, json, os, sys
from raylora.cli import exit_code
root, seen = os.path.realpath(sys.argv[2]), collections.Counter()

def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith(root) and os.path.isfile(path):
            seen[os.path.relpath(path, root)] += 1

sys.addaudithook(note)
assert exit_code(["plan", sys.argv[1]]) == 0
print(json.dumps(seen), file=sys.stderr)
"""
#: Files that transformers 5 opens itself (AutoTokenizer the first for the class, for the template, and for the
#: settings), after raylora has seen that they are JSON at all.
_BY_TRANSFORMERS = {
    "tokenizer_config.json": 4,
    "chat_template.jinja": 2,
    "tokenizer.json": 2,
    "generation_config.json": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["diffusion", "causal_lm"])
def test_plan_opens_each_file_of_the_model_once(family: str, tmp_path: Path) -> None:
    settings = config(family).with_values({"output_dir": str(tmp_path / "out")})
    file = tmp_path / "c.yaml"
    file.write_text(dump_config(settings))
    command = [sys.executable, "-c", _COUNTING, str(file), settings.base_model]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    counts: dict[str, int] = json.loads(done.stderr.strip().splitlines()[-1])
    assert any(name.endswith(".safetensors") for name in counts)
    assert any(name.endswith("config.json") for name in counts)
    too_often = {name: count for name, count in counts.items() if count > _BY_TRANSFORMERS.get(name, 1)}
    assert too_often == {}


def test_images_to_judge_by_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    own = write_images(tmp_path / "own", 3, seed=1)
    settings = config("diffusion").with_values({"validation_path": str(own), "validation_examples": None})
    data = read_dataset(resolve(settings), settings)
    assert len(data.train) == 8 and {example.path.parent for example in data.held_out} == {own}  # type: ignore[union-attr]
