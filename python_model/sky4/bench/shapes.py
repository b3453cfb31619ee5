"""What is measured: named shapes, whose lengths all come from the geometry of a clip, and shapes given by hand.

H heads   N media tokens   N_t text tokens   A audio tokens   d channels per head   M cubes   C latent channels
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from sky4.config import TransformerConfig, full, nano
from sky4.errors import RequestError
from sky4.geometry import ClipGeometry, frames_for
from sky4.pipeline.model_folder import BUNDLED, ModelFolder

TEXT_TOKENS = 512  # of the published scale: what its text encoder is given at most
KEEP_SHARE = Fraction(1, 3)  # of the cubes: the published refiner's attention costs a third
BASE_FPS, REFINER_FPS = Fraction(16), Fraction(32)
Grid = tuple[int, int, int]


@dataclass(frozen=True)
class AttentionShape:
    """Media and text joined; `audio_tokens` of the clip, 0 where there is no exchange to measure."""

    name: str
    heads: int
    media: int
    text: int
    channels: int
    audio_tokens: int = 0


@dataclass(frozen=True)
class CubeShape:
    """Video Sparse Attention over a grid of tokens cut into cubes of 4 x 4 x 4, of which each query reads `keep`."""

    name: str
    heads: int
    grid: Grid
    keep: int
    channels: int
    text: int = 0


@dataclass(frozen=True)
class LatentShape:
    """Latents brought from a low grid (T, h, w) to a high one."""

    name: str
    channels: int
    low: Grid
    high: Grid


Shape = AttentionShape | CubeShape | LatentShape


def cubes_of(grid: Grid) -> int:
    """How many cubes of at most 4 x 4 x 4 tokens cover the grid."""
    frames, rows, columns = (-(-size // 4) for size in grid)
    return frames * rows * columns


def _clip(width: int, height: int, seconds: int, fps: Fraction) -> ClipGeometry:
    return ClipGeometry(width, height, frames_for(Fraction(seconds), fps), fps)


def _scale(
    name: str, config: TransformerConfig, clip: ClipGeometry, low: ClipGeometry | None, text: int
) -> list[Shape]:
    """A clip's three shapes; `low`: the clip that the refiner starts from."""
    keep = -(-cubes_of(clip.grid) * KEEP_SHARE.numerator // KEEP_SHARE.denominator)
    shapes: list[Shape] = [
        AttentionShape(name, config.heads, clip.video_tokens, text, config.head_dim, clip.audio_tokens),
        CubeShape(name, config.heads, clip.grid, keep, config.head_dim, text),
    ]
    if low is not None:
        shapes.append(LatentShape(name, config.video_channels, _latents(low), _latents(clip)))
    return shapes


def _latents(clip: ClipGeometry) -> Grid:
    return clip.latent_frames, clip.latent_height, clip.latent_width


def _nano() -> list[Shape]:
    """The smallest clip of the tests."""
    clip = ClipGeometry(64, 64, frames=9)
    low = ClipGeometry(32, 32, frames=5)
    return _scale("nano", nano(), clip, low, text=16)


def _tiny() -> list[Shape]:
    """What the bundled model makes, and twice its size and rate for the refiner's input."""
    folder = ModelFolder.read(BUNDLED)
    made, config = folder.defaults, folder.manifest.transformer
    clip = folder.geometry(made.width, made.height, made.frames, made.fps)
    shapes = _scale("tiny", config, clip, None, folder.manifest.text_encoder.max_tokens)
    low = _latents(clip)
    return [*shapes, LatentShape("tiny", config.video_channels, low, (2 * low[0] - 1, 2 * low[1], 2 * low[2]))]


def _published(size: str, seconds: int) -> list[Shape]:
    """The base model at 480p, the refiner above it, at the published scale."""
    low = _clip(832, 480, seconds, BASE_FPS)
    if size == "480p":
        return _scale(f"480p-{seconds}s", full(), low, None, TEXT_TOKENS)
    width, height = {"720p": (1280, 720), "1080p": (1920, 1088)}[size]  # 1080 is no multiple of codec and patch
    return _scale(f"{size}-{seconds}s", full(), _clip(width, height, seconds, REFINER_FPS), low, TEXT_TOKENS)


def _of(size: str, seconds: int) -> Callable[[], list[Shape]]:
    return lambda: _published(size, seconds)


NAMED: dict[str, Callable[[], list[Shape]]] = {
    "nano": _nano,
    "tiny": _tiny,
    **{f"{size}-{s}s": _of(size, s) for s in (5, 15) for size in ("480p", "720p", "1080p")},
}
# What is measured where nothing is asked for: small enough for a CPU, and the shapes that our claims stand on.
CPU_DEFAULTS = ("nano", "tiny", "4x1344+64x64", "24x4096x128", "4x128c16x128", "16x21x60x104to41x136x240")
CUDA_DEFAULTS = (*CPU_DEFAULTS, "24x128c16x128", "16x32768x128", "480p-5s", "720p-5s", "1080p-5s", "1080p-15s")

_ATTENTION = re.compile(r"(\d+)x(\d+)(?:\+(\d+))?x(\d+)")
_CUBES = re.compile(r"(\d+)x(\d+)c(\d+)x(\d+)")
_LATENTS = re.compile(r"(\d+)x(\d+)x(\d+)x(\d+)to(\d+)x(\d+)x(\d+)")
HELP = (
    f"{', '.join(NAMED)}; HEADSxMEDIA[+TEXT]xCHANNELS such as 24x4096x128; HEADSxCUBEScKEEPxCHANNELS such as "
    "24x128c16x64; or CHANNELSxTxHxWtoTxHxW such as 16x21x60x104to41x136x240"
)
LARGEST = 2**40  # of any one number; beyond it a shape is a slip of the finger


def parse_shape(text: str) -> list[Shape]:
    """A name of `NAMED`, or a shape by hand. RequestError for anything else."""
    if text in NAMED:
        return NAMED[text]()
    for pattern, build in ((_ATTENTION, _attention), (_CUBES, _cubes), (_LATENTS, _latent)):
        if found := pattern.fullmatch(text):
            numbers = [int(part or 0) for part in found.groups()]
            given = [int(part) for part in found.groups() if part is not None]
            if not all(1 <= number < LARGEST for number in given):
                raise RequestError(f"--shape {text}: every number must be at least 1 and below 2^40")
            return [build(text, numbers)]
    raise RequestError(f"--shape {text} is neither a name nor a shape; give one of {HELP}")


def _attention(text: str, numbers: list[int]) -> Shape:
    heads, media, words, channels = numbers
    return AttentionShape(text, heads, media, words, _head(text, channels))


def _cubes(text: str, numbers: list[int]) -> Shape:
    heads, cubes, keep, channels = numbers
    if keep > cubes:
        raise RequestError(f"--shape {text}: of {cubes} cubes no {keep} can be kept; at most {cubes}")
    return CubeShape(text, heads, (4, 4, 4 * cubes), keep, _head(text, channels))


def _latent(text: str, numbers: list[int]) -> Shape:
    return LatentShape(text, numbers[0], (numbers[1], numbers[2], numbers[3]), (numbers[4], numbers[5], numbers[6]))


def _head(text: str, channels: int) -> int:
    if channels not in (32, 64, 96, 128):
        raise RequestError(f"--shape {text}: {channels} channels per head; the kernels know 32, 64, 96 and 128")
    return channels
