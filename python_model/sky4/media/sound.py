"""Sound in: any rate and channel layout to float32 stereo at the rate asked for."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from sky4.errors import RequestError
from sky4.media.opening import decodable, open_media

MAX_SECONDS = 600  # ten minutes of stereo float32 are 212 MB


def probe_audio(path: Path) -> float:
    """Seconds of sound in the file, whose start is decoded as a proof. RequestError where missing or without sound."""
    start = read_audio(path, seconds=0.1)
    with open_media(path) as container:
        stream = container.streams.audio[0]
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        if container.duration is not None:
            return float(container.duration / av.time_base)
    return start.shape[1] / 44100


def read_audio(
    path: Path, seconds: float | None = None, sample_rate: int = 44100, skip: int = 0
) -> NDArray[np.float32]:
    """The first `seconds` of the sound, all of it for None: float32 [2, S], shorter where the file is; less `skip`
    samples at its head, which are decoded and never held.

    Mono is put on both channels, more than two are mixed down. Sound that starts after the picture keeps its place.
    RequestError where there is no sound to decode, or more than ten minutes of it.
    """
    if not path.is_file():
        raise RequestError(f"'{path}' does not exist or is no file; give a sound or video file")
    limit = MAX_SECONDS * sample_rate
    wanted = limit + 1 if seconds is None else min(round(seconds * sample_rate), limit)
    try:
        with open_media(path) as container:
            wave, whole = _decode(container, wanted, sample_rate, skip)
    except (av.error.FFmpegError, OSError) as error:
        raise RequestError(f"'{path}' cannot be decoded as sound; give a WAV, MP3, FLAC, MP4 or similar") from error
    if whole == 0:
        raise RequestError(f"'{path}' holds no sound; give a file with an audio stream")
    if whole > limit:
        raise RequestError(f"'{path}' is longer than {MAX_SECONDS // 60} minutes; cut it first")
    return wave


def _decode(container: InputContainer, wanted: int, sample_rate: int, skip: int) -> tuple[NDArray[np.float32], int]:
    """(up to `wanted` samples but the first `skip`, how many they are with those); [2, 0] where there is no sound."""
    if not container.streams.audio:
        return np.zeros((2, 0), np.float32), 0
    stream = decodable(container.streams.audio[0], container.name)
    resampler = to_stereo(stream, sample_rate)
    start = Fraction(container.start_time or 0, av.time_base)
    wave: NDArray[np.float32] | None = None
    lead = count = 0
    for frame in _then_flush(container):
        if frame is not None:
            if count == 0 and frame.pts is not None and frame.time_base is not None:
                lead = max(0, round((frame.pts * frame.time_base - start) * sample_rate))
            frame.pts = None  # frames follow each other; the rounded timestamps of some containers are no gaps
        for converted in resampler.resample(frame):
            if wave is None:
                if stream.duration is not None and stream.time_base is not None:
                    # what the codec's last packet holds beyond the stream's length is padding
                    wanted = min(wanted, lead + round(stream.duration * stream.time_base * sample_rate))
                wave = np.zeros((2, max(0, wanted - skip)), np.float32)  # written once, in its place: held once
            at, part = lead + count - skip, stereo(converted)
            begin, end = max(0, at), min(wave.shape[1], at + part.shape[1])
            if begin < end:
                wave[:, begin:end] = part[:, begin - at : end - at]
            count += converted.samples
        if lead + count >= wanted:
            break
    if wave is None:
        return np.zeros((2, 0), np.float32), 0
    whole = min(wanted, lead + count)
    return (wave if whole == wanted else np.ascontiguousarray(wave[:, : max(0, whole - skip)])), whole


def sound_power(path: Path, hertz: int = 100) -> NDArray[np.float64]:
    """Mean square of the sound in each 1/hertz of a second from the file's start, [N]: however long, little is held.

    RequestError where there is no sound to decode.
    """
    rate = 480 * hertz
    powers, rest = [np.zeros(0)], np.zeros(0)
    try:
        with open_media(path) as container:
            if not container.streams.audio:
                raise RequestError(f"'{path}' holds no sound; give a file with an audio stream")
            resampler = to_stereo(decodable(container.streams.audio[0], path), rate)
            for frame in _then_flush(container):
                if frame is not None:
                    frame.pts = None
                for converted in resampler.resample(frame):
                    rest = np.concatenate([rest, np.square(stereo(converted), dtype=np.float64).mean(axis=0)])
                whole = len(rest) // 480 * 480
                powers.append(rest[:whole].reshape(-1, 480).mean(axis=1))
                rest = rest[whole:]
    except (av.error.FFmpegError, OSError) as error:
        raise RequestError(f"'{path}' cannot be decoded as sound; give a WAV, MP3, FLAC, MP4 or similar") from error
    return np.concatenate(powers)


def to_stereo(stream: AudioStream, sample_rate: int) -> AudioResampler:
    """To float32 at `sample_rate` in two channels; mono stays mono, as libav would put it on both 3 dB lower."""
    layout = "mono" if stream.codec_context.channels == 1 else "stereo"
    return AudioResampler(format="fltp", layout=layout, rate=sample_rate)


def stereo(frame: AudioFrame) -> NDArray[np.float32]:
    """Samples [2, S] of a frame from `to_stereo`."""
    wave = np.asarray(frame.to_ndarray(), np.float32)
    return np.repeat(wave, 2, axis=0) if wave.shape[0] == 1 else wave


def _then_flush(container: InputContainer) -> Iterator[AudioFrame | None]:
    yield from container.decode(audio=0)
    yield None
