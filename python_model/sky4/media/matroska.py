"""A Matroska header that asks for a codec delay: how a copied track says which of its first samples are not heard.

libavformat writes CodecDelay from the stream's parameters and libav's Python binding cannot set it there, but a stream
made after a template takes the template's. So the header of such a file is written in memory and the delay put in.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.container import InputContainer

EBML, SEGMENT, INFO, TRACKS = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b"
TRACK_ENTRY, CODEC_DELAY, CLUSTER, TIMESTAMP = b"\xae", b"\x56\xaa", b"\x1f\x43\xb6\x75", b"\xe7"


def delayed(stream: AudioStream, delay: Fraction) -> InputContainer:
    """A container in memory with one audio stream like `stream`, whose first `delay` seconds are not to be heard."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as header:
        header.add_stream_from_template(stream)
        header.start_encoding()
    file = dict(_elements(buffer.getvalue()))
    segment = dict(_elements(file[SEGMENT]))
    [(_, entry)] = [child for child in _elements(segment[TRACKS]) if child[0] == TRACK_ENTRY]
    track = b"".join(_element(name, body) for name, body in _elements(entry) if name != CODEC_DELAY)
    track += _element(CODEC_DELAY, round(delay * 10**9).to_bytes(8, "big"))
    # the demuxer reads the header up to the first cluster
    parts = [(INFO, segment[INFO]), (TRACKS, _element(TRACK_ENTRY, track)), (CLUSTER, _element(TIMESTAMP, b"\0"))]
    body = b"".join(_element(name, part) for name, part in parts)
    return av.open(io.BytesIO(_element(EBML, file[EBML]) + _element(SEGMENT, body)), format="matroska")


def _element(name: bytes, body: bytes) -> bytes:
    return name + (1 << 56 | len(body)).to_bytes(8, "big") + body


def _elements(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, body) of each element; one of unknown size reaches to the end."""
    at = 0
    while at < len(data):
        name_end = at + 9 - data[at].bit_length()
        body = name_end + 9 - data[name_end].bit_length()
        ones = (1 << 7 * (body - name_end)) - 1  # what the length's marker leaves
        size = int.from_bytes(data[name_end:body], "big") & ones
        end = len(data) if size == ones else body + size
        yield data[at:name_end], data[body:end]
        at = end
