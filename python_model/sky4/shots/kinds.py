"""The names of transitions between shots: by their optics, and by what the two shots show (SkyReels-V3's five)."""

from typing import Literal

Optical = Literal["cut", "dissolve", "fade", "wipe", "push"]
Content = Literal["cut-in", "cut-out", "shot-reverse-shot", "multi-angle", "cut-away"]

OPTICALS: tuple[Optical, ...] = ("cut", "dissolve", "fade", "wipe", "push")  # a fade goes through black
CONTENTS: tuple[Content, ...] = (
    "cut-in",  # nearer to what is seen already
    "cut-out",  # further away from it
    "shot-reverse-shot",  # to the one who is opposite, in the same place
    "multi-angle",  # the same from another side
    "cut-away",  # to something else, somewhere else
)
