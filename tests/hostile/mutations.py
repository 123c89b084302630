"""Inputs with something wrong in them: the same seed and number give the same input, and the commands to read it with.

Each kind takes whole things (`tests/hostile/whole.py`), by links, and puts a spoiled copy in the place of one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raylora.config.schema import SweepConfig, TrainConfig
from raylora.sealed_json import sealed, unsealed

Command = list[str]


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


JUNK = (b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"\r", b"{", b"[" * 3000, b"\x80", b"9" * 5000)
VALUES = (
    *words("0 -1 8 1e400 -inf .nan fast null true [] {} [1,2] 2e-4 '' ~ . / .. sd llm img chats.jsonl one.safetensors"),
    *words("img/metadata.csv /dev/null /proc/self/mem 1_000 0x10 99999999999999999999 !!python/name:os.system &a *a"),
    *words('{choice:[1]} "\\uD800" "\\0" ~nobody/x rank all 1e-400 0.1 3 64 128 on cosine bfloat16 float16 auto'),
)
KEYS = (
    *TrainConfig.model_fields,
    *(f"sweep.{name}" for name in SweepConfig.model_fields),
    *(f"sweep.space.{name}" for name in TrainConfig.model_fields),
    *("folders.x.path", "folders.x.metadata_path", "folders.x.repeats", "folders.x.trigger"),
)
DOMAINS = (
    *words("[1,2] {int:[1,4]} {uniform:[0,1]} {loguniform:[1e-5,1e-2]} {loguniform:[0,1]} {choice:[]}"),
    *words("{grid:[1,2,null]} [null,2] {int:[4,1]} {logint:[1,64]} 3 {foo:[1]} {int:[1]} [a,b]"),
)
#: Values that a key takes, or just does not.
PLAUSIBLE = {
    "lora_rank": words("1 3 8 64 1024 1025"),
    "lora_alpha": words("0.5 1 64 1e-30 1e30"),
    "batch_size": words("1 2 3 5 1000"),
    "learning_rate": words("1e-30 1e-6 1 100 1e30"),
    "epochs": words("1 1000000"),
    "max_steps": words("1 3 1000000000"),
    "seed": words("0 2147483648 18446744073709551615 18446744073709551616"),
    "precision": words("float32 bfloat16 float64 auto"),
    "lr_scheduler": words("constant cosine linear"),
    "weight_decay": words("0 0.5 1 1e30"),
    "validation_examples": words("0 1 2 3 4 7"),
    "validate_every": words("1 3 1000000"),
    "save_steps": words("1 2 1000000"),
    "max_grad_norm": words("0 1e-30 1 1e30"),
    "lora_targets": words("all attention linear [to_q] [q_proj] [x]"),
    "resolution": words("8 16 24 64 1024 100000"),
    "max_length": words("1 2 8 4096 1000000"),
    "device": words("cpu gpu auto"),
    "memory_limit_gib": words("0.001 0.1 1 1000000"),
}
CAPTIONS = ("", "a, b", 'quo"te', "'", "\t", "x;y|z", "é", "\u202e", "=1+1", "a cat")
NAMES = (
    *("0.png", "1.png", "../0.png", "/etc/passwd", "9.png", "", "0.PNG", "a\\0.png", "metadata.csv", "\0", "x" * 300),
)
HEADERS = (
    *("filename,prompt", "file_name;text", "image\tcaption", "a,b", "", "prompt", "filename,prompt,x", '"filename'),
    "x" * 140_000,
)
ROLES = ("user", "assistant", "system", "gpt", "human", "tool", "", "asistant")
WORDS = words("messages conversations role from content value prompt completion instruction output shape format step")
#: Characters of texts, from and to.
PLANES = ((32, 127), (0, 32), (128, 0x250), (0x2000, 0x2070), (0x4E00, 0x4F00), (0x1F300, 0x1F400), (0xFFF0, 0xFFFF))
#: What a number may be in a head or a record that claims the absurd.
NUMBERS = (0, -1, 1, 2, 3, 2**31, 2**40, 2**63, 10**30, 0.5, 1e308, float("inf"), float("nan"))


class Draw(random.Random):
    """A generator of what is wrong, for one input of a seed."""

    def __init__(self, seed: int, number: int) -> None:
        super().__init__(f"{seed}/{number}")

    def one(self, values: Sequence[Any]) -> Any:
        """One of some values."""
        return self.choice(values)

    def happens(self, chance: float = 0.5) -> bool:
        """Whether something that has a chance comes about."""
        return self.random() < chance

    def some_text(self, most: int = 12) -> str:
        """A text of any characters but halves of pairs."""
        planes = (
            (32, 127),
            (0, 32),
            (128, 0x250),
            (0x2000, 0x2070),
            (0x4E00, 0x4F00),
            (0x1F300, 0x1F400),
            (0xFFF0, 0xFFFF),
        )
        return "".join(chr(self.randrange(*self.one(planes))) for _ in range(self.randint(0, most)))

    def some_json(self, depth: int = 3) -> Any:
        """A value of any kind."""
        kind = self.randrange(7 if depth else 5)
        if kind == 5:
            return [self.some_json(depth - 1) for _ in range(self.randint(0, 3))]
        if kind == 6:
            return {self.one(WORDS): self.some_json(depth - 1) for _ in range(self.randint(0, 3))}
        return (None, self.happens(), self.one(NUMBERS), self.some_text(6), self.randint(-(10**6), 10**6))[kind]

    def spoiled(self, data: bytes, least: int = 0) -> bytes:
        """Bytes with some cut off, replaced or put in."""
        for _ in range(self.randint(least, 2)):
            start = self.randint(0, len(data))
            end = min(len(data), start + self.one((0, 1, 7, 10**9)))
            data = data[:start] + self.one(JUNK) + data[end:]
        return data


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A spoiled input.

    Attributes:
        kind: of what.
        commands: what is run on it, one after the other.
    """

    kind: str
    commands: list[Command]


def mutant(draw: Draw, store: Path, home: Path) -> Mutant:
    """Fill an empty folder with everything of `store`, something of it spoiled.

    Args:
        draw: decides.
        store: see `tests.hostile.whole.make`.
        home: the folder, in which the commands are to be run.
    """
    for path in store.iterdir():
        if path.name not in ("done", "begun"):
            (home / path.name).symlink_to(path)
    kind = draw.one(list(KINDS))
    return Mutant(kind, KINDS[kind](draw, store, home))


# --- configurations


def config_lines(family: str, base_model: str) -> dict[str, str]:
    """A configuration with nothing wrong in it, of a run of two steps."""
    return {
        "train_data_dir": "img" if family == "sd" else "chats.jsonl",
        "base_model": base_model,
        "output_dir": "out",
        "lora_rank": "2",
        "learning_rate": "2e-4",
        "max_steps": "2",
        "validation_examples": "2",
        "sample_prompts": "[]",
    }


def _write_config(home: Path, lines: dict[str, str], spoil: Callable[[bytes], bytes] = lambda data: data) -> None:
    text = "\n".join(f"{key}: {value}" for key, value in lines.items())
    (home / "config.yaml").write_bytes(spoil(text.encode("utf-8", "surrogatepass")))


def _both(draw: Draw, overrides: Sequence[str] = ()) -> list[Command]:
    """A plan, and what it is the plan of."""
    if draw.happens(0.3):
        return [["plan", "config.yaml", "--", *overrides], ["sweep", "config.yaml", "--no-dashboard", "--", *overrides]]
    plan = ["plan", "config.yaml", "--train", "--", *overrides]
    return [plan, ["train", "config.yaml", "--no-dashboard", "--", *overrides]]


def _key(draw: Draw) -> str:
    return str(draw.one(KEYS)) if draw.happens(0.9) else draw.some_text(8)


def _value(draw: Draw) -> str:
    return str(draw.one(VALUES)) if draw.happens(0.8) else draw.some_text()


def configuration(draw: Draw, store: Path, home: Path) -> list[Command]:
    """Lines that are odd, wrong or missing, a few bytes, and overrides."""
    family = draw.one(("sd", "llm"))
    lines = config_lines(family, draw.one((family, family, family, "one.safetensors", "text.txt")))
    for _ in range(draw.randint(0, 3)):
        key = draw.one(sorted(PLAUSIBLE))
        lines[key] = draw.one(PLAUSIBLE[key])
    for _ in range(draw.one((0, 0, 1, 2))):
        lines[_key(draw)] = _value(draw)
    if draw.happens(0.2):
        keys = draw.sample(["lora_rank", "epochs", "max_steps", "batch_size", "seed", "output_dir"], draw.randint(1, 2))
        lines["sweep"] = f"{{trials: 3, space: {{{', '.join(f'{key}: {draw.one(DOMAINS)}' for key in keys)}}}}}"
    if draw.happens(0.3):
        lines.pop(draw.one(sorted(lines)))
    _write_config(home, lines, draw.spoiled if draw.happens(0.3) else lambda data: data)
    overrides = [
        f"{_key(draw)}={draw.one((_value(draw), draw.one(DOMAINS)))}" for _ in range(draw.choice((0, 0, 1, 2)))
    ]
    return _both(draw, [*overrides, *([draw.some_text(6)] if draw.happens(0.1) else [])])


def cluster(draw: Draw, store: Path, home: Path) -> list[Command]:
    """A cluster's YAML file; nothing listens where its vCenter is."""
    values = json.loads((store / "cluster.yaml").read_text())
    for _ in range(draw.randint(1, 2)):
        _alter(draw, values)
    text = json.dumps(values, indent=1).encode()
    (home / "cluster.yaml").unlink()
    (home / "cluster.yaml").write_bytes(draw.spoiled(text) if draw.happens(0.3) else text)
    return [["cluster", draw.one(("plan", "status")), "cluster.yaml"]]


# --- data


def images(draw: Draw, store: Path, home: Path) -> list[Command]:
    """A folder of pictures with a metadata.csv, in which a few things are wrong."""
    folder = _own(home / "img")
    for _ in range(draw.randint(0, 3)):
        image = draw.one(sorted(folder.glob("*.png"))) if any(folder.glob("*.png")) else folder / "0.png"
        _spoil_image(draw, folder, image)
    _write_config(home, config_lines("sd", "sd"))
    return _both(draw)


def _spoil_image(draw: Draw, folder: Path, image: Path) -> None:
    what = draw.one(("spoil", "remove", "folder", "caption", "link", "circle", "pipe", "rename", "text", "rows"))
    if image.is_symlink() or image.is_file() or not image.exists():
        if what in ("remove", "folder", "link", "pipe"):
            image.unlink(missing_ok=True)
        if what == "spoil" and image.is_file():
            image.write_bytes(draw.spoiled(image.read_bytes()))
        elif what == "folder":
            image.mkdir()
        elif what == "link":
            image.symlink_to(draw.one(("nowhere.png", "/dev/zero", "/etc/hostname", image.name)))
        elif what == "pipe":
            os.mkfifo(image)
        elif what == "rename" and image.exists():
            image.rename(folder / os.fsdecode(draw.one((b"\xff.png", b"a b.png", b"\n.png", b".png", b"x.JPG"))))
    if what == "circle" and not os.path.lexists(folder / "deep"):
        (folder / "deep").symlink_to("..")
    elif what == "caption":
        text = draw.one(CAPTIONS) if draw.happens() else draw.some_text(9)
        (folder / image.with_suffix(".txt").name).write_bytes(draw.spoiled(text.encode()))
    elif what == "text":
        metadata = folder / "metadata.csv"
        metadata.write_bytes(draw.spoiled(metadata.read_bytes() if metadata.is_file() else b""))
    elif what == "rows":
        rows = [f"{draw.one(NAMES)},{draw.one(CAPTIONS)}" for _ in range(draw.randint(0, 4))]
        name = draw.one(("metadata.csv", "metadata.csv", "metadata.jsonl", "metadata.tsv"))
        (folder / name).write_text("\n".join([draw.one(HEADERS), *rows]))


def chats(draw: Draw, store: Path, home: Path) -> list[Command]:
    """A file of chats in which a few lines or bytes are wrong."""
    path = _own(home / "chats.jsonl")
    lines = path.read_bytes().splitlines()
    for _ in range(draw.randint(0, 2)):
        place = draw.randrange(len(lines))
        if draw.happens():
            lines[place] = draw.spoiled(lines[place])
            continue
        said = [{"role": draw.one(ROLES), "content": draw.one(CAPTIONS)} for _ in range(draw.randint(0, 4))]
        pair = {"prompt": draw.one(CAPTIONS), "output": draw.one(CAPTIONS)}
        lines[place] = json.dumps(draw.one(({"messages": said}, pair, draw.some_json()))).encode()
    text = b"\n".join(lines)
    path.write_bytes(draw.spoiled(text) if draw.happens() else text)
    _write_config(home, config_lines("llm", "llm"))
    return _both(draw)


# --- base models and adapters


def model(draw: Draw, store: Path, home: Path) -> list[Command]:
    """A base model of which one file is spoiled, gone, or says something else."""
    family = draw.one(("sd", "llm"))
    shutil.copytree(store / family, home / "spoiled", copy_function=os.link)
    file = draw.one(sorted(path for path in (home / "spoiled").rglob("*") if path.is_file()))
    spoil_file(draw, file)
    _write_config(home, config_lines(family, "spoiled"))
    return _both(draw)


def header(draw: Draw, store: Path, home: Path) -> list[Command]:
    """A weight file whose head claims what is not so."""
    name, family = draw.one((("one.safetensors", "sd"), ("model.gguf", "llm"), ("llm/model.safetensors", "llm")))
    path = home / name
    if path.parent != home:
        _own(path.parent)
    _spoil_head(draw, _own(path))
    _write_config(home, config_lines(family, name.partition("/")[0]))
    return _both(draw)


def adapter(draw: Draw, store: Path, home: Path) -> list[Command]:
    """A LoRA file that is looked at, and that a run goes on from."""
    source = draw.one(sorted(store.glob("*adapter*")))
    file = _own(home / source.name)
    target = file / "adapter_model.safetensors" if file.is_dir() and draw.happens() else file
    if target.is_dir():
        spoil_file(draw, draw.one(sorted(target.iterdir())))
    elif draw.happens():
        _spoil_head(draw, target)
    else:
        spoil_file(draw, target)
    family = "llm" if source.is_dir() else "sd"
    _write_config(home, config_lines(family, family) | {"init_from": source.name})
    return [["inspect", source.name], *_both(draw)]


# --- runs, archives, snapshots


def run(draw: Draw, store: Path, home: Path) -> list[Command]:
    """A run's folder, finished or begun, with files that are spoiled, gone, swapped, or no files."""
    which = draw.one(("done", "done", "begun"))
    folder = home / which
    shutil.copytree(store / which, folder, symlinks=True)
    for _ in range(draw.randint(1, 2)):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        if not files:
            break
        file = draw.one(files)
        if draw.happens(0.1):
            shutil.copyfile(draw.one(files), folder / "swapped")
            (folder / "swapped").replace(file)
        else:
            spoil_file(draw, file)
    going_on = ["train", f"{which}.yaml", "--no-dashboard", *draw.one(([], ["--resume"], ["--fresh"]))]
    if which == "begun":
        return [["plan", "begun.yaml", "--train"], going_on]
    first: list[Command] = [
        ["report", which],
        ["export", which],
        ["export", which, "--layout", draw.one(("peft", "merged", "x"))],
    ]
    return [draw.one(first), going_on] if draw.happens(0.7) else [going_on]


def archive(draw: Draw, store: Path, home: Path) -> list[Command]:
    """A bundle that is altered."""
    path = _own(home / "bundle.tar")
    data = path.read_bytes()
    if draw.happens(0.4):  # the manifest's own words, with its seal made anew
        begin, end = 512, 512 + int(data[124:135], 8)
        try:
            manifest = unsealed(data[begin:end])
            _alter(draw, manifest)
            text = sealed(manifest).encode()
            data = data[:124] + b"%011o" % len(text) + data[135:512] + text + bytes(-len(text) % 512) + data[end:]
        except ValueError:
            data = draw.spoiled(data, 1)
    else:
        data = draw.spoiled(data, 1)
    path.write_bytes(data)
    return [["archive", "verify", "bundle.tar"]]


def snapshot(draw: Draw, store: Path, home: Path) -> list[Command]:
    """A snapshot of which a file, or its manifest, is altered."""
    for name in ("data", ".snapshots"):
        (home / name).unlink()
        shutil.copytree(store / name, home / name, symlinks=True)
    files = sorted(path for path in (home / ".snapshots").rglob("*") if path.is_file() and not path.is_symlink())
    manifests = [path for path in files if path.suffix == ".json"]
    spoil_file(draw, draw.one(manifests) if manifests and draw.happens(0.7) else draw.one(files))
    use = draw.one(
        (["verify", "data", "first"], ["restore", "data", "first", "--yes"], ["clone", "data", "first", "copy"])
    )
    return [["snapshot", "list", "data"], ["snapshot", *use]]


KINDS: dict[str, Callable[[Draw, Path, Path], list[Command]]] = {
    made.__name__: made
    for made in (configuration, cluster, images, chats, model, header, adapter, run, archive, snapshot)
}


# --- files


def spoil_file(draw: Draw, path: Path) -> None:
    """Spoil, remove or replace a file."""
    data = path.read_bytes()
    path.unlink()
    what = draw.one(("bytes", "bytes", "values", "values", "values", "gone", "empty", "odd"))
    if what == "values" and path.suffix in (".json", ".jsonl"):
        path.write_bytes(_altered_json(draw, data))
    elif what == "values" and path.suffix == ".safetensors":
        path.write_bytes(_altered_head(draw, data))
    elif what in ("bytes", "values"):
        path.write_bytes(draw.spoiled(data, 1))
    elif what == "empty":
        path.touch()
    elif what == "odd":
        _put_odd(draw, path)


def _put_odd(draw: Draw, path: Path) -> None:
    """Something that is no file, or leads elsewhere."""
    kind = draw.one(("folder", "pipe", "nowhere", "itself", "/dev/zero", "/dev/null", "/etc/hostname"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name if kind == "itself" else kind)


def _altered_json(draw: Draw, data: bytes) -> bytes:
    """JSON, or a line of it, with a value that is another; of what is sealed the seal fits, half of the time."""
    lines = data.split(b"\n") if data.count(b"\n{") else [data]
    place = draw.randrange(len(lines))
    try:
        value = json.loads(lines[place])
    except ValueError:
        return draw.spoiled(data, 1)
    seal = value.pop("seal", None) if isinstance(value, dict) else None
    value = _alter(draw, value)
    fits = seal is not None and isinstance(value, dict) and _is_plain(value) and draw.happens()
    text = sealed(value) if fits else json.dumps({**value, "seal": seal} if seal and isinstance(value, dict) else value)
    lines[place] = text.encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _alter(draw: Draw, value: Any) -> Any:
    """Change something in a value, at any depth, in place where that goes; gives it."""
    if isinstance(value, dict) and value and draw.happens(0.85):
        key = draw.one(sorted(value, key=str))
        if draw.happens(0.15):
            value.pop(key)
        else:
            value[key] = _alter(draw, value[key])
        return value
    if isinstance(value, list) and value and draw.happens(0.8):
        place = draw.randrange(len(value))
        value[place] = _alter(draw, value[place])
        return value
    if isinstance(value, str) and draw.happens():
        return draw.one(
            (value[:-1], value + "/../../x", "../" * 6 + value, "/" + value, "\0", draw.some_text(), value * 1000)
        )
    return draw.one((draw.one(NUMBERS), draw.some_json(2)))


def _altered_head(draw: Draw, data: bytes) -> bytes:
    """A .safetensors file whose head says something else."""
    length = struct.unpack("<Q", data[:8])[0]
    if draw.happens(0.15):
        return struct.pack("<Q", draw.one((0, 1, length - 1, length + 1, 2**31, 2**63, 90_000_000))) + data[8:]
    try:
        head = _alter(draw, json.loads(data[8 : 8 + length]))
    except ValueError:
        return draw.spoiled(data, 1)
    text = json.dumps(head).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _spoil_head(draw: Draw, path: Path) -> None:
    data = path.read_bytes()
    if data[:4] != b"GGUF":
        path.write_bytes(_altered_head(draw, data))
        return
    place = draw.randrange(4, min(len(data), 400))
    number = struct.pack("<Q", draw.one((0, 1, 2**20, 2**31, 2**60, 2**64 - 1)))
    path.write_bytes(data[:place] + number + data[place + draw.one((0, 8)) :])


def _own(path: Path) -> Path:
    """A copy in the place of a link; what is a copy already stays."""
    if not path.is_symlink():
        return path
    source = path.resolve()
    path.unlink()
    if source.is_dir():
        shutil.copytree(source, path)
    else:
        shutil.copyfile(source, path)
    return path
