"""Where a clip goes: the format that the name asks for, and a file that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sky4.errors import RequestError, Sky4Failure
from sky4.files import partial_name, replacing

RECIPE_NAME = "recipe.json"  # the recipe's file in a folder of pictures


@dataclass(frozen=True)
class OutputFormat:
    """One kind of output. `muxer` is libavformat's name, "" for pictures; None where there is no such stream."""

    name: str
    muxer: str
    video_codec: str | None
    audio_codec: str | None
    still: bool = False


# FLAC in Matroska: lossless, and free of the priming samples that AAC needs an edit list for, which MKV lacks.
_FORMATS = {
    ".mp4": OutputFormat("MP4", "mp4", "libx264", "aac"),
    ".mov": OutputFormat("MOV", "mov", "libx264", "aac"),
    ".mkv": OutputFormat("MKV", "matroska", "libx264", "flac"),
    ".webm": OutputFormat("WebM", "webm", "libvpx-vp9", "libopus"),
    ".wav": OutputFormat("WAV", "wav", None, "pcm_s16le"),
    ".png": OutputFormat("PNG", "", "png", None, still=True),
    "": OutputFormat("PNG folder", "", "png", "pcm_s16le"),
}


# the containers of picture and sound, by suffix
MUXERS = {suffix: found.muxer for suffix, found in _FORMATS.items() if found.muxer and found.video_codec}


def output_format(path: Path) -> OutputFormat:
    """The format that the name's suffix asks for; a name without suffix is a folder of pictures."""
    found = _FORMATS.get(path.suffix.lower())
    if found is None:
        known = ", ".join(suffix for suffix in _FORMATS if suffix)
        raise RequestError(
            f"the output '{path}' ends in '{path.suffix}', which is not written here; "
            f"use one of {known}, or a name without suffix for a folder of PNG pictures"
        )
    return found


def check_destination(path: Path, force: bool = False) -> OutputFormat:
    """Refuse what could not be written in the end, before any work is done: RequestError with the remedy."""
    chosen = output_format(path)
    if path.name in ("", ".."):
        raise RequestError(f"the output '{path}' is where you stand or above it; give it a name of its own with -o")
    folder = path.parent
    if not folder.is_dir():
        raise RequestError(f"the output '{path}' cannot be written: '{folder}' is not a folder; create it first")
    if os.path.lexists(path):
        _check_replaceable(path, chosen, force)
    probe = partial_name(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise RequestError(
            f"the output '{path}' cannot be written: '{folder}' takes no new file ({_reason(error)}); "
            "choose another folder with -o"
        ) from error
    return chosen


@contextmanager
def whole_or_nothing(path: Path, force: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well and removed when it does not.

    OSError inside (no space left, no permission) becomes a Sky4Failure of one sentence.
    """
    chosen = check_destination(path, force)
    partial = partial_name(path)
    try:
        yield partial
        if os.path.lexists(path):  # somebody may have written it while we worked
            _check_replaceable(path, chosen, force)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)
    except OSError as error:
        raise Sky4Failure(_write_failure(path, error)) from error
    finally:
        _remove(partial)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """A file of any kind, replaced whole or not at all: `write` fills a temporary one beside it. Sky4Failure where the
    disk does not take it."""
    try:
        with replacing(path) as partial:
            write(partial)
    except OSError as error:
        raise Sky4Failure(_write_failure(path, error)) from error


def _check_replaceable(path: Path, chosen: OutputFormat, force: bool) -> None:
    if not force:
        raise RequestError(f"the output '{path}' exists already; choose another name, or --force to replace it")
    if chosen.name == "PNG folder":
        if path.is_dir() and (not any(path.iterdir()) or (path / RECIPE_NAME).is_file()):
            return
        raise RequestError(
            f"the output '{path}' exists and is no folder that sky4 wrote, so --force does not replace it; "
            "choose another name"
        )
    if path.is_dir():
        raise RequestError(f"the output '{path}' is a folder, so --force does not replace it; choose another name")


def _write_failure(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = ""
        with suppress(OSError):
            free = f" ({shutil.disk_usage(path.parent).free / 2**20:.0f} MiB are free)"
        return f"no space is left to write '{path}'{free}; free some, or choose another folder with -o"
    return f"'{path}' could not be written ({_reason(error)}); nothing was left behind, choose another folder with -o"


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)
