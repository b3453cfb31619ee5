"""What is made anew of a source: masks, boxes, time ranges and padding, as the user gives them. Values alone, no pixels.

On disk white is what is made anew, unless `white-keeps` says otherwise; `media.mask_frames` turns all of it into edit
alpha frames, where 1 is made anew, and the pipeline knows keep masks only. Places are pixels or per cent of the
source's picture as displayed, times are seconds of the source's file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

from PIL import Image, UnidentifiedImageError

from sky4.errors import RequestError

MaskKind = Literal["picture", "video", "folder"]
MaskMode = Literal["white-edits", "white-keeps"]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")  # what a folder of masks may hold
MAX_REACH = 512  # pixels of --grow and --feather
MAX_CANVAS = 8192  # pixels of a side, as of any clip

# A number with an optional sign, then per cent or not.
_EXTENT = re.compile(r"(-?\d+(?:\.\d+)?)(%?)")
_SPAN = re.compile(r"(\d+(?:\.\d+)?|\.\d+)-(\d+(?:\.\d+)?|\.\d+)")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[_-]+[A-Za-z0-9]+)*")  # as the names of references


@dataclass(frozen=True)
class Extent:
    """A length along one side of the picture: pixels, or per cent of that side."""

    value: Fraction
    percent: bool = False

    def of(self, side: int) -> Fraction:
        """In pixels of a side that is so long."""
        return self.value * side / 100 if self.percent else self.value

    def __str__(self) -> str:
        return f"{float(self.value):g}{'%' if self.percent else ''}"


@dataclass(frozen=True)
class Span:
    """From `start` up to, but not with, `end`: seconds of the source's file."""

    start: Fraction
    end: Fraction

    def holds(self, seconds: Fraction) -> bool:
        return self.start <= seconds < self.end

    def __str__(self) -> str:
        return f"{float(self.start):g}-{float(self.end):g}"


@dataclass(frozen=True)
class Box:
    """A rectangle of the source's picture; `span` None: all the time."""

    x: Extent
    y: Extent
    width: Extent
    height: Extent
    span: Span | None = None

    def edges(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in whole pixels of a picture of this size, wherever they lie."""
        left, top = self.x.of(width), self.y.of(height)
        right, bottom = left + self.width.of(width), top + self.height.of(height)
        return round(left), round(top), round(right), round(bottom)

    def __str__(self) -> str:
        when = "" if self.span is None else f"@{self.span}"
        return f"{self.x},{self.y},{self.width},{self.height}{when}"


@dataclass(frozen=True)
class Pad:
    """How far the canvas reaches beyond the source's picture on each side."""

    left: Extent
    top: Extent
    right: Extent
    bottom: Extent

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) around a picture of this size."""
        left, right = round(self.left.of(width)), round(self.right.of(width))
        return left, round(self.top.of(height)), right, round(self.bottom.of(height))

    def __str__(self) -> str:
        return f"{self.left},{self.top},{self.right},{self.bottom}"


@dataclass(frozen=True)
class MaskFile:
    """A picture for all frames, or a video or folder of pictures with one for each. name: what the prompt calls it."""

    path: Path
    kind: MaskKind
    name: str = ""


@dataclass(frozen=True)
class EditRegion:
    """The pixels that are made anew: the union of all parts. RequestError for values that cannot be.

    grow: pixels that the region is widened by. feather: pixels inside its edge over which the made picture blends into
    the source, so that nothing outside the region changes. fit: masks of another size are scaled, of another length
    held or cut.
    """

    files: tuple[MaskFile, ...] = ()
    boxes: tuple[Box, ...] = ()
    spans: tuple[Span, ...] = ()
    pad: Pad | None = None
    mode: MaskMode = "white-edits"
    threshold: float = 0.5
    grow: int = 0
    feather: int = 0
    fit: bool = False

    def __post_init__(self) -> None:
        if not (self.files or self.boxes or self.spans or self.pad):
            raise RequestError("nothing says what is made anew; add --mask, --box, --retake or --pad")
        if self.mode not in get_args(MaskMode):
            raise RequestError(f"--mask-mode {self.mode} is unknown; choose one of {', '.join(get_args(MaskMode))}")
        if not 0 < self.threshold <= 1:
            raise RequestError(f"--mask-threshold {self.threshold:g} is outside 0 to 1; 0.5 is usual")
        for flag, reach in (("--grow", self.grow), ("--feather", self.feather)):
            if not 0 <= reach <= MAX_REACH:
                nearest = min(max(reach, 0), MAX_REACH)
                raise RequestError(f"{flag} {reach} is outside 0 to {MAX_REACH} pixels; nearest: {nearest}")
        names = self.names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise RequestError(f"--mask {twice} is given twice; choose another name for one of them")

    @property
    def names(self) -> tuple[str, ...]:
        """What the prompt may call the masks, without the @."""
        return tuple(file.name for file in self.files if file.name)

    @property
    def flags(self) -> str:
        """The flags that gave the region, for messages."""
        given = [f"--mask {file.path}" for file in self.files]
        given += [f"--box {box}" for box in self.boxes]
        given += [f"--retake {span}" for span in self.spans]
        return " and ".join(given + ([f"--pad {self.pad}"] if self.pad else []))


def parse_mask(text: str) -> MaskFile:
    """'mask.png' or 'left=mask.png'. RequestError where the file is missing or the name is none."""
    name, path = "", Path(text).expanduser()
    if "=" in text and not path.exists():
        name, _, file = text.partition("=")
        path = Path(file).expanduser()
        if not _NAME.fullmatch(name):
            raise RequestError(
                f"--mask {text}: {name or 'the empty text'} is no name for a mask; "
                "use Latin letters, digits, _ and -, as in left=mask.png"
            )
    if path.is_dir():
        return MaskFile(path, "folder", name)
    if not path.is_file():
        raise RequestError(f"--mask {text}: '{path}' does not exist; give a picture, a video or a folder of pictures")
    return MaskFile(path, _kind(path), name)


def parse_box(text: str) -> Box:
    """'10,20,64,32', '10%,20%,50%,50%' or either with '@2-4.5': left, top, width, height and seconds."""
    place, at, when = text.partition("@")
    span = parse_span("--box", when, text) if at else None
    sides = _extents("--box", text, place, "x,y,width,height such as 10,20,64,32 or 10%,20%,50%,50%@2-4.5")
    box = Box(*sides, span)
    if box.width.value <= 0 or box.height.value <= 0:
        raise RequestError(f"--box {text}: a box is at least one pixel wide and high; give x,y,width,height")
    return box


def parse_pad(text: str) -> Pad:
    """'64,0,64,0' or '25%,0,25%,0': left, top, right, bottom."""
    pad = Pad(*_extents("--pad", text, text, "left,top,right,bottom such as 64,0,64,0 or 25%,0,25%,0"))
    widths = [side.value for side in (pad.left, pad.top, pad.right, pad.bottom)]
    if min(widths) < 0 or not any(widths):
        raise RequestError(f"--pad {text}: a canvas can only grow; give left,top,right,bottom, one of them above 0")
    return pad


def parse_span(flag: str, text: str, whole: str | None = None) -> Span:
    """'2-4.5': seconds of the source. whole: what the flag was given, where that is more."""
    found, typed = _SPAN.fullmatch(text.strip()), text if whole is None else whole
    if not found:
        raise RequestError(f"{flag} {typed}: expected a range of seconds such as 2-4.5")
    span = Span(Fraction(found[1]), Fraction(found[2]))
    if span.end <= span.start:
        raise RequestError(f"{flag} {typed}: a range of seconds ends after it begins, as in 2-4.5")
    return span


def _extents(flag: str, text: str, place: str, example: str) -> list[Extent]:
    found = [_EXTENT.fullmatch(part.strip()) for part in place.split(",")]
    sides = [Extent(Fraction(each[1]), bool(each[2])) for each in found if each]
    if len(found) != 4 or len(sides) != 4:
        raise RequestError(f"{flag} {text}: expected {example}")
    return sides


def _kind(path: Path) -> MaskKind:
    """By what stands in the file: an animation is a video. What Pillow cannot read is by its name what it is."""
    try:
        with Image.open(path) as opened:
            return "video" if getattr(opened, "n_frames", 1) > 1 else "picture"
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return "picture" if path.suffix.lower() in PICTURES else "video"
