"""Scenes to sound: modal synthesis of each event, panned with constant power to where it happens."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sky4.world.scene import Event, Scene
from sky4.world.stories import Story
from sky4.world.take import Take
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
    seconds, waves = samples / sample_rate, torch.zeros(len(scenes), 2, samples)
    for scene, begin, out in zip(scenes, starts, waves, strict=True):
        tail = tail_of(scene.material)
        hits = [(scene.material, event) for event in scene.events(begin - tail, seconds + tail)]
        _strike_all(hits, out, sample_rate, begin)
    return waves


def render_story_audio(
    stories: Sequence[Story], samples: int, sample_rate: int = 44100, start: Sequence[float] | float = 0.0
) -> Tensor:
    """Stereo waves [B, 2, samples] of stories: of each shot what happens in it, and what still rings behind its end."""
    starts = [start] * len(stories) if isinstance(start, (int, float)) else list(start)
    waves = torch.zeros(len(stories), 2, samples)
    for story, begin, out in zip(stories, starts, waves, strict=True):
        _strike_all(story.hits(begin + samples / sample_rate), out, sample_rate, begin)
    return waves


def render_speech_audio(
    takes: Sequence[Take], samples: int, sample_rate: int = 44100, start: Sequence[float] | float = 0.0
) -> Tensor:
    """Stereo waves [B, 2, samples] of what the takes' talkers say from the second `start` on, from where they are;
    silence of those who say nothing."""
    starts = [start] * len(takes) if isinstance(start, (int, float)) else list(start)
    waves = torch.zeros(len(takes), 2, samples)
    for take, begin, out in zip(takes, starts, waves, strict=True):
        talker = take.talker
        if talker is not None and talker.expression.speech is not None:
            gains = torch.tensor(pan_gains(take.framing.seen_x(talker.x)))[:, None]
            out.copy_(gains * talker.expression.speech.wave(samples, sample_rate, begin))
    return waves


def tail_of(material: str) -> float:
    """Seconds after which a hit is silent."""
    return TAIL * max(mode.decay for mode in MATERIALS[material])


def _strike_all(hits: Sequence[tuple[str, Event]], out: Tensor, sample_rate: int, begin: float) -> None:
    """Adds hits (material, event) to a wave [2, samples] that begins at the time `begin`."""
    samples = out.shape[1]
    for material, event in hits:
        at = (event.time - begin) * sample_rate
        first = math.ceil(at)
        length = min(int(tail_of(material) * sample_rate), samples - first)
        skip = max(0, -first)
        if length <= skip:
            continue
        wave = strike(material, sample_rate, at / sample_rate - first / sample_rate, length)[skip:]
        gains = torch.tensor(pan_gains(event.x))[:, None] * event.gain
        out[:, first + skip : first + length] += gains * wave
