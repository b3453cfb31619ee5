"""What is heard of a clip: its windows' sound, faded into one another, beside the source that it extends.

Legend: S samples at the model's rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sky4.encoders.protocols import AudioCodec
from sky4.geometry import ClipGeometry
from sky4.media import KeptThenMade, Soundtrack, probe_video, read_audio
from sky4.pipeline.given import padded
from sky4.pipeline.joining import FADE_SECONDS, SoundPiece, joined
from sky4.pipeline.request import ClipRequest, Source
from sky4.pipeline.segments import whole_source
from sky4.pipeline.windows import MadeWindow, sample_at

Wave = NDArray[np.float32]


def whole_wave(request: ClipRequest, geometry: ClipGeometry, windows: Sequence[MadeWindow], codec: AudioCodec) -> Wave:
    """The clip's sound [2, S]: of the source that it extends its own samples, for the rest that of the windows."""
    source, made = whole_source(request), _made(request, geometry, windows, codec)
    if source is not None:
        made.insert(len(made) if windows[0].window.backward else 0, _own(source, request, geometry))
    return joined(made, sample_at(request.frames, request, geometry), round(FADE_SECONDS * geometry.sample_rate))


def continued(
    track: Soundtrack, request: ClipRequest, geometry: ClipGeometry, windows: Sequence[MadeWindow], codec: AudioCodec
) -> KeptThenMade:
    """The source's track, and what was made for all that the windows show and for what the first one keeps."""
    source, made, rate = whole_source(request), _made(request, geometry, windows, codec), geometry.sample_rate
    assert source is not None, "no clip is extended"
    backward = windows[0].window.backward
    if backward:
        made[-1] = replace(made[-1], end=made[-1].last)
    else:
        made[0] = replace(made[0], begin=made[0].first)
    begin = made[0].begin
    moved = [
        replace(piece, first=piece.first - begin, begin=piece.begin - begin, end=piece.end - begin) for piece in made
    ]
    wave = joined(moved, made[-1].end - begin, round(FADE_SECONDS * rate))
    kept = source.frames / request.fps
    over = kept + Fraction(wave.shape[1], rate) - request.seconds
    return KeptThenMade(track.path, track.skip_seconds, kept, wave, rate, over, backward)


def _made(
    request: ClipRequest, geometry: ClipGeometry, windows: Sequence[MadeWindow], codec: AudioCodec
) -> list[SoundPiece]:
    """The windows' sound in the clip's order."""
    in_order = sorted(windows, key=lambda made: made.window.first)
    return [made.sound(codec, request, geometry) for made in in_order]


def _own(source: Source, request: ClipRequest, geometry: ClipGeometry) -> SoundPiece:
    """The sound of a source that gives its part of the clip whole; silence where it has none."""
    start = request.start_of(source)
    begin, end = (sample_at(frame, request, geometry) for frame in (start, start + source.frames))
    wave = np.zeros((2, 0), np.float32)
    if probe_video(source.path).has_audio:
        seconds, skipped = (source.skip + source.frames) / request.fps, sample_at(source.skip, request, geometry)
        wave = read_audio(source.path, float(seconds), geometry.sample_rate)[:, skipped:]
    return SoundPiece(padded(wave, end - begin), begin, begin, end, given=True)
