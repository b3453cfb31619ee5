"""Clips of cameras, phones and browsers go through the commands that work on a clip: frames and length as promised."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest
import typer.main

from sky4.media import probe_video, read_audio
from sky4cli.main import app, main
from tests.clips import BROKEN_OFF, GOOD, HOSTILE, Clips, frame_times
from tests.media.test_soundtrack import packets_of, streamhash

Call = Callable[..., tuple[int, str, str]]

NONE, ADDED = Fraction(0), Fraction(1, 5)
# Each command that works on a clip, and the seconds that it adds to it. A new command is one line.
COMMANDS = {
    "generate": ("generate --video {clip} --prompt rain", NONE),
    "edit": ("edit {clip} --prompt rain", NONE),
    "inpaint": ("inpaint {clip} --prompt rain --box 25%,25%,50%,50%", NONE),
    "extend": ("extend {clip} --prompt rain --seconds 0.2", ADDED),
    "extend --backward": ("extend {clip} --prompt rain --seconds 0.2 --backward", ADDED),
}
THERE = [name for name in COMMANDS if name.split()[0] in typer.main.get_command(app).commands]
EXTENDING = [name for name in THERE if COMMANDS[name][1]]
KEEPING = [name for name in THERE if name in ("edit", "inpaint")]  # which take --keep-audio and --mix


@pytest.fixture
def call(nano_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command on a clip with the nano model; returns (exit code, stdout, stderr)."""

    def run(command: str, clip: Path, out: Path, *extra: str) -> tuple[int, str, str]:
        words = [word.format(clip=clip) for word in COMMANDS[command][0].split()]
        code = main([*words, "--model", str(nano_model), "--steps", "1", "-o", str(out), *extra])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def lengths(path: Path) -> tuple[int, Fraction, Fraction]:
    """(frames, seconds of picture, seconds of sound) as decoded."""
    with av.open(str(path)) as container:
        frames = sum(1 for _ in container.decode(video=0))
        rate = Fraction(container.streams.video[0].average_rate)
        sound = bool(container.streams.audio)
    return frames, frames / rate, Fraction(read_audio(path).shape[1], 44100) if sound else Fraction(0)


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
def test_they_go_through(command: str, name: str, clips: Clips, call: Call, tmp_path: Path) -> None:
    path, kind, out = clips(name), GOOD[name], tmp_path / "out.mkv"
    code, said, notes = call(command, path, out, "--json")
    assert code == 0, notes
    if command != "generate":  # which keeps the clip's picture at its own times
        assert notes.count("variable frame rate") == kind.variable
    [made] = json.loads(said)["clips"]
    facts, added = probe_video(path), COMMANDS[command][1]
    wanted = facts.frames + round(added * facts.fps)
    frames, seconds, sound = lengths(out)
    assert (frames, made["frames"], Fraction(made["fps"])) == (wanted, wanted, facts.fps)
    assert abs(seconds - kind.seconds - added) < 2 / kind.fps
    assert bool(sound) == (kind.audio is not None or not added)  # to silence extend adds silence
    assert sound == 0 or abs(sound - seconds) <= Fraction(1024, 44100)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in GOOD if GOOD[name].audio])
@pytest.mark.parametrize("command", KEEPING)
def test_their_sound_is_kept_byte_by_byte(command: str, name: str, clips: Clips, call: Call, tmp_path: Path) -> None:
    path, out = clips(name), tmp_path / f"out{'.webm' if GOOD[name].suffix == '.webm' else '.mkv'}"
    code, _, said = call(command, path, out, "--keep-audio")
    assert code == 0, said
    assert streamhash(out) == streamhash(path)
    code, _, said = call(command, path, tmp_path / "part.mkv", "--keep-audio", "--from", "0.5", "--seconds", "0.8")
    assert code == 0, said
    frames, seconds, sound = lengths(tmp_path / "part.mkv")
    assert abs(sound - seconds) <= Fraction(1, 1000)
    every, kept = b"".join(packets_of(path)), b"".join(packets_of(tmp_path / "part.mkv"))
    assert every.find(kept) > 0
    assert frames == round(Fraction(8, 10) * probe_video(path).fps)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in GOOD if GOOD[name].audio])
@pytest.mark.parametrize("command", EXTENDING)
def test_their_packets_stay_where_sound_is_added(
    command: str, name: str, clips: Clips, call: Call, tmp_path: Path
) -> None:
    path, out = clips(name), tmp_path / f"out{'.webm' if GOOD[name].suffix == '.webm' else '.mkv'}"
    code, _, said = call(command, path, out)
    assert code == 0, said
    every, found = packets_of(path), packets_of(out)
    spared = 11  # packets at the seam, of the most that are tried
    kept = b"".join(every[spared:] if "--backward" in command else every[:-spared])
    assert kept in b"".join(found)


@pytest.mark.parametrize("name", BROKEN_OFF)
def test_what_breaks_off_is_taken_as_far_as_it_goes(name: str, clips: Clips, call: Call, tmp_path: Path) -> None:
    facts = probe_video(clips(name))
    assert 10 <= facts.frames < 50
    for command in KEEPING:
        out = tmp_path / f"{command}.mkv"
        code, _, said = call(command, clips(name), out, "--keep-audio")
        assert code == 0, said
        assert lengths(out)[0] == facts.frames
        kept = packets_of(out)
        assert kept == packets_of(clips(name))[: len(kept)]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("command", THERE)
def test_broken_ones_are_refused_in_one_sentence(
    command: str, name: str, clips: Clips, call: Call, tmp_path: Path
) -> None:
    out = tmp_path / "out.mkv"
    code, _, said = call(command, clips(name), out, "--quiet")
    assert code == 2
    assert said.startswith("sky4: ")
    assert said.count("\n") == 1
    assert not out.exists()
