"""Heads of weight files and configurations that claim the absurd: refused in a moment, in little memory."""

from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from raylora.families.claims import absurd_claim
from raylora.families.gguf_header import read_gguf_header
from raylora.families.safetensors_header import BrokenFileError, read_shapes

SECONDS, BYTES = 1.0, 100e6


def refusal(read: Callable[[Path], Any], path: Path) -> str:
    """What a reader says of a file, within a second and 100 MB."""
    tracemalloc.start()
    begun = time.process_time()
    try:
        with pytest.raises(BrokenFileError) as caught:
            read(path)
        assert time.process_time() - begun < SECONDS
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()
    return str(caught.value)


# --- safetensors


def safetensors(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: Any, begin: Any, end: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": entry([2], -8, 0)}, "at bytes -8 to 0"),
        ({"a": entry([-2], 0, 8)}, "(-2,)"),
        ({"a": entry([2], 8, 0)}, "at bytes 8 to 0"),
        ({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, "'b'"),
        ({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, "begins at byte 2"),
        ({"a": entry([1], 4, 8)}, "begins at byte 4 of its data, not at 0"),
        ({"a": entry([10**11], 0, 8)}, "said to take 8 bytes"),
        ({"a": entry([2.5], 0, 8)}, "2.5"),
        ({"a": entry(["2"], 0, 8)}, "'2'"),
        ({"a": entry([True, 2], 0, 8)}, "True"),
        ({"a": entry([25 * 10**9], 0, 10**11)}, "is cut off"),
        (b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 8]}}', "inf"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, Infinity]}}', "no JSON"),
        ({"a": entry([2], 0, 8), "__metadata__": {"rank": 4}}, "no text"),
        ({"a": entry([2], 0, 8, "X32")}, "'X32'"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": []}}', "of another kind"),
        (b"[" * 10**6, "no JSON"),
    ],
)
def test_a_safetensors_header_that_claims_the_absurd(tmp_path: Path, header: Any, said: str) -> None:
    words = refusal(read_shapes, safetensors(tmp_path / "x.safetensors", header, bytes(8)))
    assert said.strip("'") in words


def test_a_header_that_is_larger_than_any(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "x.safetensors", {"a": entry([2], 0, 8)}, bytes(8), length=90_000_000)
    assert "does not begin with a header" in refusal(read_shapes, path)
    os.truncate(path, 200_000_000)
    assert "header of 90,000,000 bytes" in refusal(read_shapes, path)


@settings(max_examples=50, deadline=None)
@given(shapes=st.dictionaries(st.text(min_size=1, max_size=4), st.lists(st.integers(0, 3), max_size=3), max_size=5))
def test_what_the_library_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[int]]
) -> None:
    path = tmp_path_factory.mktemp("written") / "x.safetensors"
    names = {name: shape for name, shape in shapes.items() if name != "__metadata__" and name.isprintable()}
    kinds = (np.float32, np.int64, np.uint8, np.bool_)
    save_file({name: np.zeros(shape, kinds[len(name) % 4]) for name, shape in names.items()}, path)
    assert read_shapes(path) == {name: tuple(shape) for name, shape in names.items()}


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    assert "named pipe" in refusal(read_shapes, tmp_path / "x.safetensors")
    assert "named pipe" in refusal(read_gguf_header, tmp_path / "x.safetensors")
    assert "device" in refusal(read_shapes, Path("/dev/zero"))
    (tmp_path / "folder").mkdir()
    assert "a folder" in refusal(read_shapes, tmp_path / "folder")


# --- GGUF


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(path: Path, *settings: bytes, tensors: tuple[bytes, ...] = (), counts: tuple[int, int] | None = None) -> Path:
    head = struct.pack("<QQ", *(counts or (len(tensors), len(settings))))
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + head + b"".join(settings) + b"".join(tensors) + bytes(64))
    return path


def setting(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, entries: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + entries


def tensor(name: str, *shape: int, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)


LLAMA = setting("general.architecture", 8, text("llama"))
LAYERS = setting("llama.block_count", 4, struct.pack("<I", 2))
WIDTH = setting("llama.embedding_length", 4, struct.pack("<I", 8))
WORDS = setting("tokenizer.ggml.tokens", 9, array(8, 2, text("a") + text("b")))
SCORES = setting("tokenizer.ggml.scores", 9, array(6, 2, bytes(8)))


def test_a_gguf_header_is_read(tmp_path: Path) -> None:
    path = gguf(tmp_path / "x.gguf", LLAMA, WORDS, SCORES, LAYERS, WIDTH, tensors=(tensor("a", 8, 4), tensor("b", 3)))
    header = read_gguf_header(path)
    assert header.architecture == "llama"
    assert (header.number("block_count"), header.number("embedding_length")) == (2, 8)
    assert header.number("nothing") is None
    assert header.tensors == {"a": (8, 4), "b": (3,)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([setting("x", 9, array(8, 2**60))], {}), "1,152,921,504,606,846,976 entries"),
        (([setting("x", 9, array(0, 2**60))], {}), "1,152,921,504,606,846,976 entries"),
        (([setting("x", 9, array(9, 2, array(4, 1, bytes(4))))], {}), "a list of lists"),
        (([setting("x", 9, array(77, 2))], {}), "of a kind that there is not (77)"),
        (([setting("x", 77, b"")], {}), "of a kind that there is not (77)"),
        (([setting("x", 8, struct.pack("<Q", 2**62))], {}), "is said to have 4,611,686,018,427,387,904 bytes"),
        (([struct.pack("<Q", 2**40)], {}), "1,099,511,627,776 bytes"),
        (([], {"counts": (2**60, 0)}), "1,152,921,504,606,846,976 tensors"),
        (([], {"counts": (0, 2**60)}), "1,152,921,504,606,846,976 settings"),
        (([], {"counts": (5, 0)}), "is cut off within its header"),
        (([LLAMA], {"tensors": (tensor("a", 2**40),)}), "more than the file holds"),
        (([LLAMA], {"tensors": (tensor("a", 2, offset=2**40),)}), "reach beyond"),
        (([LLAMA], {"tensors": (text("a") + struct.pack("<I", 2**31),)}), "dimensions"),
    ],
)
def test_a_gguf_header_that_claims_the_absurd(tmp_path: Path, arguments: Any, said: str) -> None:
    parts, options = arguments
    assert said in refusal(read_gguf_header, gguf(tmp_path / "x.gguf", *parts, **options))


def test_a_long_list_in_a_file_full_of_holes(tmp_path: Path) -> None:
    path = gguf(tmp_path / "x.gguf", setting("x", 9, array(8, 10**9)))
    os.truncate(path, 10**11)
    assert "1,000,000,000 entries" in refusal(read_gguf_header, path)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_gguf_of_anything_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = gguf(
        tmp_path_factory.mktemp("spoiled") / "x.gguf", LLAMA, WORDS, SCORES, LAYERS, WIDTH, tensors=(tensor("a", 8),)
    )
    spoiled = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        spoiled[data.draw(st.integers(4, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(spoiled[: data.draw(st.integers(8, len(spoiled)))])
    try:
        read_gguf_header(path)
    except BrokenFileError as error:
        assert str(error)


# --- configurations


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: 1000000000, and its weights have 2 tensors"),
        ({"text_config": {"n_layer": 3}}, "n_layer: 3"),
        ({"vocab_size": 10**9}, "vocab_size: 1000000000, and the longest side of its weights is 8"),
        ({"hidden_size": -4}, "hidden_size: -4"),
        ({"max_position_embeddings": 10**18}, "max_position_embeddings"),
        ({"window": [1, [2, 10**18]]}, "window"),
        ({"num_hidden_layers": 2, "vocab_size": 8, "rope_theta": 1e30, "tie": True, "seed": 10**12}, ""),
    ],
)
def test_a_configuration_that_its_weights_contradict(settings: dict[str, Any], said: str) -> None:
    claim = absurd_claim(settings, {"a": (8, 4), "b": (8,)})
    assert said in claim
    assert bool(claim) == bool(said)
