"""Encoded sound as it lies in a file: packets on a sample-exact axis that starts with the picture.

Containers round times (Matroska to milliseconds) and cut the decoder's priming and padding off; the samples that each
packet decodes to are therefore counted by decoding, with nothing cut off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.codec.context import Flags2
from av.container import InputContainer
from av.packet import Packet
from numpy.typing import NDArray

from sky4.errors import RequestError
from sky4.media.opening import decodable, open_media

GAP = Fraction(1, 50)  # seconds by which a packet's time must leave the axis to be a gap and no rounding


@dataclass(frozen=True)
class SoundPacket:
    """payload: as in the file. start: its first decoded sample, negative before the picture. samples: how many."""

    payload: bytes
    start: int
    samples: int

    @property
    def end(self) -> int:
        return self.start + self.samples


@dataclass(frozen=True)
class PacketSound:
    """A track of packets, muxed as they are. What lies before sample 0 and from sample `end` on is not heard.

    path: a file whose audio stream has these packets' parameters. codec, layout: libav's names. rate: samples a second.
    """

    path: Path
    codec: str
    rate: int
    layout: str
    packets: tuple[SoundPacket, ...]
    end: int

    @property
    def delay(self) -> int:
        """Samples that decode before the picture starts."""
        return max(0, -self.packets[0].start)

    @property
    def digest(self) -> str:
        """SHA-256 over the packets' bytes in order: ffmpeg's streamhash of the copied track."""
        return digest_of(packet.payload for packet in self.packets)


def digest_of(payloads: Iterator[bytes]) -> str:
    sums = hashlib.sha256()
    for payload in payloads:
        sums.update(payload)
    return sums.hexdigest()


@contextmanager
def opened_sound(path: Path) -> Iterator[tuple[InputContainer, AudioStream]]:
    """The file and its first audio stream. RequestError where there is no file or no sound to decode."""
    if not path.is_file():
        raise RequestError(f"'{path}' does not exist or is no file; give a video with sound")
    try:
        with open_media(path) as container:
            if not container.streams.audio:
                raise RequestError(f"'{path}' holds no sound; give a file with an audio stream")
            yield container, decodable(container.streams.audio[0], path)
    except (av.error.FFmpegError, OSError) as error:
        raise RequestError(f"'{path}' cannot be decoded as sound; give an MP4, MOV, MKV, WebM or similar") from error


def read_packets(path: Path, until: Fraction | None = None) -> PacketSound:
    """The packets of the file's sound that begin before `until` seconds, all of them for None.

    RequestError where there is no sound to decode.
    """
    found: list[SoundPacket] = []
    end = 0
    with opened_sound(path) as (container, stream):
        zero = Fraction(container.start_time or 0, av.time_base)
        decoder, codec = _Raw(stream), stream.codec_context.codec.canonical_name
        for packet in container.demux(stream):
            if not packet.size:
                continue
            payload = bytes(packet)
            samples = decoder.count(payload)
            start = _start(packet, found[-1].end if found else None, decoder.rate, zero)
            if until is not None and start >= until * decoder.rate:
                break
            found.append(SoundPacket(payload, start, samples))
            end = start + samples - _padding(packet, samples, decoder.rate)
    if not found:
        raise RequestError(f"'{path}' holds an audio stream without sound; give another file")
    return PacketSound(path, codec, decoder.rate, decoder.layout, tuple(found), end)


def lossless(codec: str) -> bool:
    """Whether each packet decodes by itself, and its samples encode to the same again."""
    found = av.Codec(codec, "r")
    return codec.startswith("pcm_") or bool(found.lossless and not found.lossy)


class _Raw:
    """A decoder that cuts nothing off: neither priming nor padding."""

    def __init__(self, stream: AudioStream) -> None:
        self.stream, self.rate = stream, stream.codec_context.sample_rate
        self.layout = _named(stream.codec_context.layout.name)
        stream.codec_context.flags2 |= Flags2.skip_manual

    def frames(self, payload: bytes) -> list[AudioFrame]:
        packet = Packet(payload)  # without the side data that says what to skip
        packet.stream = self.stream
        found = self.stream.codec_context.decode(packet)
        if found:
            # HE-AAC tells half of both before it is decoded
            self.rate, self.layout = found[0].sample_rate, _named(found[0].layout.name)
        return found

    def count(self, payload: bytes) -> int:
        return sum(frame.samples for frame in self.frames(payload))


def _named(layout: str) -> str:
    """PCM in Matroska tells how many channels there are and not what they are."""
    return {"1 channels": "mono", "2 channels": "stereo"}.get(layout, layout)


def _start(packet: Packet[AudioStream], expected: int | None, rate: int, zero: Fraction) -> int:
    """The packet's first sample. Times are rounded, so the axis is followed where they agree with it."""
    if packet.pts is None or packet.time_base is None:
        return expected or 0
    told = (packet.pts * packet.time_base - zero) * rate
    if expected is None:
        skipped = _skip_samples(packet)[0]  # exact where the time is rounded
        return -skipped if abs(told + skipped) <= 2 * packet.time_base * rate else round(told)
    return round(told) if abs(told - expected) > GAP * rate and told > expected else expected


def _padding(packet: Packet[AudioStream], samples: int, rate: int) -> int:
    """Samples at the packet's end that are not part of the sound, as its side data or its length says."""
    discarded = _skip_samples(packet)[1]
    if discarded or not packet.duration or not packet.time_base or packet.time_base > Fraction(1, rate):
        return min(discarded, samples)
    return max(0, samples - round(packet.duration * packet.time_base * rate))


def _skip_samples(packet: Packet[AudioStream]) -> tuple[int, int]:
    if not packet.has_sidedata("skip_samples"):
        return 0, 0
    data = bytes(packet.get_sidedata("skip_samples"))
    return int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little")


def window(sound: PacketSound, skip: Fraction, seconds: Fraction, preroll: Fraction = Fraction(0)) -> PacketSound:
    """The packets that sound within [skip, skip + seconds), on an axis that starts at `skip`.

    Where that leaves packets out in front, those of the `preroll` before are kept too, unheard: a decoder needs them
    to arrive at the same samples. RequestError where nothing sounds in that time.
    """
    first, last = round(skip * sound.rate), min(round((skip + seconds) * sound.rate), sound.end)
    heard = [number for number, packet in enumerate(sound.packets) if packet.end > first and packet.start < last]
    if not heard or last <= first:
        raise RequestError(
            f"'{sound.path}' has no sound from {float(skip):.2f} to {float(skip + seconds):.2f} s; take another part"
        )
    begin = heard[0]
    while begin > 0 and sound.packets[begin].start > first - preroll * sound.rate:
        begin -= 1
    if skip == 0:
        begin = 0
    kept = (replace(packet, start=packet.start - first) for packet in sound.packets[begin : heard[-1] + 1])
    return replace(sound, packets=tuple(kept), end=last - first)


def decoded(sound: PacketSound) -> NDArray[np.float32]:
    """What is heard, in the sound's own channels: float32 [C, S] from sample 0 on; silence where packets miss."""
    with opened_sound(sound.path) as (_, stream):
        decoder, at = _Raw(stream), 0
        resampler = AudioResampler(format="fltp", layout=sound.layout, rate=sound.rate)
        parts: list[NDArray[np.float32]] = []
        for packet in sound.packets:
            frames = [part for frame in decoder.frames(packet.payload) for part in resampler.resample(_untimed(frame))]
            waves = [np.asarray(frame.to_ndarray(), np.float32) for frame in frames]
            if waves:
                gap = np.zeros((waves[0].shape[0], max(0, packet.start - max(at, 0))), np.float32)
                parts += [gap, np.concatenate(waves, axis=1)[:, max(0, -packet.start) :]]
            at = packet.end
    return np.concatenate(parts, axis=1)[:, : sound.end]


def _untimed(frame: AudioFrame) -> AudioFrame:
    frame.pts = None  # frames follow each other
    return frame


def resampled(
    wave: NDArray[np.float32], rate: int, layout: str, wanted_rate: int, wanted_layout: str
) -> NDArray[np.float32]:
    """A wave [C, S] at another rate, in another layout. Mono goes on both channels as it is, and stereo's mean to mono:
    libav itself would make the one 3 dB lower and the other louder."""
    if (rate, layout) == (wanted_rate, wanted_layout):
        return wave
    if layout == "mono" and wanted_layout == "stereo":
        wave, layout = np.repeat(wave, 2, axis=0), "stereo"
    elif layout == "stereo" and wanted_layout == "mono":
        wave, layout = wave.mean(axis=0, keepdims=True), "mono"
    resampler = AudioResampler(format="fltp", layout=wanted_layout, rate=wanted_rate)
    frames: list[AudioFrame] = []
    for begin in range(0, wave.shape[1], rate):  # a second at a time
        part = AudioFrame.from_ndarray(
            np.ascontiguousarray(wave[:, begin : begin + rate], np.float32), format="fltp", layout=layout
        )
        part.sample_rate = rate
        frames += resampler.resample(part)
    frames += resampler.resample(None)
    whole = np.concatenate([np.asarray(frame.to_ndarray(), np.float32) for frame in frames], axis=1)
    length = round(wave.shape[1] * Fraction(wanted_rate, rate))
    return np.pad(whole[:, :length], ((0, 0), (0, max(0, length - whole.shape[1]))))
