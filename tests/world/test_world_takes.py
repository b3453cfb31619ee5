"""Takes against small direct oracles: shifts, scales, gains, palettes, glyphs drawn by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sky4.world.families import VIDEOS, sample_family
from sky4.world.finish import FONT, overlay_coverage
from sky4.world.render import render_coverage, render_video
from sky4.world.scene import Scene, sample_scene
from sky4.world.take import Expression, Overlay, Take, Talker
from sky4.world.vocabulary import BACKDROPS, COLOURS, EFFECTS, HEAD_COLOURS, LIGHTS, OVERLAYS, STYLES

GAINS = {"day": (1, 1, 1), "night": (0.45, 0.5, 0.72), "warm": (1, 0.84, 0.56), "cool": (0.62, 0.86, 1)}
FACE = Expression(rate=1.2, phase=0.3, curve=1.0, brow_rate=0.7)


def still(**changes: object) -> Scene:
    scene = replace(sample_scene(31, 0), motion="static", drift="none", vx=0.0, vy=0.0, x0=0.45, y0=0.55)
    return replace(scene, **changes)  # type: ignore[arg-type]


def picture(take: Take, size: int = 64, time: float = 0.0) -> Tensor:
    """[3, H, W] in 0..1."""
    return (render_video([take], 1, 1, size, start=time)[0, :, 0] + 1) / 2


def grain(image: Tensor) -> float:
    return float(image.diff(dim=-1).abs().mean() + image.diff(dim=-2).abs().mean())


def test_a_scene_of_level_1_is_a_take() -> None:
    scenes = [sample_scene(5, index) for index in range(6)]
    takes = [Take.of(scene) for scene in scenes]
    assert torch.equal(render_video(takes, 5, 8, 48), render_video(scenes, 5, 8, 48))
    assert [take.events(0.0, 5.0) for take in takes] == [scene.events(0.0, 5.0) for scene in scenes]


# How far a render of twice the size, averaged, may lie from one of the plain size. What quantises positions or colours
# (a mosaic's cells, paper's levels, a drawing's thin lines) differs along the edges.
COARSE = {"mosaic": 0.04, "paper-cut": 0.02, "sketch": 0.06}


@pytest.mark.parametrize("name", VIDEOS)
def test_a_take_looks_alike_at_every_frame_rate_size_and_start(name: str) -> None:
    for index in range(3):
        take = sample_family(1, index).takes[name]
        usual = render_video([take], 9, 8, 48)
        assert usual.min() >= -1
        assert usual.max() <= 1.0001 or take.style == "paper-cut"
        assert torch.allclose(render_video([take], 5, 4, 48), usual[:, :, ::2], atol=1e-5)
        assert (render_video([take], 3, 4, 48, start=0.5) - usual[:, :, 4:9:2]).abs().mean() < 1e-5
        double = torch.nn.functional.avg_pool3d(render_video([take], 3, 2, 96), (1, 2, 2))
        allowed = max(COARSE.get(take.style, 0.01), COARSE.get(take.effect, 0.01))
        assert (double - usual[:, :, ::4]).abs().mean() < allowed, (take.style, take.effect)


@pytest.mark.parametrize("backdrop", ["navy", "grid", "beach", "city", "space"])
@pytest.mark.parametrize(
    ("camera", "axis", "sign"), [("pan right", -1, 1), ("pan left", -1, -1), ("tilt down", -2, 1), ("tilt up", -2, -1)]
)
def test_a_pan_moves_everything_by_a_tenth_of_the_frame_a_second(
    backdrop: str, camera: str, axis: int, sign: int
) -> None:
    take = Take((still(),), backdrop, camera=camera)
    before, after = picture(take, 60), picture(take, 60, time=2.0)  # 12 pixels
    if sign < 0:
        before, after = after, before
    moved = (before.narrow(axis, 12, 48) - after.narrow(axis, 0, 48)).abs()
    assert moved.mean() < 1e-4
    assert (before - after).abs().mean() > 0.01


def test_things_travel_by_their_own_way_less_the_camera_s() -> None:
    travelling = Take((still(motion="right", period=100.0, first=99.0, vx=0.1),), "black", camera="pan right")
    assert torch.allclose(picture(travelling), picture(travelling, time=1.5), atol=1e-4)  # the camera goes along


@pytest.mark.parametrize("backdrop", ["grey", "forest", "room", "snowfield"])
def test_a_zoom_scales_about_the_centre(backdrop: str) -> None:
    time = float(np.log(2) / 0.16)  # in which the magnification doubles
    for camera, far, near in (("zoom in", 0.0, time), ("zoom out", time, 0.0)):
        take = Take((still(),), backdrop, camera=camera)
        small = picture(take, 64, far)[:, 16:48, 16:48]
        large = torch.nn.functional.avg_pool2d(picture(take, 64, near), 2)
        assert (small - large).abs().mean() < 0.01


PALETTE = torch.tensor(list(COLOURS.values())) / 255


def nearest(points: Tensor, colours: Tensor) -> float:
    """Least distance in the most different channel, in 1/255, of points [N, 3] to colours [K, 3]."""
    return float((points[:, None] - colours[None]).abs().amax(-1).min()) * 255


@pytest.mark.parametrize("bounces", [False, True])
@pytest.mark.parametrize("backdrop", BACKDROPS)
def test_no_backdrop_comes_near_the_colours_of_things(backdrop: str, bounces: bool) -> None:
    unseen = still(motion="bounce" if bounces else "static", x0=-9.0)
    for light in LIGHTS:
        seen = picture(Take((unseen,), backdrop, light=light), 96).flatten(1).T
        assert nearest(seen / torch.tensor(GAINS[light]), PALETTE) >= 60, light  # seen by a light that is known
        assert nearest(seen, PALETTE * torch.tensor(GAINS[light])) >= 30, light  # and half of it as it is


@pytest.mark.parametrize("backdrop", BACKDROPS)
def test_faces_stand_out_from_every_backdrop(backdrop: str) -> None:
    seen = picture(Take((), backdrop), 96).flatten(1).T
    skins = torch.tensor([COLOURS[name] for name in HEAD_COLOURS]) / 255 * 0.82
    assert nearest(seen, skins) >= 50


@pytest.mark.parametrize("light", LIGHTS)
def test_light_is_a_gain_that_can_be_undone(light: str) -> None:
    take = Take((still(colour="white"),), "beach")
    day, seen = picture(take), picture(replace(take, light=light))
    gain = torch.tensor(GAINS[light]).view(3, 1, 1)
    assert torch.allclose(seen / gain, day, atol=1e-5)


def test_weather_hides_the_things_only_in_part_and_falls() -> None:
    take = Take((still(),), "forest")
    clear = picture(take)
    for weather in ("rain", "snow", "fog"):
        seen = replace(take, weather=weather)
        assert 0.02 < float((picture(seen) - clear).abs().mean()) < 0.3, weather
        moved = float((picture(seen) - picture(seen, time=0.25)).abs().mean())
        assert (moved > 0.004) == (weather != "fog"), weather
    fog = picture(replace(take, weather="fog")) - clear
    contrast = [picture(replace(take, weather="fog"))[..., rows, :].std() / clear[..., rows, :].std() for rows in
                (slice(0, 10), slice(30, 40))]  # fmt: skip
    assert fog.abs().max() > 0.1
    assert contrast[1] < contrast[0] < 1  # thicker below


def styled(style: str, size: int = 64) -> Tensor:
    return picture(Take((still(),), "beach", style=style), size)


@pytest.mark.parametrize("size", [64, 128])
def test_pixel_art_is_constant_over_blocks_of_an_eighth(size: int) -> None:
    blocks = styled("pixel-art", size).unfold(1, size // 8, size // 8).unfold(2, size // 8, size // 8)
    assert blocks.flatten(3).std(-1).max() < 1e-6
    flat = styled("flat", size).unfold(1, size // 8, size // 8).unfold(2, size // 8, size // 8)
    assert torch.allclose(blocks[..., 0, 0], flat.mean((-1, -2)), atol=1e-5)


def test_a_sketch_is_grey_and_light_with_dark_lines() -> None:
    made = styled("sketch")
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])
    assert made.median() > 0.8
    assert made.min() < 0.4


def test_a_paper_cut_has_three_levels() -> None:
    made = styled("paper-cut")
    levels = torch.tensor([1, 3, 5]) / 6
    assert (made[..., None] - levels).abs().amin(-1).max() < 1e-5
    assert len(made.mul(6).round().unique()) >= 2


def test_watercolour_is_softer_paler_and_lighter() -> None:
    made, flat = styled("watercolour"), styled("flat")
    assert grain(made) < 0.6 * grain(flat)
    assert (made.amax(0) - made.amin(0)).mean() < 0.8 * (flat.amax(0) - flat.amin(0)).mean()
    assert made.mean() > flat.mean()


def test_an_outline_shows_what_is_behind_the_thing() -> None:
    thing = still(shape="circle", size="large", texture="solid", x0=0.5, y0=0.5)
    empty = picture(Take((), "room"))
    made = picture(Take((thing,), "room", style="outline"))
    flat = picture(Take((thing,), "room"))
    assert torch.equal(made[:, 32, 32], empty[:, 32, 32])
    assert not torch.equal(flat[:, 32, 32], empty[:, 32, 32])
    assert torch.allclose(made[:, 32, 32 + 12], flat[:, 32, 32 + 12], atol=1e-5)  # on the line


def test_every_style_differs_from_every_other() -> None:
    thing = still(shape="circle", size="large", texture="solid")
    made = [picture(Take((thing,), "beach", style=style)) for style in STYLES]
    for one, a in enumerate(made):
        assert all((a - b).abs().mean() > 0.01 for b in made[:one]), STYLES[one]


GLYPHS = {  # drawn by hand
    "T": ["#####", "..#..", "..#..", "..#..", "..#..", "..#..", "..#.."],
    "L": ["#....", "#....", "#....", "#....", "#....", "#....", "#####"],
    "H": ["#...#", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"],
    "A": [".###.", "#...#", "#...#", "#...#", "#####", "#...#", "#...#"],
    "E": ["#####", "#....", "#....", "####.", "#....", "#....", "#####"],
    "1": ["..#..", ".##..", "..#..", "..#..", "..#..", "..#..", ".###."],
    "8": [".###.", "#...#", "#...#", ".###.", "#...#", "#...#", ".###."],
}


def test_letters_are_those_that_one_would_draw() -> None:
    text = "".join(GLYPHS)
    for corner, top, left in (("top left", 2, 2), ("bottom right", 55, 62 - 41)):
        drawn = overlay_coverage(Overlay("watermark", text, corner), 64)
        wanted = torch.zeros(64, 64)
        for number, rows in enumerate(GLYPHS.values()):
            for y, row in enumerate(rows):
                for x, dot in enumerate(row):
                    wanted[top + y, left + 6 * number + x] = dot == "#"
        assert torch.equal(drawn, wanted)
        large = overlay_coverage(Overlay("watermark", text, corner), 128)
        assert torch.equal(large, wanted.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_no_two_letters_look_alike() -> None:
    assert len(set(FONT.values())) == len(FONT) == 37
    assert all(len(columns) == 10 for columns in FONT.values())


def test_a_long_subtitle_stays_within_the_frame() -> None:
    drawn = overlay_coverage(Overlay("subtitle", "ABCDEFGHI"), 64)
    single = sum(float(overlay_coverage(Overlay("subtitle", letter), 64).sum()) for letter in "ABCDEFGHI")
    assert float(drawn.sum()) == single
    assert drawn[:50].sum() == 0


@pytest.mark.parametrize("kind", OVERLAYS)
def test_an_overlay_lies_still_over_everything_and_leaves_the_rest(kind: str) -> None:
    take = Take((still(),), "city", camera="pan left", light="night")
    overlay = Overlay(kind, "" if kind == "logo" else "SKY4", "bottom left")
    covered = overlay_coverage(overlay, 64)
    for time in (0.0, 1.5):
        plain, written = picture(take, time=time), picture(replace(take, overlay=overlay), time=time)
        assert torch.equal(plain[:, covered == 0], written[:, covered == 0])
        assert (written[:, covered == 1] > 0.69).all()  # bright even at night


def changes(effect: str) -> list[float]:
    """Mean difference to the picture without it at 0, 1 and 2 seconds."""
    found = []
    for backdrop in ("city", "beach"):
        take = Take((still(),), backdrop)
        played = render_video([replace(take, effect=effect)], 3, 1, 64)
        found.append((played - render_video([take], 1, 1, 64)).abs().mean((0, 1, 3, 4)).tolist())
    return [sum(values) / 2 for values in zip(*found, strict=True)]


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_effect_begins_as_the_picture_and_grows(effect: str) -> None:
    start, middle, end = changes(effect)
    # a mosaic begins with cells a little smaller than pixels, a curtain with a soft seam at the frame's sides
    assert start < (0.01 if effect in ("mosaic", "curtain") else 1e-6)
    if effect == "colour-cycle":  # once around all hues
        assert middle > 0.1
        assert end < 1e-4
    else:
        assert 0.02 < middle < end
        assert end > 0.04


def test_an_effect_plays_on_the_first_frame_which_stands_still() -> None:
    moving = replace(still(), motion="right", vx=0.2, period=0.5, first=0.2)
    take = Take((moving,), "room", effect="dissolve", camera="pan right")
    assert torch.equal(picture(take, time=1.0), picture(replace(take, things=(replace(moving, vx=-0.3),)), time=1.0))
    assert torch.equal(picture(take, time=1.0), picture(replace(take, camera="static"), time=1.0))


def mouth_and_brows(talker: Talker, seconds: float = 2.0, fps: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Of each frame: how many dark pixels lie about the mouth, and how high those about the left brow stand."""
    size = 128
    frames = (render_video([Take((), "grey", talker=talker)], round(seconds * fps), fps, size)[0].amax(0) + 1) / 2
    axis = (torch.arange(size) + 0.5) / size
    u, v = (axis - talker.x) / talker.radius, (axis - 0.52) / talker.radius
    dark = frames < 0.3
    mouth = dark[:, (v > 0.1) & (v < 0.95)][:, :, u.abs() < 0.45].sum((1, 2)).numpy()
    rows = v[(v > -0.75) & (v < -0.36)]
    brow = dark[:, (v > -0.75) & (v < -0.36)][:, :, (u > -0.56) & (u < -0.16)].float()
    return mouth, -((brow.sum(2) * rows).sum(1) / brow.sum((1, 2))).numpy()


@pytest.mark.parametrize("curve", [-1.0, 1.0])
def test_a_face_moves_as_its_expression_says(curve: float) -> None:
    talker = Talker("yellow", "bald", "nothing", replace(FACE, curve=curve))
    mouth, brows = mouth_and_brows(talker)
    time = np.arange(len(mouth)) / 16
    aperture = (np.sin(2 * np.pi * (1.2 * time + 0.3)) / 2 + 0.5) ** 2
    assert np.corrcoef(mouth, aperture)[0, 1] > 0.98
    assert mouth.max() > 3 * mouth.min()
    assert np.corrcoef(brows, np.sin(2 * np.pi * 0.7 * time))[0, 1] > 0.9
    assert torch.allclose(talker.expression.aperture(torch.tensor(time)), torch.tensor(aperture))


def test_a_smile_bends_up_and_a_frown_down() -> None:
    bends = []
    for curve in (-1.0, 1.0):
        seen = picture(Take((), "black", talker=Talker("white", "bald", "nothing", replace(FACE, curve=curve))), 128)
        dark = seen.amax(0) < 0.3
        columns = [dark[70:100, round(128 * (0.5 + 0.3 * u))].nonzero().float().mean() for u in (0.0, 0.28)]
        bends.append(float(columns[0] - columns[1]))  # the middle lies below the corner
    assert bends[0] < -0.5 < 0.5 < bends[1]


def test_coverage_is_where_the_thing_changes_the_picture() -> None:
    for camera in ("static", "pan left", "zoom in"):
        take = Take((still(colour="white", texture="solid"),), "black", camera=camera)
        covered = render_coverage(take, 0, torch.tensor([1.5]), 64)[0]
        behind, seen = picture(replace(take, things=()), time=1.5), picture(take, time=1.5)
        white = torch.tensor(245 / 255)
        assert torch.allclose(seen, torch.lerp(behind, white.expand_as(behind), covered), atol=1e-5), camera
