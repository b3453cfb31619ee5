"""How libav is given a file: as a file, whatever its name or its content says."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import av
from av.container.input import InputContainer
from av.stream import Stream

from sky4.errors import RequestError

StreamT = TypeVar("StreamT", bound=Stream)

OPTIONS = {"protocol_whitelist": "file"}  # a playlist inside a file must not reach the network
# Seconds for finding out what a file is, and for each read: libav would search gigabytes of zeros to their end.
PATIENCE = (3.0, 3.0)


def located(path: Path) -> str:
    """The absolute path: libav takes what stands before a colon for a protocol, and `take:2.mp4` is a good name."""
    return str(path.absolute())


def decodable(stream: StreamT, path: Path | str) -> StreamT:
    """The stream, if there is a decoder for it. RequestError where there is none, as of a broken header."""
    if stream.codec_context is None:
        raise RequestError(f"'{path}' is broken, or its {stream.type} is of a codec that is not known here")
    return stream


def open_media(path: Path) -> InputContainer:
    """A file of the user's, open for reading: no network, no endless wait, and metadata of any bytes.

    Raises FFmpegError, OSError.
    """
    return av.open(located(path), options=OPTIONS, timeout=PATIENCE, metadata_errors="replace")
