"""Prompts from stdin, clips to stdout: `sky4 generate --prompt - -o - < prompt.txt | ffmpeg -i - ...`."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import pytest

from sky4.media import read_recipe
from sky4cli.main import main


@pytest.fixture
def argv(nano_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return ["generate", "--model", str(nano_model)]


@pytest.mark.parametrize(("container", "muxer"), [(None, "matroska"), ("mp4", "mp4"), ("wav", "wav")])
def test_stdout_gets_the_file_and_nothing_else(
    argv: list[str], capsysbinary: pytest.CaptureFixture[bytes], container: str | None, muxer: str, tmp_path: Path
) -> None:
    flags = () if container is None else ("--format", container)
    assert main([*argv, "--prompt", "a", "-o", "-", "--json", *flags]) == 0
    shown = capsysbinary.readouterr()
    with av.open(io.BytesIO(shown.out)) as film:
        assert muxer in film.format.name
        assert sum(1 for _ in film.decode(audio=0)) > 0
    assert json.loads(shown.err.splitlines()[-1])["clips"][0]["frames"] >= 0
    assert list(tmp_path.rglob("*")) == [tmp_path / "tmp"]
    print("back")
    assert capsysbinary.readouterr().out == b"back\n"


def test_the_prompt_comes_from_stdin(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a red circle\n"))
    assert main([*argv, "--prompt", "-", "-o", "a.png", "--quiet"]) == 0
    assert read_recipe(Path("a.png"))["request"]["prompt"] == "a red circle"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_no_film_and_is_not_waited_for(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Terminal())
        assert main([*argv, "--prompt", "a", "-o", "-"]) == 2
    assert "-o - would write a film to the terminal" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert main([*argv, "--prompt", "-", "-o", "a.mp4"]) == 2
    assert "stdin is a terminal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-o", "a.mp4", "--format", "mp4"), "--format mp4 goes with -o -"),
        (("-o", "-", "-n", "2"), "-o - takes one clip and --variations 2 makes several"),
        (("-o", "-", "--format", "wav", "--only", "video"), "--only video does not fit"),
    ],
)
def test_what_cannot_be_piped_is_one_sentence(
    argv: list[str], capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: str
) -> None:
    assert main([*argv, "--prompt", "a", *flags]) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_stdin_without_end_is_refused(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a" * 70_000))
    assert main([*argv, "--prompt", "-", "-o", "a.mp4"]) == 2
    assert "more than 65536 characters" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_that_goes_away_is_told_without_a_traceback_and_nothing_is_coloured(argv: list[str]) -> None:
    command = [sys.executable, "-m", "sky4cli", *argv, "--prompt", "a", "-o", "-", "--frames", "17"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(command, env=environ, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert run.returncode == 1
    assert "the program that reads -o - has ended" in run.stderr
    assert "Traceback" not in run.stderr
    assert "\x1b" not in run.stderr


@pytest.mark.parametrize("flag", ["--prompt", "--negative-prompt"])
def test_words_that_are_no_text_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert main([*argv, "--prompt", "a", flag, "a\udcff", "-o", "a.mp4"]) == 2
    assert f"{flag} holds bytes that are no UTF-8 text" in capsys.readouterr().err
