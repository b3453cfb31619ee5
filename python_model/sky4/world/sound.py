"""Scenes to sound: modal synthesis of each event, panned with constant power to where it happens."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sky4.world.scene import Scene
from sky4.world.vocabulary import MATERIALS

PEAK = 0.35  # amplitude of the loudest partial
ONSET = 0.0005  # seconds of attack
TAIL = 8.0  # decay times after which a partial is silent


def strike(material: str, sample_rate: int, delay: float, length: int) -> Tensor:
    """One hit, mono [length]; it begins `delay` seconds (less than a sample) after the first sample's time."""
    time = torch.arange(length, dtype=torch.float64) / sample_rate - delay
    time = time.clamp(min=0)
    wave = torch.zeros(length, dtype=torch.float64)
    for mode in MATERIALS[material]:
        wave += mode.amplitude * torch.sin(2 * math.pi * mode.frequency * time) * torch.exp(-time / mode.decay)
    return (PEAK * wave * (time / ONSET).clamp(max=1)).float()


def pan_gains(x: float) -> tuple[float, float]:
    """Constant-power gains (left, right) of a source at x in unit widths, clamped to the frame."""
    angle = min(max(x, 0.0), 1.0) * math.pi / 2
    return math.cos(angle), math.sin(angle)


def render_audio(
    scenes: Sequence[Scene], samples: int, sample_rate: int = 44100, start: Sequence[float] | float = 0.0
) -> Tensor:
    """Stereo waves [B, 2, samples]; sample s of scene b is the time start[b] + s / sample_rate.

    Events before `start` still ring on.
    """
    starts = [start] * len(scenes) if isinstance(start, (int, float)) else list(start)
    waves = torch.zeros(len(scenes), 2, samples)
    for scene, begin, out in zip(scenes, starts, waves, strict=True):
        tail = TAIL * max(mode.decay for mode in MATERIALS[scene.material])
        for event in scene.events(begin - tail, samples / sample_rate + tail):
            at = (event.time - begin) * sample_rate
            first = math.ceil(at)
            length = min(int(tail * sample_rate), samples - first)
            skip = max(0, -first)
            if length <= skip:
                continue
            wave = strike(scene.material, sample_rate, at / sample_rate - first / sample_rate, length)[skip:]
            gains = torch.tensor(pan_gains(event.x))[:, None] * event.gain
            out[:, first + skip : first + length] += gains * wave
    return waves
