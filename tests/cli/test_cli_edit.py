"""`sky4 edit` through the command line, on a nano model: what the model is given, what is made, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from sky4.media import write_clip
from sky4.pipeline import given
from sky4cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(nano_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call a command in a folder with film.mp4 (11 frames of 80x48 at 10 a second, with sound), a.png and hit.wav."""
    monkeypatch.chdir(tmp_path)
    frames = np.random.default_rng(0).integers(0, 255, (11, 48, 80, 3), dtype=np.uint8)
    tone = np.tile(0.3 * np.sin(np.arange(round(1.1 * 44100)) / 30).astype(np.float32), (2, 1))
    write_clip(Path("film.mp4"), [frames], tone, fps=Fraction(10), recipe={})
    write_clip(Path("hit.wav"), None, tone, fps=Fraction(10), recipe={})
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save("a.png")

    def call(*argv: str) -> tuple[int, str, str]:
        code = main([*argv, "--model", str(nano_model)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def request_of(path: str, capsys: pytest.CaptureFixture[str]) -> dict:
    assert main(["show", path, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["request"]


def test_a_clip_is_edited_at_its_own_rate_and_length(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("edit", "film.mp4", "--prompt", "remove the watermark", "--json")
    assert code == 0, err
    assert "is not mentioned" not in err  # the instruction is about the clip, named or not
    [made] = json.loads(out)["clips"]
    assert (made["path"], made["width"], made["height"], made["frames"], made["fps"]) == (
        "film-edited.mp4", 48, 32, 11, "10",
    )  # fmt: skip
    with av.open("film-edited.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 11
        assert len(container.streams.audio) == 1
    request = request_of("film-edited.mp4", capsys)
    assert request["prompt"] == "remove the watermark"  # as typed: the model is trained with and without @video_1
    [reference] = request["references"]
    assert (reference["name"], reference["kind"], Path(reference["path"]).name) == ("video_1", "video", "film.mp4")


def test_a_part_of_a_clip_is_seen_and_made(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    read = given.read_video
    monkeypatch.setattr(given, "read_video", lambda *args: seen.setdefault("frames", read(*args)))
    code, out, err = run(
        "edit", "film.mp4", "--prompt", "@video_1 in rain", "--from", "0.3", "--seconds", "0.5", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["clips"][0]["frames"] == 5
    assert np.array_equal(seen["frames"], read(Path("film.mp4"), None, (48, 32))[3:8])


def test_a_picture_is_edited_to_a_still(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("edit", "a.png", "--prompt", "make it red")
    assert code == 0, err
    assert Image.open("a-edited.png").size == (48, 32)
    [reference] = request_of("a-edited.png", capsys)["references"]
    assert (reference["name"], reference["kind"]) == ("image_1", "image")


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(["--prompt", "@image_1 moves as in @video_1", "--ref", "image_1=a.png"], id="subject and motion"),
        pytest.param(
            ["--prompt", "@image_1 in front of @image_2", "--ref", "image_1=a.png", "--ref", "image_2=a.png"],
            id="subject and background",
        ),
        pytest.param(["--prompt", "@video_2 on fire as in @video_1", "--ref", "video_2=film.mp4"], id="two films"),
        pytest.param(["--prompt", "the effect of @video_1", "--image", "a.png"], id="first frame and effect"),
        pytest.param(["--prompt", "@video_1 <sfx>@audio_1</sfx>", "--ref", "audio_1=hit.wav"], id="a sound"),
    ],
)
def test_references_stand_beside_the_clip(run: Run, extra: list[str]) -> None:
    code, _, err = run("edit", "film.mp4", "-o", "out.mp4", "--steps", "1", *extra)
    assert code == 0, err
    assert "is not mentioned" not in err


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("@image_1 <sfx>@audio_1</sfx>", {"image_1": "a.png", "audio_1": "hit.wav"}),
        ("@image_1 moves as in @video_1", {"image_1": "a.png", "video_1": "film.mp4"}),
        ("@image_1 @image_2 @image_3 @image_4", {f"image_{n}": "a.png" for n in (1, 2, 3, 4)}),
    ],
)
def test_generate_takes_the_same_combinations(run: Run, prompt: str, names: dict[str, str]) -> None:
    references = [word for name, path in names.items() for word in ("--ref", f"{name}={path}")]
    code, _, err = run("generate", "--prompt", prompt, *references, "-o", "out.mp4", "--steps", "1")
    assert code == 0, err
    assert "trained with" not in err


def test_more_references_than_were_trained_are_noted(run: Run) -> None:
    references = [word for n in range(1, 5) for word in ("--ref", f"image_{n}=a.png")]
    code, _, err = run(
        "edit",
        "film.mp4",
        "--prompt",
        "@image_1 @image_2 @image_3 @image_4",
        *references,
        "-o",
        "o.mp4",
        "--steps",
        "1",
    )
    assert code == 0, err
    assert err.count("5 references are given and the model was trained with up to 4") == 1


def test_a_long_reference_and_a_long_clip_are_noted_once(run: Run) -> None:
    code, _, err = run(
        "edit", "film.mp4", "--seconds", "0.5", "--prompt", "@video_2 <sfx>@audio_1</sfx>",
        "--ref", "video_2=film.mp4", "--ref", "audio_1=hit.wav", "-o", "o.mp4",
    )  # fmt: skip
    assert code == 0, err
    for name in ("video_2", "audio_1"):
        assert err.count(f"--ref {name} lasts 1.1 s; its first 0.5 s are read") == 1
    assert "frames are made at once" not in err
    code, _, err = run("edit", "film.mp4", "--prompt", "x", "-o", "p.mp4")
    assert err.count("11 frames are made at once and the model was trained on up to 9") == 1


def packets(path: str) -> list[bytes]:
    with av.open(path) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_the_sound_is_kept_packet_by_packet_or_mixed(run: Run) -> None:
    code, out, err = run("edit", "film.mp4", "--prompt", "in rain", "--keep-audio", "-o", "kept.mp4", "--json")
    assert code == 0, err
    assert set(json.loads(out)["clips"][0]["latents"]) == {"video"}  # no sound was made
    assert packets("kept.mp4") == packets("film.mp4")
    code, out, err = run("edit", "film.mp4", "--prompt", "in rain", "--mix", "0.3", "-o", "mixed.mp4", "--json")
    assert code == 0, err
    assert set(json.loads(out)["clips"][0]["latents"]) == {"video", "audio"}
    assert packets("mixed.mp4") != packets("film.mp4")


def test_an_edit_is_made_again_from_its_recipe(run: Run) -> None:
    assert run("edit", "film.mp4", "--prompt", "in rain", "--from", "0.2", "--seed", "3")[0] == 0
    code, _, err = run("rerun", "film-edited.mp4", "-o", "again.mkv")
    assert code == 0, err
    assert "the latents are the same, bit for bit" in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["gone.mp4"], "'gone.mp4' does not exist"),
        (["hit.wav"], "hit.wav"),
        (["broken.mp4"], "cannot be decoded as a video"),
        (["broken.png"], "cannot be decoded as a picture"),
        (["film.mp4", "--from", "2"], "--from 2: 'film.mp4' lasts 1.10 s; begin earlier"),
        (["film.mp4", "--seconds", "0"], "--seconds 0: must be above 0"),
        (["film.mp4", "--seconds", "20"], "ask for no more"),
        (["film.mp4", "--from", "-1"], "--from -1: must be 0 or more"),
        (["a.png", "--seconds", "1"], "is a picture"),
        (["a.png", "--image", "a.png"], "--image a.png would be the whole of a changed picture"),
        (["film.mp4", "-o", "film.mp4"], "'film.mp4' exists already"),
        (["film.mp4", "-o", "film.mp4", "--force"], "even --force does not replace"),
        (["film.mp4", "-o", "still.png"], "holds one frame and 'film.mp4' has 11"),
        (["film.mp4", "-o", "sound.wav"], "a sound alone"),
        (["film.mp4", "--ref", "video_1=film.mp4"], "--ref video_1: @video_1 is 'film.mp4', the file being edited"),
        (["film.mp4", "--image", "gone.png"], "--image: 'gone.png' does not exist"),
        (["film.mp4", "--size", "40x40"], "--size 40x40: width must be a multiple of 16"),
        (["film.mp4", "--fps", "999"], "--fps 999"),
        (["film.mp4", "--keep-audio", "--mix", "1"], "--keep-audio and --mix 1.0 are both given"),
        (["film.mp4", "--keep-audio", "--only", "still", "-o", "x.png"], "holds one frame"),
        (["a.png", "--keep-audio"], "--keep-audio: 'a.png' holds no sound"),
        (["long.mp4"], "lasts 20.0 s, more than 15 s; take a part of it with --from and --seconds"),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_is_said_in_one_sentence_before_any_weight(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded for a request that is refused")

    monkeypatch.setattr("sky4.pipeline.components.Components.load", fail)
    for name in ("broken.mp4", "broken.png"):
        Path(name).write_bytes(b"no picture" * 99)
    if argv[0] == "long.mp4":
        write_clip(Path("long.mp4"), [np.zeros((40, 16, 16, 3), np.uint8)], None, fps=Fraction(2), recipe={})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, out, err = run("edit", *argv, "--prompt", "in rain", "--quiet")
    assert (code, out) == (2, ""), err
    assert err.startswith("sky4: ")
    assert err.count("\n") == 1
    assert words in err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_input_is_spared_under_another_name(run: Run, tmp_path: Path) -> None:
    Path("link.mp4").symlink_to("film.mp4")
    code, _, err = run("edit", "film.mp4", "--prompt", "x", "-o", "link.mp4", "--force")
    assert code == 2
    assert "even --force does not replace" in err
    Path("frames").mkdir()
    Path("frames/recipe.json").write_text("{}")
    Path("a.png").rename("frames/00000.png")
    code, _, err = run("edit", "frames/00000.png", "--prompt", "x", "-o", "frames", "--force")
    assert code == 2
    assert "'frames' holds the input 'frames/00000.png'" in err
