"""The lag of lips behind the sound that drives them, on the world's speakers, whose truth is exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from sky4.pipeline.lips import LEAST, LipMeter
from sky4.prompting import parse
from sky4.world.families import sample_family
from sky4.world.instructions import take_caption
from sky4.world.render import render_video
from sky4.world.sound import render_speech_audio
from sky4.world.speech import DIGITS, DIGITS_ZH, VOWELS, sample_speech
from sky4.world.take import Take

RATE, FPS, SECONDS = 44100, Fraction(16), 4


def speaker(index: int) -> Take:
    take = sample_family(1, index).takes["face"]
    assert take.talker is not None
    expression = replace(take.talker.expression, speech=sample_speech(1, index, SECONDS), brow_rate=0.3)
    return replace(take, talker=replace(take.talker, expression=expression))


def shown(take: Take, fps: Fraction = FPS, start: float = 0.0) -> Iterator[np.ndarray]:
    video = render_video([take], round(SECONDS * fps), fps, 64, start)[0]
    yield video.permute(1, 2, 3, 0).add(1).mul(127.5).byte().numpy()


def lag_of(frames: Iterator[np.ndarray], wave: np.ndarray, fps: Fraction = FPS):
    meter = LipMeter(fps)
    for _ in meter.frames(frames):
        pass
    return meter.lag(wave, RATE)


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_speakers_lips_are_with_the_sound(index: int) -> None:
    take = speaker(index)
    lag = lag_of(shown(take), render_speech_audio([take], SECONDS * RATE)[0].numpy())
    assert lag is not None
    assert lag.follows
    assert abs(lag.frames) <= 0.5


@pytest.mark.parametrize("late", [-3, -1, 2, 5])
def test_a_lag_is_told_with_its_sign(late: int) -> None:
    take = speaker(5)
    lag = lag_of(shown(take, start=-late / 16), render_speech_audio([take], SECONDS * RATE)[0].numpy())
    assert lag is not None
    assert lag.frames == pytest.approx(late, abs=0.5)
    assert lag.seconds == pytest.approx(lag.frames / 16)


def test_a_face_that_says_something_else_does_not_follow() -> None:
    one, other = speaker(5), speaker(9)
    lag = lag_of(shown(one), render_speech_audio([other], SECONDS * RATE)[0].numpy())
    same = lag_of(shown(one), render_speech_audio([one], SECONDS * RATE)[0].numpy())
    assert lag is not None
    assert same is not None
    assert lag.likeness < same.likeness - 0.2


def test_a_still_picture_and_a_short_clip_follow_nothing() -> None:
    wave = render_speech_audio([speaker(1)], SECONDS * RATE)[0].numpy()
    still = np.full((64, 32, 32, 3), 90, np.uint8)
    lag = lag_of(iter([still]), wave)
    assert lag is not None
    assert not lag.follows
    assert "nothing in the picture follows the sound" in lag.line()
    assert lag_of(iter([still[: LEAST - 1]]), wave) is None


def test_speech_opens_the_mouth_as_it_sounds() -> None:
    speech = sample_speech(2, 3, 5.0)
    time = torch.linspace(0, 5, 5 * 400 + 1)
    opened = speech.aperture(time)
    wave = speech.wave(5 * RATE, RATE).square().reshape(-1, RATE // 20).mean(1).sqrt()
    middle = speech.aperture((torch.arange(100) + 0.5) / 20)
    assert float(torch.corrcoef(torch.stack([wave, middle]))[0, 1]) > 0.9
    assert float(opened.max()) <= 1
    assert not wave[middle == 0].max() > 0.05
    assert set(speech.words) <= set(DIGITS)
    assert sum(len(DIGITS[word]) for word in speech.words) == len(speech.syllables)
    assert {syllable.vowel for syllable in speech.syllables} <= set(VOWELS)
    assert sample_speech(2, 3, 5.0) == speech


@pytest.mark.parametrize(("language", "words"), [("en", "says <dialogue>"), ("zh", "说<dialogue>")])
def test_a_caption_says_what_is_said(language, words: str) -> None:
    take = speaker(2)
    assert take.talker is not None
    assert take.talker.expression.speech is not None
    text = take_caption(take, language, np.random.default_rng(0))
    [said] = parse(text)[0].spans("dialogue")
    spoken = take.talker.expression.speech.words
    assert words in text
    assert said == (" ".join(spoken) if language == "en" else "".join(DIGITS_ZH[word] for word in spoken))
