"""Several speakers in one clip, on random nano weights: whose sound is heard, where it moves, what is refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sky4.errors import RequestError
from sky4.media import read_audio, write_clip
from sky4.media.masks import EditRegion, parse_box, parse_mask
from sky4.pipeline.components import Components
from sky4.pipeline.finish import finish
from sky4.pipeline.generate import generate_clip
from sky4.pipeline.refinement import Refinement
from sky4.pipeline.request import ClipRequest, Source
from sky4.pipeline.speakers import Speaker, cell_shares, heard, regions
from sky4.pipeline.validate import validate
from tests.pipeline.plain import PLAIN

RATE = 44100
SILENT = replace(PLAIN, outputs="video")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three noises of a second, half a second and a second."""
    folder, paths = tmp_path_factory.mktemp("sounds"), []
    for number, seconds in enumerate((1.0, 0.5, 1.0)):
        wave = 0.05 * np.random.default_rng(number).standard_normal((2, round(seconds * RATE)))
        paths.append(folder / f"{number}.wav")
        write_clip(paths[-1], None, wave.astype(np.float32).clip(-1, 1), fps=Fraction(16), recipe={})
    return paths


def boxed(name: str, path: Path, box: str) -> Speaker:
    return Speaker(name, path, EditRegion(boxes=(parse_box(box),), fit=True))


def two(sounds: list[Path], left: int = 0, right: int = 1) -> ClipRequest:
    speakers = (boxed("left", sounds[left], "0,0,50%,100%"), boxed("right", sounds[right], "50%,0,50%,100%"))
    return replace(PLAIN, speakers=speakers)


def test_what_is_heard_is_all_speakers_together_each_from_the_start(components: Components, sounds: list[Path]) -> None:
    clip = generate_clip(two(sounds), components)
    wave = clip.audio()
    assert wave.shape == (2, round(Fraction(9, 16) * RATE))
    one, other = (read_audio(path)[:, : wave.shape[1]] for path in sounds[:2])
    together = one.copy()
    together[:, : other.shape[1]] += other
    assert np.allclose(wave, together, atol=1e-6)


def test_speakers_that_are_loud_together_do_not_clip(tmp_path: Path) -> None:
    loud = 0.9 * np.ones((2, RATE), np.float32)
    write_clip(tmp_path / "a.wav", None, loud, fps=Fraction(16), recipe={})
    whole = heard(two([tmp_path / "a.wav"] * 2), RATE)
    assert whole is not None
    assert whole.max() == pytest.approx(1.0)


def test_a_region_follows_its_own_speaker_alone(components: Components, sounds: list[Path]) -> None:
    """After one step, before regions have seen one another: another voice on the right changes the right alone, but for
    what all sounds together do elsewhere, and here there is no elsewhere."""
    one_step = replace(two(sounds), steps=1)
    before = generate_clip(one_step, components).latents[0]
    speakers = (one_step.speakers[0], replace(one_step.speakers[1], path=sounds[2]))
    after = generate_clip(replace(one_step, speakers=speakers), components).latents[0]
    assert before is not None
    assert after is not None
    half = before.shape[-1] // 2
    assert torch.allclose(before[..., :half], after[..., :half], atol=1e-5)
    assert not torch.allclose(before[..., half:], after[..., half:], atol=1e-3)


def test_one_speaker_everywhere_is_a_sound_that_drives(components: Components, sounds: list[Path]) -> None:
    everywhere = replace(PLAIN, speakers=(boxed("all", sounds[0], "0,0,100%,100%"),))
    driven = replace(PLAIN, audio=sounds[0])
    one, other = (generate_clip(request, components).latents[0] for request in (everywhere, driven))
    assert one is not None
    assert other is not None
    assert torch.allclose(one, other, atol=1e-4)


def test_lips_are_told_of_each_speaker_in_its_region(
    components: Components, sounds: list[Path], tmp_path: Path
) -> None:
    wave = np.tile(read_audio(sounds[0]), 2)
    write_clip(tmp_path / "long.wav", None, wave, fps=Fraction(16), recipe={})
    request = replace(two([tmp_path / "long.wav"] * 2), frames=25)
    finished = finish(generate_clip(request, components), tmp_path / "clip.mp4", False, lambda *_: None)
    assert list(finished.lips) == ["left", "right"]
    assert [line.partition(":")[0] for line in finished.lines()][:2] == ["left", "right"]
    record = finished.record(0.0)
    assert "lips" not in record
    assert set(record["speakers"]) == {"left", "right"}


def test_a_mask_on_the_portrait_is_cut_as_the_portrait_is(tmp_path: Path, sounds: list[Path]) -> None:
    """A picture twice as wide as the clip: its middle is shown, and so is the mask's."""
    grey = np.zeros((40, 80), np.uint8)
    grey[:, 40:] = 255
    Image.fromarray(grey).save(tmp_path / "mask.png")
    Image.fromarray(np.zeros((40, 80, 3), np.uint8)).save(tmp_path / "portrait.png")
    speaker = Speaker("one", sounds[0], EditRegion((parse_mask(str(tmp_path / "mask.png")),), fit=True))
    request = replace(PLAIN, speakers=(speaker,), sources=(Source(tmp_path / "portrait.png", "--image"),))
    [shown] = regions(request)
    assert shown.shape == (32, 32)
    assert not shown[:, :15].any()
    assert shown[:, 17:].all()
    assert cell_shares(shown, 8).tolist() == [[0.0, 0.0, 1.0, 1.0]] * 4


def test_a_recipe_holds_the_speakers_and_their_files(sounds: list[Path]) -> None:
    request = two(sounds)
    assert ClipRequest.from_dict(request.to_dict()) == request
    assert request.files() == [("--speaker left", sounds[0]), ("--speaker right", sounds[1])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, s: replace(r, audio=s[0]), "drop --audio"),
        (lambda r, s: replace(r, video=s[0]), "nothing is left to make"),
        (lambda r, s: replace(r, outputs="audio"), "drop --only audio"),
        (lambda r, s: replace(r, speakers=r.speakers[:1] * 2), "--speaker left is given twice"),
        (lambda r, s: replace(r, speakers=tuple(boxed(f"s{n}", s[0], "0,0,1,1") for n in range(5))), "give up to 4"),
        (lambda r, s: replace(r, refinement=Refinement(64, 64, steps=1, keyframes=(1,))), "drop --keyframes"),
    ],
)
def test_what_does_not_go_together_is_refused(change, message: str, sounds: list[Path]) -> None:
    with pytest.raises(RequestError, match=message):
        change(two(sounds), sounds)


def test_places_and_sounds_that_cannot_be_are_refused_before_weights(
    components: Components, sounds: list[Path], tmp_path: Path
) -> None:
    def refused(message: str, *speakers: Speaker) -> None:
        with pytest.raises(RequestError, match=message):
            validate(replace(PLAIN, speakers=speakers), components.folder)

    left = boxed("left", sounds[0], "0,0,50%,100%")
    refused("--speaker left and --speaker right overlap in 64 pixels", left, boxed("right", sounds[1], "14,0,50%,100%"))
    refused("--speaker right: --box .* reaches outside", left, boxed("right", sounds[1], "50%,0,60%,100%"))
    refused("--speaker left: .*missing.wav", boxed("left", tmp_path / "missing.wav", "0,0,50%,100%"))
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "black.png")
    black = Speaker("left", sounds[0], EditRegion((parse_mask(str(tmp_path / "black.png")),), fit=True))
    refused("--speaker left: .*selects nothing; white is where it speaks", black)
