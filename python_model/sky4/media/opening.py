"""How libav is given a file: as a file, whatever its name or its content says."""

from __future__ import annotations

from pathlib import Path

OPTIONS = {"protocol_whitelist": "file"}  # a playlist inside a file must not reach the network


def located(path: Path) -> str:
    """The absolute path: libav takes what stands before a colon for a protocol, and `take:2.mp4` is a good name."""
    return str(path.absolute())
