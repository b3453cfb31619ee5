"""References of any size, length and rate, as the towers are given them."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sky4.diffusion.guidance import Evaluate, Prompt
from sky4.diffusion.sampler import State, Times
from sky4.geometry import ClipGeometry
from sky4.media import read_video, write_clip
from sky4.model.transformer import JointTransformer
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip
from sky4.pipeline.given import references, shown_references
from sky4.pipeline.model_folder import ModelFolder
from sky4.pipeline.request import ClipRequest
from sky4.pipeline.validate import warnings
from sky4.pipeline.velocity import Conditions, model_velocity
from sky4.prompting import ReferenceFile, in_prompt_order, parse
from tests.pipeline.plain import PLAIN

REQUEST = ClipRequest(
    prompt="@video_1", width=48, height=32, frames=9, fps=Fraction(16), steps=1, guidance=1, audio_guidance=1, shift=1
)


class Averaging:
    """A codec of cells of 8x8x4 that remembers what it was given: one channel, the mean of each cell's red."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def encode(self, pixels: Tensor) -> Tensor:
        self.given.append(pixels)
        frames = pixels.shape[2]
        assert (frames - 1) % 4 == 0, "not in whole groups"
        groups = [pixels[:, :1, :1], *pixels[:, :1, 1:].split(4, dim=2)][: 1 + (frames - 1) // 4]
        return torch.cat([torch.nn.functional.avg_pool2d(group.mean(2), 8)[:, :, None] for group in groups], dim=2)


def geometry_of(request: ClipRequest) -> ClipGeometry:
    return ClipGeometry(request.width, request.height, (request.frames + 2) // 4 * 4 + 1, request.fps)


def film(path: Path, frames: int, size: tuple[int, int] = (48, 32), fps: Fraction = Fraction(16)) -> ReferenceFile:
    grey = np.linspace(0, 240, frames).astype(np.uint8)
    write_clip(path, [np.tile(grey[:, None, None, None], (1, size[1], size[0], 3))], None, fps=fps, recipe={})
    return ReferenceFile("video_1", path, "video")


def seen(request: ClipRequest, *files: ReferenceFile) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """(pixels encoded for each, joined latents, what is no padding)."""
    codec = Averaging()
    joined, _, _ = references(files, request, geometry_of(request), codec, None)  # type: ignore[arg-type]
    assert joined is not None
    return codec.given, joined.latents, joined.real


def levels(pixels: Tensor) -> list[int]:
    return [round(float(level)) for level in (pixels[0, 0].mean((1, 2)) + 1) * 127.5]


@pytest.mark.parametrize(
    ("has", "wants", "read"),
    [
        (30, 9, 9),  # longer: as long as the clip
        (7, 9, 5),  # shorter: whole groups
        (3, 9, 1),
        (11, 11, 13),  # as long as a clip that is no whole groups itself: the last frame is held, as the clip's is
        (30, 11, 13),
    ],
)
def test_a_film_is_cut_to_the_clip_and_to_whole_groups(tmp_path: Path, has: int, wants: int, read: int) -> None:
    request = replace(REQUEST, frames=wants)
    file = film(tmp_path / "v.mkv", has)
    [pixels], latents, real = seen(request, file)
    assert pixels.shape == (1, 3, read, 32, 48)
    assert latents.shape == (1, 1, (read - 1) // 4 + 1, 4, 6)
    assert real is None
    own = [round(float(frame.mean())) for frame in read_video(file.path)]
    expected = (own[:wants] + [own[:wants][-1]] * 4)[:read]
    assert levels(pixels) == pytest.approx(expected, abs=2)


def test_a_film_is_read_at_the_clips_rate_from_where_it_begins(tmp_path: Path) -> None:
    file = film(tmp_path / "v.mkv", 40, fps=Fraction(32))
    [pixels], _, _ = seen(REQUEST, replace(file, skip=4))
    own = [float(frame.mean()) for frame in read_video(file.path)]
    assert levels(pixels) == pytest.approx(own[8:26:2], abs=8)  # within a frame of the film


def test_another_size_keeps_its_proportions_and_the_rest_is_padding(tmp_path: Path) -> None:
    tall, wide = tmp_path / "tall.png", tmp_path / "wide.png"
    Image.new("RGB", (40, 80), "white").save(tall)
    Image.new("RGB", (960, 320), "white").save(wide)
    files = ReferenceFile("image_1", tall, "image"), ReferenceFile("image_2", wide, "image")
    given, latents, real = seen(replace(REQUEST, prompt="@image_1 @image_2"), *files)
    assert [tuple(pixels.shape[-2:]) for pixels in given] == [(32, 16), (16, 48)]
    assert latents.shape == (1, 1, 2, 4, 6)
    assert real is not None
    assert real[0, 0].sum((1, 2)).tolist() == [8, 12]
    assert bool((latents[~real] == 0).all())


@pytest.mark.parametrize("size", [(64, 36), (100, 60), (480, 320), (44, 32)])
def test_nearly_the_clips_proportions_give_the_clips_own_grid(tmp_path: Path, size: tuple[int, int]) -> None:
    [pixels], _, real = seen(REQUEST, film(tmp_path / "v.mkv", 9, size))
    assert pixels.shape[-2:] == (32, 48)
    assert real is None


def test_of_a_long_clip_as_much_is_read_as_is_made_at_once(tmp_path: Path) -> None:
    request, codec = replace(REQUEST, frames=400), Averaging()
    window = geometry_of(REQUEST)
    references((film(tmp_path / "v.mkv", 30),), request, window, codec, None)  # type: ignore[arg-type]
    assert codec.given[0].shape[2] == window.frames == 9


def test_the_film_to_start_from_is_the_last_that_fills_the_clip(tmp_path: Path) -> None:
    whole, short = film(tmp_path / "whole.mkv", 30), film(tmp_path / "short.mkv", 7)
    picture = tmp_path / "white.png"
    Image.new("RGB", (48, 32), "white").save(picture)
    still = ReferenceFile("image_1", picture, "image")
    for files, there in (((whole, still, short), True), ((still, short), False)):
        joined, _, start = references(files, REQUEST, geometry_of(REQUEST), Averaging(), None)  # type: ignore[arg-type]
        assert joined is not None
        assert (start is not None) is there
        if start is not None:
            torch.testing.assert_close(start, joined.latents[:, :, :3])


def test_a_long_film_is_neither_decoded_nor_held_beyond_the_clip(tmp_path: Path) -> None:
    peaks = []
    for frames in (9, 400):
        file = film(tmp_path / f"{frames}.mkv", frames, (320, 208))
        tracemalloc.start()
        seen(REQUEST, file)
        shown_references((file,), REQUEST, geometry_of(REQUEST))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 100_000


def test_the_clip_being_edited_lies_next_to_the_new_one_unless_the_prompt_orders_otherwise(tmp_path: Path) -> None:
    source = ReferenceFile("video_1", tmp_path / "v.mp4", "video", implied=True)
    other = ReferenceFile("image_1", tmp_path / "a.png", "image")

    def order(prompt: str) -> list[str]:
        tree = parse(prompt, ["video_1", "image_1"])[0]
        return [file.name for file in in_prompt_order((other, source), tree)]

    assert order("put @image_1 in place of the subject") == ["image_1", "video_1"]
    assert order("in @video_1, replace the star with @image_1") == ["video_1", "image_1"]
    assert order("in rain") == ["image_1", "video_1"]


def test_only_what_the_prompt_should_mention_is_missed_in_it(nano_model: Path, tmp_path: Path) -> None:
    folder = ModelFolder.read(nano_model)
    file = film(tmp_path / "v.mkv", 9)
    plain = replace(REQUEST, prompt="in rain", references=(file,))
    assert any("video_1 is not mentioned" in said for said in warnings(plain, folder, geometry_of(plain)))
    assert warnings(replace(plain, references=(replace(file, implied=True),)), folder, geometry_of(plain)) == []


def still(state: State, times: Times, prompts: tuple[Prompt, ...], *, exchange: bool) -> State:
    return tuple(None if part is None else part.new_zeros(len(prompts), *part.shape[1:]) for part in state)  # type: ignore[return-value]


@pytest.mark.parametrize("guides", [False, True])
def test_a_guided_model_makes_the_difference_from_the_film(
    components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guides: bool
) -> None:
    given: list[Conditions] = []

    def spy(model: JointTransformer, conditions: Conditions) -> Evaluate:
        given.append(conditions)
        return model_velocity(model, conditions)

    monkeypatch.setattr("sky4.pipeline.generate.model_velocity", spy)
    manifest = components.folder.manifest
    manifest = replace(manifest, transformer=replace(manifest.transformer, guide=guides))
    monkeypatch.setattr(components, "folder", replace(components.folder, manifest=manifest))
    request = replace(PLAIN, prompt="@video_1 in rain", references=(film(tmp_path / "v.mkv", 9, (32, 32)),))
    made = generate_clip(request, components).latents[0]
    [one] = given
    assert one.condition is not None and one.video_references is not None
    assert not one.condition.keep_mask.any()
    black = components.video_codec.black(9, 32, 32)
    start = one.video_references.latents
    torch.testing.assert_close(one.condition.latents, start if guides else black)
    assert one.video_noise is not None and made is not None
    if guides:  # a model that makes nothing leaves the film as it is, but for the noise that it did not remove
        monkeypatch.setattr("sky4.pipeline.generate.model_velocity", lambda *_: still)
        left = generate_clip(request, components).latents[0]
        torch.testing.assert_close(left, start + one.video_noise)
