"""What a user types for each row of the tasks' table, and captions of whole takes, in English and Chinese.

Templates are data: the slots are filled with the family's facts. Names such as @image_1 stand in the order in which the
references lie in the context: pictures first, the video last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sky4.world.families import Family, TaskRow
from sky4.world.lexicon import VOCABULARY, Language
from sky4.world.scene import Scene
from sky4.world.speech import DIGITS_ZH
from sky4.world.take import Overlay, Take
from sky4.world.vocabulary import BACKGROUNDS

SOUND_STATED = 0.7  # how often an instruction says what is heard
SOURCE_NAMED = 0.4  # how often an instruction names the source as @video_1

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "stripes": "dark blue stripes",
        "grid": "a grid",
        "beach": "a beach",
        "forest": "a forest",
        "city": "a city",
        "room": "a room",
        "space": "outer space",
        "snowfield": "a snowfield",
        "static": "the camera still",
        "pan left": "the camera panning left",
        "pan right": "the camera panning right",
        "tilt up": "the camera tilting up",
        "tilt down": "the camera tilting down",
        "zoom in": "the camera zooming in",
        "zoom out": "the camera zooming out",
        "rain": "rain",
        "snow": "snow",
        "fog": "fog",
        "night": "night",
        "warm": "warm light",
        "cool": "cool light",
        "outline": "outline drawing",
        "pixel-art": "pixel-art",
        "watercolour": "watercolour",
        "paper-cut": "paper-cut",
        "sketch": "pencil sketch",
        "watermark": "watermark",
        "subtitle": "subtitle",
        "logo": "logo",
        "top left": "at the top left",
        "top right": "at the top right",
        "bottom left": "at the bottom left",
        "bottom right": "at the bottom right",
    },
    "zh": {
        "stripes": "深蓝条纹",
        "grid": "网格",
        "beach": "海滩",
        "forest": "森林",
        "city": "城市",
        "room": "房间",
        "space": "太空",
        "snowfield": "雪地",
        "static": "镜头固定",
        "pan left": "镜头左移",
        "pan right": "镜头右移",
        "tilt up": "镜头上摇",
        "tilt down": "镜头下摇",
        "zoom in": "镜头推近",
        "zoom out": "镜头拉远",
        "rain": "下雨",
        "snow": "下雪",
        "fog": "起雾",
        "night": "夜晚",
        "warm": "暖色光",
        "cool": "冷色光",
        "outline": "线框",
        "pixel-art": "像素",
        "watercolour": "水彩",
        "paper-cut": "剪纸",
        "sketch": "素描",
        "watermark": "水印",
        "subtitle": "字幕",
        "logo": "台标",
        "top left": "左上角",
        "top right": "右上角",
        "bottom left": "左下角",
        "bottom right": "右下角",
    },
}
TEXTURE_WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "stripes": "striped",
        "dots": "dotted",
        "checker": "checkered",
        "two-tone": "two-tone",
        "gradient": "gradient",
    },
    "zh": {"stripes": "条纹", "dots": "圆点", "checker": "格子", "two-tone": "双色", "gradient": "渐变"},
}

TEMPLATES: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "image_audio": ("@image_1 {moves} on {plain}", "On {plain}, @image_1 {moves}"),
        "image_motion": (
            "@image_1 moves like @video_1, on {plain}",
            "@image_1 on {plain}, with the motion of @video_1",
        ),
        "inpaint_subject": ("a {newcomer}", "a {newcomer} {moves}", "replace it with a {newcomer}"),
        "inpaint_attribute": ("a {changed}", "make it {change}", "make the {shape} {change}"),
        "inpaint_background": (
            "{elsewhere}",
            "the background is {elsewhere}",
            "replace the background with {elsewhere}",
        ),
        "inpaint_reference": ("@image_1", "put @image_1 there", "insert @image_1, {moving}"),
        "removal": ("remove the {overlay}", "erase the {overlay}", "take the {overlay} away"),
        "subject_replace": ("replace the {subject} with a {newcomer}", "turn the {subject} into a {newcomer}"),
        "attribute": (
            "make the {shape} {change}",
            "turn the {subject} into a {changed}",
            "the {shape} is now {change}",
        ),
        "background": ("replace the background with {elsewhere}", "change the background to {elsewhere}"),
        "style": ("{style} style", "turn it into {style} style", "make it {style} style"),
        "camera": ("with {camera}", "re-render it with {camera}", "the same with {camera}"),
        "weather": ("add {scene}", "make it {scene}", "the same in {scene}"),
        "light": ("make it {scene}", "the same in {scene}", "change the light to {scene}"),
        "night": ("make it night", "the same at night", "change it to night"),
        "add": ("add a {bystander} {spot}", "put a {bystander} {spot}"),
        "delete": ("remove the {bystander}", "delete the {bystander}", "take the {bystander} away"),
        "subject_motion": (
            "put @image_1 in place of the subject of @video_1",
            "@image_1 takes the place of the {subject} in @video_1",
        ),
        "expression": ("@image_1 with the expression of @video_1", "@image_1 makes the face of @video_1"),
        "background_video": ("put @image_1 behind the subject of @video_1", "@image_1 is the background of @video_1"),
        "effect": ("apply the effect of @video_1", "the picture with the effect of @video_1"),
    },
    "zh": {
        "image_audio": ("@image_1{moves}，{plain}",),
        "image_motion": ("@image_1按照@video_1的方式运动，{plain}",),
        "inpaint_subject": ("一个{newcomer}", "换成一个{newcomer}"),
        "inpaint_attribute": ("一个{changed}", "变成{change}"),
        "inpaint_background": ("{elsewhere}", "背景换成{elsewhere}"),
        "inpaint_reference": ("@image_1", "在这里放上@image_1"),
        "removal": ("去掉{overlay}", "移除{overlay}"),
        "subject_replace": ("把{subject}换成{newcomer}",),
        "attribute": ("把{shape}变成{change}", "把{subject}变成{changed}"),
        "background": ("把背景换成{elsewhere}",),
        "style": ("改成{style}风格", "{style}风格"),
        "camera": ("{camera}", "重新渲染，{camera}"),
        "weather": ("改成{scene}",),
        "light": ("改成{scene}",),
        "night": ("改成夜晚",),
        "add": ("{spot}加上一个{bystander}",),
        "delete": ("去掉{bystander}",),
        "subject_motion": ("用@image_1替换@video_1里的主体",),
        "expression": ("@image_1做出@video_1的表情",),
        "background_video": ("把@image_1作为@video_1的背景",),
        "effect": ("使用@video_1的特效",),
    },
}
MOVES: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "bounce": ("bounces", "bouncing"),
        "orbit": ("circles round", "circling round"),
        "zigzag": ("zigzags", "zigzagging"),
        "static": ("stays still", "staying still"),
    },
    "zh": {"bounce": ("弹跳",), "orbit": ("绕圈",), "zigzag": ("之字形移动",), "static": ("不动",)},
}
NAMED: dict[Language, tuple[str, ...]] = {"en": ("{} in @video_1", "In @video_1, {}"), "zh": ("在@video_1中，{}",)}


@dataclass(frozen=True)
class _Words:
    """One instruction's draws and the words of one language."""

    language: Language
    random: np.random.Generator

    def one_of(self, options: tuple[str, ...]) -> str:
        return options[int(self.random.integers(len(options)))]

    def word(self, field: str, value: str) -> str:
        return self.one_of(VOCABULARY[self.language][field][value])

    def identity(self, thing: Scene, *, size: bool = False) -> str:
        """ "red and white striped star", with its size in front where asked."""
        zh = self.language == "zh"
        colour = self.colouring(thing)
        big = VOCABULARY[self.language]["size"][thing.size][0] if size else ""
        shape = self.word("shape", thing.shape)
        return f"{big}{colour}{shape}" if zh else " ".join(word for word in (big, colour, shape) if word)

    def colouring(self, thing: Scene) -> str:
        colour = VOCABULARY[self.language]["colour"]
        if thing.texture == "solid":
            return colour[thing.colour][0]
        texture = TEXTURE_WORDS[self.language][thing.texture]
        if self.language == "zh":
            return f"{colour[thing.colour][0]}和{colour[thing.accent][0]}{texture}"
        return f"{colour[thing.colour][0]} and {colour[thing.accent][0]} {texture}"

    def behind(self, backdrop: str) -> str:
        if backdrop in BACKGROUNDS:
            colour = VOCABULARY[self.language]["background"][backdrop][0]
            return f"{colour}背景" if self.language == "zh" else f"a {colour} background"
        return WORDS[self.language][backdrop]

    def moves(self, thing: Scene, *, participle: bool = False) -> str:
        """What a thing does: "bounces, moving left", "circles round"; "bouncing ..." as a participle."""
        way = thing.drift if thing.motion == "bounce" else thing.motion
        if thing.motion == "zigzag":
            way = "left" if thing.vx < 0 else "right"
        going = self.word("direction", way) if way in ("left", "right", "up", "down") else ""
        if self.language == "zh":
            verb = MOVES["zh"].get(thing.motion, ("脉动",))[0]
            return f"{going}移动并{verb}" if going and thing.motion != "zigzag" else f"{going}{verb}"
        verb = MOVES["en"].get(thing.motion, ("moves", "moving"))[participle]
        if thing.motion == "bounce":
            return f"{verb}, moving {going}" if going else f"{verb} on the spot"
        return f"{verb} {going}".strip() + ("" if thing.motion in MOVES["en"] else ", pulsing")

    def heard(self, thing: Scene, sound: str | None = None) -> str:
        """The span of what is heard; `sound` stands for the material's words, as @audio_1 does."""
        event = {"bounce": "bounce", "orbit": "turn", "zigzag": "turn"}.get(thing.motion, "pulse")
        if self.language == "zh":
            said = {"bounce": "弹跳", "turn": "转弯", "pulse": "脉动"}[event]
            return f"<sfx>每次{said}一声{sound or self.word('material', thing.material)}</sfx>"
        return f"<sfx>{sound or self.word('material', thing.material)} at each {event}</sfx>"

    def spot(self, thing: Scene) -> str:
        side = "left" if thing.x0 < 0.5 else "right"
        return WORDS[self.language][f"top {side}"]


def instruction(family: Family, row: TaskRow, language: Language, random: np.random.Generator) -> str:
    """The prompt of one case; `random` chooses among the wordings."""
    words = _Words(language, random)
    text = words.one_of(TEMPLATES[language][_template(family, row)]).format(**_slots(family, words))
    if row.shown in (("base",), ("overlay",)) and random.random() < SOURCE_NAMED:
        text = words.one_of(NAMED[language]).format(text)
    if row.sound is None:
        return text
    gap = "" if language == "zh" else " "
    heard = family.sounding(row.sound)
    if any(name.startswith("hit:") for name in row.shown):
        return f"{text}{gap}{words.heard(heard, '@audio_1')}"
    return f"{text}{gap}{words.heard(heard)}" if random.random() < SOUND_STATED else text


def take_caption(take: Take, language: Language, random: np.random.Generator, *, silent: bool = False) -> str:
    """A caption of a whole take as its frame has it: who does what, before what, how it looks, and what is heard."""
    words = _Words(language, random)
    take = replace(take, things=tuple(seen for thing in take.things if (seen := take.framing.shows(thing)) is not None))
    zh = language == "zh"
    parts = [_subjects(take, words)] if take.things else [] if take.talker else [words.behind(take.backdrop)]
    if take.talker is not None:
        colour = VOCABULARY[language]["colour"][take.talker.colour][0]
        mood = ("微笑" if zh else "smiling") if take.talker.expression.curve > 0 else ("皱眉" if zh else "frowning")
        parts.append(
            f"一张{mood}的{colour}脸{_said(take, language)}"
            if zh
            else f"a {mood} {colour} face {_said(take, language)}"
        )
    if parts != [words.behind(take.backdrop)]:
        parts.append(
            words.behind(take.backdrop) if zh else f"{random.choice(('on', 'before'))} {words.behind(take.backdrop)}"
        )
    shown = WORDS[language]
    if take.camera != "static":
        parts.append(shown[take.camera] if zh else f"with {shown[take.camera]}")
    for value, plain in ((take.weather, "clear"), (take.light, "day")):
        if value != plain:
            parts.append(shown[value] if zh else f"{'at' if value == 'night' else 'in'} {shown[value]}")
    if take.style != "flat":
        parts.append(f"{shown[take.style]}风格" if zh else f"{shown[take.style]} style")
    if take.overlay is not None:
        parts.append(_written(take.overlay, language))
    text = ("，" if zh else ", ").join(parts)
    loud = next((thing for thing in take.things if thing.motion != "static"), None)
    if silent or loud is None:
        return text
    return f"{text}{'' if zh else ' '}{words.heard(loud)}"


def _said(take: Take, language: Language) -> str:
    """What a face does, with the words that it says."""
    speech = None if take.talker is None else take.talker.expression.speech
    if speech is None:
        return "在说话" if language == "zh" else "talks"
    if language == "zh":
        return f"说<dialogue>{''.join(DIGITS_ZH[word] for word in speech.words)}</dialogue>"
    return f"says <dialogue>{' '.join(speech.words)}</dialogue>"


def _subjects(take: Take, words: _Words) -> str:
    moving = [thing for thing in take.things if thing.motion != "static"]
    others = [thing for thing in take.things if thing.motion == "static"]
    zh = words.language == "zh"
    said = [
        f"一个{words.identity(t)}{words.moves(t)}" if zh else f"a {words.identity(t)} {words.moves(t)}" for t in moving
    ]
    said += [
        f"{words.spot(t)}有一个{words.identity(t, size=True)}"
        if zh
        else f"a {words.identity(t, size=True)} {words.spot(t)}"
        for t in others
    ]
    return ("，" if zh else ", ").join(said)


def _written(overlay: Overlay, language: Language) -> str:
    kind = WORDS[language][overlay.kind]
    text = f"<text>{overlay.text}</text>" if overlay.text else ""
    if overlay.kind == "subtitle":
        return f"{kind}{text}" if language == "zh" else f"a {kind} {text}"
    where = WORDS[language][overlay.corner]
    return f"{where}的{kind}{text}" if language == "zh" else " ".join(p for p in (f"a {kind}", text, where) if p)


def _template(family: Family, row: TaskRow) -> str:
    """The key of TEMPLATES: some rows are worded by what they change."""
    if row.name == "subject_count":
        return "delete" if family.has_bystander else "add"
    if row.name == "scene":
        take = family.takes["scene"]
        return "weather" if take.weather != "clear" else "night" if take.light == "night" else "light"
    return row.name


def _slots(family: Family, words: _Words) -> dict[str, str]:
    takes = family.takes
    changed = takes["attribute"].things[-1]
    same_texture = changed.texture == family.subject.texture
    shown = WORDS[words.language]
    overlay = takes["overlay"].overlay
    assert overlay is not None
    scene = takes["scene"]
    return {
        "subject": words.identity(family.subject),
        "shape": words.word("shape", family.subject.shape),
        "newcomer": words.identity(family.newcomer),
        "bystander": words.identity(family.bystander, size=True),
        "spot": words.spot(family.bystander),
        "changed": words.identity(changed),
        "change": VOCABULARY[words.language]["colour"][changed.colour][0] if same_texture else words.colouring(changed),
        "moves": words.moves(family.newcomer),
        "moving": words.moves(family.newcomer, participle=True),
        "plain": words.behind(takes["transfer"].backdrop),
        "elsewhere": words.behind(takes["backdrop"].backdrop),
        "style": shown[takes["style"].style],
        "camera": shown[takes["camera"].camera],
        "scene": shown[scene.weather if scene.weather != "clear" else scene.light],
        "overlay": shown[overlay.kind],
    }
