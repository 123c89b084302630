"""The page to review captions: whole in itself, and nothing of the data runs in it."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from raylora.labelling.review import write_review
from tests.data.images.folders import picture, write

EVIL = '</textarea><script>alert(1)</script><img src=x onerror="alert(2)"> "quoted", {{ 7 * 7 }}'


class Page(HTMLParser):
    """What a browser would find on a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_nothing_of_the_data_runs(tmp_path: Path) -> None:
    folder = tmp_path / "<b>'\"&"
    name = "a<script>alert(3)<'\"&.png".replace("/", "")
    picture(folder / name, "red", (600, 300))
    picture(folder / "b.png", "blue")
    write(folder / "a<script>alert(3)<'\"&.txt", EVIL)
    page = write_review(folder, [name])
    text = page.read_text(encoding="utf-8")
    found = Page(text)
    assert page == folder / "review.html"
    assert len(found.named("script")) == len(found.named("style")) == 1
    assert not [attributes for _, attributes in found.tags if any(key.startswith("on") for key in attributes)]
    assert {attributes.get("src", "")[:23] for attributes in found.named("img")} == {"data:image/jpeg;base64,"}
    assert not found.named("link") and not found.named("iframe") and not found.named("base")
    first, second = found.named("textarea")
    assert (first["data-file"], second["data-file"]) == (name, "b.png")
    assert (
        html.escape(EVIL).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text
        and "49" not in text.split("<main>")[0]
    )
    policy = str(found.named("meta")[-1]["content"])
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for tag in ("script", "style"):
        (source,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    data = base64.b64decode(str(found.named("img")[0]["src"]).partition(",")[2])
    with Image.open(io.BytesIO(data)) as thumbnail:
        assert thumbnail.size == (256, 128)
    assert "(by hand)" in text and "(no caption)" in text
