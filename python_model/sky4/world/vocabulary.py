"""The words of the world and what each of them measures: shapes, colours, sizes, tempi, materials, backgrounds.

Foreground colours and backgrounds are disjoint (at least 60/255 apart in one channel), so that the object can always be
told from what is behind it.
"""

from dataclasses import dataclass

SHAPES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "ring",
    "cross",
    "heart",
    "hexagon",
    "crescent",
    "arrow",
    "diamond",
    "drop",
)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (250, 225, 40),
    "green": (30, 170, 60),
    "cyan": (30, 210, 225),
    "blue": (50, 90, 245),
    "purple": (150, 60, 210),
    "magenta": (240, 60, 190),
    "white": (245, 245, 245),
    "lime": (160, 240, 60),
}

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (12, 12, 16),
    "grey": (72, 72, 80),
    "navy": (16, 24, 72),
    "brown": (68, 46, 30),
}

SIZES: dict[str, float] = {"small": 0.13, "medium": 0.17, "large": 0.22}  # radius, in frame heights

TEMPI: dict[str, float] = {"slow": 1.25, "steady": 0.9, "fast": 0.65}  # seconds between events

MOTIONS: tuple[str, ...] = ("bounce", "left", "right", "up", "down")
WANDERINGS: tuple[str, ...] = ("orbit", "zigzag")  # from level 3 on: ways that a reference video can show
DRIFTS: tuple[str, ...] = ("none", "left", "right")  # of a bouncing object


@dataclass(frozen=True)
class Mode:
    """One decaying partial of a struck body: `amplitude * sin(2 pi frequency t) * exp(-t / decay)`."""

    frequency: float  # Hz
    amplitude: float
    decay: float  # seconds


MATERIALS: dict[str, tuple[Mode, ...]] = {
    "drum": (Mode(82, 1.0, 0.22), Mode(131, 0.5, 0.15), Mode(190, 0.25, 0.10)),
    "rubber": (Mode(242, 1.0, 0.09), Mode(405, 0.35, 0.05)),
    "wood": (Mode(623, 1.0, 0.06), Mode(1150, 0.5, 0.04), Mode(1904, 0.2, 0.02)),
    "metal": (Mode(1480, 1.0, 0.30), Mode(2310, 0.6, 0.25), Mode(3505, 0.4, 0.18)),
    "glass": (Mode(2903, 1.0, 0.16), Mode(4357, 0.6, 0.11), Mode(6210, 0.3, 0.07)),
}

TEXTURES: tuple[str, ...] = ("solid", "stripes", "dots", "checker", "two-tone", "gradient")

# Drawn behind the things of level 2 and above; every colour in them is as far from COLOURS as BACKGROUNDS' are.
SCENERIES: tuple[str, ...] = ("stripes", "grid", "beach", "forest", "city", "room", "space", "snowfield")
BACKDROPS: tuple[str, ...] = (*BACKGROUNDS, *SCENERIES)

CAMERAS: tuple[str, ...] = ("static", "pan left", "pan right", "tilt up", "tilt down", "zoom in", "zoom out")
WEATHERS: tuple[str, ...] = ("clear", "rain", "snow", "fog")
LIGHTS: tuple[str, ...] = ("day", "night", "warm", "cool")
STYLES: tuple[str, ...] = ("flat", "outline", "pixel-art", "watercolour", "paper-cut", "sketch")
OVERLAYS: tuple[str, ...] = ("watermark", "subtitle", "logo")
EFFECTS: tuple[str, ...] = ("dissolve", "mosaic", "melt", "colour-cycle", "swirl", "curtain")

HEAD_COLOURS: tuple[str, ...] = ("orange", "yellow", "green", "cyan", "magenta", "white")
HAIRS: tuple[str, ...] = ("bald", "cap", "spikes", "bob", "mohawk")
ACCESSORIES: tuple[str, ...] = ("nothing", "glasses", "bow", "hat")

# What each level of the world draws from. Level 1 is what a CPU learns in hours.
LEVEL_SHAPES: dict[int, tuple[str, ...]] = {1: SHAPES[:6], 2: SHAPES[:6], 3: SHAPES[:6]}
LEVEL_TEXTURES: dict[int, tuple[str, ...]] = {1: TEXTURES[:1], 2: TEXTURES[:2], 3: ("solid", "stripes", "two-tone")}


def is_held_out(shape: str, colour: str) -> bool:
    """Whether training never shows this pair of shape and colour (one pair in eight)."""
    return (3 * SHAPES.index(shape) + list(COLOURS).index(colour)) % 8 == 0
