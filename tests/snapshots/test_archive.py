"""No byte of a bundle can change unnoticed; the same folder gives the same one; any tar unpacks it."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.cli import exit_code
from raylora.errors import UserError
from raylora.snapshots.archive import verify_archive, write_archive
from tests.snapshots.folders import content, data_set


def sweep(folder: Path) -> Path:
    data_set(folder)
    (folder / "journal.jsonl").write_text("{}")
    (folder / "config.yaml").write_text("lora_rank: 8\n")
    (folder / ("deep/" * 30)).mkdir(parents=True)
    (folder / ("deep/" * 30) / ("a long name " * 10)).write_text("pax")
    return folder


@functools.cache
def bundle() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write_archive(sweep(Path(folder, "sweep")))[0].read_bytes()


def test_the_same_folder_gives_the_same_bundle(tmp_path: Path) -> None:
    first, made = write_archive(sweep(tmp_path / "sweep"))
    assert first == tmp_path / "sweep.tar" and (made.kind, made.configuration) == ("sweep", "lora_rank: 8\n")
    assert first.read_bytes() == bundle(), "made elsewhere, and at another time"
    assert verify_archive(first) == made


def test_any_tar_unpacks_it(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep")
    path, _ = write_archive(folder, tmp_path / "b.tar")
    subprocess.run(["tar", "-C", tmp_path, "--one-top-level=out", "-xf", path], check=True)
    unpacked, before = content(tmp_path / "out" / "sweep" / "data"), content(folder)
    assert unpacked is not None and before is not None and unpacked.keys() == before.keys()
    for name, value in before.items():
        assert unpacked[name][0] == value[0] if isinstance(value, tuple) else unpacked[name] == value  # type: ignore[index]


@given(data=st.data())
def test_no_byte_of_it_changes_unnoticed(data: st.DataObject) -> None:
    whole = bundle()
    where = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["flip", "zeros", "cut", "more", "swap"]))
    altered = bytearray(whole)
    if kind == "flip":
        altered[where] ^= data.draw(st.integers(1, 255))
    elif kind == "zeros":
        altered[where : where + 64] = bytes(len(altered[where : where + 64]))
    elif kind == "cut":
        del altered[where:]
    elif kind == "more":
        altered += bytes(data.draw(st.sampled_from([1, 512, 10_240])))
    else:
        start = where // 512 * 512
        altered[start : start + 1024] = altered[start + 512 : start + 1024] + altered[start : start + 512]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "b.tar")
        path.write_bytes(altered)
        if bytes(altered) == whole:
            assert verify_archive(path)
        else:
            with pytest.raises(UserError):
                verify_archive(path)


def test_a_sweep_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep")
    (folder / "more" / "out").symlink_to("../../other")
    (folder / "root").symlink_to("/etc/passwd")
    with pytest.raises(UserError) as caught:
        write_archive(folder)
    assert [problem.message for problem in caught.value.problems] == [
        "this link leads out of the folder, to ../../other",
        "this link leads out of the folder, to /etc/passwd",
    ]
    assert not (tmp_path / "sweep.tar").exists()


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = str(sweep(tmp_path / "sweep")), str(tmp_path / "b.tar")
    assert exit_code(["archive", folder, "--to", file]) == 0
    assert "b.tar: 11 files" in capsys.readouterr().out
    assert exit_code(["archive", folder, "--to", file]) == 2
    assert "there is something at this place already" in capsys.readouterr().err
    assert exit_code(["archive", folder, "--to", f"{folder}/b.tar"]) == 2
    assert exit_code(["archive", str(tmp_path / "nothing")]) == 2
    assert exit_code(["archive", "verify", file]) == 0
    assert "11 files of sweep" in capsys.readouterr().out
    for wrong in (f"{folder}/config.yaml", folder, str(tmp_path / "nothing.tar")):
        assert exit_code(["archive", "verify", wrong]) == 2
        assert "our mistake" not in capsys.readouterr().err
