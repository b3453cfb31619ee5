"""The sound's side of a container: a wave that is encoded, or packets that are copied, in step with the picture."""

from __future__ import annotations

import io
from contextlib import ExitStack
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet, PacketSideData
from av.stream import Stream
from numpy.typing import NDArray

from sky4.media.destination import MUXERS, OutputFormat
from sky4.media.matroska import delayed
from sky4.media.packets import PacketSound, SoundPacket, opened_sound

Sound = NDArray[np.float32] | PacketSound  # a wave [2, S], or packets as they are

AUDIO_BITS = {"aac": 192_000, "libopus": 160_000}
OPUS_RATE = 48_000  # the only high rate that Opus has
MATROSKA = ("matroska", "webm")
SKIP_SAMPLES = 11  # AV_PKT_DATA_SKIP_SAMPLES: ten bytes, of which the second four count the samples cut off behind


class AudioTrack(Protocol):
    """One audio stream of an output, fed up to a time."""

    def write_until(self, seconds: Fraction) -> None: ...

    def finish(self) -> None: ...

    @property
    def seconds(self) -> Fraction:
        """How much sound has been written."""
        ...


def audio_track(container: OutputContainer, chosen: OutputFormat, sound: Sound, rate: int) -> AudioTrack:
    """The stream for `sound`, added to the container; `rate` is that of a wave."""
    if isinstance(sound, PacketSound):
        return CopiedTrack(container, sound)
    return EncodedTrack(container, chosen, sound, rate)


class EncodedTrack:
    """A wave [2, S], encoded with the format's own codec; silence where the wave is shorter than what is written."""

    def __init__(self, container: OutputContainer, chosen: OutputFormat, wave: NDArray[np.float32], rate: int) -> None:
        assert chosen.audio_codec is not None
        self.container, self.wave, self.rate, self.written = container, wave, rate, 0
        codec_rate = OPUS_RATE if chosen.audio_codec == "libopus" else rate
        stream = container.add_stream(chosen.audio_codec, rate=codec_rate, layout="stereo")
        assert isinstance(stream, AudioStream)
        self.stream = stream
        if chosen.audio_codec in AUDIO_BITS:
            self.stream.codec_context.bit_rate = AUDIO_BITS[chosen.audio_codec]

    @property
    def seconds(self) -> Fraction:
        return Fraction(self.written, self.rate)

    def write_until(self, seconds: Fraction) -> None:
        samples = round(seconds * self.rate)
        if samples <= self.written:
            return
        part = self.wave[:, self.written : samples]
        part = np.pad(part, ((0, 0), (0, samples - self.written - part.shape[1])))
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(part.clip(-1.0, 1.0)), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = self.rate, self.written, Fraction(1, self.rate)
        self.container.mux(self.stream.encode(frame))
        self.written = samples

    def finish(self) -> None:
        self.container.mux(self.stream.encode(None))


class CopiedTrack:
    """Packets, muxed with their bytes unchanged. The containers' own means cut off what is not to be heard."""

    def __init__(self, container: OutputContainer, sound: PacketSound) -> None:
        self.container, self.sound, self.next = container, sound, 0
        self.stream = _stream_like(container, sound)

    @property
    def seconds(self) -> Fraction:
        packets = self.sound.packets[: self.next]
        return Fraction(sum(packet.samples for packet in packets), self.sound.rate)

    def write_until(self, seconds: Fraction) -> None:
        packets = self.sound.packets
        while self.next < len(packets) and packets[self.next].start < seconds * self.sound.rate:
            self.container.mux(self._packet(packets[self.next]))
            self.next += 1

    def finish(self) -> None:
        """Whatever the picture's length, the packets chosen are all written."""
        self.write_until(Fraction(self.sound.packets[-1].end, self.sound.rate))

    def _packet(self, from_source: SoundPacket) -> Packet[Stream]:
        packet = Packet(from_source.payload)
        packet.stream, packet.time_base = self.stream, Fraction(1, self.sound.rate)
        packet.pts = packet.dts = from_source.start
        packet.is_keyframe = True
        padding = max(0, from_source.end - self.sound.end)
        packet.duration = from_source.samples - padding
        if padding and self.container.format.name in MATROSKA:  # the others read the shorter duration
            side = PacketSideData(SKIP_SAMPLES, 10)  # type: ignore[call-arg]  # the stub leaves it out
            side.update(bytes(4) + padding.to_bytes(4, "little") + bytes(2))
            packet.set_sidedata(side)
        return packet


def _stream_like(container: OutputContainer, sound: PacketSound) -> AudioStream:
    """A stream with the parameters of the sound's source, added to the container."""
    with ExitStack() as opened:
        _, template = opened.enter_context(opened_sound(sound.path))
        if container.format.name in MATROSKA:  # which have no edit list
            template = opened.enter_context(delayed(template, Fraction(sound.delay, sound.rate))).streams.audio[0]
        return container.add_stream_from_template(template)


def holding_suffixes(sound: PacketSound) -> list[str]:
    """The suffixes whose formats hold the sound's packets with their bytes unchanged, as their muxers say."""
    return [suffix for suffix, muxer in MUXERS.items() if _holds(muxer, sound)]


def _holds(muxer: str, sound: PacketSound) -> bool:
    file = io.BytesIO()
    try:
        with av.open(file, "w", format=muxer) as container:
            track = CopiedTrack(container, sound)
            track.write_until(Fraction(sound.packets[0].end, sound.rate))
        file.seek(0)
        with av.open(file) as container:
            [first, *_] = (bytes(packet) for packet in container.demux(audio=0))
    except (av.error.FFmpegError, ValueError):
        return False
    return first == sound.packets[0].payload  # AAC of broadcast streams loses its headers here
