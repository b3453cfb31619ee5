"""Families: each variant changes what its name says and nothing else; what is held out stays so."""

from collections import Counter
from dataclasses import fields, replace
from fractions import Fraction

import pytest
import torch

from sky4.geometry import ClipGeometry
from sky4.train.cache import region_cells
from sky4.world.families import FAMILY_SECONDS, ROWS, SOUNDS, STILLS, TASK_ROWS, VIDEOS, Family, sample_family
from sky4.world.figures import thing_coverage
from sky4.world.render import render_coverage, render_video
from sky4.world.scene import Scene
from sky4.world.vocabulary import BACKDROPS, BACKGROUNDS, CAMERAS, COLOURS, EFFECTS, LIGHTS, STYLES, WEATHERS

IDENTITY = {"shape", "colour", "texture", "accent", "material"}
SPLITS = ("train", "heldout")


@pytest.fixture(scope="module")
def families() -> list[Family]:
    return [sample_family(1, index) for index in range(250)]


def differing(one: object, other: object) -> set[str]:
    assert type(one) is type(other)
    return {f.name for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)}  # type: ignore[arg-type]


def held_out(thing: Scene) -> bool:
    """World rule 6 in this test's own words: one pair of shape and colour in eight."""
    shapes = ("circle", "square", "triangle", "star", "ring", "cross")
    colours = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "magenta", "white", "lime")
    return (3 * shapes.index(thing.shape) + colours.index(thing.colour)) % 8 == 0


def test_a_family_is_a_function_of_its_arguments() -> None:
    assert sample_family(7, 3) == sample_family(7, 3)
    different = [sample_family(7, 3), sample_family(8, 3), sample_family(7, 4), sample_family(7, 3, "heldout")]
    assert len({repr(family.takes) for family in different}) == 4


def test_a_family_holds_all_that_the_rows_name(families: list[Family]) -> None:
    for family in families[:20]:
        assert set(family.takes) == set(VIDEOS)
        assert set(family.stills) == set(STILLS)
        assert family.takes["base"] == family.base
        assert family.subject in family.base.things
        assert family.has_bystander == (family.bystander in family.base.things)
    for row in TASK_ROWS:
        assert row.target in VIDEOS, row
        assert row.under in (None, "base"), row
        assert (row.under is None) == (row.region == "none"), row
        assert row.sound in (None, *SOUNDS), row
        for name in row.shown:
            kind, _, rest = name.rpartition(":")
            assert rest in {"": VIDEOS, "still": STILLS, "hit": SOUNDS}[kind], row
        videos = [":" not in name for name in row.shown if not name.startswith("hit:")]
        assert videos == sorted(videos), row  # pictures first
    assert len(ROWS) == len(TASK_ROWS) == 18


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("backdrop", "backdrop"),
        ("style", "style"),
        ("camera", "camera"),
        ("overlay", "overlay"),
        ("effect", "effect"),
        ("count", "things"),
        ("replaced", "things"),
        ("attribute", "things"),
    ],
)
def test_a_variant_differs_in_the_field_it_names(families: list[Family], name: str, field: str) -> None:
    assert all(differing(family.base, family.takes[name]) == {field} for family in families)


def test_weather_or_light_changes_never_both(families: list[Family]) -> None:
    changed = Counter(frozenset(differing(family.base, family.takes["scene"])) for family in families)
    assert set(changed) == {frozenset({"weather"}), frozenset({"light"})}
    assert min(changed.values()) > 90


def test_only_the_moving_thing_changes_and_only_its_looks_or_sound(families: list[Family]) -> None:
    for family in families:
        for name, allowed in (("replaced", IDENTITY), ("attribute", {"colour", "texture", "accent"})):
            things = family.takes[name].things
            assert things[:-1] == family.base.things[:-1]
            assert family.base.things[-1] == family.subject
            assert differing(family.subject, things[-1]) <= allowed
        replaced, attribute = (differing(family.subject, family.takes[n].things[-1]) for n in ("replaced", "attribute"))
        assert {"shape", "colour", "material"} <= replaced  # all that a judge tells them apart by
        assert ("colour" in attribute) != ("texture" in attribute)


def test_every_variant_is_seen(families: list[Family]) -> None:
    variants = [name for name in VIDEOS if name not in ("base", "onward")]
    for family in families[:12]:
        base, *others = render_video([family.base, *(family.takes[name] for name in variants)], 3, Fraction(3, 2), 32)
        for name, pixels in zip(variants, others, strict=True):
            assert (pixels - base).abs().mean() > 1e-3, (family.index, name, family.takes[name])


def test_a_take_that_goes_on_is_the_base_half_way_through(families: list[Family]) -> None:
    assert {family.begins("onward") for family in families} == {0.0, 1.0, 2.0}
    for family in families:
        onward, time = family.takes["onward"].things[-1], torch.linspace(0, FAMILY_SECONDS, 5)
        assert replace(onward, x0=0.0, y0=0.0) == replace(family.subject, x0=0.0, y0=0.0)
        across = (onward.position(time + 1.0)[0] - family.subject.position(time)[0]).abs().max()
        assert across < 1e-5 or family.subject.motion in ("orbit", "zigzag")
        assert {family.begins(name) for name in (*VIDEOS[:-1], *SOUNDS[:-1])} == {0.0}


def test_a_cleared_take_is_the_base_where_its_thing_is_not(families: list[Family]) -> None:
    for family in families[:8]:
        base, cleared = render_video([family.base, family.takes["cleared"]], 3, Fraction(3, 2), 48)
        free = render_coverage(family.base, -1, torch.arange(3) / 1.5, 48) == 0
        assert torch.equal(base[:, free], cleared[:, free])
        assert not torch.equal(base, cleared)


def test_a_second_colour_is_always_another_one(families: list[Family]) -> None:
    for family in families:
        things = [thing for take in family.takes.values() for thing in take.things]
        assert all(thing.accent != thing.colour for thing in things if thing.texture != "solid")


def test_the_thing_beside_is_added_or_taken_away(families: list[Family]) -> None:
    for family in families:
        fewer, more = sorted((family.base, family.takes["count"]), key=lambda take: len(take.things))
        assert (fewer.things, more.things) == ((family.subject,), (family.bystander, family.subject))
        assert family.bystander.events(0.0, FAMILY_SECONDS) == []
        assert family.bystander.colour not in (family.subject.colour, family.newcomer.colour)
    assert 95 < sum(family.has_bystander for family in families) < 155


def test_transfers_are_the_base_s_way_in_the_newcomer_s_looks(families: list[Family]) -> None:
    for family in families:
        take = family.takes["transfer"]
        assert take.things == (family.newcomer,) == (family.takes["replaced"].things[-1],)
        assert take.backdrop in BACKGROUNDS
        time = torch.linspace(0, 2, 9)
        assert all(map(torch.equal, family.newcomer.position(time), family.subject.position(time)))
        events = [[(e.time, e.x) for e in thing.events(0, 2)] for thing in (family.newcomer, family.subject)]
        assert events[0] == events[1] != []
        posed, moment = family.stills["identity"]
        assert differing(replace(family.newcomer, size=posed.things[0].size), posed.things[0]).isdisjoint(IDENTITY)
        assert 0 <= moment <= FAMILY_SECONDS


def test_references_share_only_what_they_show(families: list[Family]) -> None:
    for family in families:
        takes, stills = family.takes, family.stills
        assert takes["effect shown"].effect == takes["effect"].effect != "none"
        assert takes["effect shown"].things != takes["effect"].things
        shown, made = takes["face shown"].talker, takes["face"].talker
        assert shown is not None
        assert made is not None
        assert shown.expression == made.expression
        assert shown.colour != made.colour
        portrait = stills["portrait"][0].talker
        assert portrait is not None
        assert (portrait.colour, portrait.hair, portrait.accessory) == (made.colour, made.hair, made.accessory)
        assert portrait.expression != made.expression
        assert stills["place"][0] == takes["place"]
        assert takes["place"].backdrop == takes["backdrop"].backdrop != family.base.backdrop
        assert takes["place"].things == ()


def test_everything_occurs(families: list[Family]) -> None:
    takes = [family.takes for family in families]
    assert {t["style"].style for t in takes} == set(STYLES[1:])
    assert {t["camera"].camera for t in takes} == set(CAMERAS[1:])
    assert {t["scene"].weather for t in takes} == set(WEATHERS)
    assert {t["scene"].light for t in takes} == set(LIGHTS)
    assert {t["effect"].effect for t in takes} == set(EFFECTS)
    assert {t["backdrop"].backdrop for t in takes} == set(BACKDROPS)
    assert {family.subject.colour for family in families} == set(COLOURS)
    assert {"bounce", "orbit", "zigzag", "left", "up"} <= {family.subject.motion for family in families}


def test_training_never_shows_a_held_out_pair(families: list[Family]) -> None:
    for family in families:
        for name, take in family.takes.items():
            assert not any(held_out(thing) for thing in take.things), (family.index, name)
        assert not held_out(family.stills["identity"][0].things[0])


def test_held_out_families_are_of_held_out_pairs() -> None:
    colours = 0
    for index in range(120):
        family = sample_family(1, index, "heldout")
        assert held_out(family.subject)
        assert held_out(family.newcomer)
        assert held_out(family.stills["identity"][0].things[0])
        attribute = family.takes["attribute"].things[-1]
        # most shapes have one held-out colour: then none is left to change to
        others = [c for c in COLOURS if c not in (family.subject.colour, family.subject.accent)]
        possible = any(held_out(replace(family.subject, colour=c)) for c in others)
        colours += possible
        assert held_out(attribute) or not possible
    assert colours > 0


def test_the_region_holds_the_moving_thing_in_every_frame() -> None:
    geometry = ClipGeometry(64, 64, 33)
    for index in range(8):
        family = sample_family(2, index)
        cells = region_cells(family, geometry)
        assert cells.shape == (1, geometry.latent_frames, 8, 8)
        region = torch.cat((cells[0, :1], cells[0, 1:].repeat_interleave(4, 0)))
        region = region.repeat_interleave(8, 1).repeat_interleave(8, 2)
        time = torch.arange(33) / 16
        assert (region[render_coverage(family.base, -1, time, 64) > 0] == 1).all()
        new = render_coverage(family.takes["replaced"], -1, time, 64)
        assert float((new * (1 - region)).sum() / new.sum()) < 0.01  # another shape on the same way fits too
        assert 0.05 < float(cells.mean()) < 0.8


def test_an_outline_is_only_asked_of_shapes_that_it_leaves_hollow(families: list[Family]) -> None:
    outlined = [family for family in families if family.takes["style"].style == "outline"]
    assert len(outlined) > 10
    time = torch.tensor([1.0])
    for family in outlined:
        whole = render_coverage(family.base, -1, time, 64)
        line = thing_coverage(family.subject, time, *coordinates(64), 1 / 64, outline=True)
        assert float(line.sum() / whole.sum()) < 0.85, family.subject.shape


def coordinates(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    axis = (torch.arange(size) + 0.5) / size
    return axis.expand(1, size, size), axis[:, None].expand(1, size, size)
