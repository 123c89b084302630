"""Which files are pictures: by their names, and where a name does not tell, by their first bytes."""

from __future__ import annotations

import struct
from pathlib import Path, PurePosixPath

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),  # those that messages name
    *(".jfif", ".jpe", ".jif", ".pjpeg", ".pjp", ".apng", ".dib", ".avifs", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c"),
)
USUAL = SUFFIXES[:9]
#: Pictures and films that are not read. Some begin like a TIFF, so their names decide.
UNREADABLE = (
    *(".heic", ".heif", ".jxl", ".psd", ".psb", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".svg"),
    *(".exr", ".hdr", ".xcf", ".kra", ".clip", ".eps", ".pdf", ".mp4", ".mov", ".webm", ".mkv", ".avi", ".zip", ".7z"),
)
#: Files whose first bytes need not be looked at: there are as many as pictures.
_TEXTS = (".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".npz", ".npy", ".safetensors", ".md", ".yaml")
_BEGINNINGS = (
    (0, b"\x89PNG\r\n\x1a\n"),
    (0, b"\xff\xd8\xff"),
    (0, b"GIF8"),
    (0, b"II*\0"),
    (0, b"MM\0*"),
    (8, b"WEBP"),
    (4, b"ftypavif"),
    (4, b"jP  \r\n"),
    (0, b"\xff\x4f\xff\x51"),
)
_HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")


def is_picture(path: Path) -> bool:
    """Whether a file is a picture that can be read: one so named, or one of another name that begins as one."""
    suffix = PurePosixPath(path.name.lower()).suffix
    if suffix in SUFFIXES:
        return True
    if suffix in UNREADABLE or suffix in _TEXTS:
        return False
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False  # it is no picture by its name, and nobody asked for it
    return any(start.startswith(beginning, at) for at, beginning in _BEGINNINGS)


def is_heic(data: bytes) -> bool:
    """Whether a file is HEIC, whatever its name: phones name it .jpg too."""
    return data[4:12] in _HEIC


def without_png_texts(data: bytes) -> bytes:
    """A PNG without its text chunks; all other data as they are.

    Pillow refuses pictures with more than a megabyte of compressed text, which editors and workflows leave in them.
    """
    signature = 8
    if not data.startswith(_BEGINNINGS[0][1]) or not any(kind in data for kind in (b"tEXt", b"zTXt", b"iTXt")):
        return data
    kept = [data[:signature]]
    at = signature
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        if data[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt"):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])
