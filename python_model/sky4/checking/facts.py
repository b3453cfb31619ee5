"""What a file holds, as measured: values alone, and how they look as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Span:
    """`count` frames from frame `first` on, or, of a sound, that many hundredths of a second."""

    first: int
    count: int

    @property
    def end(self) -> int:
        return self.first + self.count


@dataclass(frozen=True)
class Repeat:
    """The frames of `span` show once more what was shown `lag` frames before."""

    span: Span
    lag: int


@dataclass(frozen=True)
class PictureFacts:
    """width, height: pixels as stored. frames: as decoded; stated_frames: what the container says, None for nothing.

    uneven: frames leave the grid of `fps` by more than a quarter of a frame. black, frozen, repeated: what lies there.
    """

    width: int
    height: int
    fps: Fraction
    frames: int
    stated_frames: int | None
    uneven: bool
    black: tuple[Span, ...]
    frozen: tuple[Span, ...]
    repeated: tuple[Repeat, ...]

    @property
    def seconds(self) -> Fraction:
        return self.frames / self.fps


@dataclass(frozen=True)
class SoundFacts:
    """samples: as heard, without priming and padding, in each channel. peak: of full scale. clipped: how many samples.

    silent: how many hundredths of a second lie below -60 dBFS, of `hundredths` in all. loudness: EBU R128 integrated,
    in LUFS, and its range in LU; true_peak in dBTP. None where the sound is too short or too quiet to say.
    """

    codec: str
    rate: int
    channels: int
    samples: int
    peak: float
    clipped: int
    silent: int
    hundredths: int
    loudness: float | None
    loudness_range: float | None
    true_peak: float | None

    @property
    def seconds(self) -> Fraction:
        return Fraction(self.samples, self.rate)


@dataclass(frozen=True)
class Sync:
    """Events of the kinds that the detectors know. offsets: t_heard - t_seen in seconds, of pairs."""

    seen: tuple[float, ...]
    heard: tuple[float, ...]
    offsets: tuple[float, ...]


@dataclass(frozen=True)
class Facts:
    """fault: why the file could not be decoded to its end, "" where it could. recipe: None where there is none."""

    path: Path
    picture: PictureFacts | None
    sound: SoundFacts | None
    sync: Sync | None
    recipe: Mapping[str, Any] | None
    fault: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON values; times in seconds."""
        told: dict[str, Any] = {}
        if self.picture is not None:
            told["picture"] = _picture(self.picture)
        if self.sound is not None:
            told["sound"] = _sound(self.sound)
        if self.sync is not None:
            told["sync"] = {
                "seen": [round(time, 4) for time in self.sync.seen],
                "heard": [round(time, 4) for time in self.sync.heard],
                "offsets": [round(offset, 4) for offset in self.sync.offsets],
            }
        told["recipe"] = None if self.recipe is None else self.recipe.get("version")
        return told


def _picture(facts: PictureFacts) -> dict[str, Any]:
    def seconds(span: Span) -> list[float]:
        return [round(float(at / facts.fps), 4) for at in (span.first, span.end)]

    return {
        "width": facts.width,
        "height": facts.height,
        "fps": str(facts.fps),
        "frames": facts.frames,
        "stated_frames": facts.stated_frames,
        "seconds": round(float(facts.seconds), 6),
        "uneven": facts.uneven,
        "black": [seconds(span) for span in facts.black],
        "frozen": [seconds(span) for span in facts.frozen],
        "repeated": [
            {"span": seconds(repeat.span), "lag": round(float(repeat.lag / facts.fps), 4)} for repeat in facts.repeated
        ],
    }


def _sound(facts: SoundFacts) -> dict[str, Any]:
    return {
        "codec": facts.codec,
        "rate": facts.rate,
        "channels": facts.channels,
        "samples": facts.samples,
        "seconds": round(float(facts.seconds), 6),
        "peak": round(facts.peak, 5),
        "clipped": facts.clipped,
        "silent_seconds": facts.silent / 100,
        "loudness": facts.loudness,
        "loudness_range": facts.loudness_range,
        "true_peak": facts.true_peak,
    }
