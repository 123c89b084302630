"""`raylora doctor`, as a person runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.cli import main


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().out


def test_this_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setenv("RAYLORA_CACHE", str(tmp_path / "cache"))
    code, text = run([], capsys)
    lines = text.splitlines()
    assert code == (2 if any(line.startswith("bad ") for line in lines) else 0)
    for subject in ("Python", "packages", "memory", "shared memory", "TMPDIR", "cache_dir", "loopback", "RAY_ADDRESS"):
        assert any(line[9:].startswith(f"{subject}: ") for line in lines), subject
    assert "to mend" in lines[-1] or lines[-1] == "all is well"
    assert not (tmp_path / "cache").exists()


def test_the_folders_of_a_configuration(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    (tmp_path / "my.yaml").write_text(
        f"train_data_dir: data\nbase_model: model\noutput_dir: {tmp_path}/run\ncache_dir: {tmp_path}/cache\n"
    )
    code, text = run([str(tmp_path / "my.yaml")], capsys)
    assert code == 2
    assert "bad      RAY_ADDRESS: nothing answers at 127.0.0.1:1" in text
    assert f"output_dir: {tmp_path}/run, " in text
    assert "clock: " in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.yaml"]
