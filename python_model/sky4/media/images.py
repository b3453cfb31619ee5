"""Pictures in: any file that Pillow decodes, upright, RGB, within a size that cannot exhaust the memory."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sky4.errors import RequestError
from sky4.media.fit import fit_picture

MAX_PIXELS = 100_000_000  # 100 megapixels of RGB are 300 MB; a larger picture is a mistake or an attack


def probe_image(path: Path) -> tuple[int, int]:
    """(width, height) as displayed, after a full decode. RequestError where the file is missing or no picture."""
    picture = _open(path)
    return picture.width, picture.height


def read_image(path: Path, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The picture [H, W, 3] as displayed; with `size` (width, height) scaled and cropped at its centre to cover it."""
    picture = _open(path)
    return fit_picture(np.asarray(picture), size)


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise RequestError(f"'{path}' does not exist or is no file; give a picture, PNG, JPEG or WebP")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit follows, as an error
            opened = Image.open(path)
        with opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise RequestError(
                    f"'{path}' has {opened.width}x{opened.height} pixels, more than {MAX_PIXELS // 10**6} megapixels; "
                    "scale it down first"
                )
            upright = ImageOps.exif_transpose(opened)
            if upright.mode.startswith("I"):  # 16 bit grey, which Pillow would clip rather than scale
                grey = np.asarray(upright).astype(np.int64)
                upright = Image.fromarray((grey >> 8 if grey.max() > 255 else grey).clip(0, 255).astype(np.uint8))
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                rgba = upright.convert("RGBA")
                black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
                return Image.alpha_composite(black, rgba).convert("RGB")
            return upright.convert("RGB")
    except RequestError:
        raise
    # Pillow's decoders raise all of these on broken or hostile files
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise RequestError(f"'{path}' cannot be decoded as a picture; give a PNG, JPEG or WebP file") from error
