"""An encoder whose packets join on to those of a source: same codec, rate, channels and frame, in step with its frames.

Legend: C the source's channels, S samples at its rate, F samples of a packet.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.packet import Packet
from av.stream import Stream
from numpy.typing import NDArray

from sky4.errors import RequestError
from sky4.media.packets import PacketSound, SoundPacket, lossless, opened_sound

# What the encoder has behind it at the seam, so that its state is about the source's: seconds, and at least packets, as
# it takes its own start for a transient.
RUN_IN, RUN_IN_PACKETS = Fraction(1, 4), 8
LEAST_BITS = 24_000  # a second and channel
PCM_FRAME = 1024  # samples of a packet
# Encoders that can join on, with what they need for it.
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "aac": ("aac", {"aac_coder": "fast"}),  # measured to be nearer to the wave than the other, above all at its start
    "opus": ("libopus", {}),
    "mp3": ("libmp3lame", {"reservoir": "0"}),  # no packet leans on the bits of one that is dropped
    "ac3": ("ac3", {}),
    "flac": ("flac", {}),
    "alac": ("alac", {}),
}
# Where the source's header says how every packet is to be read, so that the encoder's has to say the same: of AAC the
# object type, rate and channels, of ALAC the frame, depth and coding parameters.
HEADERS = {"aac": slice(0, 2), "alac": slice(12, 24)}


class JoiningEncoder:
    """RequestError where no encoder here writes what could stand beside the source's packets."""

    def __init__(self, source: PacketSound) -> None:
        self.source, self.lossless = source, lossless(source.codec)
        self.frame = PCM_FRAME if self.lossless else _frame_of(source)
        with opened_sound(source.path) as (_, stream):
            self.format, self.header = stream.codec_context.format.name, bytes(stream.codec_context.extradata or b"")
        self.delay = self._check()

    def packets(self, target: NDArray[np.float32], seam: int) -> tuple[SoundPacket, ...]:
        """Packets for target [C, S] from sample `seam` on, where one of the source's begins."""
        total = target.shape[1]
        if self.lossless:
            return _placed(self._encode(target, seam, total), seam)
        lead = max(RUN_IN_PACKETS, ceil(RUN_IN * self.source.rate / self.frame))
        begin = seam + self.delay - lead * self.frame
        # what an encoder looks ahead to, and silence to fill its last frame
        encoded = self._encode(target, begin, total + 4 * self.frame + self.delay)[lead:]
        return tuple(packet for packet in _placed(encoded, seam, self.frame) if packet.start < total)

    def packets_before(self, target: NDArray[np.float32], seam: int) -> tuple[SoundPacket, ...]:
        """Packets for target [C, S] up to sample `seam`, where one of the source's begins."""
        if self.lossless:
            return _placed(self._encode(target, 0, seam), 0)
        count = ceil(Fraction(seam + self.delay, self.frame))  # the first decode before sample 0, unheard
        first = seam - count * self.frame
        encoded = self._encode(target, first + self.delay, seam + 4 * self.frame + self.delay)
        return _placed(encoded[:count], first, self.frame)

    def _check(self) -> int:
        """The encoder's delay in samples, as silence shows it."""
        context = self._context()
        packets = self._through(context, np.zeros((context.channels, 0), np.float32), 0, 4 * self.frame)
        told = HEADERS.get(self.source.codec, slice(0, 0))
        same = bytes(context.extradata or b"")[told] == self.header[told]
        if not same or packets[0].pts is None or not (self.lossless or packets[0].duration == self.frame):
            raise RequestError(f"{_told(self.source)} in a form that no encoder here writes")
        return -packets[0].pts

    def _encode(self, wave: NDArray[np.float32], begin: int, end: int) -> list[tuple[bytes, int]]:
        """(payload, samples) of each packet of the wave [C, S] from `begin` to `end`, silent where that is outside."""
        return [(bytes(packet), packet.duration or 0) for packet in self._through(self._context(), wave, begin, end)]

    def _through(
        self, context: AudioCodecContext, wave: NDArray[np.float32], begin: int, end: int
    ) -> list[Packet[Stream]]:
        packets: list[Packet[Stream]] = []
        for at in range(begin, end, self.frame):
            part = _cut(wave, at, min(at + self.frame, end))
            frame = AudioFrame.from_ndarray(part, format="fltp", layout=self.source.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.source.rate, at - begin, Fraction(1, self.source.rate)
            packets += context.encode(frame)
        return [packet for packet in (*packets, *context.encode(None)) if packet.size]

    def _context(self) -> AudioCodecContext:
        codec, rate = self.source.codec, self.source.rate
        if codec not in ENCODERS and not codec.startswith("pcm_"):
            raise RequestError(f"{_told(self.source)}, which is not continued here")
        name, options = ENCODERS.get(codec, (codec, {}))
        try:
            context = AudioCodecContext.create(name, "w")
            assert isinstance(context, AudioCodecContext)
        except (av.error.FFmpegError, ValueError) as error:
            raise RequestError(f"{_told(self.source)}, for which there is no encoder here") from error
        formats = [found.name for found in context.codec.audio_formats or ()]
        context.format = self.format if self.lossless else min(formats, key=lambda name: not name.startswith("fl"))
        context.sample_rate, context.layout, context.time_base = rate, self.source.layout, Fraction(1, rate)
        if not self.lossless:
            context.bit_rate = max(_bits(self.source), LEAST_BITS * context.channels)
        if codec == "opus":
            options = {"frame_duration": f"{float(1000 * Fraction(self.frame, rate)):g}"}
        context.options = options
        return context


def _frame_of(source: PacketSound) -> int:
    """Samples of every packet. RequestError where they differ, as Vorbis's do."""
    lengths = {packet.samples for packet in source.packets}
    if len(lengths) > 1:
        raise RequestError(f"{_told(source)} in packets of unsteady length, which is not continued here")
    return lengths.pop()


def _bits(source: PacketSound) -> int:
    """Of a second."""
    size, samples = (sum(values) for values in zip(*((len(p.payload), p.samples) for p in source.packets), strict=True))
    return round(8 * size * Fraction(source.rate, samples))


def _placed(encoded: list[tuple[bytes, int]], start: int, frame: int | None = None) -> tuple[SoundPacket, ...]:
    """One packet after the other from sample `start` on; of `frame` samples each where that is steady."""
    placed = []
    for payload, samples in encoded:
        placed.append(SoundPacket(payload, start, frame or samples))
        start += frame or samples
    return tuple(placed)


def _cut(wave: NDArray[np.float32], begin: int, end: int) -> NDArray[np.float32]:
    """[C, end - begin]: silence where that lies outside the wave."""
    inside = wave[:, max(0, begin) : max(0, end)]
    lead = min(max(0, -begin), end - begin)
    return np.pad(inside, ((0, 0), (lead, end - begin - lead - inside.shape[1])))


def _told(source: PacketSound) -> str:
    return f"the sound of '{source.path}' is {source.codec}"
