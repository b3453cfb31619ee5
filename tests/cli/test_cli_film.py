"""`sky4 film` through the command line, on a nano model: what is made, what is kept, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest

from sky4.media import read_recipe, read_video
from sky4cli.main import main

Run = Callable[..., tuple[int, str, str]]
LIST = """
seconds: 0.5
steps: 1
size: 32x32
shots:
  - {prompt: a circle, name: one}
  - {prompt: a circle, transition: cut-in, continues: one}
  - {prompt: 'a star <dialogue>Hello.</dialogue>', transition: dissolve, transition_seconds: 0.25, seconds: 0.7}
"""


@pytest.fixture
def run(nano_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call `sky4 film shots.yaml` in a folder with that list."""
    monkeypatch.chdir(tmp_path)
    Path("shots.yaml").write_text(LIST, "utf-8")

    def call(*argv: str) -> tuple[int, str, str]:
        code = main(["film", "shots.yaml", *argv, "--model", str(nano_model)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    for name in ("load_transformer", "load_video_codec", "load_text_encoder"):
        monkeypatch.setattr(f"sky4.pipeline.components.{name}", fail)


def test_a_film_is_exact_and_only_changed_shots_are_made(run: Run) -> None:
    code, out, err = run("-o", "film.mkv", "--json")
    assert code == 0, err
    told = json.loads(out)
    frames = [8, 8, 11]
    assert [shot["frames"] for shot in told["shots"]] == frames
    assert [shot["made"] for shot in told["shots"]] == [True] * 3
    assert told["frames"] == len(read_video(Path("film.mkv"))) == sum(frames)
    with av.open("film.mkv") as container:
        heard = sum(frame.samples for frame in container.decode(audio=0))
    assert heard == told["samples"] == round(Fraction(sum(frames), 16) * 44100)
    assert Path("film.srt").read_text("utf-8") == "1\n00:00:01,000 --> 00:00:01,688\nHello.\n"
    assert Path("film.edl").read_text("utf-8").startswith("TITLE: shots\n")
    assert Path("film.png").stat().st_size > 0
    recipe = read_recipe(Path("film.mkv"))
    assert told["check"]["gates"]["recipe"]["passed"] and told["check"]["gates"]["frames"]["passed"]
    assert [shot["name"] for shot in recipe["film"]["shots"]] == ["one", "shot-2", "shot-3"]
    first = {path.name: path.stat().st_mtime_ns for path in Path("film.shots").iterdir()}

    Path("shots.yaml").write_text(LIST.replace("a star", "a ring"), "utf-8")
    code, out, err = run("-o", "film.mkv", "--force", "--json")
    assert code == 0, err
    assert [shot["made"] for shot in json.loads(out)["shots"]] == [False, False, True]
    assert "1 files in 'film.shots' are of shots as they were, and are kept" in err
    kept = {path.name: path.stat().st_mtime_ns for path in Path("film.shots").iterdir()}
    assert first.items() <= kept.items()
    assert len(kept) == 4
    one = next(Path("film.shots").glob("one-*.mkv"))
    assert read_recipe(one)["request"]["prompt"] == "a circle"
    assert main(["rerun", "film.mkv", "-o", "again.mkv"]) == 2


def test_a_film_whose_shots_are_there_loads_no_weights(
    run: Run, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    Path("shots.yaml").write_text("{size: 32x32, steps: 1, sound: false, shots: [{prompt: a, seconds: 0.3}]}", "utf-8")
    assert run("-o", "one.mp4")[0] == 0
    request.getfixturevalue("no_weights")
    code, out, err = run("-o", "one.mp4", "--force")
    assert code == 0, err
    assert "shot-1  unchanged" in out
    with av.open("one.mp4") as container:
        assert not container.streams.audio


def refused(run: Run, *argv: str) -> str:
    before = sorted(Path().rglob("*"))
    code, out, err = run(*argv, "--quiet")
    assert (code, out) == (2, ""), err
    assert sorted(Path().rglob("*")) == before
    assert err.count("\n") == 1
    return err


@pytest.mark.usefixtures("no_weights")
def test_bad_input_is_one_sentence(run: Run) -> None:
    assert "'film.wav' is WAV; a film is .mp4, .mov, .mkv or .webm" in refused(run, "-o", "film.wav")
    assert "'film' is PNG folder; a film is" in refused(run, "-o", "film")
    Path("film.edl").write_text("mine", "utf-8")
    assert "'film.edl', which goes beside the film, exists already" in refused(run, "-o", "film.mp4")
    Path("film.edl").unlink()
    Path("film.shots").write_text("mine", "utf-8")
    assert "--work film.shots is no folder" in refused(run, "-o", "film.mp4")
    Path("film.shots").unlink()
    Path("shots.yaml").write_text("shots: [{promt: a}]", "utf-8")
    assert "unknown setting film.shots[0].promt" in refused(run, "-o", "film.mp4")
    Path("shots.yaml").write_bytes(b"\xff\xfe\x00")
    assert "'shots.yaml' is no YAML" in refused(run, "-o", "film.mp4")
    Path("shots.yaml").unlink()
    assert "'shots.yaml' does not exist or cannot be read" in refused(run, "-o", "film.mp4")
