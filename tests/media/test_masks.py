"""Edit regions: what is parsed, what is selected frame by frame, and what is refused; numpy is the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sky4.errors import RequestError
from sky4.media import write_clip
from sky4.media.mask_frames import Footage, canvas_of, check_region, covered, edit_frames
from sky4.media.mask_preview import tinted, write_mask_preview
from sky4.media.masks import Box, EditRegion, Extent, MaskFile, Pad, Span, parse_box, parse_mask, parse_pad, parse_span

WIDTH, HEIGHT, FRAMES = 40, 30, 12
FOOTAGE = Footage(WIDTH, HEIGHT, rate=Fraction(16), length=FRAMES, fps=Fraction(16), frames=FRAMES)
SOURCE = Path("clip.mp4")


def alphas(region: EditRegion, footage: Footage = FOOTAGE) -> np.ndarray:
    return np.stack(list(edit_frames(region, footage)))


def boxed(x: int, y: int, width: int, height: int) -> np.ndarray:
    """The oracle's box: 255 inside."""
    picture = np.zeros((HEIGHT, WIDTH), np.uint8)
    picture[y : y + height, x : x + width] = 255
    return picture


def save(path: Path, picture: np.ndarray) -> MaskFile:
    Image.fromarray(picture).save(path)
    return parse_mask(str(path))


@pytest.fixture
def still(tmp_path: Path) -> MaskFile:
    return save(tmp_path / "mask.png", boxed(4, 6, 10, 8))


def moving(frames: int = FRAMES) -> list[np.ndarray]:
    return [boxed(2 * number, 6, 10, 8) for number in range(frames)]


@pytest.fixture
def folder(tmp_path: Path) -> MaskFile:
    (tmp_path / "masks").mkdir()
    for number, picture in enumerate(moving()):
        Image.fromarray(picture).save(tmp_path / "masks" / f"{number:03d}.png")
    (tmp_path / "masks" / "notes.txt").write_text("no picture")
    return parse_mask(str(tmp_path / "masks"))


@pytest.fixture
def film(tmp_path: Path) -> MaskFile:
    frames = np.stack([np.repeat(picture[..., None], 3, axis=2) for picture in moving()])
    write_clip(tmp_path / "mask.mkv", [frames], None, fps=Fraction(16), recipe={})
    return parse_mask(str(tmp_path / "mask.mkv"))


class TestReading:
    def test_a_box_in_pixels_in_per_cent_and_with_a_time(self) -> None:
        assert parse_box("10,20,64,32").edges(100, 100) == (10, 20, 74, 52)
        assert parse_box("10%,20%,50%,50%").edges(640, 480) == (64, 96, 384, 336)
        timed = parse_box(" 0, 5%,7,33.3%@1.5-2")
        assert timed.edges(10, 30) == (0, round(1.5), 7, round(1.5 + 9.99))
        assert timed.span == Span(Fraction(3, 2), Fraction(2))
        assert str(timed) == "0,5%,7,33.3%@1.5-2"

    def test_padding_is_of_the_side_that_it_lies_on(self) -> None:
        assert parse_pad("25%,0,10,50%").pixels(80, 40) == (20, 0, 10, 20)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("1,2,3", "--box 1,2,3: expected x,y,width,height such as"),
            ("a,b,c,d", "expected"),
            ("1,2,3,4,5", "expected"),
            ("1,2,0,4", "at least one pixel wide"),
            ("1,2,-3,4", "at least one pixel wide"),
            ("1,2,3,4@", "--box 1,2,3,4@: expected a range of seconds such as 2-4.5"),
            ("1,2,3,4@2-1", "ends after it begins"),
        ],
    )
    def test_what_is_no_box(self, text: str, words: str) -> None:
        with pytest.raises(RequestError, match=words):
            parse_box(text)

    @pytest.mark.parametrize("text", ["0,0,0,0", "-1,0,5,0", "1,2,3", "wide"])
    def test_what_is_no_padding(self, text: str) -> None:
        with pytest.raises(RequestError, match=f"--pad {text}: "):
            parse_pad(text)

    @pytest.mark.parametrize("text", ["2", "2-", "-2", "3-3", "3-2", "a-b", "1-2-3"])
    def test_what_is_no_range(self, text: str) -> None:
        with pytest.raises(RequestError, match=f"--retake {text}: "):
            parse_span("--retake", text)

    def test_a_mask_is_what_stands_in_its_file(self, still: MaskFile, folder: MaskFile, film: MaskFile) -> None:
        assert (still.kind, folder.kind, film.kind) == ("picture", "folder", "video")
        named = parse_mask(f"left={still.path}")
        assert (named.name, named.path) == ("left", still.path)

    def test_a_path_with_an_equals_sign_that_exists_is_a_path(self, tmp_path: Path) -> None:
        mask = save(tmp_path / "a=b.png", boxed(0, 0, 4, 4))
        assert (mask.name, mask.path.name) == ("", "a=b.png")

    @pytest.mark.parametrize(("text", "words"), [("gone.png", "'gone.png' does not exist"), ("1a=gone.png", "no name")])
    def test_a_mask_that_is_not_there(self, text: str, words: str) -> None:
        with pytest.raises(RequestError, match=words):
            parse_mask(text)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"boxes": ()}, "nothing says what is made anew; add --mask, --box, --retake or --pad"),
            ({"mode": "black-edits"}, "--mask-mode black-edits is unknown"),
            ({"threshold": 0.0}, "--mask-threshold 0 is outside 0 to 1"),
            ({"threshold": float("nan")}, "--mask-threshold nan"),
            ({"grow": -1}, "--grow -1 is outside 0 to 512 pixels; nearest: 0"),
            ({"feather": 999}, "nearest: 512"),
            ({"files": (MaskFile(Path("a"), "picture", "left"),) * 2}, "--mask left is given twice"),
        ],
    )
    def test_values_that_cannot_be(self, change: dict[str, Any], words: str) -> None:
        with pytest.raises(RequestError, match=words):
            replace(EditRegion(boxes=(parse_box("1,1,2,2"),)), **change)


class TestSelecting:
    def test_a_picture_holds_for_every_frame(self, still: MaskFile) -> None:
        assert np.array_equal(alphas(EditRegion((still,))), np.stack([boxed(4, 6, 10, 8)] * FRAMES))

    def test_what_stays_is_the_same_array(self, still: MaskFile) -> None:
        frames = list(edit_frames(EditRegion((still,), feather=2), FOOTAGE))
        assert all(frame is frames[0] for frame in frames)

    def test_white_keeps_turns_it_around(self, still: MaskFile) -> None:
        assert np.array_equal(alphas(EditRegion((still,), mode="white-keeps"))[3], 255 - boxed(4, 6, 10, 8))

    @pytest.mark.parametrize("kind", ["folder", "film"])
    def test_a_folder_and_a_video_move(self, kind: str, request: pytest.FixtureRequest) -> None:
        assert np.array_equal(alphas(EditRegion((request.getfixturevalue(kind),))), np.stack(moving()))

    @pytest.mark.parametrize("kind", ["folder", "film"])
    def test_a_part_takes_the_same_part_of_the_mask(self, kind: str, request: pytest.FixtureRequest) -> None:
        part = replace(FOOTAGE, skip=5, frames=4)
        mask = request.getfixturevalue(kind)
        assert np.array_equal(alphas(EditRegion((mask,)), part), np.stack(moving()[5:9]))

    @pytest.mark.parametrize("kind", ["folder", "film"])
    def test_a_mask_as_long_as_the_part_begins_with_it(self, kind: str, request: pytest.FixtureRequest) -> None:
        longer = replace(FOOTAGE, length=40, skip=20, frames=FRAMES)
        mask = request.getfixturevalue(kind)
        check_region(EditRegion((mask,)), longer, SOURCE)
        assert np.array_equal(alphas(EditRegion((mask,)), longer), np.stack(moving()))

    @pytest.mark.parametrize("kind", ["folder", "film"])
    def test_another_rate_is_a_matter_of_time(self, kind: str, request: pytest.FixtureRequest) -> None:
        half = replace(FOOTAGE, fps=Fraction(8), frames=FRAMES // 2)
        [selected] = {len(found := alphas(EditRegion((request.getfixturevalue(kind),)), half))}
        assert selected == FRAMES // 2
        starts = [int(np.flatnonzero(frame.any(axis=0))[0]) for frame in found]
        # a video shows the frame whose time is nearest, a folder the one that is on: within one frame of one another
        assert all(abs(start - 4 * number) <= 2 for number, start in enumerate(starts))

    def test_the_threshold_is_where_white_begins(self, tmp_path: Path) -> None:
        ramp = np.tile(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, 1))
        mask = save(tmp_path / "ramp.png", ramp)
        for threshold in (0.1, 0.5, 1.0):
            found = alphas(EditRegion((mask,), threshold=threshold))[0]
            assert np.array_equal(found == 255, ramp >= threshold * 255)

    def test_sixteen_bits_colours_and_transparency_are_read_as_brightness(self, tmp_path: Path) -> None:
        wanted = boxed(4, 6, 10, 8)
        deep = save(tmp_path / "deep.png", wanted.astype(np.uint16) * 100)  # 25500 of 65535 is no white
        assert not alphas(EditRegion((deep,))).any()
        deep = save(tmp_path / "deeper.png", wanted.astype(np.uint16) * 257)
        painted = np.dstack([np.full((HEIGHT, WIDTH, 3), 255, np.uint8), wanted])  # white on nothing
        for mask in (deep, save(tmp_path / "clear.png", painted)):
            assert np.array_equal(alphas(EditRegion((mask,)))[0], wanted)

    def test_boxes_and_ranges_come_and_go_and_are_united(self, still: MaskFile) -> None:
        timed = parse_box("50%,50%,10,5@0.25-0.5")
        region = EditRegion((still,), boxes=(timed,), spans=(parse_span("--retake", "0.625-0.7"),))
        for number, alpha in enumerate(alphas(region)):
            wanted = boxed(4, 6, 10, 8)
            if 4 <= number < 8:
                wanted |= boxed(20, 15, 10, 5)
            if 10 <= number < 11.2:
                wanted[:] = 255
            assert np.array_equal(alpha, wanted), number

    def test_times_are_those_of_the_file(self) -> None:
        region = EditRegion(spans=(Span(Fraction(1, 2), Fraction(5, 8)),))
        found = alphas(region, replace(FOOTAGE, skip=6, frames=6))
        assert [bool(frame.all()) for frame in found] == [False, False, True, True, False, False]
        assert [bool(frame.any()) for frame in found] == [False, False, True, True, False, False]

    def test_grow_reaches_as_far_as_it_says(self, still: MaskFile) -> None:
        found = alphas(EditRegion((still,), grow=3))[0] > 0
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        inside = boxed(4, 6, 10, 8) > 0
        away = np.full((HEIGHT, WIDTH), np.inf)
        for row, column in zip(*np.nonzero(inside), strict=True):
            away = np.minimum(away, np.hypot(rows - row, columns - column))
        assert np.array_equal(found, away <= 3)

    def test_feather_blends_inside_the_edge_and_touches_nothing_outside(self, still: MaskFile) -> None:
        found = alphas(EditRegion((still,), feather=3))[0]
        hard = boxed(4, 6, 10, 8)
        assert np.array_equal(found > 0, hard > 0)
        row = found[10, 4:14].astype(float) / 255
        assert row == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25], abs=1 / 255)

    def test_padding_is_made_whole_and_the_source_lies_inside(self, still: MaskFile) -> None:
        region = EditRegion((still,), pad=parse_pad("5,25%,0,2"), feather=2, grow=1)
        left, top, width, height = canvas_of(region, FOOTAGE)
        assert (left, top, width, height) == (5, 8, WIDTH + 5, HEIGHT + 8 + 2)
        found = alphas(region)[0]
        inside = np.zeros((height, width), bool)
        inside[top : top + HEIGHT, left : left + WIDTH] = True
        assert (found[~inside] == 255).all()  # there is no source to blend with
        assert 0 < found[top + 20, left] < 255  # grown into the source by a pixel
        assert found[top + 20, left + 2] == 0
        assert found[top + 9, left + 8] == 255

    def test_a_pixel_of_the_model_is_edited_when_any_that_falls_into_it_is(self) -> None:
        alpha = np.zeros((1080, 1920), np.uint8)
        alpha[539, 1919] = 1
        found = covered(alpha, (64, 36))
        assert found.sum() == 1
        assert found[17, 63]
        assert covered(alpha, (1920, 1080)).sum() == 1
        assert covered(np.eye(4, dtype=np.uint8), (8, 8)).sum() == 16

    def test_fit_scales_and_holds(self, tmp_path: Path) -> None:
        (tmp_path / "short").mkdir()
        for number in range(3):
            Image.fromarray(boxed(number, 0, 20, 30)[::2, ::2]).save(tmp_path / "short" / f"{number}.png")
        region = EditRegion((parse_mask(str(tmp_path / "short")),), fit=True)
        check_region(region, FOOTAGE, SOURCE)
        found = alphas(region)
        assert found.shape == (FRAMES, HEIGHT, WIDTH)
        assert all(np.array_equal(frame, found[2]) for frame in found[2:])
        assert not np.array_equal(found[0], found[2])


class TestRefusing:
    @pytest.mark.parametrize(
        ("region", "words"),
        [
            (EditRegion(boxes=(parse_box("30,0,11,5"),)), "--box 30,0,11,5 reaches outside of the 40x30 pixels"),
            (EditRegion(boxes=(parse_box("-1,0,11,5"),)), "reaches outside"),
            (EditRegion(boxes=(parse_box("60%,0,50%,5"),)), "reaches outside"),
            (EditRegion(boxes=(parse_box("0,0,0.1%,5"),)), "is less than one of the 40x30 pixels"),
            (EditRegion(boxes=(parse_box("0,0,5,5@0.5-2"),)), "--box 0.5-2 reaches outside of 'clip.mp4', which lasts"),
            (EditRegion(spans=(parse_span("--retake", "0-3"),)), "--retake 0-3 reaches outside"),
            (EditRegion(spans=(parse_span("--retake", "0-0.75"),)), "--retake 0-0.75: all of 'clip.mp4' is selected"),
            (EditRegion(boxes=(parse_box("0,0,100%,100%"),)), "so nothing of it is kept; select less"),
            (EditRegion(pad=parse_pad("9000,0,0,0")), "a canvas of 9040x30 pixels, more than 8192"),
        ],
    )
    def test_places_and_times_that_are_not_there(self, region: EditRegion, words: str) -> None:
        with pytest.raises(RequestError, match=words):
            check_region(region, FOOTAGE, SOURCE)

    def test_a_time_outside_of_the_part(self) -> None:
        region = EditRegion(spans=(parse_span("--retake", "0-0.25"),))
        with pytest.raises(RequestError, match="lies outside of what is taken of 'clip.mp4', 0.50 to 0.75 s"):
            check_region(region, replace(FOOTAGE, skip=8, frames=4), SOURCE)

    def test_a_picture_has_no_time(self) -> None:
        region = EditRegion(boxes=(parse_box("0,0,5,5@0-0.01"),))
        with pytest.raises(RequestError, match="is a picture, which has no time"):
            check_region(region, replace(FOOTAGE, length=1, frames=1), SOURCE)

    def test_another_size_names_both(self, tmp_path: Path) -> None:
        region = EditRegion((save(tmp_path / "m.png", boxed(0, 0, 9, 9)[:20]),))
        with pytest.raises(RequestError, match="m.png has 40x20 pixels and 'clip.mp4' 40x30; .* --fit-mask"):
            check_region(region, FOOTAGE, SOURCE)
        check_region(replace(region, fit=True), FOOTAGE, SOURCE)

    @pytest.mark.parametrize("kind", ["folder", "film"])
    def test_another_length_names_both(self, kind: str, request: pytest.FixtureRequest) -> None:
        region = EditRegion((request.getfixturevalue(kind),))
        with pytest.raises(RequestError, match="has 12 frames and 'clip.mp4' 20; .* --fit-mask"):
            check_region(region, replace(FOOTAGE, length=20, frames=20), SOURCE)

    @pytest.mark.parametrize(
        ("level", "mode", "words"),
        [
            (
                0,
                "white-edits",
                "selects nothing to make anew with --mask-mode white-edits .* use --mask-mode white-keeps",
            ),
            (
                255,
                "white-keeps",
                "selects nothing to make anew with --mask-mode white-keeps .* use --mask-mode white-ed",
            ),
            (255, "white-edits", "all of 'clip.mp4' is selected"),
            (0, "white-keeps", "all of 'clip.mp4' is selected"),
        ],
    )
    def test_empty_and_full_masks(self, tmp_path: Path, level: int, mode: Any, words: str) -> None:
        region = EditRegion((save(tmp_path / "m.png", np.full((HEIGHT, WIDTH), level, np.uint8)),), mode=mode)
        with pytest.raises(RequestError, match=words):
            check_region(region, FOOTAGE, SOURCE)

    def test_one_empty_mask_of_several(self, still: MaskFile, tmp_path: Path) -> None:
        region = EditRegion((still, save(tmp_path / "empty.png", np.zeros((HEIGHT, WIDTH), np.uint8))))
        with pytest.raises(RequestError, match="empty.png selects nothing"):
            check_region(region, FOOTAGE, SOURCE)

    def test_a_folder_without_pictures_or_of_many_sizes(self, tmp_path: Path) -> None:
        (tmp_path / "m").mkdir()
        region = EditRegion((parse_mask(str(tmp_path / "m")),))
        with pytest.raises(RequestError, match="holds no pictures"):
            check_region(region, FOOTAGE, SOURCE)
        for number, height in enumerate((30, 20)):
            Image.new("L", (40, height), 255).save(tmp_path / "m" / f"{number}.png")
        with pytest.raises(RequestError, match="has another size than '0.png'"):
            check_region(region, FOOTAGE, SOURCE)

    def test_a_broken_mask(self, tmp_path: Path) -> None:
        (tmp_path / "m.png").write_bytes(b"no picture")
        with pytest.raises(RequestError, match="--mask: '.*m.png' cannot be decoded as a picture"):
            check_region(EditRegion((parse_mask(str(tmp_path / "m.png")),)), FOOTAGE, SOURCE)


class TestPreview:
    @staticmethod
    def pairs(region: EditRegion) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, alpha in enumerate(edit_frames(region, FOOTAGE)):
            yield np.full((HEIGHT, WIDTH, 3), 10 * number, np.uint8), alpha

    def test_a_still_region_is_one_picture_tinted_where_it_is_made_anew(self, still: MaskFile, tmp_path: Path) -> None:
        assert write_mask_preview(tmp_path / "p.png", self.pairs(EditRegion((still,))), FRAMES) == 1
        shown = np.asarray(Image.open(tmp_path / "p.png"))
        selected = boxed(4, 6, 10, 8) > 0
        assert shown.shape == (HEIGHT, WIDTH, 3)
        assert (shown[~selected] == 0).all()
        assert np.unique(shown[selected], axis=0).tolist() == [[153, 0, 96]]  # six tenths of the tint

    def test_a_moving_region_is_a_sheet(self, folder: MaskFile, tmp_path: Path) -> None:
        assert write_mask_preview(tmp_path / "p.png", self.pairs(EditRegion((folder,))), FRAMES) == 9
        assert Image.open(tmp_path / "p.png").size == (3 * (WIDTH + 2), 3 * (HEIGHT + 2))

    def test_no_alpha_is_no_tint(self) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        assert np.array_equal(tinted(picture, np.zeros((5, 6), np.uint8)), picture)

    def test_it_is_a_png_that_is_not_there_yet(self, still: MaskFile, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="give a name that ends in .png"):
            write_mask_preview(tmp_path / "p.mp4", self.pairs(EditRegion((still,))), FRAMES)
        (tmp_path / "p.png").write_bytes(b"precious")
        with pytest.raises(RequestError, match="exists already"):
            write_mask_preview(tmp_path / "p.png", self.pairs(EditRegion((still,))), FRAMES)


def test_values_are_plain() -> None:
    box = Box(Extent(Fraction(1)), Extent(Fraction(5), True), Extent(Fraction(2)), Extent(Fraction(3)))
    pad = Pad(*(Extent(Fraction(number)) for number in range(4)))
    region = EditRegion(boxes=(box,), pad=pad, spans=(Span(Fraction(1, 3), Fraction(1)),))
    assert region.flags == "--box 1,5%,2,3 and --retake 0.333333-1 and --pad 0,1,2,3"
    assert hash(region) == hash(replace(region))
