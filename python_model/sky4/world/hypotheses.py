"""What a clip of a task might show instead of what was asked: takes that differ from the target in one fact.

A row's `edits` are the other values of the facts that it asks for, the unedited source among them; its `keeps` are
those of the facts that it must leave alone. `judge` says which of them, or the target, a made clip is nearest to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from sky4.world.families import FAMILY_SECONDS, Family, Region, TaskRow
from sky4.world.scene import Scene
from sky4.world.take import Expression, Take
from sky4.world.vocabulary import (
    ACCESSORIES,
    BACKDROPS,
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    EFFECTS,
    HAIRS,
    HEAD_COLOURS,
    LEVEL_SHAPES,
    LEVEL_TEXTURES,
    LIGHTS,
    STYLES,
    WANDERINGS,
    WEATHERS,
)

LEVEL = 3
LATE = 0.6  # seconds by which a thing is late that goes its way without turning back: 5 pixels of 64
REMAINS = (0.5, 1.0)  # of what is to be removed


@dataclass(frozen=True)
class Hypothesis:
    """A take, or `share` of it laid over the target's own picture."""

    name: str
    take: Take
    share: float = 1.0


@dataclass(frozen=True)
class Case:
    """One clip to be judged.

    source: what the clip is made of, and stays as it was wherever the target does; held: the moment of it, in seconds,
    that alone is given. region: what of the source is made anew, in a row with a mask. start: the made clip's first
    frame shows the takes' second `start`.
    """

    target: Take
    edits: tuple[Hypothesis, ...]
    keeps: tuple[Hypothesis, ...]
    source: Take | None = None
    held: float | None = None
    region: Region = "none"
    start: float = 0.0


Variants = Callable[[Family, Take], Iterator[tuple[str, Take]]]


def case_of(family: Family, row: TaskRow) -> Case:
    """What a clip of this row, made for this family, is judged by. ValueError for a row that is measured otherwise."""
    if row.name not in EDITS:
        raise ValueError(f"{row.name} is not judged by hypotheses; those are {', '.join(EDITS)}")
    target = family.takes[row.target]
    source = family.takes["base"] if row.first or row.under else _shown_video(family, row)
    edits = list(hypotheses(family, target, EDITS[row.name]))
    if source is not None and not row.first:
        shares = REMAINS if row.name == "removal" else (1.0,)
        edits += [Hypothesis(f"{share:g} of the source", source, share) for share in shares]
    kept_of = None if row.target in ("transfer", "face") else source
    keeps = tuple(hypotheses(family, target, KEEPS[row.name]))
    return Case(target, tuple(edits), keeps, kept_of, 0.0 if row.first else None, row.region)


def _shown_video(family: Family, row: TaskRow) -> Take | None:
    videos = [name for name in row.shown if ":" not in name]
    return family.takes[videos[0]] if videos else None


def hypotheses(family: Family, target: Take, facts: Iterable[str]) -> Iterator[Hypothesis]:
    """All takes that differ from the target in one of the facts, names of VARIANTS."""
    for fact in facts:
        for name, take in VARIANTS[fact](family, target):
            yield Hypothesis(f"{fact}: {name}", take)


def _colourings(family: Family, take: Take) -> Iterator[tuple[str, Take]]:
    """The moving thing in another colour, texture, or other second colour."""
    thing = take.things[-1]
    for colour in COLOURS:
        if colour not in (thing.colour, thing.accent if thing.texture != "solid" else ""):
            yield colour, take.with_thing(replace(thing, colour=colour))
            if thing.texture != "solid":
                yield f"accent {colour}", take.with_thing(replace(thing, accent=colour))
    for texture in LEVEL_TEXTURES[LEVEL]:
        if texture != thing.texture:
            yield texture, take.with_thing(replace(thing, texture=texture))


def _shapes(family: Family, take: Take) -> Iterator[tuple[str, Take]]:
    thing = take.things[-1]
    for shape in LEVEL_SHAPES[LEVEL]:
        if shape != thing.shape:
            yield shape, take.with_thing(replace(thing, shape=shape))


def other_ways(thing: Scene, pivot: float) -> Iterator[tuple[str, Scene]]:
    """The thing on other ways: turned about where it is at `pivot` seconds, late, or standing there."""
    x, y = (float(value) for value in thing.position(torch.tensor(pivot)))
    yield "standing", replace(thing, motion="static", drift="none", vx=0.0, vy=0.0, x0=x, y0=y)
    turned = replace(thing, vx=-thing.vx, x0=thing.x0 + 2 * thing.vx * pivot)
    if thing.motion not in ("bounce", *WANDERINGS):
        turned = replace(turned, vy=-thing.vy, y0=thing.y0 + 2 * thing.vy * pivot)
    yield "turned", turned
    if thing.motion in ("bounce", *WANDERINGS):
        yield "late", replace(thing, first=thing.first + thing.period / 2)


def _ways(family: Family, take: Take) -> Iterator[tuple[str, Take]]:
    thing = take.things[-1]
    for name, other in other_ways(thing, FAMILY_SECONDS / 2):
        yield name, take.with_thing(other)
    yield "mirrored", take.with_thing(replace(thing, x0=1 - thing.x0, vx=-thing.vx))
    if thing.motion not in ("bounce", *WANDERINGS):
        late = replace(thing, x0=thing.x0 - LATE * thing.vx, y0=thing.y0 - LATE * thing.vy)
        yield "late", take.with_thing(late)


def _backdrops(family: Family, take: Take) -> Iterator[tuple[str, Take]]:
    for name in BACKDROPS:
        if name != take.backdrop:
            yield name, replace(take, backdrop=name)


def _plain_backdrops(family: Family, take: Take) -> Iterator[tuple[str, Take]]:
    for name in BACKGROUNDS:
        if name != take.backdrop:
            yield name, replace(take, backdrop=name)


def _bystanders(family: Family, take: Take) -> Iterator[tuple[str, Take]]:
    """The one beside gone, or in another colour, where it is; added where it is not."""
    if len(take.things) < 2:
        yield "added", replace(take, things=(family.bystander, *take.things))
        return
    yield "gone", replace(take, things=take.things[1:])
    for colour in COLOURS:
        if colour != take.things[0].colour:
            yield colour, take.with_thing(replace(take.things[0], colour=colour), 0)


def _counts(family: Family, take: Take) -> Iterator[tuple[str, Take]]:
    """Another one added, or elsewhere, where one was asked for; the wrong one, or both, deleted where it was to go."""
    bystander = family.bystander
    if len(take.things) == 2:
        for colour in COLOURS:
            if colour != bystander.colour:
                yield colour, take.with_thing(replace(bystander, colour=colour), 0)
        for shape in LEVEL_SHAPES[LEVEL]:
            if shape != bystander.shape:
                yield shape, take.with_thing(replace(bystander, shape=shape), 0)
        yield "on the other side", take.with_thing(replace(bystander, x0=1 - bystander.x0), 0)
        yield "below", take.with_thing(replace(bystander, y0=1 - bystander.y0), 0)
    else:
        yield "the wrong one gone", replace(take, things=(bystander,))
        yield "both gone", replace(take, things=())


def _styles(family: Family, take: Take) -> Iterator[tuple[str, Take]]:
    for name in STYLES:
        if name != take.style:
            yield name, replace(take, style=name)


def _cameras(family: Family, take: Take) -> Iterator[tuple[str, Take]]:
    for name in CAMERAS:
        if name != take.camera:
            yield name, replace(take, camera=name)


def _scenes(family: Family, take: Take) -> Iterator[tuple[str, Take]]:
    for weather, light in [(name, LIGHTS[0]) for name in WEATHERS] + [(WEATHERS[0], name) for name in LIGHTS[1:]]:
        if (weather, light) != (take.weather, take.light):
            yield f"{weather} {light}", replace(take, weather=weather, light=light)


def _effects(family: Family, take: Take) -> Iterator[tuple[str, Take]]:
    for name in EFFECTS:
        if name != take.effect:
            yield name, replace(take, effect=name)
    yield "the picture as it was", replace(take, effect="none", things=tuple(_stopped(thing) for thing in take.things))
    yield "the picture set going", replace(take, effect="none")


def _stopped(thing: Scene) -> Scene:
    """As it stands at the first moment."""
    return next(other for name, other in other_ways(thing, 0.0) if name == "standing")


def _pictures(family: Family, take: Take) -> Iterator[tuple[str, Take]]:
    """The effect on the other picture that it was shown on."""
    yield "the reference's", family.takes["effect shown"]


def _expressions(family: Family, take: Take) -> Iterator[tuple[str, Take]]:
    talker = take.talker
    assert talker is not None
    own = family.stills["portrait"][0].talker
    assert own is not None
    face = talker.expression
    faces: dict[str, Expression] = {
        "the other mood": replace(face, curve=-face.curve),
        "a mouth half a turn behind": replace(face, phase=(face.phase + 0.5) % 1),
        "a mouth twice as fast": replace(face, rate=2 * face.rate),
        "a mouth half as fast": replace(face, rate=face.rate / 2),
        "brows the other way": replace(face, brow_rate=-face.brow_rate),
        "a mouth at rest": replace(face, rate=0.0),
        "brows at rest": replace(face, brow_rate=0.0),
        "the portrait's own": own.expression,
    }
    for name, other in faces.items():
        yield name, replace(take, talker=replace(talker, expression=other))


def _heads(family: Family, take: Take) -> Iterator[tuple[str, Take]]:
    talker, shown = take.talker, family.takes["face shown"]
    assert talker is not None
    yield "the video's", shown
    for colour in HEAD_COLOURS:
        if colour != talker.colour:
            yield colour, replace(take, talker=replace(talker, colour=colour))
    for hair in HAIRS:
        if hair != talker.hair:
            yield hair, replace(take, talker=replace(talker, hair=hair))
    for accessory in ACCESSORIES:
        if accessory != talker.accessory:
            yield accessory, replace(take, talker=replace(talker, accessory=accessory))


VARIANTS: dict[str, Variants] = {
    "colouring": _colourings,
    "shape": _shapes,
    "way": _ways,
    "backdrop": _backdrops,
    "plain backdrop": _plain_backdrops,
    "bystander": _bystanders,
    "count": _counts,
    "style": _styles,
    "camera": _cameras,
    "scene": _scenes,
    "effect": _effects,
    "picture": _pictures,
    "expression": _expressions,
    "head": _heads,
}

# The facts that a row asks for, and those that it must leave alone: of rows composed of references, the others' facts.
EDITS: dict[str, tuple[str, ...]] = {
    "image_motion": ("colouring", "shape", "plain backdrop"),
    "inpaint_subject": ("colouring", "shape"),
    "inpaint_attribute": ("colouring",),
    "inpaint_background": ("backdrop",),
    "inpaint_reference": ("colouring", "shape"),
    "removal": (),
    "subject_replace": ("colouring", "shape"),
    "subject_count": ("count",),
    "attribute": ("colouring",),
    "background": ("backdrop",),
    "style": ("style",),
    "camera": ("camera",),
    "scene": ("scene",),
    "subject_motion": ("colouring", "shape"),
    "expression": ("expression",),
    "background_video": ("backdrop",),
    "effect": ("effect",),
}
_ALL = ("colouring", "shape", "way", "backdrop", "bystander")
KEPT_BY_EXTENSION = ("colouring", "shape", "backdrop", "bystander")  # by an extension
_BUT_IDENTITY = ("way", "backdrop", "bystander")
_BUT_BACKDROP = ("colouring", "shape", "way", "bystander")
KEEPS: dict[str, tuple[str, ...]] = {
    "image_motion": ("way", "bystander"),
    "inpaint_subject": ("way",),  # what lies outside the mask is judged by its pixels
    "inpaint_attribute": ("shape", "way"),
    "inpaint_background": (),
    "inpaint_reference": ("way",),
    "removal": _ALL,
    "subject_replace": _BUT_IDENTITY,
    "subject_count": ("colouring", "shape", "way", "backdrop"),
    "attribute": ("shape", *_BUT_IDENTITY),
    "background": _BUT_BACKDROP,
    "style": _ALL,
    "camera": _ALL,
    "scene": _ALL,
    "subject_motion": _BUT_IDENTITY,
    "expression": ("head", "backdrop"),
    "background_video": _BUT_BACKDROP,
    "effect": ("colouring", "shape", "backdrop", "bystander", "picture"),
}
