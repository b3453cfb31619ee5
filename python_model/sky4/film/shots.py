"""The shots' own files: made where they are not there yet, each under a name that tells what it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sky4.errors import Sky4Failure
from sky4.film.plan import FilmPlan, PlannedShot
from sky4.media.destination import whole_or_nothing
from sky4.media.lossless import write_lossless

if TYPE_CHECKING:
    from sky4.pipeline.clip import Clip, Progress
    from sky4.pipeline.components import Components

Frames = NDArray[np.uint8]
KEY_LETTERS = 16  # of a key in a name


@dataclass(frozen=True)
class ShotFiles:
    """Where each shot of a film lies, or will lie."""

    folder: Path
    plan: FilmPlan
    keys: dict[int, str]

    def path(self, number: int) -> Path:
        return self.folder / f"{self.plan.shots[number].name}-{self.keys[number][:KEY_LETTERS]}.mkv"

    def missing(self) -> list[int]:
        """The shots that are still to be made, in the order of making."""
        return [number for number in self.plan.order if not self.path(number).is_file()]


def make_shot(
    shot: PlannedShot, files: ShotFiles, components: Components, sample_rate: int, progress: Progress | None = None
) -> Clip:
    """Make one shot and write its file. RequestError, Sky4Failure as generate_clip."""
    from sky4.pipeline.components import give_back
    from sky4.pipeline.generate import generate_clip
    from sky4.pipeline.windows import sample_at

    request = shot.request
    if shot.continues is not None:
        source = replace(request.sources[0], path=files.path(shot.continues))
        request = replace(request, sources=(source,))
    clip = generate_clip(request, components, progress)
    wave = None
    if request.wants_audio:
        begin, end = (sample_at(frame, request, clip.geometry) for frame in (shot.kept, shot.kept + shot.made))
        wave = np.ascontiguousarray(clip.audio()[:, begin:end])
    path = files.path(shot.number)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_nothing(path, force=True) as partial:
        count = write_lossless(
            partial,
            without_first(clip.frames(), shot.kept, shot.made),
            wave,
            fps=request.fps,
            sample_rate=sample_rate,
            recipe=clip.recipe(),
        )
        if count != shot.made:
            raise Sky4Failure(f"{count} frames were made of the shot {shot.name} and {shot.made} asked for")
    give_back(components.device)  # what is kept lies among what is free, which else grows from shot to shot
    return clip


def without_first(chunks: Iterator[Frames], skipped: int, count: int) -> Iterator[Frames]:
    """`count` frames behind the first `skipped`, in chunks."""
    frames = (frame for chunk in chunks for frame in chunk)
    for frame in islice(frames, skipped, skipped + count):
        yield frame[None]


def unused(files: ShotFiles) -> list[Path]:
    """Files of shots as they once were, which may be wanted again."""
    mine = {files.path(shot.number) for shot in files.plan.shots}
    return sorted(path for path in files.folder.glob("*.mkv") if path not in mine) if files.folder.is_dir() else []
