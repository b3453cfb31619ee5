"""Refined clips: twice the frames, any larger size, what is known high stays, everything of the base as it was."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sky4.pipeline.generate as generate
from sky4.errors import RequestError
from sky4.media import read_recipe, read_video, write_clip
from sky4.media.masks import EditRegion, parse_box
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip
from sky4.pipeline.refinement import Refinement
from sky4.pipeline.request import Canvas, ClipRequest, Source
from sky4.pipeline.validate import validate
from tests.pipeline.plain import PLAIN

TWICE = Refinement(64, 64, steps=2, rate=2)
SILENT = replace(PLAIN, outputs="video")


@pytest.fixture(scope="module")
def refining(refining_model: Path) -> Components:
    return Components.load(refining_model, "cpu", "float32")


def frames_of(request: ClipRequest, components: Components) -> np.ndarray:
    return np.concatenate(list(generate_clip(request, components).frames()))


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Nine frames of 32x32 at 16 a second."""
    pictures = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), dtype=np.uint8)
    path = tmp_path / "film.mkv"
    write_clip(path, [pictures], None, fps=Fraction(16), recipe={})
    return path


def test_size_and_frames_are_as_asked_and_the_sound_is_the_bases(refining: Components):
    clip, base = generate_clip(replace(PLAIN, refinement=TWICE), refining), generate_clip(PLAIN, refining)
    frames = np.concatenate(list(clip.frames()))
    assert frames.shape == (18, 64, 64, 3) and clip.frame_count == 18 and clip.fps == 32
    assert clip.frame_count / clip.fps == base.frame_count / base.fps
    assert clip.checksums["audio"] == base.checksums["audio"]
    assert np.array_equal(clip.audio(), base.audio())
    assert clip.latents[0].shape == (1, 16, 5, 8, 8)


@pytest.mark.parametrize("frames", [13, 10])  # the codec's own number of frames, and one that is cut
def test_a_refined_clip_lasts_as_long_as_it_did_and_so_does_its_sound(
    refining: Components, tmp_path: Path, frames: int
):
    """Of 13 frames the refiner makes 25, which at twice the rate are half a frame short: the last is shown twice."""
    clip = generate_clip(replace(PLAIN, frames=frames, refinement=TWICE), refining)
    assert clip.latents[0].shape[2] == 7  # 25 frames
    clip.save(tmp_path / "clip.mkv")
    shown = read_video(tmp_path / "clip.mkv")
    assert len(shown) == clip.frame_count == 2 * frames
    held = np.array_equal(*np.concatenate(list(clip.frames()))[-2:])
    assert held == (frames == 13)
    assert clip.frame_count / clip.fps == Fraction(frames, 16)
    assert clip.audio().shape[1] == round(Fraction(frames, 16) * 44100)


def test_any_size_that_the_codec_can_make(refining: Components):
    frames = frames_of(replace(SILENT, refinement=Refinement(80, 48, steps=1)), refining)
    assert frames.shape == (9, 48, 80, 3)


def test_what_is_given_whole_is_refined_without_the_base(refining: Components, film: Path, monkeypatch):
    request = replace(SILENT, prompt="", sources=(Source(film, "film", frames=9),), refinement=TWICE)
    monkeypatch.setattr(Components, "transformer", property(lambda _: pytest.fail("the base model was loaded")))
    assert frames_of(request, refining).shape == (18, 64, 64, 3)


def test_a_given_video_is_refined_beside_the_sound_that_is_made_for_it(refining: Components, film: Path):
    clip = generate_clip(replace(PLAIN, video=film, refinement=TWICE), refining)
    assert np.concatenate(list(clip.frames())).shape == (18, 64, 64, 3)
    same = generate_clip(replace(PLAIN, video=film), refining)
    assert clip.checksums["audio"] == same.checksums["audio"]
    alone = replace(SILENT, prompt="", sources=(Source(film, "film", frames=9),), refinement=TWICE)
    assert clip.latents[0].shape == generate_clip(alone, refining).latents[0].shape


def test_a_given_picture_as_large_as_the_clip_stays_as_it_is(refining: Components, tmp_path: Path):
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    request = replace(SILENT, sources=(Source(tmp_path / "a.png", "--image"),), refinement=TWICE)
    made = generate_clip(request, refining).latents[0]
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "a.png"))).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    assert torch.allclose(made[:, :, :1], refining.video_codec.encode(pixels.float()), atol=1e-5)


def test_a_smaller_picture_does_not_pass_for_a_large_one(refining: Components, tmp_path: Path):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    request = replace(SILENT, sources=(Source(tmp_path / "a.png", "--image"),), refinement=TWICE)
    black = refining.video_codec.black(1, 64, 64)
    assert not torch.allclose(generate_clip(request, refining).latents[0][:, :, :1], black, atol=1e-2)


def test_inpainting_keeps_the_sources_own_pixels_and_latents(refining: Components, tmp_path: Path):
    pictures = np.random.default_rng(2).integers(0, 255, (9, 64, 64, 3), dtype=np.uint8)
    write_clip(tmp_path / "film.mkv", [pictures], None, fps=Fraction(16), recipe={})
    region = EditRegion(boxes=(parse_box("50%,0,50%,100%"),))
    request = replace(
        SILENT,
        sources=(Source(tmp_path / "film.mkv", "film", frames=9, region=region),),
        canvas=Canvas(64, 64),
        refinement=Refinement(64, 64, steps=2),
    )
    clip = generate_clip(request, refining)
    frames = np.concatenate(list(clip.frames()))
    assert frames.shape == (9, 64, 64, 3) and clip.change.largest == 0 and clip.change.values > 0
    assert clip.latents[0].shape == (1, 16, 3, 8, 8)


def test_keyframes_are_made_beside_the_clip_and_stand_in_the_refined_one(refining: Components):
    request = replace(SILENT, refinement=replace(TWICE, keyframes=(0, 2)))
    with_them, without = generate_clip(request, refining), generate_clip(replace(SILENT, refinement=TWICE), refining)
    assert with_them.latents[0].shape == without.latents[0].shape
    assert not torch.allclose(with_them.latents[0], without.latents[0], atol=1e-3)
    assert with_them.checksums == generate_clip(request, refining).checksums


def test_keyframes_of_a_given_clip_leave_the_clip_as_it_is(
    refining: Components, film: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = (Source(film, "film", frames=9),)
    started = []
    real = generate.refining_start
    monkeypatch.setattr(generate, "refining_start", lambda low, *rest: started.append(low) or real(low, *rest))
    request = replace(SILENT, prompt="", sources=whole, refinement=TWICE)
    keyed = replace(request, refinement=replace(TWICE, keyframes=(0, 2)))
    clips = [generate_clip(one, refining) for one in (request, keyed)]
    assert torch.equal(started[0], started[1])
    assert not torch.allclose(clips[0].latents[0], clips[1].latents[0], atol=1e-3)
    assert keyed.gives_all and not keyed.only_refines and request.only_refines


def test_one_tile_and_several_agree_where_the_network_says_nothing(refining_model: Path):
    components = Components.load(refining_model, "cpu", "float32")
    for weight in components.refiner.head.parameters():
        weight.zero_()
    tiled = generate_clip(replace(SILENT, refinement=TWICE), components).latents[0]
    entry = replace(components.folder.manifest.refiner, tile=(9, 64, 64))
    components.folder = replace(components.folder, manifest=replace(components.folder.manifest, refiner=entry))
    assert torch.allclose(tiled, generate_clip(replace(SILENT, refinement=TWICE), components).latents[0], atol=1e-4)


def test_it_is_recorded_and_made_again(refining: Components, tmp_path: Path):
    request = replace(SILENT, refinement=replace(TWICE, keyframes=(1,)))
    clip = generate_clip(request, refining)
    clip.save(tmp_path / "clip.mp4")
    recorded = read_recipe(tmp_path / "clip.mp4")
    again = ClipRequest.from_dict(recorded["request"])
    assert again == request
    assert generate_clip(again, refining).checksums == recorded["latents"]


@pytest.mark.parametrize(
    ("refinement", "words"),
    [
        (Refinement(72, 60, steps=1), "width must be a multiple of 16"),
        (replace(TWICE, keyframes=(7,)), "--keyframes: 7 is outside the latent frames 0 to 2"),
    ],
)
def test_what_the_model_cannot_make_is_refused(refining: Components, refinement: Refinement, words: str):
    with pytest.raises(RequestError, match=words):
        validate(replace(SILENT, refinement=refinement), refining.folder)


def test_a_model_without_a_refiner_says_so(components: Components):
    with pytest.raises(RequestError, match=r"holds no refiner; train one with `sky4 train refiner`"):
        validate(replace(SILENT, refinement=TWICE), components.folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"refinement": Refinement(32, 32, steps=1)}, "is no larger than the 32x32 of the picture that is refined"),
        ({"refinement": Refinement(64, 16, steps=1)}, "is no larger"),
        ({"refinement": TWICE, "outputs": "audio"}, "needs a picture"),
        ({"refinement": TWICE, "frames": 1, "outputs": "still"}, "no frames to put more between"),
        ({"refinement": TWICE, "canvas": Canvas(64, 64)}, "source's own rate"),
    ],
)
def test_what_cannot_be_refined_is_refused(changes: dict, words: str):
    with pytest.raises(RequestError, match=words):
        replace(SILENT, **changes)
