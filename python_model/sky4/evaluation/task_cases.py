"""One case of a task as a user would bring it: files in a folder, a prompt, the request, and what should come of it.

F frames, H = W = size, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sky4.media.lossless import write_lossless
from sky4.media.masks import EditRegion, MaskFile
from sky4.pipeline.request import Canvas, ClipRequest, Outputs, Segments, Source
from sky4.pipeline.windows import to_frames
from sky4.prompting.references import Kind, ReferenceFile
from sky4.train.cache import HIT_LEAD, HIT_SECONDS
from sky4.world.extension import extension_case
from sky4.world.families import ROWS, Family, TaskRow, sample_family
from sky4.world.hypotheses import EDITS, Case, case_of
from sky4.world.instructions import instruction, take_caption
from sky4.world.judge import edit_mask, truth_of
from sky4.world.lexicon import Language
from sky4.world.render import render_video
from sky4.world.scene import Scene
from sky4.world.sound import render_audio
from sky4.world.take import Take
from sky4.world.tasks import EXTENSIONS, TITLES

Frames = NDArray[np.uint8]
Wave = NDArray[np.float32]

TASK_SEED = 2026
OVERLAP = 17  # frames of the source that a window of an extension keeps


@dataclass(frozen=True)
class TaskCase:
    """One clip to be made and judged. judged: None where facts are measured instead of renders compared.

    sounding: whose events are heard in the truth, from `start` seconds on; None for silence.
    """

    task: str
    family: Family
    prompt: str
    request: ClipRequest  # only its sizes, rate and sampling count
    judged: Case
    measured: bool = False
    sounding: Scene | None = None

    @property
    def row(self) -> TaskRow | None:
        return ROWS.get(self.task)

    @property
    def made(self) -> int:
        """How many frames are made."""
        return self.request.frames - 1 if self.task in EXTENSIONS else self.request.frames

    def truth(self) -> Frames:
        return truth_of(self.judged, self.made, self.request.fps, self.request.width)

    def truth_wave(self, rate: int) -> Wave | None:
        if self.sounding is None:
            return None
        samples = round(self.made / self.request.fps * rate)
        return np.asarray(render_audio([self.sounding], samples, rate, self.judged.start)[0].numpy(), np.float32)

    def mask(self) -> NDArray[np.bool_] | None:
        """What is made anew, [F, H, W]."""
        if self.judged.region == "none" or self.judged.source is None:
            return None
        times = torch.arange(self.made, dtype=torch.float32) / float(self.request.fps)
        return np.asarray(edit_mask(self.judged.source, self.judged.region, times, self.request.width).numpy())

    def shown(self) -> list[Frames]:
        """The pictures that are given, videos and stills [F, H, W, 3] in prompt order, the source first."""
        size, fps = self.request.width, self.request.fps
        if self.task in EXTENSIONS:
            given = self.request.frames
            start = 0.0 if EXTENSIONS[self.task] == "forward" else float(self.made / fps)
            return [_film(self.judged.target, given, fps, size, start)]
        assert self.row is not None
        inputs = []
        if self.row.under or self.row.first:
            source = self.family.takes[self.row.under or "base"]
            inputs.append(_film(source, 1 if self.row.first else self.made, fps, size))
        names = [name for name in self.row.shown if not name.startswith("hit:")]
        for name in names:
            take, moment = self.family.stills[name[6:]] if name.startswith("still:") else (self.family.takes[name], 0.0)
            inputs.append(_film(take, 1 if name.startswith("still:") else self.made, fps, size, moment))
        return inputs


def task_case(task: str, index: int, request: ClipRequest) -> TaskCase:
    """Case number `index` of a task, a key of TITLES, of families that training never shows.

    request: its size, rate, frames and sampling; the rest is replaced.
    """
    family = sample_family(TASK_SEED, index, "heldout")
    language: Language = "zh" if index % 4 == 3 else "en"
    random = np.random.default_rng([TASK_SEED, index, list(TITLES).index(task)])
    if task in EXTENSIONS:
        case = extension_case(family, EXTENSIONS[task], request.frames, request.frames - 1, request.fps)
        prompt = take_caption(case.target, language, random)
        return TaskCase(task, family, prompt, request, case, sounding=case.target.things[-1])
    row = ROWS[task]
    prompt = instruction(family, row, language, random)
    sounding = None if row.sound is None else family.sounding(row.sound)
    measured = task not in EDITS
    case = Case(family.takes[row.target], (), ()) if measured else case_of(family, row)
    return TaskCase(task, family, prompt, request, case, measured, sounding)


def write_request(case: TaskCase, folder: Path, rate: int) -> ClipRequest:
    """The inputs as files in `folder`, and the request that names them: what the commands build of a user's flags."""
    outputs: Outputs = "both" if case.sounding is not None else "video"
    asked = replace(case.request, prompt=case.prompt, outputs=outputs)
    if case.task in EXTENSIONS:
        return _extended(case, asked, folder, rate)
    row = case.row
    assert row is not None
    asked = replace(asked, references=_references(case, row, folder, rate))
    if row.first:
        return replace(asked, sources=(Source(_still(folder / "first.png", case.shown()[0]), "--image"),))
    return _masked(case, asked, folder) if row.under else asked


def _references(case: TaskCase, row: TaskRow, folder: Path, rate: int) -> tuple[ReferenceFile, ...]:
    pictures = case.shown()[1 if row.under or row.first else 0 :]
    files: list[ReferenceFile] = []

    def add(kind: Kind, path: Path) -> None:
        number = 1 + sum(file.kind == kind for file in files)
        files.append(ReferenceFile(f"{kind}_{number}", path, kind))

    for number, name in enumerate(row.shown):
        path = folder / f"reference_{number}"
        if name.startswith("hit:"):
            sounding = case.family.sounding(name[4:])
            samples = round(HIT_SECONDS * rate)
            wave = render_audio([sounding], samples, rate, sounding.first - HIT_LEAD)[0].numpy()
            add("audio", _lossless(path.with_suffix(".wav"), None, case.request.fps, wave, rate))
        elif name.startswith("still:"):
            add("image", _still(path.with_suffix(".png"), pictures.pop(0)))
        else:
            add("video", _lossless(path.with_suffix(".mkv"), pictures.pop(0), case.request.fps))
    return tuple(files)


def _masked(case: TaskCase, asked: ClipRequest, folder: Path) -> ClipRequest:
    """A source of which a region is made anew, the mask a folder of pictures."""
    mask = case.mask()
    assert mask is not None
    masks = folder / "mask"
    masks.mkdir()
    for number, frame in enumerate(mask):
        Image.fromarray(frame.astype(np.uint8) * 255).save(masks / f"{number:05d}.png")
    path = _lossless(folder / "source.mkv", case.shown()[0], asked.fps)
    region = EditRegion(files=(MaskFile(masks, "folder"),))
    source = Source(path, str(path), frames=asked.frames, region=region)
    return replace(asked, sources=(source,), canvas=Canvas(asked.width, asked.height))


def _extended(case: TaskCase, asked: ClipRequest, folder: Path, rate: int) -> ClipRequest:
    """A source that is given whole, and windows that go on from it."""
    backward = EXTENSIONS[case.task] == "backward"
    given, added = asked.frames, case.made
    assert case.sounding is not None
    begins = float(added / asked.fps) if backward else 0.0
    wave = render_audio([case.sounding], round(given / asked.fps * rate), rate, begins)[0].numpy()
    path = _lossless(folder / "source.mkv", case.shown()[0], asked.fps, wave, rate)
    source = Source(path, str(path), start=added if backward else 0, frames=given)
    overlap = min(OVERLAP, (given - 1) // 8 * 4 + 1)
    return replace(
        asked,
        frames=given + added,
        sources=(source,),
        canvas=Canvas(asked.width, asked.height),
        segments=Segments(given, overlap, backward),
    )


def made_part(case: TaskCase, frames: Frames, wave: Wave | None, rate: int) -> tuple[Frames, Wave | None]:
    """Of a finished clip, what the model made: of an extension, the added part."""
    if case.task not in EXTENSIONS:
        return frames, wave
    at = case.request.frames if EXTENSIONS[case.task] == "forward" else 0
    begin, end = (round(frame / case.request.fps * rate) for frame in (at, at + case.made))
    return frames[at : at + case.made], None if wave is None else wave[:, begin:end]


def _lossless(
    path: Path, frames: Frames | None, fps: Fraction, wave: NDArray[np.floating] | None = None, rate: int = 0
) -> Path:
    """A film, or a sound alone, every value as it is."""
    heard = None if wave is None else np.asarray(wave, np.float32)
    muxer = "matroska" if frames is not None else "wav"
    write_lossless(path, None if frames is None else [frames], heard, fps=fps, sample_rate=rate, muxer=muxer)
    return path


def _still(path: Path, frames: Frames) -> Path:
    Image.fromarray(frames[0]).save(path)
    return path


def _film(take: Take, frames: int, fps: Fraction, size: int, start: float = 0.0) -> Frames:
    return to_frames(render_video([take], frames, fps, size, start))
