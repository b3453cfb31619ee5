"""Files to be hostile with: small sound ones of every kind, what may be done to their bytes, and lies made by hand."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from sky4.media import write_clip
from tests.clips import ClipKind, write

SUFFIXES = (
    ".mp4",
    ".mov",
    ".mkv",
    ".webm",
    ".wav",
    ".png",
    ".jpg",
    ".webp",
    ".mp3",
    ".flac",
    ".json",
    ".m3u8",
    "",
    ".xyz",
)


def seeds(folder: Path) -> list[bytes]:
    """The bytes of small good files: clips, sounds, pictures, a recipe."""
    short, size = Fraction(1, 2), (32, 24)
    kinds = {
        "h264.mp4": ClipKind(".mp4", seconds=short, fps=Fraction(16), size=size),
        "vp9.webm": ClipKind(".webm", video="libvpx-vp9", audio="libopus", rate=48000, seconds=short, size=size),
        "ffv1.mkv": ClipKind(".mkv", video="ffv1", audio="flac", seconds=short, size=size),
        "mjpeg.mov": ClipKind(".mov", video="mjpeg", audio="pcm_s16le", seconds=short, size=size, pixels="yuvj420p"),
        "silent.mp4": ClipKind(".mp4", audio=None, seconds=short, size=size),
    }
    for name, kind in kinds.items():
        write(folder / name, kind)
    frames = np.zeros((9, 32, 32, 3), np.uint8)
    wave = np.zeros((2, round(9 / 16 * 44100)), np.float32)
    write_clip(folder / "own.mp4", [frames], wave, fps=Fraction(16), recipe={"version": 1, "request": {}})
    write_clip(folder / "own.wav", None, wave, fps=Fraction(16), recipe={})
    Image.new("RGB", (24, 16), "red").save(folder / "a.png")
    Image.new("RGB", (24, 16), "red").save(folder / "a.jpg")
    Image.new("RGBA", (24, 16)).save(folder / "a.webp")
    (folder / "recipe.json").write_text(json.dumps({"format": "sky4-recipe", "version": 1, "request": {"version": 1}}))
    return [path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()]


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, with the data of one row."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def png_with_text(length: int) -> bytes:
    """A PNG whose compressed comment grows to so many bytes."""
    picture = io.BytesIO()
    Image.new("RGB", (2, 2)).save(picture, "PNG")
    body = b"comment\0\0" + zlib.compress(b"a" * length, 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    data = picture.getvalue()
    return data[:33] + chunk + data[33:]


def boxes(size: int) -> bytes:
    """An MP4 whose second box says that it is so long."""
    return struct.pack(">I4s8s", 16, b"ftyp", b"isom\0\0\2\0") + struct.pack(">I4sQ", 1, b"moov", size)


def _plain(data: bytes) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.write_bytes(data)

    return put


def _sparse(head: bytes, size: int) -> Callable[[Path], None]:
    """So many bytes, of which the disk holds the first."""

    def put(path: Path) -> None:
        path.write_bytes(head)
        os.truncate(path, size)

    return put


XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
LIES: dict[str, Callable[[Path], None]] = {
    "empty": _plain(b""),
    "gigapixel": _plain(png_of(100_000, 100_000)),
    "longest side": _plain(png_of(2**31 - 1, 1)),
    "text bomb": _plain(png_with_text(2**26)),
    "endless box": _plain(boxes(2**62)),
    "box of 2 GB": _sparse(boxes(2**31), 2**31 + 64),
    "zeros of 2 GB": _sparse(b"", 2**31),
    "metadata of 2 GB": _sparse(
        struct.pack(">I4s8s", 16, b"ftyp", b"isom\0\0\2\0") + struct.pack(">I4s16s", 2**31, b"uuid", XMP), 2**31 + 16
    ),
    "wave without end": _sparse(
        b"RIFF\xff\xff\xff\xffWAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 2, 44100, 176400, 4, 16)
        + b"data\xff\xff\xff\xff",
        2**22,
    ),
    "wave of many channels": _plain(
        b"RIFF\xff\xff\xff\xffWAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 65535, 44100, 2**32 - 1, 65535, 8)
        + b"data\xff\xff\xff\xff"
        + b"\0" * 9999
    ),
    "playlist of itself": _plain(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile.m3u8\n"),
    "playlist of the network": _plain(b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"),
    "concat of a device": _plain(b"ffconcat version 1.0\nfile /dev/zero\n"),
    "nested json": _plain(b'{"format":"sky4-recipe","a":' + b"[" * 200_000),
    "folder": lambda path: path.mkdir(),
    "folder of lies": lambda path: (path.mkdir(), (path / "00000.png").write_bytes(png_of(60_000, 60_000)))[0],
    "pipe": lambda path: os.mkfifo(path),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path.name),
}


@dataclass(frozen=True)
class Hostile:
    """A file to be written. lie: one of LIES; else the seed's bytes, changed."""

    suffix: str
    lie: str
    seed: int
    changes: tuple[tuple[str, int, int], ...]

    def write(self, folder: Path, stem: str, good: list[bytes]) -> Path:
        path = folder / f"{stem}{self.suffix}"
        if self.lie:
            LIES[self.lie](path)
        else:
            path.write_bytes(changed(good[self.seed % len(good)], self.changes))
        return path


def changed(data: bytes, changes: tuple[tuple[str, int, int], ...]) -> bytes:
    """Cut off, overwritten, doubled, filled with zeros: each at a place that is a share of the length."""
    for how, where, what in changes:
        at = where * len(data) // 1000 if data else 0
        span = min(what, len(data) - at)
        if how == "cut":
            data = data[:at]
        elif how == "zero":
            data = data[:at] + bytes(span) + data[at + span :]
        elif how == "flip":
            data = data[:at] + bytes([(what * 37) % 256]) + data[at + 1 :]
        elif how == "grow":  # a length or a size becomes huge
            data = data[:at] + b"\x7f\xff\xff\xff" + data[at + 4 :]
        elif how == "double":
            data = data[:at] + data[at : at + span] * 2 + data[at + span :]
        elif how == "drop":
            data = data[:at] + data[at + span :]
    return data


_change = st.tuples(
    st.sampled_from(("cut", "zero", "flip", "grow", "double", "drop")), st.integers(0, 999), st.integers(1, 4000)
)
hostile = st.builds(
    Hostile,
    suffix=st.sampled_from(SUFFIXES),
    lie=st.one_of(st.just(""), st.just(""), st.just(""), st.sampled_from(sorted(LIES))),
    seed=st.integers(0, 30),
    changes=st.lists(_change, max_size=4).map(tuple),
)
