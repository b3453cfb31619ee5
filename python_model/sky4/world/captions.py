"""Scenes to captions and captions back to facts, in English and Chinese.

Three kinds: `short` (one clause), `long` (a sentence or two) and `structured` (shot, camera, subject, tags). Every one
states shape, colour, motion and sound; structured states everything.
"""

import re
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from sky4.world.lexicon import LANGUAGES, VOCABULARY, Language, phrase_table
from sky4.world.scene import Scene

Kind = Literal["short", "long", "structured"]

KINDS: tuple[Kind, ...] = ("short", "long", "structured")

SYNONYM = 0.25  # how often a word is replaced by a synonym
SHORT_TEMPO = 0.6  # how often a short caption states the tempo
LONG_FACT = 0.85  # how often a long caption states each fact beyond the main ones


@dataclass(frozen=True)
class Facts:
    """What a text says about a clip; None where it says nothing."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    motion: str | None = None  # bounce, left, right, up, down
    drift: str | None = None  # of a bounce: none, left, right; "none" for the other motions
    tempo: str | None = None
    material: str | None = None  # None: silent, or not said
    background: str | None = None
    place: str | None = None  # of an object that does not travel sideways: left, middle, right

    @property
    def direction(self) -> str | None:
        """Where the object goes: left, right, up, down, "none" for a bounce in place, None when unsaid."""
        return self.drift if self.motion == "bounce" else self.motion

    def within(self, other: "Facts") -> bool:
        """Whether every fact stated here is stated alike in `other`."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(Facts))
        return all(mine is None or mine == theirs for mine, theirs in pairs)


def facts(scene: Scene) -> Facts:
    """Everything that the captions can say about a scene."""
    return Facts(
        shape=scene.shape,
        colour=scene.colour,
        size=scene.size,
        motion=scene.motion,
        drift=scene.drift,
        tempo=scene.tempo,
        material=scene.material,
        background=scene.background,
        place=scene.place if scene.vx == 0.0 else None,
    )


class _Writer:
    """One caption's draws: the same scene is worded differently each time."""

    def __init__(self, scene: Scene, language: Language, random: np.random.Generator) -> None:
        self.facts = facts(scene)
        self.direction = scene.direction
        self.bounces = scene.motion == "bounce"
        self.language: Language = language
        self.random = random

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def one_of(self, *options: str) -> str:
        return options[int(self.random.integers(len(options)))]

    def word(self, field: str, value: str | None = None) -> str:
        stated = value or getattr(self.facts, field)
        words = VOCABULARY[self.language][field][stated]
        return self.one_of(*words[1:]) if len(words) > 1 and self.chance(SYNONYM) else words[0]

    # English

    def subject(self, size: bool, pulsing: str = "") -> str:
        words = [pulsing, self.word("size") if size else "", self.word("colour"), self.word("shape")]
        phrase = " ".join(word for word in words if word)
        return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"

    def bounce(self, tempo: bool, place: bool) -> str:
        how = " " + self.word("tempo") if tempo else ""
        ground = " on the ground" if self.chance(0.5) else ""
        if self.direction == "none":
            where = " " + self.word("place") if place else ""
            spot = self.one_of(" in place", " on the spot") if not where or self.chance(0.5) else ""
            return f"bounces{how}{ground}{spot}{where}"
        going = self.word("direction", self.direction)
        return self.one_of(
            f"bounces{how}{ground}, moving {going}",
            f"bounces{how}{ground}, drifting {going}",
            f"moves {going}, bouncing{how}{ground}",
        )

    def travel(self, tempo: bool, place: bool) -> tuple[str, str]:
        """(a word before the noun, the phrase after it)."""
        how = " " + self.word("tempo") if tempo else ""
        where = " " + self.word("place") if place else ""
        going = f"{self.one_of('moves', 'glides', 'travels')} {self.word('direction', self.direction)}{where}"
        pulse = self.one_of("pulsing", "swelling")
        if not how and self.chance(0.5):
            return pulse, going
        return "", self.one_of(f"{going}, {pulse}{how}", f"{going} while {pulse}{how}")

    def sound(self) -> str:
        event = "bounce" if self.bounces else self.one_of("pulse", "beat")
        return f"{self.word('material')} {self.one_of('at each', 'at each', 'at every', 'with each')} {event}"

    def clause(self, size: bool, tempo: bool, place: bool) -> str:
        if self.bounces:
            return f"{self.subject(size)} {self.bounce(tempo, place)}"
        pulsing, going = self.travel(tempo, place)
        return f"{self.subject(size, pulsing)} {going}"

    def english(self, kind: Kind, sfx: str) -> str:
        placed = self.facts.place is not None
        if kind == "short":
            text = self.clause(size=False, tempo=self.chance(SHORT_TEMPO), place=placed and self.chance(0.3))
            return _join(text, sfx) if self.chance(0.5) else _join(_sentence(text), sfx)
        sure = kind == "structured"
        size, tempo, place, behind = (sure or self.chance(LONG_FACT) for _ in range(4))
        clause = self.clause(size, tempo, placed and place)
        if behind:
            colour = self.word("background")
            before = self.one_of(f"on a {colour} background, ", f"against a {colour} background, ")
            after = self.one_of(f", on a {colour} background", f", against a {colour} background")
            clause = clause + after if sure or self.chance(0.5) else before + clause
        if sure:
            clause = f"[Shot 1] {self.one_of('Static camera.', 'Static camera.', 'Fixed camera.')} {_sentence(clause)}"
            return _join(clause, sfx)
        return _join(self.one_of("", "", "The camera is still. ", "A simple animation. ") + _sentence(clause), sfx)

    # Chinese

    def subject_zh(self, size: bool) -> str:
        colour, shape = self.word("colour"), self.word("shape")
        counter = "颗" if self.facts.shape == "star" else "个"
        big = self.word("size") if size else ""
        return f"一{counter}{big}{colour}{shape}" if big.endswith("的") else f"一{counter}{colour}{big}{shape}"

    def clause_zh(self, size: bool, tempo: bool, place: bool) -> str:
        how = self.word("tempo") if tempo else ""
        where = self.word("place") if place else ""
        subject = self.subject_zh(size)
        if not self.bounces:
            going = f"{self.word('direction', self.direction)}移动"
            return self.one_of(f"{subject}{where}{going}，{how}脉动", f"{subject}{where}{how}脉动着{going}")
        ground = "" if where or self.chance(0.5) else "在地面上"
        if self.direction == "none":
            return f"{subject}{where}{ground}{how}{'' if where and self.chance(0.5) else '原地'}弹跳"
        going = f"{self.word('direction', self.direction)}移动"
        return self.one_of(f"{subject}{ground}{how}弹跳，{going}", f"{subject}一边{how}弹跳一边{going}")

    def sound_zh(self) -> str:
        event = "弹跳" if self.bounces else "脉动"
        return f"{self.one_of('每次', '每次', '每一次')}{event}一声{self.word('material')}"

    def chinese(self, kind: Kind, sfx: str) -> str:
        placed = self.facts.place is not None
        if kind == "short":
            text = self.clause_zh(size=False, tempo=self.chance(SHORT_TEMPO), place=placed and self.chance(0.3))
            return text + self.one_of("", "。") + sfx
        sure = kind == "structured"
        size, tempo, place, behind = (sure or self.chance(LONG_FACT) for _ in range(4))
        clause = self.clause_zh(size, tempo, placed and place)
        if behind:
            colour = self.word("background")
            clause = self.one_of(f"{clause}，{colour}背景", f"{colour}背景上，{clause}")
        return f"【镜头1】固定镜头。{clause}。{sfx}" if sure else f"{clause}。{sfx}"

    # Sound alone

    def heard(self, kind: Kind) -> str:
        """The sound by itself: material, rhythm, and where it is or goes."""
        tempo = kind != "short" or self.chance(SHORT_TEMPO)
        chinese = self.language == "zh"
        if self.direction in ("left", "right"):
            going = self.word("direction", self.direction)
            where = f"{going}移动" if chinese else f"moving {going}"
        else:
            where = self.word("place") if kind != "short" or self.chance(0.5) else ""
        how = self.word("tempo") if tempo else ""
        if chinese:
            parts = [f"重复的{self.word('material')}", how + "响起" if how else "", where]
            spoken = "，".join(part for part in parts if part)
            return f"【镜头1】只有声音。<sfx>{spoken}</sfx>" if kind == "structured" else f"<sfx>{spoken}</sfx>"
        parts = [self.word("material"), f"repeating {how}" if how else "repeating", where]
        spoken = ", ".join(part for part in parts if part)
        return f"[Shot 1] Sound only. <sfx>{spoken}</sfx>" if kind == "structured" else f"<sfx>{spoken}</sfx>"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _join(text: str, sfx: str) -> str:
    return f"{text} {sfx}" if sfx else text


def caption(
    scene: Scene,
    kind: Kind,
    language: Language,
    random: np.random.Generator,
    *,
    silent: bool = False,
    audio_only: bool = False,
) -> str:
    """A caption of the scene; `random` chooses among the wordings.

    `silent` is for clips without sound (no `<sfx>` span, an empty one, or "silence"); `audio_only` describes the sound
    alone. Raises ValueError for a kind or language that captions do not have, and for both flags together.
    """
    if kind not in KINDS:
        raise ValueError(f"caption kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if language not in LANGUAGES:
        raise ValueError(f"caption language must be one of {', '.join(LANGUAGES)}, got {language!r}")
    if silent and audio_only:
        raise ValueError("a caption cannot be silent and of the sound alone: choose one")
    writer = _Writer(scene, language, random)
    if audio_only:
        return writer.heard(kind)
    chinese = language == "zh"
    if silent:
        sfx = writer.one_of("", "", "<sfx></sfx>", "<sfx>静音</sfx>" if chinese else "<sfx>silence</sfx>")
    else:
        sfx = f"<sfx>{writer.sound_zh() if chinese else writer.sound()}</sfx>"
    return writer.chinese(kind, sfx) if chinese else writer.english(kind, sfx)


_TABLE = phrase_table()
_ENGLISH = re.compile(
    r"(?<![a-z-])(?:"
    + "|".join(re.escape(p) for p in sorted(_TABLE, key=len, reverse=True) if p.isascii())
    + r")(?![a-z])"
)
_CHINESE = re.compile("|".join(re.escape(p) for p in sorted(_TABLE, key=len, reverse=True) if not p.isascii()))
_SFX = re.compile(r"<sfx>(.*?)</sfx>", re.DOTALL)


def _read(text: str) -> dict[str, str]:
    """The first value of each field that the text names; longer phrases win over the words inside them."""
    found: dict[str, str] = {}
    for pattern in (_ENGLISH, _CHINESE):
        for match in pattern.finditer(text):
            field, value = _TABLE[match.group()]
            found.setdefault(field, value)
    return found


def parse(text: str) -> Facts:
    """The facts that a caption or a prompt in the world's words states (a keyword lexicon, both languages).

    Sound is read inside `<sfx>` where there is one, everything else outside it; a text of sound alone also gives its
    rhythm, place and direction.
    """
    text = text.lower()
    spans = _SFX.findall(text)
    seen = _read(_SFX.sub(" ", text))
    heard = _read(" ".join(spans)) if spans else seen
    bounces = "bounce" in seen
    sound_alone = "shape" not in seen and "colour" not in seen
    where = heard if sound_alone else seen
    direction = where.get("direction")
    motion: str | None
    drift: str | None
    if bounces:
        motion, drift = "bounce", direction if direction in ("left", "right") else "none"
    else:
        motion, drift = direction, None if direction is None else "none"
    return Facts(
        shape=seen.get("shape"),
        colour=seen.get("colour"),
        size=seen.get("size"),
        motion=motion,
        drift=drift,
        tempo=where.get("tempo"),
        material=heard.get("material"),
        background=seen.get("background"),
        place=where.get("place"),
    )
