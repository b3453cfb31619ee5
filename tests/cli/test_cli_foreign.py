"""Clips of other programs go through the commands that work on a clip: frames and length as promised."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import pytest
import typer.main

from sky4.media import probe_video
from sky4cli.main import app, main
from tests.cli.foreign_clips import FOREIGN, Foreign, draw

COMMANDS = {
    "edit": ["--prompt", "in rain"],
    "inpaint": ["--prompt", "a red star", "--box", "25%,25%,50%,50%"],
}
THERE = [name for name in COMMANDS if name in typer.main.get_command(app).commands]


@pytest.mark.parametrize("clip", FOREIGN, ids=lambda clip: clip.name)
def test_the_files_are_what_they_should_be(clip: Foreign, tmp_path: Path) -> None:
    path = draw(clip, tmp_path)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        assert len(frames) == clip.frames
        assert (frames[0].width, frames[0].height, frames[0].format.name) == (*clip.stored, clip.pixels)
        assert frames[0].rotation % 360 == clip.rotation % 360
        assert len(container.streams.audio) == (clip.sound is not None)
    facts = probe_video(path)
    assert (facts.width, facts.height) == (clip.width, clip.height)
    assert facts.variable == bool(clip.pts)
    if not clip.pts:
        assert (facts.fps, facts.frames) == (clip.fps, clip.frames)


@pytest.mark.slow
@pytest.mark.parametrize("clip", FOREIGN, ids=lambda clip: clip.name)
@pytest.mark.parametrize("command", THERE)
def test_they_go_through(
    command: str, clip: Foreign, nano_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = draw(clip, tmp_path), tmp_path / "out.mkv"
    argv = [command, str(path), *COMMANDS[command], "--model", str(nano_model), "--steps", "1", "-o", str(out)]
    code = main([*argv, "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert said.err.count("variable frame rate") == bool(clip.pts)
    [made] = json.loads(said.out)["clips"]
    with av.open(str(out)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert frames == made["frames"]
    if clip.pts:
        assert float(Fraction(made["fps"])) == pytest.approx(float(clip.fps), rel=0.1)
    else:
        assert (frames, Fraction(made["fps"])) == (clip.frames, clip.fps)
    assert abs(frames / Fraction(made["fps"]) - clip.seconds) < 2 / clip.fps
