"""What a clip is refined to: a larger picture, twice the frames. A value of the request; no torch, no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sky4.errors import RequestError

MAX_STEPS = 100


@dataclass(frozen=True)
class Refinement:
    """width, height: pixels of the refined picture. rate: frames of it for each of the clip's. flag: what the user
    calls the size, for messages.

    steps: of the refiner. keyframes: the clip's latent frames that the base model also makes at the refined size, and
    that the refiner then builds on. Raises RequestError for a value that cannot be.
    """

    width: int
    height: int
    steps: int
    rate: Literal[1, 2] = 1
    keyframes: tuple[int, ...] = ()
    flag: str = "--refine"

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MAX_STEPS:
            raise RequestError(f"{self.flag}: {self.steps} refining steps are outside 1 to {MAX_STEPS}; 4 are usual")
        if sorted(set(self.keyframes)) != list(self.keyframes) or min(self.keyframes, default=0) < 0:
            raise RequestError(f"--keyframes {self.told_keyframes}: the frames must rise from 0 and differ")

    @property
    def told_keyframes(self) -> str:
        return ",".join(map(str, self.keyframes))

    def check_above(self, width: int, height: int, of: str) -> None:
        """RequestError unless this is larger than width x height, which is called `of`."""
        if self.width >= width and self.height >= height and (self.width, self.height) != (width, height):
            return
        raise RequestError(
            f"{self.flag} {self.width}x{self.height} is no larger than the {width}x{height} of {of}; "
            f"ask for {2 * width}x{2 * height}, or anything above it"
        )
