"""A source's own sound under the picture that is made: its packets as they are, or its waves mixed with made sound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sky4.errors import RequestError
from sky4.media.audio_track import holding_suffixes
from sky4.media.destination import output_format
from sky4.media.packets import PacketSound, lossless, read_packets, window
from sky4.media.sound import read_audio

# Seconds of packets before a part that a decoder needs to arrive at the same samples: a transform's overlap for most;
# Opus's state is off by half as much every 20 ms, MP3 draws on bits of up to nine packets before.
PREROLL = {"opus": Fraction(1, 4), "mp3": Fraction(1, 4)}
OVERLAP = Fraction(1, 20)
CEILING = 0.98  # of full scale, what a mix is turned down to: lossy encoders overshoot a little


@dataclass(frozen=True)
class Soundtrack:
    """The sound of `path` from `skip_seconds` on.

    mix: 0 copies its packets, not re-encoded; above 0 it is the gain at which the made sound is added to it.
    """

    path: Path
    skip_seconds: Fraction = Fraction(0)
    mix: float = 0.0

    def __post_init__(self) -> None:
        good = math.isfinite(self.mix) and 0 <= self.mix <= 10
        if not good:
            raise RequestError(f"--mix {self.mix} is not a gain from 0 to 10; 1 mixes in the made sound as it is")
        if self.skip_seconds < 0:
            raise RequestError(f"--from {self.skip_seconds} lies before the start of '{self.path}'; 0 is the first")

    @property
    def flag(self) -> str:
        """What the user calls it."""
        return "--mix" if self.mix else "--keep-audio"


def kept_sound(soundtrack: Soundtrack, seconds: Fraction) -> PacketSound:
    """The source's packets that sound during the clip. RequestError where there are none."""
    try:
        track = read_packets(soundtrack.path, soundtrack.skip_seconds + seconds)
        preroll = Fraction(0) if lossless(track.codec) else PREROLL.get(track.codec, OVERLAP)
        return window(track, soundtrack.skip_seconds, seconds, preroll)
    except RequestError as error:
        remedy = f"; or drop {soundtrack.flag}, and the sound is made"
        raise RequestError(f"{soundtrack.flag}: {error}{remedy}") from error


def check_soundtrack(soundtrack: Soundtrack, seconds: Fraction, out: Path) -> None:
    """Refuse what `out` could not hold in the end, before any model work. RequestError with the remedy."""
    track = kept_sound(soundtrack, seconds)
    chosen = output_format(out)
    if chosen.video_codec is None or chosen.audio_codec is None:
        raise RequestError(f"{soundtrack.flag} lays sound under a picture, and '{out}' is {chosen.name}; use .mp4")
    if not soundtrack.mix:
        check_holds_packets(track, out, soundtrack.flag)


def check_holds_packets(track: PacketSound, out: Path, flag: str) -> None:
    """RequestError where the format of `out` does not hold the track's codec; names the codec and what holds it."""
    chosen = output_format(out)
    if not chosen.muxer:
        return  # a folder of pictures holds the decoded sound
    suffixes = holding_suffixes(track)
    if out.suffix.lower() in suffixes:
        return
    remedy = f"use {' or '.join(suffixes)}" if suffixes else "use --mix instead, which encodes it anew"
    raise RequestError(
        f"{flag}: the sound of '{track.path}' is {track.codec}, and {chosen.name} output does not hold its packets "
        f"as they are; {remedy}"
    )


def mixed(made: NDArray[np.float32], soundtrack: Soundtrack, sample_rate: int) -> NDArray[np.float32]:
    """The made sound [2, S] at the gain asked for and the source's own, scaled as one where they would clip."""
    skip, samples = round(soundtrack.skip_seconds * sample_rate), made.shape[1]
    own = read_audio(soundtrack.path, float(soundtrack.skip_seconds) + samples / sample_rate + 1, sample_rate)
    own = own[:, skip : skip + samples]
    mix = made * np.float32(soundtrack.mix)
    mix[:, : own.shape[1]] += own
    peak = float(np.abs(mix).max(initial=0.0))
    loudest = max(CEILING, float(np.abs(own).max(initial=0.0)))  # a source at full scale may stay there
    return mix * np.float32(min(1.0, min(loudest, 1.0) / peak)) if peak > 0 else mix
