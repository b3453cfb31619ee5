"""Clips of cameras, phones and browsers go through the commands that work on a clip: frames and length as promised."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import pytest
import typer.main

from sky4.media import probe_video
from sky4cli.main import app, main
from tests.clips import GOOD, HOSTILE, Clips, frame_times

ADDED = Fraction(1, 5)  # seconds, by extend
COMMANDS = {
    "edit": ["--prompt", "in rain"],
    "extend": ["--prompt", "a red star", "--seconds", "0.2"],
}
THERE = [name for name in COMMANDS if name in typer.main.get_command(app).commands]


@pytest.mark.parametrize("name", GOOD)
def test_their_facts_are_read(name: str, clips: Clips) -> None:
    kind, facts = GOOD[name], probe_video(clips(name))
    assert (facts.width, facts.height) == kind.shown
    assert facts.variable == kind.variable
    assert facts.has_audio == (kind.audio is not None)
    assert abs(facts.seconds - kind.seconds) < 2 / kind.fps
    shown = len(frame_times(kind))
    assert facts.fps == pytest.approx(shown / kind.seconds if kind.variable else kind.fps, rel=0.02)
    assert abs(facts.frames - shown) <= (1 if kind.variable else 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("command", THERE)
def test_they_go_through(
    command: str, name: str, clips: Clips, nano_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, kind, out = clips(name), GOOD[name], tmp_path / "out.mkv"
    argv = [command, str(path), *COMMANDS[command], "--model", str(nano_model), "--steps", "1", "-o", str(out)]
    code = main([*argv, "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert said.err.count("variable frame rate") == kind.variable
    [made] = json.loads(said.out)["clips"]
    facts = probe_video(path)
    wanted = facts.frames + (round(ADDED * facts.fps) if command == "extend" else 0)
    with av.open(str(out)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert (frames, made["frames"], Fraction(made["fps"])) == (wanted, wanted, facts.fps)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("command", THERE)
def test_broken_ones_are_refused_in_one_sentence(
    command: str, name: str, clips: Clips, nano_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mkv"
    argv = [command, str(clips(name)), *COMMANDS[command], "--model", str(nano_model), "-o", str(out), "--quiet"]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("sky4: ")
    assert said.count("\n") == 1
    assert not out.exists()
