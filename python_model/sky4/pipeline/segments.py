"""The windows that a clip is made in: where each lies, what it keeps of what was there before, what of it is shown.

Every clip is made in windows; without `request.segments` it is one. Frames are pixel frames. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from sky4.errors import RequestError
from sky4.geometry import ClipGeometry
from sky4.pipeline.model_folder import ModelFolder
from sky4.pipeline.request import ClipRequest, Segments, Source

KEPT_GROUPS = 4  # groups of latent frames that a window keeps of the one before: about a second, as in training


@dataclass(frozen=True)
class Window:
    """`size` frames that the model makes at once, from the clip's frame `first` on.

    index: in the order of making. first: below 0 where a backward window reaches past the clip's start. keeps: so many
    of its frames were there before, at its head, or at its tail if it is made backward. shown: (begin, end) of its own
    frames that become the clip's. time: of its first latent frame on the running time axis, in latent frames, with one
    more behind a shot switch. switch: which of its frames is the first of another shot, where it holds such a switch.
    anchor: it begins with the clip's first picture instead of what was there before, and nothing of it is shown.
    ends_on: the index of the anchor whose last latent frame it keeps at its end.
    """

    index: int
    first: int
    size: int
    keeps: int
    shown: tuple[int, int]
    time: int
    backward: bool
    switch: int | None = None
    anchor: bool = False
    ends_on: int | None = None

    @property
    def begins_a_shot(self) -> bool:
        """Whether what it makes is another shot than what it keeps, so that neither colour nor motion goes on."""
        return self.switch is not None and self.switch == self.keeps

    @property
    def begins(self) -> int:
        """The clip's frame that its first shown one is."""
        return self.first + self.shown[0]

    def strength(self, frame: int) -> float:
        """How much of a correction at the seam its frame gets: 1 where it keeps, falling to 0 at its far end."""
        beyond = (self.size - 1 - frame if self.backward else frame) - self.keeps
        return min(1.0, 1.0 - beyond / (self.size - self.keeps))


def plan(request: ClipRequest, geometry: ClipGeometry) -> tuple[Window, ...]:
    """The request's windows in the order of making; geometry is that of one window.

    Empty where a source gives the whole clip. In the overlap of two windows the one made earlier is shown.
    """
    segments = request.segments
    overlap = 0 if segments is None else segments.overlap
    backward = segments is not None and segments.backward
    source = whole_source(request)
    size, known = geometry.frames, 0 if source is None else source.frames
    cut = switch_of(request)
    windows: list[Window] = []
    while known < request.frames:  # counted from the end where windows are made backward
        keeps = overlap if known else 0
        begin, made = known - keeps, min(size, request.frames - known + keeps)
        pace = len(windows) * ((size - overlap) // geometry.temporal_compression)
        local = None if cut is None else cut - begin  # backward windows have no switch
        windows.append(
            Window(
                index=len(windows),
                first=request.frames - begin - size if backward else begin,
                size=size,
                keeps=keeps,
                shown=(size - made, size - keeps) if backward else (keeps, made),
                time=-pace if backward else pace + (local is not None and local <= 0),
                backward=backward,
                switch=local if local is not None and 0 < local < size else None,
            )
        )
        known = begin + made
    return tuple(windows) if segments is None or not segments.anchored else _anchored(windows)


def _anchored(windows: list[Window]) -> tuple[Window, ...]:
    """An anchor for each window but the first, all of them before the windows."""
    first, *others = windows
    anchors = [replace(window, index=index, keeps=0, shown=(0, 0), anchor=True) for index, window in enumerate(others)]
    held = [replace(window, index=len(anchors) + 1 + number, ends_on=number) for number, window in enumerate(others)]
    return (*anchors, replace(first, index=len(anchors)), *held)


def whole_source(request: ClipRequest) -> Source | None:
    """The source that gives the clip's start whole (its end, backward), long enough for a window to keep the overlap.

    Its frames are written as they are, on the canvas. None without segments or without a canvas.
    """
    segments = request.segments
    if segments is None or request.canvas is None:
        return None
    for source in request.sources:
        start = request.start_of(source)
        at_seam = start + source.frames == request.frames if segments.backward else start == 0
        if at_seam and source.frames >= segments.overlap:
            return source
    return None


def switch_of(request: ClipRequest) -> int | None:
    """The clip's frame with which another shot begins, as its segments ask; None where none is asked for."""
    source, segments = whole_source(request), request.segments
    if source is None or segments is None or segments.transition == "none":
        return None
    return source.frames


def in_window(request: ClipRequest, window: Window) -> ClipRequest:
    """The request for one window alone: the sources shifted into it, what lies outside cut off.

    An anchor has the clip's own beginning, and is not refined: what ends on it is.
    """
    frames = min(window.size, request.frames - window.first)
    begin = 0 if window.anchor else window.first
    sources = (_shifted(source, request, begin, frames) for source in request.sources)
    whole = whole_source(request)  # of which the overlap alone concerns a window, and that is given to it as frames
    inside = tuple(moved for source, moved in zip(request.sources, sources, strict=True) if moved and source != whole)
    refinement = None if window.anchor else request.refinement
    return replace(request, frames=frames, sources=inside, segments=None, soundtrack=None, refinement=refinement)


def _shifted(source: Source, request: ClipRequest, first: int, frames: int) -> Source | None:
    start = request.start_of(source) - first
    begin, end = max(0, start), min(frames, start + source.frames)
    return replace(source, start=begin, frames=end - begin, skip=source.skip + begin - start) if begin < end else None


def check_segments(request: ClipRequest, geometry: ClipGeometry) -> None:
    """RequestError for windows that the codec cannot cut, and for a clip of which nothing is left to make."""
    segments, step = request.segments, geometry.temporal_compression
    if segments is None:
        return
    for flag, frames in (("--window", segments.frames), ("--overlap", segments.overlap)):
        below = frames - (frames - 1) % step
        if below != frames:
            nearest = f"{below} or {below + step}"
            raise RequestError(f"{flag} {frames} is not {step}n + 1 frames, as the codec wants; nearest: {nearest}")
    if segments.backward and segments.overlap <= step:
        raise RequestError(f"--overlap {segments.overlap} holds no whole group of {step}; use {step + 1} or more")
    if segments.transition != "none" and whole_source(request) is None:
        raise RequestError(f"--transition {segments.transition} needs a clip that it leads away from; give one")
    if not plan(request, geometry):
        raise RequestError(f"--frames {request.frames}: the source gives all of them; ask for more --seconds")


def choose_segments(
    given: str,
    frames: int,
    added: int,
    folder: ModelFolder,
    overlap: int | None = None,
    window: int | None = None,
    backward: bool = False,
    anchored: bool = False,
) -> Segments:
    """Windows that make `added` frames beside the `frames` of what is given, in as few rounds as the model's own length
    allows, all of one length; an overlap or a window that is asked for stays.

    RequestError for something given that is shorter than what a round keeps.
    """
    step = folder.temporal_compression
    longest = window or max(folder.defaults.frames, 2 * step + 1)
    if overlap is None:
        most = min(KEPT_GROUPS, (longest - 1) // step // 2, (frames - 1) // step)
        overlap = max(most, 1 if backward else 0) * step + 1
    if overlap > frames:
        raise RequestError(
            f"--overlap {overlap}: {given} gives {frames} frames, fewer than a round keeps; "
            f"use {(frames - 1) // step * step + 1} or fewer"
        )
    if window is None and overlap < longest and overlap % step == 1:
        rounds = ceil(added / (longest - overlap))
        window = overlap + -(-ceil(added / rounds) // step) * step
    return Segments(window or longest, overlap, backward, anchored=anchored)
