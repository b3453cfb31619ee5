"""Clips for the world's prompts, from a model, from the codecs alone or as rendered, and what they measure.

B = 1, F frames, H = W = size, S samples.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sky4.pipeline.clip import Clip
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip
from sky4.pipeline.given import to_pixels
from sky4.pipeline.request import ClipRequest, Source
from sky4.pipeline.windows import to_frames
from sky4.world.contact_sheet import Row, contact_sheet, pick_frames
from sky4.world.evaluate import Measure, MeasuredClip, Prompt, measure_clip, psnr, report, summarise
from sky4.world.render import render_video
from sky4.world.scene import Scene
from sky4.world.sound import render_audio

Frames = NDArray[np.uint8]
Wave = NDArray[np.float32]
Progress = Callable[[str, int, int], None]  # stage, pieces done, pieces in all


@dataclass(frozen=True)
class ClipSize:
    """Of a square clip, as the world renders them."""

    size: int
    frames: int
    fps: Fraction
    sample_rate: int

    @property
    def samples(self) -> int:
        return round(self.frames / self.fps * self.sample_rate)


@dataclass(frozen=True)
class Evaluation:
    """All rows in the prompts' order, the table, and what renders of the same scenes reach."""

    rows: list[Row]
    table: list[Measure]
    ceiling: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the table with its ceiling, and each clip."""
        told = report([row.prompt for row in self.rows], [row.clip for row in self.rows], self.table)
        for line in told["measures"]:
            line["ceiling"] = self.ceiling.get(line["name"])
            line["chance"] = None if math.isnan(line["chance"]) else line["chance"]
        return told

    def sheet(self) -> Image.Image:
        return contact_sheet(self.rows)


def rendered(scene: Scene, size: ClipSize) -> tuple[Frames, Wave]:
    """The truth: frames [F, H, W, 3] and wave [2, S]."""
    frames = to_frames(render_video([scene], size.frames, size.fps, size.size))
    return frames, render_audio([scene], size.samples, size.sample_rate)[0].numpy()


def recoded(frames: Frames, wave: Wave, components: Components) -> tuple[Frames, Wave]:
    """A clip through both codecs and back: what a perfect model would reach with them."""
    return recoded_frames(frames, components), recoded_wave(wave, components)


def recoded_frames(frames: Frames, components: Components) -> Frames:
    """Frames [F, H, W, 3] through the picture's codec and back."""
    with torch.inference_mode():
        latents = components.video_codec.encode(to_pixels(frames).to(components.device))
        return np.concatenate([to_frames(chunk) for chunk in components.video_codec.decode(latents)])


def recoded_wave(wave: Wave, components: Components) -> Wave:
    """A sound [2, S] through the sound's codec and back."""
    with torch.inference_mode():
        heard = components.audio_codec.encode(torch.from_numpy(wave)[None].to(components.device))
        sound = components.audio_codec.decode(heard, wave.shape[1])[0].float().cpu().numpy()
    return np.asarray(sound, np.float32)


def decoded(clip: Clip) -> tuple[Frames, Wave | None]:
    """A generated clip as arrays, before any lossy file format; no wave where none was asked for."""
    return np.concatenate(list(clip.frames())), clip.audio() if clip.request.wants_audio else None


def evaluate_renders(prompts: Sequence[Prompt], size: ClipSize, say: Progress) -> Evaluation:
    """The detectors' ceiling: rendered truth, measured."""
    rows = []
    for number, prompt in enumerate(prompts):
        frames, wave = rendered(prompt.scene, size)
        rows.append(_row(prompt, frames, wave, size))
        say("measuring renders", number + 1, len(prompts))
    return _evaluation(rows, None)


def evaluate_codecs(prompts: Sequence[Prompt], size: ClipSize, components: Components, say: Progress) -> Evaluation:
    """The codecs' ceiling: renders through both codecs, measured, and compared with what went in."""
    ceiling = evaluate_renders(prompts, size, say)
    rows, fidelity = [], []
    for number, prompt in enumerate(prompts):
        frames, wave = rendered(prompt.scene, size)
        seen, heard = recoded(frames, wave, components)
        rows.append(_row(prompt, seen, heard, size))
        fidelity.append((psnr(seen, frames), _snr(heard, wave)))
        say("measuring codecs", number + 1, len(prompts))
    result = _evaluation(rows, ceiling)
    for name, values in zip(
        ("picture against render (PSNR)", "sound against render (SNR)"), zip(*fidelity, strict=True), strict=True
    ):
        result.table.append(Measure(name, float(np.mean(values)), math.nan, len(values), "dB"))
    return result


def evaluate_model(
    prompts: Sequence[Prompt],
    request: ClipRequest,
    components: Components,
    say: Progress,
    *,
    first_frames: int = 0,
    keep: Callable[[int, Clip], None] | None = None,
) -> Evaluation:
    """Clips made for the prompts with the settings of `request`, whose prompt is replaced and whose seed counts up.

    `first_frames`: for so many prompts a second clip is made from the scene's first frame, to see how that is kept.
    `keep` is given every clip with its number. RequestError, Sky4Failure as generate_clip.
    """
    size = ClipSize(request.width, request.frames, request.fps, components.folder.sample_rate)
    ceiling = evaluate_renders(prompts, size, say)
    rows = []
    for number, prompt in enumerate(prompts):
        clip = generate_clip(replace(request, prompt=prompt.text, seed=request.seed + number), components)
        seen, heard = decoded(clip)
        assert heard is not None, "prompts are measured in picture and sound"
        rows.append(_row(prompt, seen, heard, size))
        if keep is not None:
            keep(number, clip)
        say("generating", number + 1, len(prompts))
    result = _evaluation(rows, ceiling)
    if first_frames:
        result.table.append(_first_frames(prompts[:first_frames], request, components, size, say))
        result.ceiling[result.table[-1].name] = 99.0
    return result


def _first_frames(
    prompts: Sequence[Prompt], request: ClipRequest, components: Components, size: ClipSize, say: Progress
) -> Measure:
    """PSNR of image-to-video's first frame against the codec's own reconstruction of the given picture.

    Chance: against the reconstruction of another scene's picture.
    """
    made, wanted = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, prompt in enumerate(prompts):
            picture = rendered(prompt.scene, replace(size, frames=1))[0]
            path = Path(folder) / f"{number}.png"
            Image.fromarray(picture[0]).save(path)
            given = (Source(path, "--image"),)
            clip = generate_clip(
                replace(request, prompt=prompt.text, seed=request.seed + number, sources=given), components
            )
            made.append(next(clip.frames())[0])
            with torch.inference_mode():
                codec = components.video_codec
                latents = codec.encode(to_pixels(picture).to(components.device))
                wanted.append(to_frames(next(iter(codec.decode(latents))))[0])
            say("first frames", number + 1, len(prompts))
    kept = [psnr(a, b) for a, b in zip(made, wanted, strict=True)]
    others = [psnr(a, b) for a, b in zip(made, wanted[1:] + wanted[:1], strict=True)]
    chance = float(np.mean(others)) if len(others) > 1 else math.nan
    return Measure("first frame kept (PSNR)", float(np.mean(kept)), chance, len(kept), "dB")


def _row(prompt: Prompt, frames: Frames, wave: Wave, size: ClipSize) -> Row:
    clip: MeasuredClip = measure_clip(frames, wave, size.fps, size.sample_rate, prompt.scene.level)
    return Row(prompt, clip, pick_frames(frames))


def _evaluation(rows: list[Row], ceiling: Evaluation | None) -> Evaluation:
    table = summarise([row.prompt for row in rows], [row.clip for row in rows])
    best = table if ceiling is None else ceiling.table
    return Evaluation(rows, table, {measure.name: measure.value for measure in best})


def _snr(heard: Wave, truth: Wave) -> float:
    error = float(np.square(heard - truth).sum())
    return min(99.0, 10 * math.log10(max(float(np.square(truth).sum()), 1e-12) / max(error, 1e-12)))
