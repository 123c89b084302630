"""Encoded examples come back as they were, whatever happened to the cache in between."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import resource
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from raylora.data import cache
from raylora.data.cache import EncodedCache
from raylora.errors import UserError
from raylora.files import PARTIAL_PREFIX

FINGERPRINT = "ab12"


@dataclasses.dataclass(frozen=True)
class Thing:
    id: str


def things(*numbers: int) -> list[Thing]:
    return [Thing(f"{number:064x}") for number in numbers]


class Encoder:
    """Makes tensors of every awkward kind from an example's id, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, examples: Sequence[Thing]) -> list[dict[str, Tensor]]:
        self.batches.append(len(examples))
        shared = torch.arange(len(examples) * 6, dtype=torch.float32).reshape(len(examples), 2, 3)
        empty_prompt = torch.full((1, 4), 0.5, dtype=torch.bfloat16)
        return [
            {
                "latents": torch.full((2, 3), float(int(one.id, 16))).T,  # not contiguous
                "view": shared[index] * 0 + int(one.id, 16),
                "text/hidden": empty_prompt.expand(3, 4),  # the same memory for every example
                "tokens": torch.arange(int(one.id, 16) % 5),
                "nothing": torch.empty((0, 7), dtype=torch.float16),
                "size": torch.tensor(int(one.id, 16)),
                "mask": torch.tensor([True, False]),
            }
            for index, one in enumerate(examples)
        ]


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and torch.equal(left[name], right[name])
        for name in left
    )


def check(found: list[dict[str, Tensor]], wanted: list[Thing]) -> None:
    expected = Encoder()(wanted)
    assert len(found) == len(wanted) and all(map(equal, found, expected))
    assert all(tensor.is_contiguous() for tensors in found for tensor in tensors.values())


def shards(root: Path) -> list[Path]:
    return sorted(root.rglob("*.safetensors"))


def test_encoded_once(tmp_path: Path) -> None:
    store, encode = EncodedCache(tmp_path), Encoder()
    wanted = things(3, 1, 2, 5, 3)
    check(store.get_or_encode(FINGERPRINT, wanted, encode, batch=3), wanted)
    assert encode.batches == [3, 1] and (store.hits, store.encoded) == (0, 4)
    again = things(2, 9, 3, 1)
    check(store.get_or_encode(FINGERPRINT, again, encode), again)
    assert encode.batches == [3, 1, 1] and (store.hits, store.encoded) == (3, 5)
    fresh = EncodedCache(tmp_path)
    check(fresh.get_or_encode(FINGERPRINT, wanted, encode), wanted)
    assert (fresh.hits, fresh.encoded) == (4, 0)
    assert len(shards(tmp_path)) == 2
    assert all(shard.parent == tmp_path / "ab" / FINGERPRINT for shard in shards(tmp_path))


def test_fingerprints_are_apart(tmp_path: Path) -> None:
    store, encode = EncodedCache(tmp_path), Encoder()
    for fingerprint in ("ab12", "ab13", "cd12"):
        store.get_or_encode(fingerprint, things(1), encode)
    assert store.encoded == 3
    for bad in ("../x", "", "a/b", ".hidden"):
        with pytest.raises(ValueError, match="not a fingerprint"):
            store.get_or_encode(bad, things(1), encode)


def test_nothing_wanted(tmp_path: Path) -> None:
    assert EncodedCache(tmp_path / "none").get_or_encode(FINGERPRINT, [], Encoder()) == []
    assert not (tmp_path / "none").exists()


def test_large_sets_come_in_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD_BYTES", 300)
    wanted = things(*range(10))
    check(EncodedCache(tmp_path).get_or_encode(FINGERPRINT, wanted, Encoder(), batch=2), wanted)
    assert len(shards(tmp_path)) > 2


def test_what_was_encoded_before_an_interruption_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD_BYTES", 1)
    encode = Encoder()

    def interrupted(examples: Sequence[Thing]) -> list[dict[str, Tensor]]:
        if len(encode.batches) == 2:
            raise KeyboardInterrupt
        return encode(examples)

    with pytest.raises(KeyboardInterrupt):
        EncodedCache(tmp_path).get_or_encode(FINGERPRINT, things(*range(8)), interrupted, batch=2)
    store = EncodedCache(tmp_path)
    store.get_or_encode(FINGERPRINT, things(*range(8)), Encoder())
    assert (store.hits, store.encoded) == (4, 4)


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "folder", "link"])
def test_a_damaged_shard_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    wanted = things(1, 2)
    EncodedCache(tmp_path).get_or_encode(FINGERPRINT, wanted, Encoder())
    (shard,) = shards(tmp_path)
    data = shard.read_bytes()
    if damage == "cut":
        shard.write_bytes(data[:-5])
    elif damage == "header":
        shard.write_bytes(data[:8] + b"\xff" * 20 + data[28:])
    elif damage == "empty":
        shard.write_bytes(b"")
    elif damage == "folder":
        shard.rename(shard.with_name("elsewhere"))
        shard.with_name("0.safetensors").mkdir()
    else:
        shard.unlink()
        shard.symlink_to("nowhere")
    store = EncodedCache(tmp_path)
    with caplog.at_level(logging.WARNING):
        check(store.get_or_encode(FINGERPRINT, wanted, Encoder()), wanted)
    assert store.encoded == 2
    assert any("encoded again" in record.message for record in caplog.records)
    again = EncodedCache(tmp_path)
    check(again.get_or_encode(FINGERPRINT, wanted, Encoder()), wanted)
    assert again.hits == 2


@settings(max_examples=80)
@given(st.data())
def test_whatever_happens_to_the_bytes_of_a_shard_is_noticed(data: st.DataObject) -> None:
    """The bytes of the file as a whole: its header, its checksums, and its tensors."""
    wanted = things(1, 2, 7)
    with tempfile.TemporaryDirectory() as folder:
        EncodedCache(Path(folder)).get_or_encode(FINGERPRINT, wanted, Encoder())
        (shard,) = shards(Path(folder))
        content = bytearray(shard.read_bytes())
        start = data.draw(st.integers(0, len(content) - 1))
        end = data.draw(st.integers(start + 1, min(start + 200, len(content))))
        kind = data.draw(st.sampled_from(["flip", "zero", "noise", "cut", "swap"]))
        if kind == "flip":
            content[start] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "zero":
            content[start:end] = bytes(end - start)
        elif kind == "noise":
            content[start:end] = data.draw(st.binary(min_size=end - start, max_size=end - start))
        elif kind == "cut":
            del content[start:end]
        else:
            content[start:end] = content[start:end][::-1]
        shard.write_bytes(content)
        check(EncodedCache(Path(folder)).get_or_encode(FINGERPRINT, wanted, Encoder()), wanted)


def test_one_damaged_example_is_made_anew_alone_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = things(1, 2, 3)
    EncodedCache(tmp_path).get_or_encode(FINGERPRINT, wanted, Encoder())
    (shard,) = shards(tmp_path)
    content = shard.read_bytes()
    two = torch.full((6,), 2.0).numpy().tobytes()
    assert two in content
    shard.write_bytes(content.replace(two, bytes(len(two))))
    store = EncodedCache(tmp_path)
    check(store.get_or_encode(FINGERPRINT, wanted, Encoder()), wanted)
    assert (store.hits, store.encoded) == (2, 1)
    assert "encoding 1 of its examples again" in caplog.text
    caplog.clear()
    again = EncodedCache(tmp_path)
    check(again.get_or_encode(FINGERPRINT, wanted, Encoder()), wanted)
    assert again.encoded == 0 and not caplog.records


def test_a_shard_without_checksums_is_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    EncodedCache(tmp_path).get_or_encode(FINGERPRINT, things(1), Encoder())
    (shard,) = shards(tmp_path)
    save_file(load_file(shard), shard)
    store = EncodedCache(tmp_path)
    store.get_or_encode(FINGERPRINT, things(1), Encoder())
    assert store.encoded == 1 and "cannot be read" in caplog.text


def test_half_written_shards_are_not_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "ab" / FINGERPRINT
    folder.mkdir(parents=True)
    (folder / f"{PARTIAL_PREFIX}0123-x.safetensors").write_bytes(b"half")
    EncodedCache(tmp_path).get_or_encode(FINGERPRINT, things(1), Encoder())
    assert not caplog.records


def test_memory_mapped(tmp_path: Path) -> None:
    """The tensors are the file's own pages: no copy in memory, and still there when the cache is deleted."""

    def encode(examples: Sequence[Thing]) -> list[dict[str, Tensor]]:
        return [{"a": torch.full((1000,), 7.0), "b": torch.ones(3)} for _ in examples]

    (found,) = EncodedCache(tmp_path).get_or_encode(FINGERPRINT, things(1), encode)
    (shard,) = shards(tmp_path)
    assert str(shard) in Path("/proc/self/maps").read_text()
    assert found["a"].untyped_storage().data_ptr() != 0
    shard.unlink()
    assert found["a"].sum() == 7000


def _write_overlapping(root: str, first: int) -> None:
    torch.set_num_threads(1)
    wanted = things(*range(first, first + 6))
    for _ in range(5):
        check(EncodedCache(Path(root)).get_or_encode(FINGERPRINT, wanted, Encoder(), batch=2), wanted)


def test_concurrent_writers(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write_overlapping, args=(str(tmp_path), first)) for first in (0, 0, 2, 3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    store = EncodedCache(tmp_path)
    wanted = things(*range(9))
    check(store.get_or_encode(FINGERPRINT, wanted, Encoder()), wanted)
    assert store.hits == 9
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(PARTIAL_PREFIX)]


def test_no_room(tmp_path: Path) -> None:
    """The kernel refuses to let a file of this process grow beyond 64 KiB: a full disk for everybody, root or not."""

    def encode(examples: Sequence[Thing]) -> list[dict[str, Tensor]]:
        return [{"a": torch.zeros(10_000)} for _ in examples]

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    try:
        with pytest.raises(UserError) as caught:
            EncodedCache(tmp_path).get_or_encode(FINGERPRINT, things(1, 2, 3), encode)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path / "ab" / FINGERPRINT)
    assert "117.2 KiB needed" in problem.message and problem.hint
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_encoder_that_breaks_its_word(tmp_path: Path) -> None:
    for results in ([], [{}]):
        with pytest.raises(ValueError, match="encode gave"):
            EncodedCache(tmp_path).get_or_encode(FINGERPRINT, things(1), lambda examples, results=results: results)
