"""The judges say yes to the truth, no to what is broken in one way, and nothing else decides."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from sky4.world.extension import extension_case
from sky4.world.families import FAMILY_SECONDS, ROWS, TASK_ROWS, Family, carried_on, sample_family
from sky4.world.hypotheses import EDITS, KEEPS, Case, case_of
from sky4.world.judge import edit_mask, judge, truth_of
from sky4.world.render import render_coverage
from sky4.world.sound import render_audio
from sky4.world.stated import judge_stated
from sky4.world.take import Take
from sky4.world.tasks import EXTENSIONS, TITLES

FRAMES, FPS, SIZE, RATE = 17, Fraction(8), 64, 44100
SEED = 5


def family(index: int) -> Family:
    return sample_family(SEED, index, "heldout")


def film(take: Take, start: float = 0.0, frames: int = FRAMES) -> np.ndarray:
    return truth_of(Case(take, (), (), start=start), frames, FPS, SIZE)


def softened(frames: np.ndarray) -> np.ndarray:
    """A bounded loss, as of a codec: half the pixels of each side, dimmed a little, and noise."""
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.avg_pool2d(planes, 2)
    wide = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
    noise = torch.randn(wide.shape, generator=torch.Generator().manual_seed(0)) * 6
    return (wide * 0.97 + noise).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def test_every_row_of_the_table_is_judged_and_titled() -> None:
    assert set(EDITS) == set(KEEPS) == {row.name for row in TASK_ROWS} - {"image_audio"}
    assert set(TITLES) == {row.name for row in TASK_ROWS} | set(EXTENSIONS)
    assert len({title.partition(":")[0] for title in TITLES.values()}) == 15 + 1
    with pytest.raises(ValueError, match="image_audio is not judged by hypotheses"):
        case_of(family(0), ROWS["image_audio"])


@pytest.mark.parametrize("name", EDITS)
def test_renders_and_softened_renders_succeed(name: str) -> None:
    case = case_of(family(0), ROWS[name])
    truth = truth_of(case, FRAMES, FPS, SIZE)
    soft = softened(truth)
    for made in (truth, soft):
        verdict = judge(case, made, FPS, soft)
        # under a style little may be left of what stands behind: dimmed, one backdrop is another
        assert verdict.edited if name == "style" and made is soft else verdict.success, verdict
        assert 0 < verdict.edited_chance <= 1 / 3
        assert verdict.kept_chance <= 1 / 3 or name in ("inpaint_background", "inpaint_subject", "inpaint_reference")


@pytest.mark.parametrize(
    "name", [name for name in EDITS if ROWS[name].under or ROWS[name].shown[-1] in ("base", "overlay")]
)
def test_the_unedited_source_is_not_edited(name: str) -> None:
    row = ROWS[name]
    for index in range(1):
        case = case_of(family(index), row)
        source = family(index).takes[row.under or row.shown[-1]]
        verdict = judge(case, film(source), FPS)
        assert not verdict.edited, verdict


@pytest.mark.parametrize("name", ["image_motion", "subject_replace", "effect", "expression"])
def test_another_familys_clip_fails(name: str) -> None:
    verdicts = []
    for index in range(2):
        case = case_of(family(index), ROWS[name])
        other = truth_of(case_of(family(index + 50), ROWS[name]), FRAMES, FPS, SIZE)
        verdicts.append(judge(case, other, FPS, truth_of(case, FRAMES, FPS, SIZE)))
    assert not any(verdict.success for verdict in verdicts)
    if name != "image_motion":  # which keeps a way alone: one of a few, so that another's may be near it
        assert not any(verdict.kept for verdict in verdicts)


def test_a_bystander_moved_or_recoloured_is_not_kept_and_the_edit_still_counts() -> None:
    index = next(i for i in range(20) if family(i).has_bystander)
    case = case_of(family(index), ROWS["subject_replace"])
    truth = truth_of(case, FRAMES, FPS, SIZE)
    bystander = case.target.things[0]
    away = 1 - bystander.x0
    colour = "white" if bystander.colour != "white" else "red"
    for changed in (replace(bystander, x0=away), replace(bystander, colour=colour)):
        verdict = judge(case, film(case.target.with_thing(changed, 0)), FPS, truth)
        assert verdict.edited
        assert not verdict.kept


def test_a_thing_two_pixels_off_its_way_is_still_what_it_is() -> None:
    case = case_of(family(1), ROWS["subject_motion"])
    thing = case.target.things[-1]
    aside = case.target.with_thing(replace(thing, x0=thing.x0 + 2 / 64, y0=thing.y0 - 1 / 64))
    verdict = judge(case, film(aside), FPS)
    assert verdict.edited
    assert not verdict.nearest_keep


def test_half_an_overlay_left_is_no_removal() -> None:
    case = case_of(family(0), ROWS["removal"])
    assert case.source is not None
    clean, marked = (film(take).astype(float) for take in (case.target, case.source))
    mixed = (0.5 * clean + 0.5 * marked).round().astype(np.uint8)
    assert not judge(case, mixed, FPS).edited
    assert judge(case, (0.9 * clean + 0.1 * marked).round().astype(np.uint8), FPS).edited


def test_what_lies_outside_the_mask_is_the_source_in_the_truth() -> None:
    times = torch.arange(FRAMES) / float(FPS)
    for name in ("inpaint_subject", "inpaint_background"):
        case = case_of(family(2), ROWS[name])
        assert case.source is not None
        mask = edit_mask(case.source, case.region, times, SIZE).numpy()
        truth, source, target = truth_of(case, FRAMES, FPS, SIZE), film(case.source), film(case.target)
        assert 0.02 < mask.mean() < 0.98
        np.testing.assert_array_equal(truth[~mask], source[~mask])
        np.testing.assert_array_equal(truth[mask], target[mask])
    covered = render_coverage(case.source, -1, times, SIZE).numpy() > 0
    assert not mask[covered].any()  # of the last one, which keeps the thing


def test_a_worse_picture_of_what_stays_is_not_kept() -> None:
    case = case_of(family(0), ROWS["attribute"])
    truth = truth_of(case, FRAMES, FPS, SIZE)
    noise = np.random.default_rng(0).normal(0, 20, truth.shape)
    worse = (truth + noise).clip(0, 255).astype(np.uint8)
    verdict = judge(case, worse, FPS, softened(truth))
    assert verdict.edited
    assert verdict.psnr is not None and verdict.floor is not None
    assert verdict.psnr < verdict.floor
    assert not verdict.kept
    assert judge(case, worse, FPS).kept  # without a codec it is measured, and bounds nothing


@pytest.mark.parametrize("direction", EXTENSIONS.values())
def test_an_extension_goes_on_from_its_seam(direction) -> None:
    for index in range(2):
        case = extension_case(family(index), direction, FRAMES, FRAMES - 1, FPS)
        assert case.held is not None
        truth = truth_of(case, FRAMES - 1, FPS, SIZE)
        assert judge(case, truth, FPS, truth).success
        held = film(case.target, case.held, 1).repeat(FRAMES - 1, 0)
        assert not judge(case, held, FPS, truth).edited
        assert not judge(case, truth[::-1], FPS, truth).edited
        neighbour = -1 if direction == "backward" else 0  # made frame beside the seam: one frame's way from it
        assert np.abs(truth[neighbour].astype(int) - held[0]).mean() < np.abs(truth[8].astype(int) - held[0]).mean()


def test_an_extended_take_has_its_middle_in_the_middle() -> None:
    one = next(family(i) for i in range(20) if family(i).subject.motion in ("left", "right"))
    thing = carried_on(one.base, 2.0).things[-1]
    moved = thing.position(torch.tensor(FAMILY_SECONDS / 2 + 1.0))
    assert float(moved[0]) == pytest.approx(float(one.subject.position(torch.tensor(FAMILY_SECONDS / 2))[0]), abs=1e-5)


def test_what_words_state_is_measured_in_picture_and_sound() -> None:
    seconds = FRAMES / FPS
    for index in range(6):
        one = family(index)
        made = film(one.takes["transfer"])
        wave = render_audio([one.newcomer], round(seconds * RATE), RATE)[0].numpy()
        assert judge_stated(one, made, wave, FPS, RATE).success
        other = render_audio([replace(one.newcomer, material=one.subject.material)], wave.shape[1], RATE)[0].numpy()
        verdict = judge_stated(one, made, other, FPS, RATE)
        assert (verdict.edited, verdict.nearest_edit, verdict.kept) == (False, "material", True)
        verdict = judge_stated(one, film(family(index + 1).takes["transfer"]), wave, FPS, RATE)
        assert not verdict.success
