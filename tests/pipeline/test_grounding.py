"""A refined clip of a given one shows what that one shows; what is finer, and the motion between, is the refiner's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sky4.conditioning.refiner import enlarged
from sky4.media import read_video, write_clip
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip, generate_clips
from sky4.pipeline.grounding import given_pictures, grounded
from sky4.pipeline.refinement import Refinement
from sky4.pipeline.request import Canvas, ClipRequest, Source
from sky4.pipeline.states import ResumeFolder
from tests.conftest import starting_from_pixels
from tests.pipeline.plain import PLAIN

SILENT = replace(PLAIN, outputs="video")


def smooth(frames: int, side: int, seed: int = 0) -> np.ndarray:
    """Frames [f, side, side, 3] without anything finer than an eighth of them, far from black and white."""
    coarse = np.random.default_rng(seed).integers(70, 180, (frames, 8, 8, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC)) for frame in coarse]
    )


def shrunk(frames: np.ndarray, side: int) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(f).resize((side, side), Image.Resampling.BICUBIC)) for f in frames])


def held(made: np.ndarray, given: np.ndarray, rate: int, cuts: tuple[int, ...] = ()) -> np.ndarray:
    chunks: Iterator[np.ndarray] = iter(np.split(made, list(cuts)))
    return np.concatenate(list(grounded(chunks, iter(given), rate)))


def test_given_frames_are_what_is_seen_at_their_size():
    made, given = smooth(8, 64), smooth(4, 32, seed=1)
    out = held(made, given, 2)
    assert out.shape == made.shape and out.dtype == np.uint8
    off = np.abs(shrunk(out[::2], 32).astype(int) - given)
    assert off.mean() < 1.5 < np.abs(shrunk(made[::2], 32).astype(int) - given).mean()


def test_what_is_finer_than_the_given_stays():
    given = smooth(2, 32)
    plain = np.stack([np.asarray(Image.fromarray(f).resize((64, 64), Image.Resampling.BICUBIC)) for f in given])
    checks = (10 * (np.indices((64, 64)).sum(0) % 2 * 2 - 1)).astype(int)[None, ..., None]
    out = held((plain + checks).clip(0, 255).astype(np.uint8), given, 1)
    fine = (out.astype(int) - plain - checks)[:, 8:-8, 8:-8]
    assert np.abs(fine).mean() < 1.5


def test_frames_between_take_the_mean_of_both_differences():
    made, given = (
        np.full((4, 16, 16, 3), 100, np.uint8),
        np.stack([np.full((8, 8, 3), v, np.uint8) for v in (110, 130)]),
    )
    assert [int(frame.mean()) for frame in held(made, given, 2)] == [110, 120, 130, 130]


def test_what_stands_still_does_not_flicker_between_given_frames():
    given = np.repeat(smooth(1, 32), 2, axis=0)
    given[1, :8, :8] += 60  # moves: what is made between is left as it is
    wild = np.repeat(smooth(1, 64), 4, axis=0)
    wild[1] = 255 - wild[1]
    between = shrunk(held(wild, given, 2)[1:2], 32)[0].astype(int)
    assert np.abs(between[14:, 14:] - given[0, 14:, 14:]).mean() < 2
    assert np.abs(between[:6, :6] - given[0, :6, :6]).mean() > 10


@pytest.mark.parametrize("cuts", [(1,), (3, 4), (1, 2, 3, 4, 5, 6, 7)])
def test_how_frames_come_in_chunks_changes_nothing(cuts: tuple[int, ...]):
    made, given = smooth(8, 32), smooth(4, 16, seed=1)
    assert np.array_equal(held(made, given, 2, cuts), held(made, given, 2))


def test_the_last_difference_is_held_where_the_given_clip_ends_early():
    made, given = np.full((5, 16, 16, 3), 100, np.uint8), np.full((1, 8, 8, 3), 90, np.uint8)
    assert (held(made, given, 1) == 90).all()


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Nine frames of 40x32 at 16 a second."""
    pictures = smooth(9, 40)[:, 4:36]
    write_clip(tmp_path / "film.mkv", [pictures], None, fps=Fraction(16), recipe={})
    return tmp_path / "film.mkv"


@pytest.fixture(scope="module", params=["latents", "pixels"])
def refining(refining_model: Path, tmp_path_factory: pytest.TempPathFactory, request) -> Components:
    model = refining_model
    if request.param == "pixels":
        model = starting_from_pixels(refining_model, tmp_path_factory.mktemp("model") / "pixels")
    return Components.load(model, "cpu", "float32")


def asked(film: Path) -> ClipRequest:
    source = Source(film, "film", frames=9)
    return replace(SILENT, sources=(source,), refinement=Refinement(80, 64, steps=1, rate=2))


def test_a_refined_file_shows_the_file_at_its_own_size(refining: Components, film: Path):
    request = replace(asked(film), width=32, height=32)  # the size that it is worked at is not its own
    frames = np.concatenate(list(generate_clip(request, refining).frames()))
    assert frames.shape == (18, 64, 80, 3)
    own = read_video(film)
    again = np.stack([np.asarray(Image.fromarray(f).resize((40, 32), Image.Resampling.BICUBIC)) for f in frames[::2]])
    assert np.abs(again.astype(int) - own).mean() < 6  # a network of random weights fills the range, and is cut off


def test_what_is_made_has_nothing_to_be_held_to(film: Path, tmp_path: Path):
    assert given_pictures(replace(SILENT, refinement=Refinement(64, 64, steps=1))) is None
    assert given_pictures(replace(asked(film), refinement=None)) is None
    laid = replace(asked(film), refinement=Refinement(80, 64, steps=1), canvas=Canvas(40, 32))
    assert given_pictures(laid) is None
    given = given_pictures(asked(film))
    assert given is not None and [frame.shape for frame in given] == [(32, 40, 3)] * 9


def test_a_given_clip_is_never_read_larger_than_it_is_refined_to(tmp_path: Path):
    write_clip(tmp_path / "large.mkv", [smooth(9, 96)], None, fps=Fraction(16), recipe={})
    request = replace(PLAIN, video=tmp_path / "large.mkv", refinement=Refinement(64, 48, steps=1))
    given = given_pictures(request)
    assert given is not None and next(given).shape == (48, 64, 3)


def test_the_pixels_that_a_refiner_starts_from_are_the_files_or_the_decoded_ones(
    refining_model: Path, film: Path, tmp_path: Path
):
    components = Components.load(starting_from_pixels(refining_model, tmp_path / "pixels"), "cpu", "float32")
    for weight in components.refiner.head.parameters():
        weight.zero_()  # it adds nothing: what it starts from is what comes out
    request = replace(asked(film), width=48, height=32, refinement=Refinement(96, 64, steps=1, rate=2))
    own = read_video(film, size=(48, 32))
    wanted = components.video_codec.encode(enlarged(_pixels(own), 17, 64, 96))
    assert torch.allclose(generate_clip(request, components).latents[0], wanted, atol=1e-4)
    base = SILENT
    low = generate_clip(base, components).latents[0]
    decoded = torch.cat(list(components.video_codec.decode(low)), dim=2)
    wanted = components.video_codec.encode(enlarged(decoded, 17, 64, 64))
    made = generate_clip(replace(base, refinement=Refinement(64, 64, steps=1, rate=2)), components)
    assert torch.allclose(made.latents[0], wanted, atol=1e-4)


def test_a_made_clip_is_held_where_the_refiner_says_so(refining_model: Path, tmp_path: Path):
    free = Components.load(starting_from_pixels(refining_model, tmp_path / "free"), "cpu", "float32")
    held = Components.load(starting_from_pixels(refining_model, tmp_path / "held", held=True), "cpu", "float32")
    request = replace(SILENT, refinement=Refinement(64, 64, steps=1, rate=2))
    one, other = generate_clip(request, free), generate_clip(request, held)
    assert one.checksums == other.checksums  # it is done as frames are decoded
    plain = np.concatenate(list(generate_clip(SILENT, held).frames()))
    without, with_it = (np.concatenate(list(clip.frames())) for clip in (one, other))
    off = [np.abs(shrunk(frames[::2], 32).astype(int) - plain).mean() for frames in (without, with_it)]
    assert with_it.shape == without.shape == (18, 64, 64, 3) and off[1] < 0.5 * off[0]
    keyed = replace(request, refinement=replace(request.refinement, keyframes=(0,)))
    assert generate_clip(keyed, held).windows[0].low is None  # a keyframe shows more


def test_what_it_is_held_to_is_kept_in_a_state(refining_model: Path, tmp_path: Path):
    components = Components.load(starting_from_pixels(refining_model, tmp_path / "held", held=True), "cpu", "float32")
    request = replace(SILENT, refinement=Refinement(64, 64, steps=1, rate=2))
    states = ResumeFolder.open(tmp_path / "state", request, components)
    first = next(generate_clips(request, components, states=states))
    again = next(generate_clips(request, components, states=states))
    assert torch.equal(first.windows[0].low, again.windows[0].low)
    assert np.array_equal(np.concatenate(list(first.frames())), np.concatenate(list(again.frames())))


def _pixels(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1.0
