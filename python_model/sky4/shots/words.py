"""The words of transitions, in English and Chinese: read by the world's captions, and put in front of a user's prompt.

Nearer to the world's captions, a prompt is nearer to what a model was trained on.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

from sky4.shots.kinds import CONTENTS, Content, Optical

Language = Literal["en", "zh"]

# The first is the usual one. Each says by itself which kind it is.
SWITCHES: dict[Language, dict[Content, tuple[str, ...]]] = {
    "en": {
        "cut-in": ("cut in to a close-up", "cut in closer", "a close-up"),
        "cut-out": ("cut out to a wide shot", "cut out wider", "a wide shot"),
        "shot-reverse-shot": ("cut to the reverse shot", "the reverse shot"),
        "multi-angle": ("cut to another angle", "from another angle"),
        "cut-away": ("cut away", "cut away to another place"),
    },
    "zh": {
        "cut-in": ("切入特写", "特写镜头"),
        "cut-out": ("切出全景", "全景镜头"),
        "shot-reverse-shot": ("切换到反打镜头", "反打镜头"),
        "multi-angle": ("切换到另一个角度", "换个角度"),
        "cut-away": ("切到别处", "切换到另一个地方"),
    },
}
OPTICS: dict[Language, dict[Optical, str]] = {
    "en": {"dissolve": "dissolve", "fade": "fade through black", "wipe": "wipe", "push": "push"},
    "zh": {"dissolve": "叠化", "fade": "黑场过渡", "wipe": "划像", "push": "推移"},
}
_PHRASES = sorted(
    ((words, kind) for kinds in SWITCHES.values() for kind, said in kinds.items() for words in said),
    key=lambda pair: -len(pair[0]),
)
_SWITCH = re.compile("|".join(re.escape(words) for words, _ in _PHRASES) + "|" + "|".join(CONTENTS), re.IGNORECASE)
_KINDS: dict[str, Content] = dict(_PHRASES) | {kind: kind for kind in CONTENTS}


def switch_words(content: Content, language: Language, random: np.random.Generator | None = None) -> str:
    """How a transition is called; the usual words without `random`."""
    words = SWITCHES[language][content]
    return words[0] if random is None else words[int(random.integers(len(words)))]


def switched(text: str, content: Content, random: np.random.Generator | None = None) -> str:
    """A prompt for what follows a transition: its words in front, in the prompt's language."""
    language: Language = "en" if text.isascii() or not re.search("[一-鿿]", text) else "zh"
    words = switch_words(content, language, random)
    return f"{words}：{text}" if language == "zh" else f"{words[0].upper()}{words[1:]}: {text}"


def read_switches(text: str) -> tuple[Content, ...]:
    """The transitions that a text names, in order."""
    return tuple(_KINDS[match.group().lower()] for match in _SWITCH.finditer(text))
