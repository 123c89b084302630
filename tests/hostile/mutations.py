"""Configurations, data sets and base models with something wrong in them, as hypothesis draws them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from hypothesis import strategies as st

from raylora.config.schema import SweepConfig, TrainConfig


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


JUNK_BYTES = st.sampled_from(
    [b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"\r", b"{", b"[" * 3000, b"\x80", b"9" * 5000]
)
VALUES = st.one_of(
    st.sampled_from(
        words(
            "0 -1 8 1e400 -inf .nan fast null true [] {} [1,2] 2e-4 '' ~ . / .. sd llm img chats.jsonl one.safetensors "
            "img/metadata.csv /dev/null /proc/self/mem 1_000 0x10 99999999999999999999 !!python/name:os.system &a *a "
            '{choice:[1]} "\\uD800" "\\0" ~nobody/x ~ rank all'
        )
    ),
    st.text(max_size=12),
)
KEYS = st.one_of(
    st.sampled_from([*TrainConfig.model_fields, *(f"sweep.{name}" for name in SweepConfig.model_fields)]),
    st.sampled_from([f"sweep.space.{name}" for name in TrainConfig.model_fields]),
    st.sampled_from(["folders.x.path", "folders.x.metadata_path", "folders.x.repeats", "folders.x.trigger"]),
    st.text(max_size=8),
)
DOMAINS = st.sampled_from(
    words(
        "[1,2] {int:[1,4]} {uniform:[0,1]} {loguniform:[1e-5,1e-2]} {loguniform:[0,1]} {choice:[]} {grid:[1,2,null]} "
        "[null,2] {int:[4,1]} {logint:[1,64]} 3 {foo:[1]} {int:[1]} [a,b]"
    )
)
CAPTIONS = st.one_of(
    st.sampled_from(["", "a, b", 'quo"te', "'", "\t", "x;y|z", "é", "\u202e", "=1+1"]), st.text(max_size=9)
)
NAMES = st.sampled_from(
    ["0.png", "1.png", "../0.png", "/etc/passwd", "9.png", "", "0.PNG", "a\\0.png", "metadata.csv", "\x00", "x" * 300]
)
HEADERS = st.sampled_from(
    [
        "filename,prompt",
        "file_name;text",
        "image\tcaption",
        "a,b",
        "",
        "prompt",
        "filename,prompt,x",
        '"filename',
        "x" * 140_000,
    ]
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                words("messages conversations role from content value prompt completion instruction output")
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)
ROLES = st.sampled_from(["user", "assistant", "system", "gpt", "human", "tool", "", "asistant"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": CAPTIONS}), max_size=4)
CHATS = st.one_of(
    JSON, st.fixed_dictionaries({"messages": MESSAGES}), st.fixed_dictionaries({"prompt": CAPTIONS, "output": CAPTIONS})
)


@st.composite
def spoiled(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with some cut off, replaced or put in."""
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 7, 10**9])))
        data = data[:start] + draw(JUNK_BYTES) + data[end:]
    return data


def config_lines(family: str, base_model: str) -> dict[str, str]:
    """A configuration with nothing wrong in it."""
    return {
        "train_data_dir": "img" if family == "sd" else "chats.jsonl",
        "base_model": base_model,
        "output_dir": "out",
        "lora_rank": "8",
        "learning_rate": "2e-4",
        "epochs": "2",
    }


def as_text(lines: dict[str, str]) -> bytes:
    """As YAML."""
    return "\n".join(f"{key}: {value}" for key, value in lines.items()).encode("utf-8", "surrogatepass")


@st.composite
def config_texts(draw: st.DrawFn) -> bytes:
    """A configuration that is right, but for up to four lines and a few bytes."""
    family = draw(st.sampled_from(["sd", "llm"]))
    lines = config_lines(family, draw(st.sampled_from([family, family, family, "one.safetensors", "text.txt"])))
    for _ in range(draw(st.integers(0, 2))):
        lines[draw(KEYS)] = draw(VALUES)
    space = draw(
        st.dictionaries(
            st.sampled_from(words("lora_rank epochs max_steps batch_size seed output_dir")), DOMAINS, max_size=2
        )
    )
    if space:
        lines["sweep"] = f"{{trials: 3, space: {{{', '.join(f'{key}: {domain}' for key, domain in space.items())}}}}}"
    if draw(st.booleans()):
        lines.pop(draw(st.sampled_from(sorted(lines))))
    data = as_text(lines)
    return draw(spoiled(data)) if draw(st.sampled_from([False, False, True])) else data


OVERRIDES = st.lists(
    st.one_of(st.builds("{}={}".format, KEYS, st.one_of(VALUES, DOMAINS)), st.text(max_size=6)), max_size=2
)


@st.composite
def image_folders(draw: st.DrawFn, source: Path, folder: Path) -> None:
    """Make `folder` from `source` (images with a metadata.csv) with a few things wrong."""
    folder.unlink()
    shutil.copytree(source, folder)
    images = sorted(folder.glob("*.png"))
    for _ in range(draw(st.integers(0, 3))):
        image = draw(st.sampled_from(images))
        what = draw(
            st.sampled_from(
                ["spoil", "remove", "folder", "caption", "link", "circle", "pipe", "rename", "text", "rows"]
            )
        )
        if image.is_symlink() or image.is_file() or not image.exists():
            if what in ("remove", "folder", "link", "pipe"):
                image.unlink(missing_ok=True)
            if what == "spoil" and image.is_file():
                image.write_bytes(draw(spoiled(image.read_bytes())))
            elif what == "folder":
                image.mkdir()
            elif what == "link":
                image.symlink_to("nowhere.png")
            elif what == "pipe":
                os.mkfifo(image)
            elif what == "rename" and image.exists():
                image.rename(
                    folder / os.fsdecode(draw(st.sampled_from([b"\xff.png", b"a b.png", b"\n.png", b".png", b"x.JPG"])))
                )
        if what == "circle" and not (folder / "deep").exists():
            (folder / "deep").symlink_to("..")
        elif what == "caption":
            (folder / image.with_suffix(".txt").name).write_bytes(
                draw(spoiled(draw(CAPTIONS).encode("utf-8", "surrogatepass")))
            )
        elif what == "text":
            metadata = folder / "metadata.csv"
            metadata.write_bytes(draw(spoiled(metadata.read_bytes() if metadata.is_file() else b"")))
        elif what == "rows":
            rows = draw(st.lists(st.builds("{},{}".format, NAMES, CAPTIONS), max_size=4))
            text = "\n".join([draw(HEADERS), *rows])
            name = draw(st.sampled_from(["metadata.csv", "metadata.csv", "metadata.jsonl", "metadata.tsv"]))
            (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))


@st.composite
def chat_files(draw: st.DrawFn, source: Path, path: Path) -> None:
    """Make the file `path` from `source` (JSONL) with a few things wrong."""
    lines = source.read_bytes().splitlines()
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(lines) - 1))
        lines[place] = draw(st.one_of(spoiled(lines[place]), CHATS.map(lambda value: json.dumps(value).encode())))
    path.unlink()
    path.write_bytes(draw(spoiled(b"\n".join(lines))) if draw(st.booleans()) else b"\n".join(lines))


@st.composite
def models(draw: st.DrawFn, source: Path, folder: Path) -> None:
    """Make `folder` from `source`, with one file of it spoiled or gone."""
    shutil.copytree(source, folder, copy_function=os.link)
    file = draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
    data = file.read_bytes()
    file.unlink()
    if draw(st.booleans()):
        settings = json.loads(data) if file.suffix == ".json" else None
        if isinstance(settings, dict) and settings and draw(st.booleans()):
            settings[draw(st.sampled_from(sorted(settings)))] = draw(JSON)
            data = json.dumps(settings).encode()
        else:
            data = draw(spoiled(data))
        file.write_bytes(data)
