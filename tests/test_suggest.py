"""Whether files can be written somewhere."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def test_no_permission_to_write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        closed = Path(folder) / "closed"
        closed.mkdir(mode=0o555)
        Path(folder).chmod(0o755)
        # in a process of its own, which may give up being root
        code = "import sys; from raylora.suggest import why_not_writable as w; from pathlib import Path; import os;"
        code += "os.seteuid(65534) if os.geteuid() == 0 else None; print(w(Path(sys.argv[1]) / 'a/b'))"
        arguments = [sys.executable, "-c", code, str(closed)]
        source = Path(__file__).resolve().parents[1]
        said = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=source).stdout
        assert "no permission" in said
