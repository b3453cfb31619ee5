"""A made clip written, and what is told of it: its size, what was kept of the sources, what is noticed at its seams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sky4.media import INSIDE, Provenance, WrittenClip, read_audio
from sky4.pipeline.clip import Clip, Progress, Watch
from sky4.pipeline.composite import Change, change_in_file
from sky4.pipeline.lips import Lag, LipMeter
from sky4.pipeline.seams import SeamMeter, SeamReport
from sky4.pipeline.speakers import regions


@dataclass(frozen=True)
class Finished:
    """kept: how far what is kept of the sources was changed, before encoding and in the file; None without a canvas.

    lips: how the picture follows the sound that drives it, or each speaker's its own, by name ("" is the one sound);
    empty where none does or where that cannot be told."""

    clip: Clip
    written: WrittenClip
    kept: tuple[Change, Change] | None
    seams: SeamReport | None
    lips: Mapping[str, Lag] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people: what is kept, then the seams; nothing of a clip that has neither."""
        lines = []
        if self.kept is not None:
            before, after = self.kept
            told = "unchanged" if before.largest == 0 else f"{before.mean:.3f} off on average, {before.largest} at most"
            off = f"{after.mean:.2f} of 255 off on average, {after.largest} at most"
            encoded = "unchanged" if after.largest == 0 else off
            lines.append(f"what is kept: {told} before encoding, {encoded} in the file")
        if self.switch is not None:
            at, kind = self.switch
            lines.append(f"another shot from {at:.2f} s on: {kind}")
        lines += [f"{name}: {lag.line()}" if name else lag.line() for name, lag in self.lips.items()]
        return lines if self.seams is None else [*lines, self.seams.line()]

    @property
    def switch(self) -> tuple[float, str] | None:
        """(seconds at which another shot begins, the transition); None in a clip of one shot."""
        segments = self.clip.request.segments
        if self.clip.switch is None or segments is None:
            return None
        return float(self.clip.switch / self.clip.fps), segments.transition

    def record(self, took: float) -> dict[str, Any]:
        """As JSON values. took: seconds."""
        written, clip = self.written, self.clip
        record: dict[str, Any] = {
            "path": str(written.path),
            "width": written.width,
            "height": written.height,
            "frames": written.frames,
            "fps": str(clip.fps),
            "seconds": round(float(written.seconds), 6),
            "bytes": written.bytes,
            "seed": clip.request.seed,
            "prompt": clip.request.prompt,
            "latents": clip.checksums,
            "took_seconds": round(took, 3),
        }
        if self.kept is not None:
            before, after = self.kept
            record["kept"] = {
                "before_encoding": {"mean": before.mean, "largest": before.largest},
                "in_file": {"mean": after.mean, "largest": after.largest},
                "share": after.values / (written.frames * written.width * written.height * 3),
            }
        if self.switch is not None:
            at, kind = self.switch
            record["switch"] = {"seconds": round(at, 6), "transition": kind}
        if "" in self.lips:
            record["lips"] = self.lips[""].values()
        elif self.lips:
            record["speakers"] = {name: lag.values() for name, lag in self.lips.items()}
        if self.seams is not None:
            record.update(self.seams.values())
        return record


def finish(clip: Clip, path: Path, force: bool, progress: Progress, provenance: Provenance = INSIDE) -> Finished:
    """Decode the clip into `path` and look at what was written; provenance: as `Clip.save`, whose errors it raises."""
    meter = SeamMeter(clip.seams, clip.given, clip.fps)
    lips = LipMeter(clip.fps) if clip.request.driven else None
    watch = meter.frames if lips is None else _both(meter.frames, lips.frames)
    written = clip.save(path, force=force, progress=progress, watch=watch, provenance=provenance)
    kept = None
    if clip.request.canvas is not None:
        progress("checking what is kept", 0, 1)
        kept = clip.change, change_in_file(written.path, clip.request)
    lags = {} if lips is None else _lags(clip, lips)
    return Finished(clip, written, kept, meter.report(written.path), lags)


def _lags(clip: Clip, meter: LipMeter) -> dict[str, Lag]:
    """Of the one sound that drives the clip, or of each speaker in its region; those that can be told."""
    request, rate = clip.request, clip.geometry.sample_rate
    if not request.speakers:
        found = {"": meter.lag(clip.audio(), rate)}
    else:
        found = {
            speaker.name: meter.lag(read_audio(speaker.path, float(request.seconds), rate), rate, inside)
            for speaker, inside in zip(request.speakers, regions(request), strict=True)
        }
    return {name: lag for name, lag in found.items() if lag is not None}


def _both(one: Watch, other: Watch) -> Watch:
    """What is watched by two."""
    return lambda frames: other(one(frames))
