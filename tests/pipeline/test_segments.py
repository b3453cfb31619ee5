"""The windows of a clip: every frame shown once, backward the mirror image of forward, sources shifted along."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from sky4.errors import RequestError
from sky4.geometry import ClipGeometry
from sky4.pipeline.request import MAX_JOINED_FRAMES, Canvas, ClipRequest, Segments, Source
from sky4.pipeline.segments import Window, check_segments, in_window, plan, whole_source

PLAIN = ClipRequest(
    prompt="a red circle",
    width=32,
    height=32,
    frames=41,
    fps=Fraction(16),
    steps=2,
    guidance=4.0,
    audio_guidance=4.0,
    shift=1.0,
)
CASES = [
    # frames, source, window, overlap
    (41, 0, 17, 5),
    (33, 0, 33, 9),
    (40, 0, 17, 5),
    (100, 21, 17, 5),
    (100, 17, 33, 17),
    (23, 22, 9, 5),
    (24, 5, 9, 5),
    (60, 3, 17, 5),
]


def extension(frames: int, source: int, window: int, overlap: int, backward: bool = False) -> ClipRequest:
    given = Source(Path("a.mp4"), "a.mp4", start=frames - source if backward else 0, frames=source)
    return replace(
        PLAIN,
        frames=frames,
        sources=(given,) if source else (),
        canvas=Canvas(50, 40),
        segments=Segments(window, overlap, backward),
    )


def geometry(frames: int) -> ClipGeometry:
    return ClipGeometry(32, 32, frames)


def windows(*case: int, backward: bool = False) -> tuple[Window, ...]:
    return plan(extension(*case, backward=backward), geometry(case[2]))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_every_frame_is_given_or_shown_by_one_window(case: tuple[int, ...], backward: bool) -> None:
    frames, source, size, overlap = case
    request = extension(*case, backward=backward)
    whole = whole_source(request)
    assert (whole is None) == (source < overlap)
    shown = [] if whole is None else list(range(request.start_of(whole), request.start_of(whole) + whole.frames))
    for window in windows(*case, backward=backward):
        begin, end = window.shown
        assert 0 <= begin < end <= size == window.size
        shown += range(window.begins, window.first + end)
    assert sorted(shown) == list(range(frames))


@pytest.mark.parametrize("case", CASES)
def test_backward_is_the_mirror_image_of_forward(case: tuple[int, ...]) -> None:
    forward, backward = windows(*case), windows(*case, backward=True)
    assert len(forward) == len(backward)
    for ahead, behind in zip(forward, backward, strict=True):
        assert behind.first == case[0] - ahead.first - ahead.size
        assert behind.shown == (ahead.size - ahead.shown[1], ahead.size - ahead.shown[0])
        assert (behind.index, behind.keeps, behind.time) == (ahead.index, ahead.keeps, -ahead.time)
        strengths = [behind.strength(frame) for frame in range(behind.size)]
        assert strengths == [ahead.strength(frame) for frame in reversed(range(ahead.size))]


@pytest.mark.parametrize("case", CASES)
def test_a_window_keeps_what_was_shown_last_and_time_runs_on_with_the_frames(case: tuple[int, ...]) -> None:
    made = windows(*case)
    for before, after in pairwise(made):
        assert after.keeps == case[3]
        assert after.first + after.keeps == before.first + before.size
        assert (after.time - before.time) * 4 == after.first - before.first
    assert made[0].time == 0


def test_more_rounds_leave_the_earlier_windows_as_they_are() -> None:
    short, long = windows(60, 21, 17, 5), windows(200, 21, 17, 5)
    assert long[: len(short) - 1] == short[:-1]
    short, long = windows(60, 21, 17, 5, backward=True), windows(200, 21, 17, 5, backward=True)
    assert [w.time for w in long[: len(short)]] == [w.time for w in short]


def test_a_correction_holds_over_the_overlap_and_fades_to_the_other_end() -> None:
    window = windows(100, 21, 17, 5)[0]
    strengths = [window.strength(frame) for frame in range(17)]
    assert strengths[:6] == [1.0] * 6
    assert strengths == sorted(strengths, reverse=True)
    assert 0 < strengths[-1] < 0.1


def test_without_segments_a_clip_is_one_window_that_starts_at_the_beginning() -> None:
    [window] = plan(replace(PLAIN, frames=39), geometry(41))
    assert (window.first, window.size, window.keeps, window.shown, window.time) == (0, 41, 0, (0, 39), 0)
    request = replace(PLAIN, frames=39, sources=(Source(Path("z.png"), "--last-image", start=-1),))
    [source] = in_window(request, window).sources
    assert (source.start, source.frames) == (38, 1)


def test_sources_move_into_the_windows_that_they_lie_in() -> None:
    request = replace(
        PLAIN,
        sources=(Source(Path("a.png"), "--image"), Source(Path("v.mp4"), "v", 14, 6), Source(Path("z.png"), "z", -1)),
        segments=Segments(17, 5),
    )
    first, second, third = plan(request, geometry(17))

    def inside(window: Window) -> list[tuple[str, int, int, int]]:
        return [(s.path.name, s.start, s.frames, s.skip) for s in in_window(request, window).sources]

    assert inside(first) == [("a.png", 0, 1, 0), ("v.mp4", 14, 3, 0)]
    assert inside(second) == [("v.mp4", 2, 6, 0)]
    assert inside(third) == [("z.png", 16, 1, 0)]


def test_the_part_of_a_source_that_a_window_begins_in_is_left_out_at_its_head() -> None:
    request = replace(PLAIN, sources=(Source(Path("v.mp4"), "v", 10, 8, skip=3),), segments=Segments(17, 5))
    [source] = in_window(request, plan(request, geometry(17))[1]).sources
    assert (source.start, source.frames, source.skip) == (0, 6, 5)


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        (Segments(18, 5), "--window 18 is not 4n + 1 frames, as the codec wants; nearest: 17 or 21"),
        (Segments(17, 4), "--overlap 4 is not 4n + 1 frames, as the codec wants; nearest: 1 or 5"),
        (Segments(17, 1, backward=True), "--overlap 1 holds no whole group of 4; use 5 or more"),
    ],
)
def test_what_the_codec_cannot_cut_is_refused(segments: Segments, words: str) -> None:
    with pytest.raises(RequestError, match=words.replace("+", r"\+")):
        check_segments(replace(PLAIN, segments=segments), geometry(17))


def test_a_source_that_leaves_nothing_to_make_is_refused() -> None:
    with pytest.raises(RequestError, match="the source gives all of them; ask for more --seconds"):
        check_segments(extension(21, 21, 17, 5), geometry(17))


@pytest.mark.parametrize(
    ("values", "words"),
    [((17, 17), "--overlap 17 leaves nothing to make of --window 17"), ((17, 0), "--overlap: the number"),
     ((1, 1), "--window: the number")],
)  # fmt: skip
def test_windows_that_cannot_be_are_refused(values: tuple[int, int], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Segments(*values)


def test_a_clip_in_windows_may_be_longer_than_one_window_ever_is() -> None:
    long = replace(PLAIN, frames=MAX_JOINED_FRAMES, segments=Segments(81, 17))
    assert plan(long, geometry(81))[-1].shown[1] <= 81
    with pytest.raises(RequestError, match="--frames: the number of frames 65536 is outside 1 to 4096"):
        replace(long, segments=None)


def test_a_source_outside_the_clip_is_refused_at_once() -> None:
    with pytest.raises(RequestError, match="v.mp4 reaches outside the clip's 41 frames"):
        replace(PLAIN, sources=(Source(Path("v.mp4"), "v", 36, 6),))
