"""An edit region frame by frame: the alpha of what is made anew, streamed, at the size of the canvas.

alpha: uint8 [H, W], 255 = made anew, 0 = the source's own pixel, between them the blend inside the region's edge. What
does not change from one frame to the next is yielded as the same array, so that others may keep what they made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat
from math import floor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sky4.errors import RequestError
from sky4.media.images import probe_image, read_image
from sky4.media.masks import MAX_CANVAS, PICTURES, EditRegion, MaskFile
from sky4.media.video import iterate_video, probe_video

Alpha = NDArray[np.uint8]
Selected = NDArray[np.bool_]


@dataclass(frozen=True)
class Footage:
    """What a region lies over: a source's picture (width, height as displayed) and the part of it that is taken.

    length: frames of the whole file at its own rate; 1 of a picture. skip, frames: the part, counted at fps.
    """

    width: int
    height: int
    rate: Fraction
    length: int
    fps: Fraction
    frames: int
    skip: int = 0

    def seconds(self, frame: int) -> Fraction:
        """The time of a frame of the part, in the file."""
        return (self.skip + frame) / self.fps

    @property
    def lasts(self) -> Fraction:
        """Seconds of the whole file."""
        return self.length / self.rate


def canvas_of(region: EditRegion | None, footage: Footage) -> tuple[int, int, int, int]:
    """(left, top, width, height): where the source's picture lies on the canvas, and the canvas's size."""
    if region is None or region.pad is None:
        return 0, 0, footage.width, footage.height
    left, top, right, bottom = region.pad.pixels(footage.width, footage.height)
    return left, top, footage.width + left + right, footage.height + top + bottom


def edit_frames(region: EditRegion, footage: Footage) -> Iterator[Alpha]:
    """The alpha of every frame of the part, [H, W] of the canvas."""
    masks = [_mask_frames(file, region, footage) for file in region.files]
    known: tuple[list[Selected], Selected] | None = None
    alpha = np.zeros(0, np.uint8)
    for frame in range(footage.frames):
        seconds = footage.seconds(frame)
        whole = any(span.holds(seconds) for span in region.spans)
        now = [next(mask) for mask in masks] + [_boxed(region, footage, seconds), np.full((1, 1), whole)]
        if known is None or not all(a is b or np.array_equal(a, b) for a, b in zip(known[0], now, strict=True)):
            known = now, np.logical_or.reduce([np.broadcast_to(part, now[-2].shape) for part in now])
            alpha = _softened(known[1], region, footage)
        yield alpha


def covered(alpha: Alpha, size: tuple[int, int]) -> Selected:
    """[h, w] of `size` (width, height): the pixels that any edited pixel of the canvas falls into."""
    if size == (alpha.shape[1], alpha.shape[0]):
        return alpha > 0
    edited = Image.fromarray((alpha > 0).astype(np.float32))
    # a box over exactly the pixels that fall into each one; float, since one of a million must still count
    return np.asarray(edited.resize(size, Image.Resampling.BOX)) > 0


def check_region(region: EditRegion, footage: Footage, source: Path) -> None:
    """RequestError for what does not fit the source or edits nothing or everything; reads the masks for that."""
    check_places(region, footage, source)
    _check_share(region, footage, source)


def check_places(region: EditRegion, footage: Footage, source: Path) -> None:
    """RequestError for boxes, times and masks that do not fit the source."""
    _, _, width, height = canvas_of(region, footage)
    if max(width, height) > MAX_CANVAS:
        raise RequestError(
            f"--pad {region.pad} makes a canvas of {width}x{height} pixels, more than {MAX_CANVAS} on a side; pad less"
        )
    for box in region.boxes:
        left, top, right, bottom = box.edges(footage.width, footage.height)
        if left < 0 or top < 0 or right > footage.width or bottom > footage.height or left == right or top == bottom:
            fault = "is less than one" if left == right or top == bottom else "reaches outside"
            raise RequestError(
                f"--box {box} {fault} of the {footage.width}x{footage.height} pixels of '{source}'; "
                "give x,y,width,height inside"
            )
    for flag, span in [("--retake", span) for span in region.spans] + [
        ("--box", box.span) for box in region.boxes if box.span
    ]:
        _check_span(flag, span.start, span.end, str(span), footage, source)
    for file in region.files:
        _check_file(file, region, footage, source)


def _check_span(flag: str, start: Fraction, end: Fraction, text: str, footage: Footage, source: Path) -> None:
    if footage.length == 1:
        raise RequestError(f"{flag} {text}: '{source}' is a picture, which has no time; drop the range of seconds")
    if end > footage.lasts + 1 / footage.rate:  # a frame's tolerance: containers round their lengths
        raise RequestError(f"{flag} {text} reaches outside of '{source}', which lasts {float(footage.lasts):.2f} s")
    first, last = footage.seconds(0), footage.seconds(footage.frames)
    if end <= first or start >= last:
        part = f"{float(first):.2f} to {float(last):.2f} s"
        raise RequestError(
            f"{flag} {text} lies outside of what is taken of '{source}', {part}; mend --from or --seconds"
        )


def _check_file(file: MaskFile, region: EditRegion, footage: Footage, source: Path) -> None:
    width, height = _mask_size(file)
    if region.fit:
        return
    if (width, height) != (footage.width, footage.height):
        raise RequestError(
            f"--mask {file.path} has {width}x{height} pixels and '{source}' {footage.width}x{footage.height}; "
            "give one of the same size, or --fit-mask to scale it"
        )
    if file.kind != "picture" and _mask_start(file, footage) is None:
        raise RequestError(
            f"--mask {file.path} has {_mask_length(file, footage)} frames and '{source}' {footage.length}; "
            "give one of the same length, or --fit-mask to hold or cut it"
        )


def _check_share(region: EditRegion, footage: Footage, source: Path) -> None:
    """Every mask edits something and something is kept, looked for no longer than until both are found."""
    turned = "white-edits" if region.mode == "white-keeps" else "white-keeps"
    for file in region.files:
        if not any(bool(mask.any()) for mask in _mask_frames(file, region, footage)):
            raise RequestError(
                f"--mask {file.path} selects nothing to make anew with --mask-mode {region.mode} and "
                f"--mask-threshold {region.threshold:g}; mend it, or use --mask-mode {turned}"
            )
    edited = kept = False
    for alpha in edit_frames(region, footage):
        edited, kept = edited or bool(alpha.any()), kept or not bool(alpha.all())
        if edited and kept:
            return
    if not edited:
        raise RequestError(f"{region.flags}: nothing of '{source}' is selected to be made anew; widen it")
    raise RequestError(
        f"{region.flags}: all of '{source}' is selected, so nothing of it is kept; select less, or use sky4 generate"
    )


def _boxed(region: EditRegion, footage: Footage, seconds: Fraction) -> Selected:
    """What padding and boxes select at a time, [H, W] of the canvas."""
    left, top, width, height = canvas_of(region, footage)
    selected = np.ones((height, width), bool)
    inside = selected[top : top + footage.height, left : left + footage.width]
    inside[:] = False
    for box in region.boxes:
        if box.span is None or box.span.holds(seconds):
            x0, y0, x1, y1 = box.edges(footage.width, footage.height)
            inside[y0:y1, x0:x1] = True
    return selected


def _softened(edited: Selected, region: EditRegion, footage: Footage) -> Alpha:
    """Widened by `grow`; inside the edge, over `feather` pixels, from the source to what is made."""
    alpha = np.where(edited, np.uint8(255), np.uint8(0))
    if not edited.any() or edited.all() or not (region.grow or region.feather):
        return alpha
    from scipy.ndimage import distance_transform_edt  # loaded only where it is used

    around = surroundings(edited, region.grow + 1)  # whatever changes, and a rim that does not
    part = edited[around]
    if region.grow and not part.all():
        part = distance_transform_edt(~part) <= region.grow
    if region.feather and not part.all():
        depth = distance_transform_edt(part)  # 1 at the edge
        alpha[around] = np.minimum(np.ceil(depth * (255 / (region.feather + 1))), 255)
    else:
        alpha[around] = np.where(part, np.uint8(255), np.uint8(0))
    left, top, _, _ = canvas_of(region, footage)
    outside = np.ones(edited.shape, bool)  # there is no source to blend with
    outside[top : top + footage.height, left : left + footage.width] = False
    alpha[outside] = 255
    return alpha


def surroundings(selected: Selected, rim: int) -> tuple[slice, slice]:
    """(rows, columns) of the least rectangle that holds all that is selected, and so many pixels around it."""
    rows, columns = (np.flatnonzero(selected.any(axis=axis)) for axis in (1, 0))
    return (
        slice(max(0, int(rows[0]) - rim), int(rows[-1]) + rim + 1),
        slice(max(0, int(columns[0]) - rim), int(columns[-1]) + rim + 1),
    )


def _mask_frames(file: MaskFile, region: EditRegion, footage: Footage) -> Iterator[Selected]:
    """What one mask selects, frame by frame of the part, [H, W] of the canvas; its last frame is held."""
    left, top, width, height = canvas_of(region, footage)
    last: tuple[NDArray[np.uint8], Selected] | None = None
    for picture in _mask_pictures(file, footage):
        if last is None or picture is not last[0]:
            white = picture >= region.threshold * 255
            selected = np.zeros((height, width), bool)
            inside = white if region.mode == "white-edits" else ~white
            selected[top : top + footage.height, left : left + footage.width] = inside
            last = picture, selected
        yield last[1]


def _mask_pictures(file: MaskFile, footage: Footage) -> Iterator[NDArray[np.uint8]]:
    """Grey pictures of the source's size for every frame of the part."""
    size = footage.width, footage.height
    if file.kind == "picture":
        yield from repeat(_grey(read_image(file.path), size), footage.frames)
        return
    skip = footage.skip if (start := _mask_start(file, footage)) is None else start
    if file.kind == "video":
        pictures: Iterator[NDArray[np.uint8]] = (
            _grey(frame, size) for frame in iterate_video(file.path, footage.fps, skip=skip)
        )
    else:
        pictures = _folder_pictures(_folder_files(file.path), footage, skip, size)
    picture = next(pictures, None)
    if picture is None:
        raise RequestError(f"--mask {file.path} ends before the part that is taken begins; mend --from")
    for _ in range(footage.frames):
        yield picture
        picture = next(pictures, picture)


def _folder_pictures(
    files: list[Path], footage: Footage, skip: int, size: tuple[int, int]
) -> Iterator[NDArray[np.uint8]]:
    """A folder has a picture for each frame of the source at the source's own rate."""
    number, picture = -1, np.zeros(0, np.uint8)
    for frame in range(footage.frames):
        wanted = min(floor((skip + frame) / footage.fps * footage.rate), len(files) - 1)
        if wanted != number:
            number, picture = wanted, _grey(read_image(files[wanted]), size)
        yield picture


def _mask_start(file: MaskFile, footage: Footage) -> int | None:
    """The frame, at the clip's rate, from which a mask is read: it goes along with the whole source, or with the part.

    None: it is as long as neither.
    """
    length = _mask_length(file, footage)
    if length == footage.length:
        return footage.skip
    return 0 if length == max(1, round(footage.frames / footage.fps * footage.rate)) else None


def _mask_length(file: MaskFile, footage: Footage) -> int:
    """Frames at the source's own rate."""
    if file.kind == "folder":
        return len(_folder_files(file.path))
    return max(1, round(probe_video(file.path).seconds * footage.rate))


def _mask_size(file: MaskFile) -> tuple[int, int]:
    """(width, height) of a mask, of which all pictures of a folder must be."""
    try:
        if file.kind == "video":
            facts = probe_video(file.path)
            return facts.width, facts.height
        if file.kind == "picture":
            return probe_image(file.path)
        first, *others = _folder_files(file.path)
        size = probe_image(first)
        for other in others:
            if probe_image(other) != size:
                raise RequestError(f"'{other}' has another size than '{first.name}'; give pictures of one size")
    except RequestError as error:
        raise RequestError(f"--mask: {error}") from error
    return size


def _folder_files(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of their names."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES) if folder.is_dir() else []
    if not files:
        raise RequestError(f"'{folder}' holds no pictures; give a folder with one for each frame")
    return files


def _grey(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The brightness [H, W] of a mask, stretched to `size` (width, height)."""
    grey = Image.fromarray(picture).convert("L")
    return np.asarray(grey if grey.size == size else grey.resize(size, Image.Resampling.BILINEAR))
