"""Families of takes: one scene and everything that the tasks may make of it, as exact pairs of before and after.

A family holds a base take and its variants, each of which changes one thing: the pairs that do not exist in the wild.
Every row of the tasks' table (the report's table 3, and region inpainting by its three kinds) names two of them, what
is shown beside, and what is kept. A pure function of (seed, index, split), as everything in the world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from sky4.world.scene import Scene, Split, sample_scene
from sky4.world.take import Expression, Overlay, Take, Talker
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
    MATERIALS,
    OVERLAYS,
    STYLES,
    WANDERINGS,
    WEATHERS,
    is_held_out,
)

FAMILY_SECONDS = 33 / 16  # the length of the tasks' clips
ONWARD_SECONDS = 2.0  # by which the base goes on in its longer form
SPEED = 0.13  # unit widths a second, so that two seconds show where a thing goes
OUTLINED = ("circle", "square", "triangle")  # the outline of a thinner shape fills it: nothing would be seen to change
TEXTURED = 0.35  # share of things that are not of one colour

# Videos of a family, and its stills: names of `Family.take`.
VIDEOS: tuple[str, ...] = (
    "base",  # one moving thing, in half of the families another one beside it, before a backdrop
    "attribute",  # the moving thing in another colour or texture
    "replaced",  # another thing, of another sound, on the same way
    "count",  # the one beside added or taken away
    "backdrop",  # before another backdrop
    "style",
    "camera",
    "scene",  # in other weather or light
    "overlay",  # with a watermark, subtitle or logo
    "effect",  # base's first frame under an effect
    "effect shown",  # the same effect on another picture
    "face shown",  # a head and how its face moves
    "face",  # another head whose face moves so
    "transfer",  # the replacing thing alone, on the base's way, before a plain backdrop
    "place",  # the other backdrop, empty
    "cleared",  # base without its moving thing: what lies round a mask once the masked pixels are filled
    "onward",  # two seconds out of the base's longer form, from its beginning, its middle or its end: for extension
)
STILLS: tuple[str, ...] = ("identity", "place", "portrait")  # the replacing thing elsewhere; the other head at rest
SOUNDS: tuple[str, ...] = ("base", "replaced", "onward")  # the hits of the moving thing, of the replacing one

_MIDDLE = torch.tensor(FAMILY_SECONDS / 2)

Region = Literal["none", "thing", "surroundings"]


@dataclass(frozen=True)
class TaskRow:
    """One row of the tasks' table.

    shown: names of the references in prompt order, "still:" in front of pictures and "hit:" of sounds. region: what of
    `under` is made anew; the rest is kept as it looks once the masked pixels are filled from around them ("cleared").
    first: whether the target's first frame is given.
    """

    name: str
    title: str  # in the report's words
    target: str
    shown: tuple[str, ...] = ()
    under: str | None = None
    region: Region = "none"
    first: bool = False

    @property
    def sound(self) -> str | None:
        """Which of SOUNDS belongs to the target; None for what is silent."""
        if self.target in ("effect", "face", "place"):
            return None
        return "replaced" if self.target in ("replaced", "transfer") else "base"


TASK_ROWS: tuple[TaskRow, ...] = (
    TaskRow("image_audio", "image + audio references", "transfer", ("still:identity", "hit:replaced")),
    TaskRow("image_motion", "image + motion references", "transfer", ("still:identity", "base")),
    TaskRow("inpaint_subject", "region inpainting: subject", "replaced", under="base", region="thing"),
    TaskRow("inpaint_attribute", "region inpainting: attribute", "attribute", under="base", region="thing"),
    TaskRow("inpaint_background", "region inpainting: background", "place", under="base", region="surroundings"),
    TaskRow(
        "inpaint_reference",
        "reference-guided inpainting",
        "replaced",
        ("still:identity",),
        under="base",
        region="thing",
    ),
    TaskRow("removal", "element removal", "base", ("overlay",)),
    TaskRow("subject_replace", "subject manipulation: replace", "replaced", ("base",)),
    TaskRow("subject_count", "subject manipulation: add or delete", "count", ("base",)),
    TaskRow("attribute", "attribute editing", "attribute", ("base",)),
    TaskRow("background", "background editing", "backdrop", ("base",)),
    TaskRow("style", "style transfer", "style", ("base",)),
    TaskRow("camera", "camera control", "camera", ("base",)),
    TaskRow("scene", "scene attributes", "scene", ("base",)),
    TaskRow("subject_motion", "subject + motion references", "replaced", ("still:identity", "base")),
    TaskRow("expression", "subject + expression references", "face", ("still:portrait", "face shown")),
    TaskRow("background_video", "background + video references", "backdrop", ("still:place", "base")),
    TaskRow("effect", "first frame + effect reference", "effect", ("effect shown",), first=True),
)
ROWS: dict[str, TaskRow] = {row.name: row for row in TASK_ROWS}


@dataclass(frozen=True)
class Family:
    """All takes of one family, and the facts that its variants change."""

    seed: int
    index: int
    takes: dict[str, Take]
    stills: dict[str, tuple[Take, float]]  # and the moment, in seconds
    base: Take
    subject: Scene  # the moving thing of the base take
    newcomer: Scene  # what replaces it, on its way
    bystander: Scene  # the one beside it, in the base take or added

    @property
    def has_bystander(self) -> bool:
        return len(self.base.things) == 2

    def sounding(self, sound: str) -> Scene:
        """The scene whose events are heard in the sound `sound` of SOUNDS."""
        return self.newcomer if sound == "replaced" else self.takes[sound].things[-1]

    def begins(self, name: str) -> float:
        """The second of a take of VIDEOS, or a sound of SOUNDS, that its two seconds begin with."""
        return self.index % 3 * ONWARD_SECONDS / 2 if name == "onward" else 0.0


def sample_family(seed: int, index: int, split: Split = "train", level: int = 3) -> Family:
    """The family number `index` of the stream `seed`; level 3 has textures, level 1's things are of one colour.

    `split`: whether the things are of pairs of shape and colour that training shows, or of those that it never does.
    """
    random = np.random.Generator(
        np.random.Philox(key=np.array([seed ^ 0xFA111, (index << 1) | (split == "heldout")], dtype=np.uint64))
    )
    subject = _wanderer(sample_scene(seed, index, split), random, level)
    newcomer = _renamed(subject, _other_identity(subject, random, split, level))
    beside = sample_scene(seed ^ 0xB5, index)
    others = [c for c in COLOURS if c not in (subject.colour, newcomer.colour) and not is_held_out(beside.shape, c)]
    bystander = replace(
        beside,
        colour=_one_of(random, others),
        size="small",
        motion="static",
        drift="none",
        vx=0.0,
        vy=0.0,
        x0=0.87 if float(subject.position(_MIDDLE)[0]) < 0.5 else 0.13,  # out of the moving thing's way
        y0=0.17,
    )
    backdrop, elsewhere = (str(name) for name in random.permutation(BACKDROPS)[:2])
    base = Take((bystander, subject) if random.random() < 0.5 else (subject,), backdrop)
    without = tuple(thing for thing in base.things if thing is not bystander)
    effect = _one_of(random, EFFECTS)
    weather, light = _weather_or_light(random)
    stage = Take((), _one_of(random, BACKDROPS))
    heads = _heads(random)
    plain = Take((newcomer,), _one_of(random, tuple(BACKGROUNDS)))
    shown = Take((_wanderer(sample_scene(seed ^ 0xEF, index), random, level),), _one_of(random, BACKDROPS))
    takes = {
        "base": base,
        "attribute": base.with_thing(_recoloured(subject, random, split, level)),
        "replaced": base.with_thing(newcomer),
        "count": replace(base, things=without if len(base.things) == 2 else (bystander, subject)),
        "backdrop": replace(base, backdrop=elsewhere),
        "style": replace(base, style=_one_of(random, STYLES[1:] if subject.shape in OUTLINED else STYLES[2:])),
        "camera": replace(base, camera=_one_of(random, CAMERAS[1:])),
        "scene": replace(base, weather=weather, light=light),
        "overlay": replace(base, overlay=_overlay(random)),
        "effect": replace(base, effect=effect),
        "effect shown": replace(shown, effect=effect),
        "face shown": replace(stage, talker=heads[0]),
        "face": replace(stage, talker=replace(heads[1], expression=heads[0].expression)),
        "transfer": plain,
        "place": Take((), elsewhere),
        "cleared": replace(base, things=base.things[:-1], ground=base.bounces),
        "onward": carried_on(base, ONWARD_SECONDS),
    }
    posed = _wanderer(sample_scene(seed ^ 0x1D, index), random, 1)
    posed = replace(_renamed(posed, newcomer), size=_one_of(random, ("medium", "large")))
    stills = {
        "identity": (Take((posed,), _one_of(random, tuple(BACKGROUNDS))), float(random.uniform(0.4, 1.6))),
        "place": (takes["place"], 0.0),
        "portrait": (replace(stage, talker=heads[1]), float(random.uniform(0, 2))),
    }
    return Family(seed, index, takes, stills, base, subject, newcomer, bystander)


def carried_on(take: Take, seconds: float) -> Take:
    """A take laid out for `seconds` more: its thing set back, so that the longer clip's middle is that of its way."""
    thing, back = take.things[-1], seconds / 2
    moved = replace(thing, x0=thing.x0 - thing.vx * back)
    if thing.motion != "bounce":
        moved = replace(moved, y0=thing.y0 - thing.vy * back)
    return take.with_thing(moved)


def _one_of(random: np.random.Generator, options: Sequence[str]) -> str:
    return str(options[int(random.integers(len(options)))])


def _wanderer(scene: Scene, random: np.random.Generator, level: int) -> Scene:
    """A scene laid out for two seconds instead of five, some on rounds and zigzags, some with a texture."""
    across, along = np.sign(scene.vx), np.sign(scene.vy)
    if random.random() < 0.3:
        way = _one_of(random, WANDERINGS)
        across, along = (float(random.choice((-1, 1))) if way == "zigzag" else 0.0), 0.0
        scene = replace(scene, motion=way, drift="none")
    speed = SPEED * random.uniform(0.9, 1.1)
    half = FAMILY_SECONDS / 2
    x0 = 0.5 - across * speed * half + random.uniform(-0.1, 0.1)
    if across == 0 and scene.motion != "orbit":
        x0 = scene.x0
    y0 = 0.55 - along * speed * half + random.uniform(-0.06, 0.06)
    if random.random() < TEXTURED and len(LEVEL_TEXTURES[level]) > 1:
        accents = [name for name in COLOURS if name != scene.colour]
        scene = replace(scene, texture=_one_of(random, LEVEL_TEXTURES[level][1:]), accent=_one_of(random, accents))
    return replace(scene, vx=float(across * speed), vy=float(along * speed), x0=float(x0), y0=float(y0))


def _renamed(scene: Scene, other: Scene) -> Scene:
    """A scene's way with another's identity and sound."""
    return replace(
        scene,
        shape=other.shape,
        colour=other.colour,
        texture=other.texture,
        accent=other.accent,
        material=other.material,
    )


def _other_identity(scene: Scene, random: np.random.Generator, split: Split, level: int) -> Scene:
    """Another shape, colour and material, of the same split."""
    pairs = [
        (shape, colour)
        for shape in LEVEL_SHAPES[level]
        for colour in COLOURS
        if is_held_out(shape, colour) == (split == "heldout") and shape != scene.shape and colour != scene.colour
    ]
    shape, colour = pairs[int(random.integers(len(pairs)))]
    other = replace(scene, shape=shape, colour=colour, texture="solid")
    if random.random() < TEXTURED and len(LEVEL_TEXTURES[level]) > 1:
        accents = [name for name in COLOURS if name not in (colour, scene.colour)]
        other = replace(other, texture=_one_of(random, LEVEL_TEXTURES[level][1:]), accent=_one_of(random, accents))
    return replace(other, material=_one_of(random, [name for name in MATERIALS if name != scene.material]))


def _recoloured(scene: Scene, random: np.random.Generator, split: Split, level: int) -> Scene:
    """Another colour, in 3 of 10 another texture; a texture's second colour stays."""
    textures = [name for name in LEVEL_TEXTURES[level] if name != scene.texture]
    if textures and random.random() < 0.3:
        # a solid thing's second colour is not drawn: it may be its first, and would not be seen
        accent = (
            scene.accent if scene.accent != scene.colour else _one_of(random, [c for c in COLOURS if c != scene.colour])
        )
        return replace(scene, texture=_one_of(random, textures), accent=accent)
    colours = [c for c in COLOURS if c != scene.colour and c != scene.accent]
    kept = [c for c in colours if is_held_out(scene.shape, c) == (split == "heldout")]
    return replace(scene, colour=_one_of(random, kept or colours))


def _weather_or_light(random: np.random.Generator) -> tuple[str, str]:
    if random.random() < 0.5:
        return _one_of(random, WEATHERS[1:]), LIGHTS[0]
    return WEATHERS[0], _one_of(random, LIGHTS[1:])


def _overlay(random: np.random.Generator) -> Overlay:
    kind = _one_of(random, OVERLAYS)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    length = int(random.integers(4, 6) if kind == "watermark" else random.integers(6, 10))
    text = "" if kind == "logo" else "".join(_one_of(random, letters) for _ in range(length))
    corner = f"{_one_of(random, ('top', 'bottom'))} {_one_of(random, ('left', 'right'))}"
    return Overlay(kind, text, corner)


def _heads(random: np.random.Generator) -> tuple[Talker, Talker]:
    """Two heads that differ in colour and hair, each with its own expression."""

    def expression() -> Expression:
        return Expression(
            rate=float(random.uniform(0.7, 1.5)),
            phase=float(random.random()),
            curve=float(random.choice((-1.0, 1.0))),
            brow_rate=float(random.uniform(0.4, 1.0)),
        )

    colours, hairs = random.permutation(HEAD_COLOURS), random.permutation(HAIRS)
    return (
        Talker(str(colours[0]), str(hairs[0]), _one_of(random, ACCESSORIES), expression()),
        Talker(str(colours[1]), str(hairs[1]), _one_of(random, ACCESSORIES), expression()),
    )
