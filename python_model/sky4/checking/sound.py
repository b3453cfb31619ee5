"""A listen to every sample: how many there are, how loud they are, how many are cut off, how long it is silent.

Loudness is EBU R128 by libav's own ebur128 filter. S samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from sky4.checking.facts import SoundFacts
from sky4.media.opening import decodable, open_media

SILENT = 1e-6  # mean square below which nothing is heard (-60 dBFS)
FULL = 0.999  # of full scale: a sample that may have been cut off
QUIETEST = -70.0  # LUFS: the absolute gate of EBU R128, below which there is nothing to tell


def listen(path: Path) -> SoundFacts | None:
    """Facts of the file's first sound; None where it has none. Raises av.error.FFmpegError where it breaks off."""
    with open_media(path) as container:
        if not container.streams.audio:
            return None
        stream = decodable(container.streams.audio[0], path)
        meter = _SoundMeter(stream)
        for frame in container.decode(stream):
            meter.add(frame)
        return meter.finish()


class _SoundMeter:
    def __init__(self, stream: AudioStream) -> None:
        self._stream = stream
        self._layout = ""
        self._rate = stream.rate or 0
        self._channels = stream.codec_context.channels
        self._samples = self._clipped = self._silent = self._blocks = 0
        self._peak = 0.0
        self._hot = np.zeros((self._channels, 0), bool)
        self._rest = np.zeros(0)
        self._convert: AudioResampler | None = None
        self._loudness: _Loudness | None = None
        # what the codec's last packet holds beyond the stream's length is padding
        lasts = None if stream.duration is None or stream.time_base is None else stream.duration * stream.time_base
        self._longest = None if lasts is None else round(lasts * self._rate)

    def add(self, frame: AudioFrame) -> None:
        frame.pts = None  # frames follow each other; rounded timestamps are no gaps
        if self._convert is None:
            self._rate, self._layout = frame.sample_rate, frame.layout.name
            self._convert = AudioResampler(format="fltp", layout=self._layout, rate=self._rate)
            self._loudness = _Loudness(self._rate, self._layout)
        for converted in self._convert.resample(frame):
            self._measure(np.asarray(converted.to_ndarray(), np.float32))

    def _measure(self, wave: NDArray[np.float32]) -> None:
        """wave [C, S]."""
        assert self._loudness is not None
        if self._longest is not None:
            wave = wave[:, : max(0, self._longest - self._samples)]
        if not wave.shape[1]:
            return
        self._samples += wave.shape[1]
        self._peak = max(self._peak, float(np.abs(wave).max()))
        # three in a row at full scale: a single sample may well be meant so
        hot = np.concatenate([self._hot, np.abs(wave) >= FULL], axis=1)
        self._clipped += int((hot[:, :-2] & hot[:, 1:-1] & hot[:, 2:]).sum())
        self._hot = hot[:, -2:]
        block = max(1, self._rate // 100)
        power = np.concatenate([self._rest, np.square(wave, dtype=np.float64).mean(0)])
        whole = len(power) // block * block
        means = power[:whole].reshape(-1, block).mean(1)
        self._rest, self._blocks = power[whole:], self._blocks + len(means)
        self._silent += int((means < SILENT).sum())
        self._loudness.add(wave)

    def finish(self) -> SoundFacts:
        loudness = (None, None, None) if self._loudness is None else self._loudness.finish()
        return SoundFacts(
            codec=self._stream.codec_context.name,
            rate=max(1, self._rate),
            channels=self._channels,
            samples=self._samples,
            peak=self._peak,
            clipped=self._clipped,
            silent=self._silent,
            hundredths=self._blocks,
            loudness=loudness[0],
            loudness_range=loudness[1],
            true_peak=loudness[2],
        )


class _Loudness:
    def __init__(self, rate: int, layout: str) -> None:
        self._rate, self._layout, self._at = rate, layout, 0
        graph = av.filter.Graph()
        source = graph.add_abuffer(format="fltp", sample_rate=rate, layout=layout, time_base=Fraction(1, rate))
        meter = graph.add("ebur128", "peak=true:metadata=1")
        graph.link_nodes(source, meter, graph.add("abuffersink"))
        graph.configure()
        self._graph = graph
        self._last: dict[str, str] = {}

    def add(self, wave: NDArray[np.float32]) -> None:
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(wave), format="fltp", layout=self._layout)
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._at, Fraction(1, self._rate)
        self._at += wave.shape[1]
        self._graph.push(frame)
        self._drain()

    def _drain(self) -> None:
        for frame in _pulled(self._graph):
            self._last = dict(frame.metadata) or self._last

    def finish(self) -> tuple[float | None, float | None, float | None]:
        """(integrated LUFS, range LU, true peak dBTP)."""
        with suppress(av.error.FFmpegError):
            self._graph.push(None)
        self._drain()
        whole, spread, peak = (self._value(name) for name in ("I", "LRA", "true_peak"))
        if whole is None or whole <= QUIETEST:
            return None, None, None
        return whole, spread, None if not peak else round(20 * math.log10(peak), 2)

    def _value(self, name: str) -> float | None:
        try:
            value = float(self._last[f"lavfi.r128.{name}"])
        except (KeyError, ValueError):
            return None
        return value if math.isfinite(value) else None


def _pulled(graph: av.filter.Graph) -> Iterator[AudioFrame]:
    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError, av.error.FFmpegError):
            return
        assert isinstance(frame, AudioFrame)
        yield frame
