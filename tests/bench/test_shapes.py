"""Shapes by name come from the geometry, shapes by hand as they are written."""

from __future__ import annotations

import pytest

from sky4.bench.shapes import NAMED, AttentionShape, CubeShape, LatentShape, cubes_of, parse_shape
from sky4.errors import RequestError
from sky4.ops.cubes import cube_tiling


def of_kind(name: str, kind: type):
    return next(shape for shape in parse_shape(name) if isinstance(shape, kind))


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("480p-5s", 21 * 30 * 52), ("1080p-5s", 334_560), ("1080p-15s", 987_360), ("720p-5s", 41 * 45 * 80)],
)
def test_named_shapes_have_the_published_token_counts(name: str, tokens: int) -> None:
    shape = of_kind(name, AttentionShape)
    assert (shape.heads, shape.media, shape.channels) == (24, tokens, 128)


def test_cubes_of_1080p_are_the_published_ones_and_a_third_is_kept() -> None:
    shape = of_kind("1080p-15s", CubeShape)
    assert cubes_of(shape.grid) == 15_810
    assert shape.keep == 5_270


@pytest.mark.parametrize("name", NAMED)
def test_every_name_gives_shapes_whose_cubes_are_those_of_the_operation(name: str) -> None:
    shape = of_kind(name, CubeShape)
    if cubes_of(shape.grid) < 1000:
        assert cubes_of(shape.grid) == cube_tiling(shape.grid).cubes
    assert 1 <= shape.keep <= cubes_of(shape.grid)


def test_the_refiner_doubles_the_frame_rate() -> None:
    shape = of_kind("1080p-5s", LatentShape)
    assert shape.high[0] == 2 * shape.low[0] - 1


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("24x4096x128", AttentionShape("24x4096x128", 24, 4096, 0, 128)),
        ("4x1344+64x64", AttentionShape("4x1344+64x64", 4, 1344, 64, 64)),
        ("24x128c16x64", CubeShape("24x128c16x64", 24, (4, 4, 512), 16, 64)),
        ("16x5x4x6to9x8x12", LatentShape("16x5x4x6to9x8x12", 16, (5, 4, 6), (9, 8, 12))),
    ],
)
def test_shapes_by_hand(text: str, shape: object) -> None:
    assert parse_shape(text) == [shape]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("huge", "neither a name nor a shape; give one of nano, tiny"),
        ("24x4096", "neither a name nor a shape"),
        ("24x-4x128", "neither a name nor a shape"),
        ("0x4096x128", "at least 1"),
        ("24x4096x100", "100 channels per head; the kernels know 32, 64, 96 and 128"),
        ("24x8c9x128", "of 8 cubes no 9 can be kept"),
        ("1x99999999999999x64", "below 2^40"),
    ],
)
def test_what_is_no_shape_is_refused(text: str, says: str) -> None:
    with pytest.raises(RequestError, match=says.replace("^", r"\^")):
        parse_shape(text)
