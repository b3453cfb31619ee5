"""The file of a preview: beside the clip, replaced with each sheet, taken away once the clip is there. No torch."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sky4.errors import RequestError
from sky4.files import replacing

MARK = "sky4-preview"  # in a sheet's comment: what may be overwritten


def preview_path(out: Path) -> Path:
    """clip.mp4 to clip.preview.png, beside it."""
    return out.with_name(f"{out.stem}.preview.png")


def check_preview(out: Path) -> None:
    """RequestError where the sheet would replace a file that is none of sky4's."""
    path = preview_path(out)
    if os.path.lexists(path) and not _is_ours(path):
        raise RequestError(
            f"--preview-every: '{path}' exists and is no preview that sky4 drew; move it, or choose another name "
            "with -o"
        )


def remove_preview(out: Path) -> None:
    """The clip is there: its preview goes."""
    path = preview_path(out)
    if path.is_file() and _is_ours(path):
        path.unlink(missing_ok=True)


def write_preview(path: Path, sheet: Image.Image) -> None:
    """Whole or not at all. A disk that takes it not is no reason to end the run."""
    info = PngInfo()
    info.add_text("comment", MARK)
    try:
        with replacing(path) as partial, partial.open("wb") as file:
            sheet.save(file, format="PNG", pnginfo=info)
    except OSError:
        pass


def _is_ours(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            return getattr(picture, "text", {}).get("comment") == MARK
    except (OSError, ValueError, SyntaxError):  # unreadable, or no picture
        return False
