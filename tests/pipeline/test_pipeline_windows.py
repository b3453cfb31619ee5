"""Clips made in several windows, on random nano weights: each continues what is shown, whatever else is made."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sky4.conditioning.reprojection import VIEWS, ShotGuess, View, seen
from sky4.encoders.another_shot import encoded_still
from sky4.inputs import TowerInput
from sky4.media import read_audio, read_recipe, read_video, write_clip
from sky4.model.transformer import JointTransformer
from sky4.pipeline import generate
from sky4.pipeline.clip import Clip, checksum
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip, generate_clips
from sky4.pipeline.given import Continued, to_pixels
from sky4.pipeline.request import Canvas, ClipRequest, Segments, Source
from sky4.pipeline.velocity import Conditions
from sky4.prompting import ReferenceFile
from tests.pipeline.plain import PLAIN

RATE = 44100
LONG = replace(PLAIN, frames=29, segments=Segments(13, 5))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 frames of 50x40 at 16 a second, lossless sound; coloured noise, so that no frame is like another."""
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    frames = np.random.default_rng(0).integers(0, 255, (12, 40, 50, 3), dtype=np.uint8)
    tone = 0.3 * np.sin(np.arange(round(12 / 16 * RATE)) / 30).astype(np.float32)
    write_clip(path, [frames], np.stack([tone, -tone]), fps=Fraction(16), recipe={})
    return path


def extension(film: Path, added: int, backward: bool = False, overlap: int = 5) -> ClipRequest:
    given = Source(film, str(film), start=added if backward else 0, frames=12)
    return replace(
        PLAIN, frames=12 + added, sources=(given,), canvas=Canvas(50, 40), segments=Segments(13, overlap, backward)
    )


def pictures(clip: Clip) -> np.ndarray:
    return np.concatenate(list(clip.frames()))


def test_the_first_window_is_the_clip_that_it_would_be_alone(components: Components) -> None:
    alone = generate_clip(replace(PLAIN, frames=13), components)
    long = generate_clip(LONG, components)
    assert len(long.windows) == 3
    for one, first in zip(alone.latents, long.windows[0].latents, strict=True):
        assert one is not None
        assert first is not None
        assert torch.equal(one, first)
    assert np.array_equal(pictures(long)[:13], pictures(alone))


@pytest.mark.parametrize("backward", [False, True])
def test_windows_do_not_depend_on_how_many_follow(components: Components, film: Path, backward: bool) -> None:
    short = generate_clip(extension(film, 8, backward), components)
    long = generate_clip(extension(film, 24, backward), components)
    assert (len(short.windows), len(long.windows)) == (1, 3)
    for one, first in zip(short.windows[0].latents, long.windows[0].latents, strict=True):
        assert one is not None
        assert first is not None
        assert torch.equal(one, first)
    near, far = pictures(short), pictures(long)
    assert np.array_equal(near, far[-20:] if backward else far[:20])


@pytest.mark.parametrize("backward", [False, True])
def test_a_window_keeps_the_codecs_latents_of_the_frames_shown_last(
    components: Components, film: Path, backward: bool
) -> None:
    request = replace(extension(film, 16, backward), canvas=Canvas(32, 32))
    clip = generate_clip(request, components)
    shown = pictures(clip)
    source = read_video(film, Fraction(16), (32, 32))
    # the 5 frames that the two windows keep: of the source, and of what is shown beyond it
    kept = [source[:5], shown[8:13]] if backward else [source[-5:], shown[15:20]]
    for window, frames in zip(clip.windows, kept, strict=True):
        given = components.video_codec.encode(to_pixels(frames))
        latents = window.latents[0]
        assert latents is not None
        assert torch.equal(latents[:, :, 3:], given[:, :, 1:]) if backward else torch.equal(latents[:, :, :2], given)


@pytest.mark.parametrize("backward", [False, True])
def test_the_sources_frames_and_sound_are_its_own(components: Components, film: Path, backward: bool) -> None:
    clip = generate_clip(extension(film, 10, backward), components)
    shown, wave = pictures(clip), clip.audio()
    assert shown.shape == (22, 40, 50, 3)
    assert wave.shape == (2, round(Fraction(22, 16) * RATE))
    own = read_audio(film)
    assert np.array_equal(shown[10:] if backward else shown[:12], read_video(film))
    begin = round(Fraction(10, 16) * RATE) if backward else 0
    assert np.array_equal(wave[:, begin : begin + own.shape[1]], own)
    assert clip.given == (range(10, 22) if backward else range(12))
    assert clip.seams == ([2, 10] if backward else [12, 20])
    made = wave[:, :begin] if backward else wave[:, own.shape[1] :]
    assert np.square(made).mean() > 0


def test_colours_meet_at_the_seam(components: Components, film: Path) -> None:
    request = replace(extension(film, 8), canvas=Canvas(32, 32))
    clip = generate_clip(request, components)
    [window] = clip.windows
    assert window.match is not None
    kept = read_video(film, Fraction(16), (32, 32))[-5:].astype(float)
    raw = np.concatenate(list(replace(window, match=None).frames(components, 0, 5))).astype(float)
    matched = np.concatenate(list(window.frames(components, 0, 5))).astype(float)
    away = [np.abs(frames.mean(axis=(0, 1, 2)) - kept.mean(axis=(0, 1, 2))).max() for frames in (raw, matched)]
    assert away[1] < 3 < away[0]  # clipping at 0 and 255 leaves a little


def test_every_window_has_its_own_noise_and_place_in_time(
    components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Conditions] = []
    velocity = generate.model_velocity
    monkeypatch.setattr(
        generate, "model_velocity", lambda model, given: (seen.append(given), velocity(model, given))[1]
    )
    generate_clip(LONG, components)
    assert [conditions.start for conditions in seen] == [0.0, 2.0, 4.0]
    noises = [conditions.video_noise for conditions in seen]
    assert all(noise is not None for noise in noises)
    assert not torch.equal(noises[0], noises[1])  # type: ignore[arg-type]


def test_tokens_lie_at_the_windows_place_in_time_and_references_stay(
    components: Components, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[tuple[float, ...]] = []
    forward = JointTransformer.forward

    def spy(model: JointTransformer, video: TowerInput, audio: TowerInput, *rest: Any, **more: Any) -> Any:
        media = [tower.positions[tower.reference_tokens :, 0] for tower in (video, audio)]
        times.append((float(video.positions[0, 0]), *(float(part.min()) for part in media)))
        return forward(model, video, audio, *rest, **more)

    monkeypatch.setattr(JointTransformer, "forward", spy)
    picture = ReferenceFile("image_1", _picture(film.parent), "image")
    generate_clip(replace(LONG, prompt="@image_1", references=(picture,), steps=1), components)
    assert times == [(-1.0, 0.0, 0.0), (-1.0, 2.0, 2.0), (-1.0, 4.0, 4.0)]


def _picture(folder: Path) -> Path:
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / "a.png")
    return folder / "a.png"


def test_one_checksum_stands_for_all_windows_and_one_window_keeps_its_own(components: Components) -> None:
    alone = generate_clip(PLAIN, components)
    assert alone.latents == alone.windows[0].latents
    assert alone.latents[0] is not None
    assert alone.checksums["video"] == checksum(alone.latents[0])
    long = generate_clip(LONG, components)
    assert [latents.shape[1 + axis] for axis, latents in ((1, long.latents[0]), (0, long.latents[1]))] == [12, 3 * 34]
    other = generate_clip(replace(LONG, seed=1), components)
    assert set(long.checksums.values()).isdisjoint(other.checksums.values())


def test_a_recipe_makes_the_same_clip_again(components: Components, film: Path, tmp_path: Path) -> None:
    request = extension(film, 16)
    clip = generate_clip(request, components)
    clip.save(tmp_path / "longer.mkv")
    recipe = read_recipe(tmp_path / "longer.mkv")
    assert ClipRequest.from_dict(recipe["request"]) == request
    assert set(recipe["inputs"]) == {str(film)}
    assert generate_clip(ClipRequest.from_dict(recipe["request"]), components).checksums == recipe["latents"]


def test_variations_of_a_long_clip_are_those_of_their_seeds(components: Components) -> None:
    several = [clip.checksums for clip in generate_clips(replace(LONG, variations=2), components)]
    assert several == [generate_clip(replace(LONG, seed=seed), components).checksums for seed in (0, 1)]


@pytest.mark.parametrize("outputs", ["video", "audio"])
def test_one_stream_alone_is_made_in_windows_too(components: Components, outputs: str) -> None:
    clip = generate_clip(replace(LONG, outputs=outputs), components)
    assert set(clip.checksums) == {outputs}
    if outputs == "audio":
        assert clip.audio().shape == (2, round(Fraction(29, 16) * RATE))
    else:
        assert pictures(clip).shape == (29, 32, 32, 3)


def test_a_long_sound_drives_a_long_picture_window_by_window(components: Components, tmp_path: Path) -> None:
    wave = (0.3 * np.random.default_rng(0).standard_normal((2, 2 * RATE))).astype(np.float32).clip(-1, 1)
    write_clip(tmp_path / "a.wav", None, wave, fps=Fraction(16), recipe={})
    clip = generate_clip(replace(LONG, audio=tmp_path / "a.wav"), components)
    own = read_audio(tmp_path / "a.wav")
    second = own[:, RATE // 2 :][:, : round(Fraction(13, 16) * RATE)]  # from frame 8 on
    assert clip.windows[1].latents[1] is not None
    assert torch.equal(clip.windows[1].latents[1], components.audio_codec.encode(torch.from_numpy(second)[None]))
    assert np.array_equal(clip.audio(), own[:, : round(Fraction(29, 16) * RATE)])


def test_first_and_last_pictures_lie_in_the_windows_at_the_ends(components: Components, tmp_path: Path) -> None:
    path = _picture(tmp_path)
    request = replace(LONG, sources=(Source(path, "--image"), Source(path, "--last-image", start=-1)))
    clip = generate_clip(request, components)
    given = components.video_codec.encode(to_pixels(np.asarray(Image.open(path))[None]))
    held = components.video_codec.encode(to_pixels(np.repeat(np.asarray(Image.open(path))[None], 5, axis=0)))
    first, last = clip.windows[0].latents[0], clip.windows[-1].latents[0]
    assert first is not None
    assert last is not None
    assert torch.equal(first[:, :, :1], given)
    assert torch.equal(last[:, :, -1], held[:, :, 1])


@pytest.mark.parametrize(("kind", "known"), [("multi-angle", True), ("cut-away", False), ("none", None)])
def test_another_shot_starts_from_the_guess_at_it_and_its_second_window_does_not(
    components: Components, film: Path, monkeypatch: pytest.MonkeyPatch, kind: str, known: bool | None
) -> None:
    request = extension(film, 16)
    assert request.segments is not None
    request = replace(request, outputs="video", segments=replace(request.segments, transition=kind))
    given: list[tuple[Continued, ShotGuess | None]] = []
    real = generate.video_condition

    def spy(inside: Any, geometry: Any, codec: Any, continued: Any, **values: Any) -> Any:
        given.append((continued, values["guess"]))
        return real(inside, geometry, codec, continued, **values)

    monkeypatch.setattr(generate, "video_condition", spy)
    clip = generate_clip(request, components)
    assert len(clip.windows) == len(given) == 2
    (continued, guess), (_, later) = given
    assert later is None
    if known is None:
        assert guess is None
        return
    assert guess is not None
    assert guess.known.tolist() == [known]
    still = seen(to_pixels(continued.frames)[0], VIEWS.get(kind, View(1.0)))  # type: ignore[call-overload]
    expected = encoded_still(still[None], components.video_codec)
    torch.testing.assert_close(guess.latents, expected)
