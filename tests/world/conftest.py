"""Rendered truth, made once: 40 held-out scenes as pixels and sound."""

from fractions import Fraction

import numpy as np
import pytest

from sky4.world.evaluate import MeasuredClip, Prompt, measure_clip, world_prompts
from sky4.world.render import render_video
from sky4.world.scene import Scene
from sky4.world.sound import render_audio

FRAMES, FPS, SIZE, RATE = 81, Fraction(16), 64, 44100

Truth = tuple[Prompt, np.ndarray, np.ndarray]


def draw(scene: Scene, frames: int = FRAMES, fps: Fraction | float = FPS, size: int = SIZE) -> np.ndarray:
    """uint8 [F, H, W, 3] of a scene."""
    pixels = render_video([scene], frames, fps, size)[0].permute(1, 2, 3, 0)
    return ((pixels + 1) * 127.5).round().byte().numpy()


@pytest.fixture(scope="session")
def drawn():
    return draw


@pytest.fixture(scope="session")
def truth() -> list[Truth]:
    samples = round(FRAMES / FPS * RATE)
    return [(p, draw(p.scene), render_audio([p.scene], samples, RATE)[0].numpy()) for p in world_prompts(40)]


@pytest.fixture(scope="session")
def measured(truth) -> list[MeasuredClip]:
    return [measure_clip(frames, wave, FPS, RATE) for _, frames, wave in truth]
