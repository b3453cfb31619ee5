"""generate_clip on random nano weights: what is kept, what is made, and that the same request makes the same bits."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sky4.conditioning.tokens import audio_positions, patchify_video, unpatchify_video, video_positions
from sky4.diffusion.noise import noise
from sky4.errors import RequestError, Sky4Failure
from sky4.inputs import TowerInput
from sky4.media import read_audio, read_image, read_recipe, read_video, write_clip
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip, generate_clips
from sky4.pipeline.given import to_pixels
from sky4.pipeline.request import ClipRequest, Source
from sky4.pipeline.windows import to_frames
from sky4.prompting import ReferenceFile
from tests.pipeline.plain import PLAIN


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    ramp = np.linspace(0, 255, 48 * 40 * 3).reshape(40, 48, 3).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """12 frames of 64x48 at 16 a second, with a second of sound that is longer than the picture."""
    frames = np.random.default_rng(0).integers(0, 255, (12, 48, 64, 3), dtype=np.uint8)
    tone = 0.3 * np.sin(np.arange(44100) / 30).astype(np.float32)
    write_clip(tmp_path / "film.mkv", [frames], np.stack([tone, -tone]), fps=Fraction(16), recipe={})
    return tmp_path / "film.mkv"


def test_sampling_is_the_euler_sum_of_the_models_guided_velocities(components: Components) -> None:
    """Written out by hand from the formulas, with nothing of the pipeline, the sampler or guidance."""
    request = replace(PLAIN, steps=3, guidance=3.0, audio_guidance=1.5, seed=5)
    made = generate_clip(request, components).latents
    geometry = components.folder.geometry(32, 32, 9, Fraction(16))
    video = noise((16, 3, 4, 4), 5, "video", 0)[None]
    audio = noise((geometry.audio_tokens, 64), 5, "audio", 0)[None]
    black = components.video_codec.black(9, 32, 32)
    texts = [components.text_encoder.encode([prompt]) for prompt in (request.prompt, "")]
    scale = Fraction(3, geometry.audio_tokens)
    with torch.no_grad():
        for step in range(3):
            t = torch.tensor([step / 3])
            tokens = patchify_video(torch.cat([video, black, torch.zeros(1, 1, 3, 4, 4)], dim=1))
            seen = TowerInput(tokens, video_positions(3, 2, 2), t)
            heard = TowerInput(audio, audio_positions(geometry.audio_tokens, scale), t)
            (v_with, a_with), (v_without, a_without) = (components.transformer(seen, heard, text) for text in texts)
            v = unpatchify_video(v_without + 3.0 * (v_with - v_without), (3, 4, 4))
            video = video + v / 3
            audio = audio + (a_without + 1.5 * (a_with - a_without)) / 3
    assert made[0] is not None
    assert made[1] is not None
    assert torch.allclose(made[0], video, atol=1e-5)
    assert torch.allclose(made[1], audio, atol=1e-5)


def test_the_same_seed_makes_the_same_latents_alone_and_among_variations(components: Components) -> None:
    several = [clip.checksums for clip in generate_clips(replace(PLAIN, seed=3, variations=3), components)]
    alone = [generate_clip(replace(PLAIN, seed=seed), components).checksums for seed in (3, 4, 5)]
    assert several == alone
    assert len({sums["video"] for sums in alone}) == len({sums["audio"] for sums in alone}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a blue square"},
        {"negative_prompt": "noise"},
        {"steps": 3},
        {"sampler": "heun"},
        {"sampler": "unipc", "steps": 3},
        {"guidance": 5.0, "audio_guidance": 5.0},
        {"shift": 3.0},
    ],
)
def test_what_is_asked_for_shows_in_the_latents(components: Components, change: dict[str, object]) -> None:
    before, after = (
        generate_clip(PLAIN, components).checksums,
        generate_clip(replace(PLAIN, **change), components).checksums,
    )
    assert before["video"] != after["video"]
    assert before["audio"] != after["audio"]


def test_one_modality_alone_runs_one_tower(components: Components) -> None:
    picture = generate_clip(replace(PLAIN, outputs="video"), components)
    sound = generate_clip(replace(PLAIN, outputs="audio"), components)
    still = generate_clip(replace(PLAIN, outputs="still", frames=1), components)
    assert set(picture.checksums) == {"video"}
    assert set(sound.checksums) == {"audio"}
    assert sound.audio().shape == (2, round(Fraction(9, 16) * 44100))
    assert np.concatenate(list(still.frames())).shape == (1, 32, 32, 3)


def test_any_frame_count_is_made_and_cut_to_what_was_asked(components: Components) -> None:
    clip = generate_clip(replace(PLAIN, frames=7), components)
    assert clip.latents[0] is not None
    assert clip.latents[0].shape[2] == 3  # 9 frames
    assert np.concatenate(list(clip.frames())).shape == (7, 32, 32, 3)
    assert clip.audio().shape == (2, round(Fraction(7, 16) * 44100))


@pytest.mark.parametrize("sampler", ["euler", "heun", "unipc"])
def test_a_first_image_is_kept_exactly_and_decodes_to_the_codecs_own_reconstruction(
    components: Components, photo: Path, sampler: str
) -> None:
    clip = generate_clip(replace(PLAIN, sources=(Source(photo, "--image"),), sampler=sampler), components)
    given = components.video_codec.encode(to_pixels(read_image(photo, (32, 32))[None]))
    assert clip.latents[0] is not None
    assert torch.equal(clip.latents[0][:, :, :1], given)
    first = next(clip.frames())[0]
    alone = to_frames(next(components.video_codec.decode(given)))[0]
    assert np.abs(first.astype(int) - alone).max() <= 1


def test_a_last_image_is_kept_as_the_latent_of_its_held_frame(components: Components, photo: Path) -> None:
    request = replace(PLAIN, sources=(Source(photo, "--image"), Source(photo, "--last-image", start=-1)))
    clip = generate_clip(request, components)
    held = to_pixels(np.repeat(read_image(photo, (32, 32))[None], 5, axis=0))
    given = components.video_codec.encode(held)
    assert clip.latents[0] is not None
    assert torch.equal(clip.latents[0][:, :, 0], given[:, :, 0])
    assert torch.equal(clip.latents[0][:, :, 2], given[:, :, 1])
    assert not torch.equal(clip.latents[0][:, :, 1], given[:, :, 1])


def test_the_first_frames_of_a_film_can_be_continued(components: Components, film: Path) -> None:
    clip = generate_clip(replace(PLAIN, sources=(Source(film, "--video", frames=5),)), components)
    given = components.video_codec.encode(to_pixels(read_video(film, Fraction(16), (32, 32), 5)))
    assert clip.latents[0] is not None
    assert torch.equal(clip.latents[0][:, :, :2], given)


def test_a_driving_sound_stays_as_it_is_and_moves_the_picture(components: Components, film: Path) -> None:
    driven = generate_clip(replace(PLAIN, audio=film), components)
    free = generate_clip(PLAIN, components)
    wave = read_audio(film, 9 / 16)
    assert driven.latents[1] is not None
    assert torch.equal(driven.latents[1], components.audio_codec.encode(torch.from_numpy(wave)[None]))
    assert driven.checksums["video"] != free.checksums["video"]
    assert np.array_equal(driven.audio(), wave)
    silent = generate_clip(replace(PLAIN, audio=film, outputs="video"), components)
    assert silent.checksums["video"] == driven.checksums["video"]


def test_a_given_film_keeps_its_own_pictures_and_gets_sound(components: Components, film: Path, tmp_path: Path) -> None:
    clip = generate_clip(replace(PLAIN, video=film), components)
    given = components.video_codec.encode(to_pixels(read_video(film, Fraction(16), (32, 32), 9)))
    assert clip.latents[0] is not None
    assert torch.equal(clip.latents[0], given)
    assert clip.checksums["audio"] != generate_clip(PLAIN, components).checksums["audio"]
    clip.save(tmp_path / "sounded")
    first = np.asarray(Image.open(tmp_path / "sounded" / "00000.png"))
    assert np.array_equal(first, read_video(film)[0])
    assert len(list((tmp_path / "sounded").glob("*.png"))) == 9


def test_references_reach_both_towers(components: Components, photo: Path, film: Path) -> None:
    request = replace(
        PLAIN,
        prompt="@image_1 and @video_1 <sfx>@audio_1</sfx>",
        references=(
            ReferenceFile("image_1", photo, "image"),
            ReferenceFile("video_1", film, "video"),
            ReferenceFile("audio_1", film, "audio"),
        ),
    )
    with_all = generate_clip(request, components).checksums
    plain = generate_clip(replace(PLAIN, prompt="image_1 and video_1 <sfx>audio_1</sfx>"), components).checksums
    assert with_all["video"] != plain["video"]
    assert with_all["audio"] != plain["audio"]


def test_a_saved_clip_tells_how_to_make_it_again(components: Components, photo: Path, tmp_path: Path) -> None:
    request = replace(PLAIN, sources=(Source(photo, "--image"),))
    clip = generate_clip(request, components)
    clip.save(tmp_path / "clip.mp4")
    recipe = read_recipe(tmp_path / "clip.mp4")
    assert ClipRequest.from_dict(recipe["request"]) == request
    assert recipe["latents"] == clip.checksums
    assert recipe["model"]["digest"].startswith("sha256:")
    assert set(recipe["inputs"]) == {str(photo)}
    again = generate_clip(ClipRequest.from_dict(recipe["request"]), components)
    assert again.checksums == recipe["latents"]


def test_latents_that_are_not_finite_are_refused(nano_model: Path) -> None:
    broken = Components.load(nano_model, "cpu", "float32")
    with torch.no_grad():
        broken.transformer.video.head.weight[0, 0] = float("nan")
    with pytest.raises(Sky4Failure, match="video latents ceased to be finite at step 1 of 2"):
        generate_clip(PLAIN, broken)


def test_a_picture_that_does_not_decode_to_numbers_is_refused(components: Components) -> None:
    with pytest.raises(Sky4Failure, match="not finite, so nothing was saved"):
        to_frames(torch.full((1, 3, 1, 8, 8), float("nan")))


def test_pixels_and_frames_are_inverse(components: Components) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    assert np.array_equal(to_frames(to_pixels(frames)), frames)


def test_a_clip_too_short_for_a_sound_is_refused(components: Components) -> None:
    with pytest.raises(RequestError, match="shorter than the least sound"):
        generate_clip(replace(PLAIN, frames=1, fps=Fraction(60)), components)
