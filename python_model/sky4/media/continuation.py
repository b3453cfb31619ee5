"""Made sound that goes on from a source's own, or leads into it: the source's packets stay as they are.

New packets of the same codec, rate and channels are encoded from the source's decoded sound and what is made after it.
The encoder begins some packets before the seam, so that its state there is about the source's, and those packets are
dropped. A transform codec's packet decodes together with the one before it; at the seam both have encoded the same
sound, so that their aliasing cancels. What is crossfaded therefore lies behind the seam, in new packets only: a few
hundredths of a second of the source's end are encoded anew.

Legend: C the source's channels, S samples at its rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sky4.errors import RequestError
from sky4.media.joining import JoiningEncoder
from sky4.media.packets import PacketSound, SoundPacket, decoded, lossless, resampled
from sky4.media.soundtrack import check_holds_packets, packets_within

Wave = NDArray[np.float32]

FADE = Fraction(1, 50)  # seconds over which made sound takes over from the source's
TRIES = 6  # seams that are tried, a packet apart
AROUND = 32  # packets on both sides that tell how clean one is
FLOOR = 1e-3  # of full scale: an error that nobody hears


@dataclass(frozen=True)
class KeptThenMade:
    """A source's sound and a made wave on one axis; backward: the wave first.

    path: the source, kept_seconds of which are kept from skip_seconds on. wave: [2, M] at sample_rate. Its first
    overlap_seconds (backward: its last) lie over the source's own, which is heard there but for the crossfade.
    """

    path: Path
    skip_seconds: Fraction
    kept_seconds: Fraction
    wave: Wave
    sample_rate: int
    overlap_seconds: Fraction = Fraction(0)
    backward: bool = False

    @property
    def seconds(self) -> Fraction:
        return self.kept_seconds - self.overlap_seconds + Fraction(self.wave.shape[1], self.sample_rate)


@dataclass(frozen=True)
class JoinedSound:
    """sound: the packets of both, to be written. kept: which of them are the source's. seam: the sample where the
    source's own begin or end."""

    sound: PacketSound
    kept: slice
    seam: int


def joined_packets(joint: KeptThenMade) -> JoinedSound:
    """The source's packets as they are, and new ones that go on from them.

    RequestError where no encoder here writes packets that join on: the sound can then be encoded anew as a whole, if
    the user asks for that.
    """
    source = packets_within(joint.path, joint.skip_seconds, joint.kept_seconds)
    return _Join(joint, source).joined()


def check_continuable(
    path: Path, skip_seconds: Fraction, kept_seconds: Fraction, out: Path, otherwise: str, backward: bool = False
) -> None:
    """Refuse before any work what could not be joined on or held in the end, by joining on a short silence.

    RequestError that ends in `otherwise`: what to do instead, such as the flag that has the sound encoded anew.
    """
    silence = np.zeros((2, 4410), np.float32)
    try:
        joined = joined_packets(KeptThenMade(path, skip_seconds, kept_seconds, silence, 44100, backward=backward))
    except RequestError as error:
        raise RequestError(f"{error}; {otherwise}") from error
    check_holds_packets(joined.sound, out, "", otherwise)


class _Join:
    """Both sounds at the source's rate and in its channels, and an encoder of its codec.

    Of a transform codec the windows on both sides of the seam may differ in shape, as the source's encoder chose them
    for what it heard; the aliasing then stays. So some seams are tried, and of the clean ones the first is taken.
    """

    def __init__(self, joint: KeptThenMade, source: PacketSound) -> None:
        self.source, self.backward, self.steady = source, joint.backward, not lossless(source.codec)
        made = resampled(joint.wave, joint.sample_rate, "stereo", source.rate, source.layout)
        self.target = _crossfaded(decoded(source), made, joint, source.rate)  # [C, S]
        self.made = self.target.shape[1] - round(joint.kept_seconds * source.rate) if joint.backward else 0
        self.encoder = JoiningEncoder(source)
        if joint.backward and source.codec == "mp3":
            raise RequestError(f"the sound of '{source.path}' is mp3, whose packets lean on those before them")

    def joined(self) -> JoinedSound:
        tried: list[tuple[int, float, float]] = []
        for number in self._seams():
            tried.append((number, *self._tried(number)))
            if tried[-1][1] <= FLOOR:
                break
        least = min(off for _, off, _ in tried)
        number, off, loud = next(one for one in tried if one[1] <= 1.5 * least + FLOOR)
        if off > loud / 2 + FLOOR:
            raise RequestError(f"the {self.source.codec} sound of '{self.source.path}' does not go on in new packets")
        return self._at(self.source.packets, number, self.target, self.made)

    def _at(self, packets: tuple[SoundPacket, ...], number: int, target: Wave, made: int) -> JoinedSound:
        """Kept and new packets that meet at packet `number` of the source's; the source lies at sample `made`."""
        own = tuple(replace(packet, start=packet.start + made) for packet in packets)
        seam = own[number].start if number < len(own) else own[-1].end
        if self.backward:
            new, end = self.encoder.packets_before(target, seam), min(made + self.source.end, target.shape[1])
            sound = replace(self.source, packets=new + own[number:], end=end)
            return JoinedSound(sound, slice(len(new), len(sound.packets)), seam)
        sound = replace(self.source, packets=own[:number] + self.encoder.packets(target, seam), end=target.shape[1])
        return JoinedSound(sound, slice(0, number), seam)

    def _tried(self, number: int) -> tuple[float, float]:
        """(error, level) at a seam, of full scale, when some packets around it are decoded."""
        packets, frame = self.source.packets, self.encoder.frame
        low, high = max(0, number - AROUND), min(number + AROUND, len(packets))
        seam = packets[min(number, len(packets) - 1)].start + self.made
        begin = max(0, seam - AROUND * frame)
        target = self.target[:, begin : seam + AROUND * frame]
        joined = self._at(packets[low:high], number - low, target, self.made - begin)
        found = decoded(joined.sound)
        around = slice(max(0, joined.seam - frame), joined.seam + 2 * frame)
        meant = target[:, : found.shape[1]][:, around]
        return _level(found[:, around] - meant), _level(meant)

    def _seams(self) -> list[int]:
        """Numbers of source packets at which kept and new may meet, those that keep most first."""
        fade, packets = round(FADE * self.source.rate), self.source.packets
        tries = TRIES if self.steady else 1
        if self.backward:  # the first kept one
            first = next((n for n, packet in enumerate(packets) if packet.start >= fade), len(packets))
            return list(range(first, min(first + tries, len(packets)))) or [len(packets)]
        whole = sum(packet.end <= self.source.end - fade for packet in packets)
        # the first new one; of a transform codec its samples are still the source's, so that the overlap cancels
        first = max(0, whole - 1) if self.steady else whole
        return list(range(first, max(first - tries, 0), -1)) or [first]


def _crossfaded(own: Wave, made: Wave, joint: KeptThenMade, rate: int) -> Wave:
    """[C, S]: the source's sound and the made one on the joint's axis, both at `rate`."""
    total = round(joint.seconds * rate)
    begins = round(joint.kept_seconds * rate) - round(joint.overlap_seconds * rate)
    if joint.backward:  # the same from behind
        own = np.pad(own, ((0, 0), (0, max(0, round(joint.kept_seconds * rate) - own.shape[1]))))
        turned = _laid(own[:, ::-1], made[:, ::-1], total, begins, round(FADE * rate))
        return np.ascontiguousarray(turned[:, ::-1])
    return _laid(own, made, total, begins, round(FADE * rate))


def _laid(own: Wave, made: Wave, total: int, begins: int, fade: int) -> Wave:
    """`own` up to its end, then `made`, which begins at sample `begins`; the one fades out as the other fades in."""
    end = min(own.shape[1], total)
    fade = min(fade, end)
    over = max(begins, end - fade)  # where made sound comes in
    ramp = np.asarray(0.5 - 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / max(fade, 1)), np.float32)
    x = np.zeros((own.shape[0], total), np.float32)  # minutes of sound: filled in place
    coming = made[:, over - begins : total - begins]
    x[:, over : over + coming.shape[1]] = coming
    length = min(fade, coming.shape[1])
    x[:, over : over + length] *= ramp[:length]
    x[:, : end - fade] = own[:, : end - fade]
    x[:, end - fade : end] += own[:, end - fade : end] * (1 - ramp)
    return np.clip(x, -1.0, 1.0, out=x)


def _level(wave: Wave) -> float:
    return float(np.sqrt(np.mean(wave**2))) if wave.size else 0.0
