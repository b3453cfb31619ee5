"""Made frames in the sources' own: what is kept is the source to the byte, and nothing of what goes leaks into it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sky4.conditioning.inpaint import VideoCondition
from sky4.media import read_image, read_video, write_clip
from sky4.media.masks import EditRegion, parse_box, parse_mask, parse_pad, parse_span
from sky4.pipeline.canvas import condition_frames, on_canvas
from sky4.pipeline.components import Components
from sky4.pipeline.composite import Change, change_in_file, composite, kept_frames, lay
from sky4.pipeline.generate import generate_clip
from sky4.pipeline.given import to_pixels, video_condition
from sky4.pipeline.request import Canvas, ClipRequest, Source

WIDTH, HEIGHT, FRAMES = 64, 48, 9
PLAIN = ClipRequest(
    prompt="a red circle",
    width=48,
    height=32,
    frames=FRAMES,
    fps=Fraction(16),
    steps=1,
    guidance=1.0,
    audio_guidance=1.0,
    shift=1.0,
    outputs="video",
    canvas=Canvas(WIDTH, HEIGHT),
)
BOX = EditRegion(boxes=(parse_box("20,10,24,20"),))


def textured(frames: int = 12, seed: int = 0) -> np.ndarray:
    """Soft noise that drifts, [F, H, W, 3]: a codec has something to lose everywhere."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    ground = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(int)
    grain = random.integers(-6, 7, (frames, HEIGHT, WIDTH, 1))
    drifting = np.stack([np.roll(ground, number, axis=1) for number in range(frames)])
    return np.clip(drifting + grain, 0, 255).astype(np.uint8)


def save(path: Path, frames: np.ndarray) -> Path:
    write_clip(path, [frames], None, fps=Fraction(16), recipe={}, force=True)
    return path


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return save(tmp_path / "film.mp4", textured())


def painted(path: Path, region: EditRegion | None = BOX, skip: int = 0, **change: object) -> ClipRequest:
    return replace(PLAIN, sources=(Source(path, str(path), frames=FRAMES, skip=skip, region=region),), **change)


def selected() -> np.ndarray:
    picture = np.zeros((HEIGHT, WIDTH), bool)
    picture[10:30, 20:44] = True
    return picture


def conditions(request: ClipRequest, components: Components) -> VideoCondition:
    geometry = components.folder.geometry(request.width, request.height, request.frames, request.fps)
    with torch.inference_mode():
        return video_condition(request, geometry, components.video_codec)


class TestPixels:
    def test_outside_the_region_a_folder_of_pictures_is_the_source_to_the_byte(
        self, components: Components, film: Path, tmp_path: Path
    ) -> None:
        clip = generate_clip(painted(film, skip=2), components)
        clip.save(tmp_path / "made")
        source = read_video(film)[2 : 2 + FRAMES]
        made = np.stack([np.asarray(Image.open(tmp_path / "made" / f"{n:05d}.png")) for n in range(FRAMES)])
        assert np.array_equal(made[:, ~selected()], source[:, ~selected()])
        assert np.abs(made[:, selected()].astype(int) - source[:, selected()]).mean() > 5
        assert (clip.change.largest, clip.change.values) == (0, FRAMES * int((~selected()).sum()) * 3)
        after = change_in_file(tmp_path / "made", clip.request)
        assert (after.largest, after.mean, after.values) == (0, 0.0, clip.change.values)

    @pytest.mark.parametrize("suffix", [".mp4", ".webm"])
    def test_outside_the_region_a_film_loses_what_its_encoder_takes(
        self, components: Components, film: Path, tmp_path: Path, suffix: str
    ) -> None:
        """Against a re-encode of the source with the same settings. Blocks and chroma samples that reach over the
        region's edge are coded together with what was made beside them, and bits go where there is more to describe:
        some per cent of the loss, no more."""
        made = tmp_path / f"made{suffix}"
        request = painted(film)
        generate_clip(request, components).save(made)
        source = read_video(film)[:FRAMES].astype(int)
        again = read_video(save(tmp_path / f"again{suffix}", source.astype(np.uint8)))
        off, loss = (np.abs(frames - source)[:, ~selected()] for frames in (read_video(made), again))
        told = change_in_file(made, request)
        assert (told.largest, told.mean) == (off.max(), pytest.approx(off.mean()))
        assert off.mean() <= 1.15 * loss.mean()
        assert off.max() <= 1.3 * loss.max()
        away = np.ones((HEIGHT, WIDTH), bool)
        away[7:33, 17:47] = False
        off, loss = (np.abs(frames - source)[:, away] for frames in (read_video(made), again))
        assert off.mean() <= 1.1 * loss.mean()

    def test_a_feathered_edge_is_the_weighted_mean_of_both(self, film: Path) -> None:
        request = painted(film, replace(BOX, feather=4))
        made = [np.full((FRAMES, 32, 48, 3), 200, np.uint8)]
        out = np.concatenate(list(composite(iter(made), request, change := Change())))
        source = read_video(film)[:FRAMES].astype(float)
        inside = selected()
        depth = np.zeros(inside.shape)
        for y, x in zip(*np.nonzero(inside), strict=True):
            depth[y, x] = min(y - 9, 30 - y, x - 19, 44 - x)
        weight = np.minimum(depth / 5, 1)[..., None]
        assert np.abs(out - (source * (1 - weight) + 200 * weight)).max() <= 1.5
        assert change.largest == 0

    def test_made_frames_are_scaled_to_the_canvas(self, film: Path) -> None:
        small = textured(FRAMES, seed=1)[:, ::2, ::2]
        out = np.concatenate(list(composite(iter([small[:5], small[5:]]), painted(film), Change())))
        wanted = [Image.fromarray(frame).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for frame in small]
        assert np.array_equal(out[:, selected()], np.stack([np.asarray(frame) for frame in wanted])[:, selected()])

    def test_the_source_lies_inside_of_a_larger_canvas_of_odd_size(
        self, components: Components, film: Path, tmp_path: Path
    ) -> None:
        region = EditRegion(pad=parse_pad("7,0,25%,6"))
        request = painted(film, region, canvas=Canvas(64 + 7 + 16, 48 + 6))
        generate_clip(request, components).save(tmp_path / "wide")
        made = np.stack([read_image(tmp_path / "wide" / f"{n:05d}.png") for n in range(FRAMES)])
        assert made.shape == (FRAMES, 54, 87, 3)
        assert np.array_equal(made[:, :48, 7:71], read_video(film)[:FRAMES])
        assert made[:, 48:].any()

    def test_a_canvas_one_smaller_cuts_the_last_row_and_column(self, tmp_path: Path) -> None:
        odd = textured()[:, :47, :63]
        Image.fromarray(odd[0]).save(tmp_path / "odd.png")
        source = Source(tmp_path / "odd.png", "odd.png", region=BOX)
        [(picture, alpha)] = on_canvas(source, Canvas(62, 46), Fraction(16))
        assert np.array_equal(picture, odd[0, :46, :62])
        assert np.array_equal(alpha > 0, selected()[:46, :62])

    def test_where_no_source_lies_all_is_made_and_a_later_source_lies_on_top(self, film: Path, tmp_path: Path) -> None:
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 99, np.uint8)).save(tmp_path / "p.png")
        request = replace(
            PLAIN,
            sources=(Source(film, "f", frames=3, region=BOX), Source(tmp_path / "p.png", "p", start=2, region=None)),
        )
        frames = list(kept_frames(request))
        assert [int(alpha.min()) for _, alpha in frames] == [0, 0, 0, *[255] * 6]
        assert np.array_equal(frames[1][1] > 0, selected())
        assert (frames[2][0] == 99).all()
        assert not frames[2][1].any()

    def test_laying_keeps_and_replaces_exactly(self) -> None:
        random = np.random.default_rng(0)
        source, made = (random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(2))
        alpha = random.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
        alpha[:5], alpha[5:9] = 0, 255
        laid = lay(source, made, alpha)
        assert np.array_equal(laid[:5], source[:5])
        assert np.array_equal(laid[5:9], made[5:9])
        exact = source + (made.astype(float) - source) * (alpha[..., None] / 255)
        assert np.abs(laid - exact).max() <= 0.5


class TestConditions:
    def test_a_cell_is_kept_where_all_of_its_pixels_and_frames_are(self, components: Components, film: Path) -> None:
        """Working at the canvas's own size; the region moves with time."""
        region = replace(BOX, boxes=(*BOX.boxes, parse_box("0,40,8,8@0.3-0.4")), feather=3)
        request = painted(film, region, width=WIDTH, height=HEIGHT)
        found = conditions(request, components).keep_mask[0, 0].numpy()
        edited = np.stack([alpha for _, alpha in on_canvas(request.sources[0], PLAIN.canvas, request.fps)]) > 0
        wanted = np.ones((3, 6, 8))
        for frame, row, column in np.argwhere(edited):
            wanted[0 if frame == 0 else (frame - 1) // 4 + 1, row // 8, column // 8] = 0
        assert np.array_equal(found, wanted)
        assert 0 < wanted.mean() < 1

    def test_nothing_of_what_is_edited_reaches_the_condition(self, components: Components, tmp_path: Path) -> None:
        one, other = textured(), textured()
        other[:, selected()] = 255 - other[:, selected()]
        found = []
        for number, frames in enumerate((one, other)):
            folder = tmp_path / f"{number}.mkv"
            save_lossless(folder, frames)
            found.append(conditions(painted(folder), components))
        assert torch.equal(found[0].latents, found[1].latents)
        assert torch.equal(found[0].keep_mask, found[1].keep_mask)
        kept = found[0].keep_mask.expand_as(found[0].latents) > 0.5
        black = components.video_codec.black(FRAMES, 32, 48)
        assert torch.equal(found[0].latents[~kept], black.expand_as(found[0].latents)[~kept])

    def test_edited_pixels_are_filled_with_the_nearest_kept_one(self, film: Path) -> None:
        frames, kept = condition_frames(painted(film).sources[0], PLAIN.canvas, PLAIN.fps, (WIDTH, HEIGHT))
        source = read_video(film)[:FRAMES]
        assert np.array_equal(kept, np.stack([~selected()] * FRAMES))
        assert np.array_equal(frames[:, ~selected()], source[:, ~selected()])
        assert np.array_equal(frames[:, 11, 30], source[:, 9, 30])
        assert np.array_equal(frames[:, 20, 22], source[:, 20, 19])
        assert np.array_equal(frames[:, 28, 40], source[:, 30, 40])

    def test_whole_frames_are_held_from_their_neighbours(self, film: Path) -> None:
        region = EditRegion(spans=(parse_span("--retake", "0-0.125"), parse_span("--retake", "0.25-0.4")))
        frames, kept = condition_frames(painted(film, region).sources[0], PLAIN.canvas, PLAIN.fps, (WIDTH, HEIGHT))
        source = read_video(film)[:FRAMES]
        assert [bool(frame.all()) for frame in kept] == [False, False, True, True, False, False, False, True, True]
        assert np.array_equal(frames, source[[2, 2, 2, 3, 3, 3, 3, 7, 8]])

    def test_the_kept_latents_are_sampled_through_unchanged(self, components: Components, film: Path) -> None:
        request = painted(film, width=WIDTH, height=HEIGHT)
        condition = conditions(request, components)
        made = generate_clip(request, components).latents[0]
        assert made is not None
        kept = condition.keep_mask.expand_as(made) > 0.5
        assert torch.equal(made[kept], condition.latents[kept])
        assert not torch.equal(made[~kept], condition.latents[~kept])

    def test_a_source_without_region_is_kept_whole_on_its_canvas(self, components: Components, film: Path) -> None:
        request = replace(PLAIN, width=WIDTH, height=HEIGHT, sources=(Source(film, "film", frames=5, skip=3),))
        condition = conditions(request, components)
        assert condition.keep_mask[0, 0, :, 0, 0].tolist() == [1, 1, 0]
        given = components.video_codec.encode(to_pixels(read_video(film)[3:8]))
        assert torch.equal(condition.latents[:, :, :2], given)


def save_lossless(path: Path, frames: np.ndarray) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=16)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def test_a_recipe_with_a_region_makes_the_same_clip(components: Components, film: Path, tmp_path: Path) -> None:
    Image.fromarray(selected().astype(np.uint8) * 255).save(tmp_path / "m.png")
    (tmp_path / "masks").mkdir()
    for number in range(12):
        Image.fromarray(selected().astype(np.uint8) * 255).save(tmp_path / "masks" / f"{number}{'x' * number}.png")
    for name in ("m.png", "masks"):
        request = painted(film, EditRegion((parse_mask(str(tmp_path / name)),)))
        clip = generate_clip(request, components)
        recipe = clip.recipe()
        assert set(recipe["inputs"]) == {str(film), str(tmp_path / name)}
        again = generate_clip(ClipRequest.from_dict(recipe["request"]), components)
        assert again.checksums == recipe["latents"]


def chunks(frames: np.ndarray) -> Iterator[np.ndarray]:
    yield from (frame[None] for frame in frames)


def test_laying_streams(film: Path) -> None:
    """Frame by frame: nothing is gathered before the first one is given out."""
    asked: list[int] = []

    def made() -> Iterator[np.ndarray]:
        for number, chunk in enumerate(chunks(textured(FRAMES))):
            asked.append(number)
            yield chunk

    out = composite(made(), painted(film), Change())
    next(out)
    assert asked == [0]
