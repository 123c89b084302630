"""A page to look at pictures with their captions, to mend these and to save them: one HTML file that needs no other.

What file names and captions say is text on it and nothing more: all of it is escaped, and the page's content policy
lets no script run but the page's own, by its hash, and forbids every request.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Collection
from pathlib import Path

from raylora.console import Progress
from raylora.data.images.decoding import open_rgb
from raylora.files import write_text_atomically
from raylora.labelling import existing
from raylora.labelling.writing import row_name

NAME = "review.html"
_SIDE = 256  #: pixels; enough to see what is on a picture


def write_review(root: Path, kept: Collection[str]) -> Path:
    """Write the page of a folder into it, and return its path.

    Args:
        root: the folder of pictures.
        kept: pictures whose caption is a person's.

    Raises:
        UserError: the folder or a picture cannot be read, or the page cannot be written.
    """
    import jinja2

    found = existing.read(root)
    progress = Progress("review")
    pictures = []
    try:
        for number, name in enumerate(found.folder.images, 1):
            text = found.captions.get(name, "")
            own = "by hand" if name in kept else "by a model" if text else "no caption"
            row = row_name(name).encode(errors="replace").decode()
            pictures.append({"file": row, "caption": text, "own": own, "image": _thumbnail(root / name)})
            progress.at(number, len(found.folder.images))
    finally:
        progress.end()
    source = Path(__file__).with_name("review.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # The script stands in the template as it stands in the page: its hash can be taken here.
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", source, re.DOTALL)
    page = environment.from_string(source).render(
        title=root.resolve().name.encode(errors="replace").decode(),
        pictures=pictures,
        script_hash=_hash(script),
        style_hash=_hash(style),
    )
    path = root / NAME
    write_text_atomically(path, page)
    return path


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _thumbnail(path: Path) -> str:
    picture = open_rgb(path)
    picture.thumbnail((_SIDE, _SIDE))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
