"""Stories in words, in English and Chinese: a caption of each shot, and between them how one gives way to the next."""

from __future__ import annotations

import numpy as np

from sky4.shots.words import OPTICS, switch_words
from sky4.world.instructions import take_caption
from sky4.world.lexicon import Language
from sky4.world.stories import Join, Story


def story_caption(story: Story, language: Language, random: np.random.Generator, *, silent: bool = False) -> str:
    """All shots, and what lies between them: "[Shot 1] ... [Shot 2] Dissolve, cut in to a close-up: ..."."""
    zh = language == "zh"
    said = []
    for number, take in enumerate(story.takes, start=1):
        text = take_caption(take, language, random, silent=silent)
        if number > 1:
            text = _joined(story.joins[number - 2], text, language, random)
        said.append(f"【镜头{number}】{text}" if zh else f"[Shot {number}] {text[0].upper()}{text[1:]}")
    return ("。" if zh else " ").join(said)


def _joined(join: Join, text: str, language: Language, random: np.random.Generator) -> str:
    words, optics = switch_words(join.content, language, random), OPTICS[language].get(join.optical)
    if language == "zh":
        return f"{optics + '，' if optics else ''}{words}：{text}"
    return f"{optics + ', ' if optics else ''}{words}: {text}"
