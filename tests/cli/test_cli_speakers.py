"""`sky4 generate --speaker`: several speakers through the command line, and each mistake in one sentence."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sky4.media import read_audio, write_clip
from sky4cli.main import main

LEFT, RIGHT = ["--speaker", "left=a.wav", "--box", "left=0,0,50%,100%"], ["--speaker", "right=b.wav"]


@pytest.fixture
def run(nano_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`generate` in a folder with two sounds, a portrait and two masks; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("ab"):
        wave = 0.05 * np.random.default_rng(number).standard_normal((2, 2 * 44100)).astype(np.float32)
        write_clip(Path(f"{name}.wav"), None, wave, fps=Fraction(16), recipe={})
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save("p.png")
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 16:] = 255
    Image.fromarray(mask).save("right.png")

    def call(*argv: str) -> tuple[int, str, str]:
        fixed = ["generate", "--prompt", "two faces", "--model", str(nano_model), "--steps", "1"]
        code = main([*fixed, *argv])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def test_two_speakers_talk_and_the_lips_of_each_are_told(run) -> None:
    mask = ["--mask", "right=right.png"]
    code, out, err = run(*LEFT, *RIGHT, *mask, "--image", "p.png", "--seconds", "1.5625", "-o", "two.mkv", "--json")
    assert code == 0, err
    [clip] = json.loads(out)["clips"]
    assert clip["frames"] == 25
    assert set(clip["speakers"]) == {"left", "right"}
    both = sum(read_audio(Path(f"{name}.wav"), 1.5625) for name in "ab")
    heard = read_audio(Path("two.mkv"))
    assert heard.shape == both.shape
    code, out, err = run(*LEFT, *RIGHT, *mask, "--seconds", "1", "--dry-run")
    assert code == 0, err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["--speaker", "left=a.wav"],
            "--speaker left=a.wav is nowhere in the picture; add --mask left=PICTURE or --box",
        ),
        (["--speaker", "a.wav"], "--speaker a.wav: expected NAME=..., for example left=speech.wav"),
        ([*LEFT, "--box", "right=0,0,1,1"], "--box right=0,0,1,1: 'right' is no --speaker; choose of left, or add"),
        (["--mask", "right=right.png"], "--mask right=right.png: 'right' is no --speaker; none is given"),
        ([*LEFT, *RIGHT, "--box", "right=25%,0,50%,100%"], "--speaker left and --speaker right overlap in 256 pixels"),
        ([*LEFT, *RIGHT, "--mask", "right=missing.png"], "'missing.png' does not exist"),
        (["--speaker", "left=none.wav", "--box", "left=0,0,9,9"], "--speaker left: 'none.wav' does not exist"),
        ([*LEFT, "--audio", "b.wav", "--drive"], "--audio and --speaker are both given"),
        ([*LEFT, "--seconds", "9"], "--speaker left a.wav lasts 2.00 s and the clip 9.00 s; ask for --seconds 2.00"),
        ([*LEFT, "--box", "left=0,0,9,9@1-2"], "--box left: a speaker stays where it is"),
        (["--anchors", "--audio", "a.wav", "--drive"], "--anchors need a sound that drives and a first picture"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(run, argv: list[str], words: str) -> None:
    code, out, err = run(*argv, "-o", "no.mp4")
    assert code == 2
    assert words in " ".join(err.split())
    assert out == ""
    assert not Path("no.mp4").exists()
