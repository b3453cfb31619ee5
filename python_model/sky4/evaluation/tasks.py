"""Every row of the tasks' table on held-out cases: did the edit happen as asked, and did nothing else change?

Each clip goes the way of the commands: its inputs are written as files, and one request names them.
F frames, H = W = size, S samples.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sky4.evaluation.task_cases import (
    TaskCase,
    made_part,
    task_case,
    write_request,
)
from sky4.evaluation.task_sheet import SheetLine, sheet_line, task_sheet
from sky4.evaluation.world import Progress, decoded, recoded_frames, recoded_wave
from sky4.pipeline.clip import Clip
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip
from sky4.pipeline.request import ClipRequest
from sky4.world.judge import Verdict, judge
from sky4.world.measure_audio import measure_audio
from sky4.world.pairing import pair_events
from sky4.world.stated import judge_stated
from sky4.world.tasks import EXTENSIONS, TITLES

Frames = NDArray[np.uint8]
Wave = NDArray[np.float32]
Made = tuple[Frames, Wave | None]


@dataclass(frozen=True)
class Judged:
    """One case: what came of it, and what the codec's round trip of the truth comes to (None where no codec ran).

    material: whether the sound is of the right one; offset: median |seconds| between the truth's events and the heard
    ones; both None for silent targets.
    """

    case: TaskCase
    verdict: Verdict
    codec: Verdict | None
    material: bool | None
    offset: float | None
    line: SheetLine


@dataclass(frozen=True)
class TaskMeasure:
    """One line of the table: shares of cases, None for what was not measured; chance is that of guessing both."""

    name: str
    title: str
    edited: float
    kept: float
    both: float
    chance: float
    codec: float | None
    count: int
    psnr: float | None  # dB of the part to be kept, mean
    psnr_codec: float | None  # the same after the codec's round trip of the truth
    material: float | None
    offset: float | None  # median, seconds


@dataclass(frozen=True)
class TaskEvaluation:
    """All cases, task by task."""

    judged: list[Judged]

    @property
    def tasks(self) -> list[TaskMeasure]:
        """A line for each task."""
        names = dict.fromkeys(one.case.task for one in self.judged)
        return [_measure(name, TITLES[name], [j for j in self.judged if j.case.task == name]) for name in names]

    @property
    def rows(self) -> list[TaskMeasure]:
        """A line for each row of the report's table, those in parts put together, and for extension."""
        groups = dict.fromkeys(TITLES[one.case.task].partition(":")[0] for one in self.judged)
        return [
            _measure(group, group, [j for j in self.judged if TITLES[j.case.task].partition(":")[0] == group])
            for group in groups
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON values: both tables and each case."""
        return {
            "tasks": [asdict(line) for line in self.tasks],
            "rows": [asdict(line) for line in self.rows],
            "cases": [_told(one) for one in self.judged],
        }

    def sheet(self) -> Image.Image:
        """Inputs, made and truth of every case."""
        return task_sheet([one.line for one in self.judged])


Maker = Callable[[int, TaskCase], Made]


def render_maker(rate: int) -> Maker:
    """The truth itself: what the judges can reach."""
    return lambda number, case: (case.truth(), case.truth_wave(rate))


def codec_maker(components: Components) -> Maker:
    """The truth through both codecs: what a perfect model would reach."""
    rate = components.folder.sample_rate

    def make(number: int, case: TaskCase) -> Made:
        wave = case.truth_wave(rate)
        return _recoded(case, case.truth(), components), None if wave is None else recoded_wave(wave, components)

    return make


def model_maker(components: Components, keep: Callable[[int, Clip], None] | None = None) -> Maker:
    """What a model makes of files and a request, as the commands do. `keep` is given every clip with its number."""
    rate = components.folder.sample_rate

    def make(number: int, case: TaskCase) -> Made:
        with tempfile.TemporaryDirectory() as folder:
            clip = generate_clip(write_request(case, Path(folder), rate), components)
            if keep is not None:
                keep(number, clip)
            frames, wave = decoded(clip)
        return made_part(case, frames, wave, rate)

    return make


def evaluate_tasks(
    tasks: Sequence[str],
    cases: int,
    request: ClipRequest,
    make: Maker,
    rate: int,
    components: Components | None,
    say: Progress,
) -> TaskEvaluation:
    """`cases` of each task, made by `make` and judged.

    request: sizes, rate, frames and sampling; its seed counts up from case to case. components: whose codec bounds what
    can be asked of kept pixels; without them renders are judged. RequestError, Sky4Failure as generate_clip.
    """
    judged: list[Judged] = []
    for task in tasks:
        for index in range(cases):
            case = task_case(task, index, replace(request, seed=request.seed + index))
            frames, wave = make(len(judged), case)
            judged.append(_judged(case, frames, wave, rate, components))
            say("judging", len(judged), len(tasks) * cases)
    return TaskEvaluation(judged)


def _judged(case: TaskCase, frames: Frames, wave: Wave | None, rate: int, components: Components | None) -> Judged:
    truth = case.truth()
    coded = None if components is None else _recoded(case, truth, components)
    verdict, codec = _verdict(case, frames, wave, rate, coded), None
    if coded is not None and components is not None:
        sound = case.truth_wave(rate)
        heard = recoded_wave(sound, components) if case.measured and sound is not None else None
        codec = _verdict(case, coded, heard, rate, coded)
    material, offset = _heard(case, wave, rate)
    line = sheet_line(case.task, case.prompt, case.shown(), case.mask(), frames, truth, verdict)
    return Judged(case, verdict, codec, material, offset, line)


def _verdict(case: TaskCase, frames: Frames, wave: Wave | None, rate: int, coded: Frames | None) -> Verdict:
    if not case.measured:
        return judge(case.judged, frames, case.request.fps, coded)
    assert wave is not None
    return judge_stated(case.family, frames, wave, case.request.fps, rate)


def _recoded(case: TaskCase, truth: Frames, components: Components) -> Frames:
    """The truth through the picture's codec; in a row with a mask, outside it the source's own pixels.

    An extension's added part is coded with a frame to spare, as the codec groups frames.
    """
    whole = np.concatenate([truth, truth[-1:]]) if case.task in EXTENSIONS else truth
    coded, mask = recoded_frames(whole, components)[: len(truth)], case.mask()
    return coded if mask is None else np.where(mask[..., None], coded, truth)


def _heard(case: TaskCase, wave: Wave | None, rate: int) -> tuple[bool | None, float | None]:
    if case.sounding is None or wave is None:
        return None, None
    facts, seconds = measure_audio(wave, rate), wave.shape[1] / rate
    start = case.judged.start
    seen = [event.time - start for event in case.sounding.events(start, seconds)]
    return facts.material == case.sounding.material, pair_events(seen, facts.onsets, seconds).offset


def _measure(name: str, title: str, judged: Sequence[Judged]) -> TaskMeasure:
    verdicts, codecs = [one.verdict for one in judged], [one.codec for one in judged if one.codec is not None]
    return TaskMeasure(
        name=name,
        title=title,
        edited=_mean([verdict.edited for verdict in verdicts]) or 0.0,
        kept=_mean([verdict.kept for verdict in verdicts]) or 0.0,
        both=_mean([verdict.success for verdict in verdicts]) or 0.0,
        chance=_mean([verdict.edited_chance * verdict.kept_chance for verdict in verdicts]) or 0.0,
        codec=_mean([verdict.success for verdict in codecs]),
        count=len(judged),
        psnr=_mean([verdict.psnr for verdict in verdicts if verdict.psnr is not None]),
        psnr_codec=_mean([verdict.psnr for verdict in codecs if verdict.psnr is not None]),
        material=_mean([one.material for one in judged if one.material is not None]),
        offset=_median([one.offset for one in judged if one.offset is not None]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _told(judged: Judged) -> dict[str, Any]:
    case = judged.case
    return {
        "task": case.task,
        "index": case.family.index,
        "prompt": case.prompt,
        **asdict(judged.verdict),
        "codec": None if judged.codec is None else asdict(judged.codec),
        "material": judged.material,
        "offset": judged.offset,
    }


def markdown_table(lines: Sequence[TaskMeasure]) -> str:
    """The table as Markdown, for a model card."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    head = "| Task | edited | kept | both | chance | codec | n |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    return head + "".join(
        f"| {line.title} | {share(line.edited)} | {share(line.kept)} | {share(line.both)} | {share(line.chance)} "
        f"| {share(line.codec)} | {line.count} |\n"
        for line in lines
    )
