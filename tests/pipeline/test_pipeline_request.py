"""ClipRequest: what it refuses, and that a recipe gives the same request back."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from sky4.errors import RequestError
from sky4.media import Soundtrack
from sky4.media.masks import EditRegion, MaskFile, parse_box, parse_pad, parse_span
from sky4.pipeline.refinement import Refinement
from sky4.pipeline.request import Canvas, ClipRequest, Segments, Source
from sky4.pipeline.speakers import Speaker
from sky4.prompting import ReferenceFile

PLAIN = ClipRequest(
    prompt="a red circle",
    width=32,
    height=32,
    frames=9,
    fps=Fraction(16),
    steps=2,
    guidance=4.0,
    audio_guidance=4.0,
    shift=1.0,
)


def test_a_request_survives_its_recipe_whatever_it_holds() -> None:
    full = replace(
        PLAIN,
        prompt="红 @image_1",
        negative_prompt="blurred",
        fps=Fraction(30000, 1001),
        sampler="unipc",
        seed=2**62,
        variations=3,
        sources=(Source(Path("/a.png"), "--image"), Source(Path("/b.png"), "--last-image", start=-1)),
        references=(ReferenceFile("image_1", Path("/c.png"), "image"),),
        enhanced_from="rot",
        canvas=Canvas(65, 49),
        segments=Segments(frames=9, overlap=5, backward=True),
        soundtrack=Soundtrack(Path("/f.mp4"), Fraction(1, 3), 0.25),
        refinement=Refinement(64, 48, steps=3, keyframes=(0, 2)),
    )
    driven = replace(PLAIN, audio=Path("/d.wav"))
    sounded = replace(PLAIN, video=Path("/e.mp4"))
    region = EditRegion(
        files=(MaskFile(Path("/m.png"), "picture", "left"), MaskFile(Path("/m"), "folder")),
        boxes=(parse_box("10%,2,3.5%,4@0.1-1.7"), parse_box("1,2,3,4")),
        spans=(parse_span("--retake", "0.3-0.7"),),
        pad=parse_pad("1,25%,0,0"),
        mode="white-keeps",
        threshold=0.25,
        grow=3,
        feather=5,
        fit=True,
    )
    painted = replace(
        PLAIN, canvas=Canvas(64, 48), sources=(Source(Path("/f.mp4"), "f.mp4", frames=9, skip=40, region=region),)
    )
    speaker = Speaker("left", Path("/s.wav"), EditRegion(boxes=(parse_box("0,0,50%,9"),), fit=True))
    spoken = replace(PLAIN, speakers=(speaker,), sources=full.sources, segments=Segments(9, 5, anchored=True))
    for request in (PLAIN, full, driven, sounded, painted, spoken):
        assert ClipRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request
    differing = {field.name for field in fields(ClipRequest) if getattr(full, field.name) != getattr(PLAIN, field.name)}
    untouched = {field.name for field in fields(ClipRequest)} - differing
    # a new field must be given a value above, or it is not known to survive
    assert untouched == {
        "width", "height", "frames", "steps", "guidance", "audio_guidance", "shift", "outputs", "video", "audio",
        "speakers",
    }  # fmt: skip


def test_relative_paths_are_recorded_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    recorded = replace(PLAIN, audio=Path("d.wav")).to_dict()
    assert recorded["audio"] == str(tmp_path / "d.wav")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version 2"),
        ({"colour": "red"}, "request.colour"),
        ({"steps": "many"}, "request.steps"),
        ({"fps": "fast"}, "request.fps"),
        ({"sources": [{"flag": "--image"}]}, "path"),
        ({"frames": 0}, "--frames"),
    ],
)
def test_a_recipe_that_was_tampered_with_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        ClipRequest.from_dict({**PLAIN.to_dict(), **change})


KEPT = Soundtrack(Path("s.mp4"))
MIXED = Soundtrack(Path("s.mp4"), mix=0.5)
IMAGE = Source(Path("a.png"), "--image")
PAINTED = Source(Path("a.png"), "a.png", region=EditRegion((MaskFile(Path("m.png"), "picture", "left"),)))
LAST = Source(Path("a.png"), "--last-image", start=-1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "  "}, "--prompt is empty"),
        ({"width": 0}, "--size: the width 0 is outside 1 to 8192; nearest: 1"),
        ({"height": 10_000}, "nearest: 8192"),
        ({"frames": 0}, "--frames: the number of frames 0 is outside 1 to 4096; nearest: 1"),
        ({"steps": 0}, "--steps"),
        ({"seed": -1}, "--seed"),
        ({"variations": 0}, "--variations"),
        ({"fps": Fraction(0)}, "--fps"),
        ({"guidance": float("nan")}, "--guidance nan"),
        ({"audio_guidance": -1.0}, "--audio-guidance -1.0"),
        ({"shift": 0.0}, "--shift"),
        ({"sampler": "magic"}, "--sampler magic is unknown; choose one of euler, heun, unipc"),
        ({"outputs": "smell"}, "--only smell"),
        ({"video": Path("v.mp4"), "audio": Path("a.wav")}, "nothing is left to make"),
        ({"video": Path("v.mp4"), "sources": (IMAGE,)}, "drop --image"),
        ({"video": Path("v.mp4"), "outputs": "video"}, "--only video"),
        ({"audio": Path("a.wav"), "outputs": "audio"}, "drop --only audio"),
        ({"sources": (IMAGE, LAST), "outputs": "audio"}, "--image and --last-image cannot shape a sound alone"),
        ({"outputs": "still"}, "makes 1 frame, got 9"),
        ({"frames": 1, "outputs": "still", "sources": (LAST,)}, "--last-image needs a clip"),
        ({"negative_prompt": "x", "guidance": 1.0, "audio_guidance": 1.0}, "--negative-prompt does nothing"),
        ({"soundtrack": KEPT}, "--keep-audio keeps the source's sound, so that none is made"),
        ({"soundtrack": MIXED, "outputs": "video"}, "--mix adds the made sound, and --only asks for something else"),
        ({"soundtrack": KEPT, "outputs": "video", "audio": Path("a.wav")}, "heard as it is; drop --keep-audio"),
        ({"references": (ReferenceFile("a", Path("a.png"), "image"),) * 2}, "--ref a is given twice"),
        ({"sources": (PAINTED,)}, "a region needs a canvas"),
        ({"canvas": Canvas(0, 48)}, "--pad: the canvas's width 0 is outside 1 to 8192"),
        (
            {
                "sources": (PAINTED,),
                "canvas": Canvas(64, 48),
                "references": (ReferenceFile("left", Path("a.png"), "image"),),
            },
            "--mask left and --ref left have one name",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_with_flag_value_and_remedy(change: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words.replace("(", r"\(")) as caught:
        replace(PLAIN, **change)
    assert "\n" not in str(caught.value)


def test_the_towers_that_run_follow_from_what_is_wanted_and_given() -> None:
    def towers(**change: Any) -> tuple[bool, bool]:
        request = replace(PLAIN, **change)
        return request.runs_video, request.runs_audio

    assert towers() == (True, True)
    assert towers(outputs="video") == (True, False)
    assert towers(outputs="audio") == (False, True)
    assert towers(outputs="still", frames=1) == (True, False)
    assert towers(outputs="video", audio=Path("a.wav")) == (True, True)
    assert towers(outputs="audio", video=Path("v.mp4")) == (True, True)
    assert towers(outputs="video", soundtrack=KEPT) == (True, False)
    assert towers(soundtrack=MIXED) == (True, True)


def test_a_variation_is_the_request_of_its_own_seed() -> None:
    several = replace(PLAIN, seed=7, variations=3)
    assert several.variation(2) == replace(PLAIN, seed=9)


def test_the_names_that_a_prompt_may_use_are_those_of_references_and_masks() -> None:
    painted = replace(
        PLAIN,
        canvas=Canvas(64, 48),
        sources=(PAINTED,),
        references=(ReferenceFile("image_1", Path("a.png"), "image"),),
    )
    assert painted.names == ("image_1", "left")
    assert painted.files()[1] == ("--mask", Path("m.png"))


@pytest.mark.parametrize(
    ("name", "frames", "picture"), [("a.png", 1, True), ("a", 1, True), ("a.mp4", 1, False), ("a.mp4", 9, False)]
)
def test_a_source_of_one_frame_is_a_picture_unless_it_is_a_video(name: str, frames: int, picture: bool) -> None:
    assert Source(Path(name), "--image", frames=frames).is_picture is picture
