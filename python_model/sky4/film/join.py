"""Shots put together: pictures frame by frame, sound sample by sample, as long as the list says.

Legend: H W pixels, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sky4.errors import Sky4Failure
from sky4.film.plan import FilmPlan, PlannedShot
from sky4.film.shots import ShotFiles
from sky4.media import iterate_video, read_audio
from sky4.pipeline.joining import FADE_SECONDS, ColourMatch
from sky4.shots.mixing import mixed

Picture = NDArray[np.uint8]  # [H, W, 3]
Wave = NDArray[np.float32]


@dataclass(frozen=True)
class FilmReel:
    """A film whose shots are made."""

    plan: FilmPlan
    files: ShotFiles
    sample_rate: int

    def frames(self) -> Iterator[Picture]:
        """Chunks of one frame [1, H, W, 3]; two shots are open at most."""
        tail: Iterator[Picture] | None = None
        for shot in self.plan.shots:
            shown = self._shot(shot)
            for index in range(shot.frames):
                picture = next(shown, None)
                if picture is None:
                    raise Sky4Failure(f"the file of the shot {shot.name} is too short; remove it, and it is made again")
                if shot.overlaps and index < shot.joined_frames:
                    before = next(tail, None) if tail is not None else None
                    if before is not None:
                        picture = _mixed(shot, before, picture, (index + 0.5) / shot.joined_frames)
                yield self._faded(shot, index, picture)[None]
            tail = shown

    def wave(self) -> Wave | None:
        """[2, S] of the whole film, each shot fading into the next; None for a silent film."""
        if not self.plan.sound:
            return None
        whole = np.zeros((2, self.sample(self.plan.frames)), np.float32)
        for shot, following in zip(self.plan.shots, [*self.plan.shots[1:], None], strict=True):
            begin, end = self.sample(shot.begins), self.sample(shot.begins + shot.frames)
            wave = read_audio(self.files.path(shot.number), sample_rate=self.sample_rate)
            rise = self._fade(shot) if shot.number else 0
            fall = 0 if following is None else self._fade(following)
            black = following is not None and following.joined == "fade"
            last = end if black or following is None else min(end + fall, whole.shape[1])
            heard = wave[:, : last - begin].copy()
            _ramp(heard[:, :rise], rising=True)
            if following is not None:
                first = max(0, (end - fall if black else end) - begin)
                _ramp(heard[:, first:], rising=False)
            whole[:, begin : begin + heard.shape[1]] += heard
        return whole

    def sample(self, frame: int) -> int:
        """The sample that is heard when a frame of the film appears."""
        return round(frame / self.plan.fps * self.sample_rate)

    def _fade(self, shot: PlannedShot) -> int:
        """Samples over which a shot's sound comes in, and that of the one before goes out."""
        usual = round(FADE_SECONDS * self.sample_rate)
        if shot.joined == "cut":
            return min(usual, self.sample(shot.frames))
        frames = shot.joined_frames if shot.overlaps else shot.joined_frames // 2
        return round(Fraction(max(1, frames)) / self.plan.fps * self.sample_rate)

    def _shot(self, shot: PlannedShot) -> Iterator[Picture]:
        """Its frames and its handle, in the colours that it takes on."""
        match = None
        if shot.match is not None:
            match = match_between(self._own(shot), self._own(self.plan.shots[shot.match]))
        for picture in iterate_video(self.files.path(shot.number), self.plan.fps):
            yield picture if match is None else match.apply(picture[None], (1.0,))[0]

    def _own(self, shot: PlannedShot) -> Iterator[Picture]:
        return iterate_video(self.files.path(shot.number), self.plan.fps)

    def _faded(self, shot: PlannedShot, index: int, picture: Picture) -> Picture:
        """Through black, where the shot begins so or the next one does: half of it on either side of the cut."""
        if shot.joined == "fade":
            first = shot.number == 0
            ahead = 0 if first else shot.joined_frames // 2
            inside = shot.joined_frames - ahead
            if index < inside:
                share = 0.5 + (index + 0.5) / (2 * inside) if first else (ahead + index + 0.5) / shot.joined_frames
                picture = _mixed(shot, picture, picture, max(0.5, share))
        following = self.plan.shots[shot.number + 1] if shot.number + 1 < len(self.plan.shots) else None
        if following is not None and following.joined == "fade":
            ahead = following.joined_frames // 2
            at = index - (shot.frames - ahead)
            if at >= 0:
                picture = _mixed(following, picture, picture, min(0.5, (at + 0.5) / following.joined_frames))
        return picture


def match_between(own: Iterator[Picture], other: Iterator[Picture]) -> ColourMatch:
    """What gives the one's frames the mean and deviation of the other's colours; neither is held."""
    return ColourMatch.of_moments(_moments(own), _moments(other))


def _moments(frames: Iterator[Picture]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation [3] over all frames."""
    count, total, squares = 0, np.zeros(3), np.zeros(3)
    for frame in frames:
        values = frame.reshape(-1, 3).astype(np.float64)
        count, total, squares = count + len(values), total + values.sum(0), squares + np.square(values).sum(0)
    mean = total / max(1, count)
    return mean, np.sqrt(np.maximum(squares / max(1, count) - mean**2, 0))


def _mixed(shot: PlannedShot, before: Picture, after: Picture, share: float) -> Picture:
    pixels = mixed(shot.joined, before.astype(np.float32), after.astype(np.float32), share)
    return np.asarray(np.rint(pixels).clip(0, 255), np.uint8)


def _ramp(part: Wave, *, rising: bool) -> None:
    """Equal power: what comes in and what goes out are different sounds, and straight ramps would dip between them."""
    count = part.shape[1]
    angle = (np.arange(count, dtype=np.float32) + 0.5) / max(1, count) * (np.pi / 2)
    part *= np.sin(angle) if rising else np.cos(angle)
