"""`sky4 generate`, `show`, `rerun`, `doctor`, through the command line, on a nano model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from sky4cli.main import main

DRUM = "a red circle bounces <sfx>a low drum at each bounce</sfx>"


@pytest.fixture
def run(nano_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call a command in a folder of its own; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str, model: bool = True) -> tuple[int, str, str]:
        code = main([*argv, *(["--model", str(nano_model)] if model else [])])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def streams(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as container:
        return {
            stream.type: (stream.codec_context.name, sum(1 for p in container.demux(stream) if p.pts is not None))
            for stream in list(container.streams)
        }


def test_a_prompt_becomes_a_clip_with_sound(run, tmp_path: Path) -> None:
    code, out, err = run("generate", "--prompt", DRUM, "-o", "clip.mp4")
    assert code == 0, err
    with av.open("clip.mp4") as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert (picture.codec_context.name, sound.codec_context.name) == ("h264", "aac")
        assert (picture.width, picture.height, picture.frames, picture.average_rate) == (32, 32, 9, 16)
        assert (sound.codec_context.sample_rate, sound.codec_context.layout.name) == (44100, "stereo")
        video_seconds = float(picture.duration * picture.time_base)
        audio_seconds = float(sound.duration * sound.time_base)
    assert abs(video_seconds - audio_seconds) <= 1024 / 44100
    line = out.strip().split("  ")
    assert line[:4] == ["clip.mp4", "32x32", "0.56 s", "seed 0"]
    assert line[4].startswith("took ")
    assert [stage in err for stage in ("loading", "reading the prompt", "sampling", "decoding")] == [True] * 4


def test_json_is_the_only_line_on_stdout(run) -> None:
    code, out, _ = run("generate", "--prompt", DRUM, "-o", "clip.webm", "--json", "--seed", "7")
    assert code == 0
    assert out.count("\n") == 1
    [clip] = json.loads(out)["clips"]
    assert (clip["path"], clip["frames"], clip["seed"], clip["fps"]) == ("clip.webm", 9, 7, "16")
    assert clip["bytes"] == Path("clip.webm").stat().st_size


def test_quiet_says_nothing_but_the_result(run) -> None:
    code, out, err = run("generate", "--prompt", DRUM, "-o", "clip.wav", "--quiet")
    assert (code, err) == (0, "")
    assert out.startswith("clip.wav  0.56 s  seed 0")


def test_variations_are_numbered_files_with_seeds_of_their_own(run, tmp_path: Path) -> None:
    code, out, _ = run("generate", "--prompt", DRUM, "-o", "clip.mkv", "-n", "2", "--seed", "4", "--json")
    assert code == 0
    clips = json.loads(out)["clips"]
    assert [(clip["path"], clip["seed"]) for clip in clips] == [("clip-1.mkv", 4), ("clip-2.mkv", 5)]
    code, out, _ = run("generate", "--prompt", DRUM, "-o", "alone.mkv", "--seed", "5", "--json")
    assert json.loads(out)["clips"][0]["latents"] == clips[1]["latents"]


@pytest.mark.parametrize(
    ("name", "extra", "holds"),
    [
        ("clip.mov", (), {"video": ("h264", 9), "audio": "aac"}),
        ("clip.mp4", ("--only", "video"), {"video": ("h264", 9)}),
        ("clip.mp4", ("--only", "audio"), {"audio": "aac"}),
        ("sound.wav", (), {"audio": "pcm_s16le"}),
    ],
)
def test_the_suffix_and_only_decide_what_the_file_holds(run, name: str, extra: tuple[str, ...], holds: dict) -> None:
    code, _, err = run("generate", "--prompt", DRUM, "-o", name, *extra)
    assert code == 0, err
    found = streams(Path(name))
    assert set(found) == set(holds)
    assert found.get("video") == holds.get("video")
    assert found.get("audio", (None,))[0] == holds.get("audio")


def test_a_png_is_a_still_and_a_name_without_suffix_a_folder(run) -> None:
    assert run("generate", "--prompt", DRUM, "-o", "still.png")[0] == 0
    assert Image.open("still.png").size == (32, 32)
    assert run("generate", "--prompt", DRUM, "-o", "frames", "--frames", "6")[0] == 0
    assert sorted(p.name for p in Path("frames").iterdir()) == [
        *(f"{n:05d}.png" for n in range(6)), "audio.wav", "recipe.json",
    ]  # fmt: skip


def test_pictures_references_and_every_knob_are_taken(run, tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save("a.png")
    code, out, err = run(
        "generate", "--prompt", "@image_1 jumps", "--negative-prompt", "blur", "--image", "a.png",
        "--last-image", "a.png", "--ref", "image_1=a.png",
        "--size", "48x32", "--seconds", "0.5", "--fps", "30000/1001", "--steps", "3",
        "--sampler", "unipc", "--guidance", "3", "--audio-guidance", "2", "--shift", "2", "--device", "cpu",
        "--dtype", "float32", "--attention-backend", "reference", "-o", "clip.mp4", "--json",
    )  # fmt: skip
    assert code == 0, err
    [clip] = json.loads(out)["clips"]
    assert (clip["width"], clip["height"], clip["frames"], clip["fps"]) == (48, 32, 15, "30000/1001")
    code, out, _ = run("show", "clip.mp4", "--json", model=False)
    request = json.loads(out)["request"]
    given = {
        name: request[name] for name in ("steps", "sampler", "guidance", "audio_guidance", "shift", "negative_prompt")
    }
    assert given == {
        "steps": 3, "sampler": "unipc", "guidance": 3.0, "audio_guidance": 2.0, "shift": 2.0, "negative_prompt": "blur",
    }  # fmt: skip
    assert [source["path"] for source in request["sources"]] == [str(tmp_path / "a.png")] * 2
    assert json.loads(out)["computed"]["attention_backend"] == "reference"


def test_a_silent_film_gets_sound_and_a_sound_drives_a_film(run) -> None:
    assert run("generate", "--prompt", DRUM, "--only", "video", "-o", "silent.mp4", "--size", "64x48")[0] == 0
    code, out, err = run(
        "generate", "--prompt", "<sfx>a drum</sfx>", "--video", "silent.mp4", "-o", "loud.mp4", "--json"
    )
    assert code == 0, err
    [clip] = json.loads(out)["clips"]
    assert (clip["width"], clip["height"], clip["frames"]) == (64, 48, 9)  # its own, whatever the model sees
    assert run("generate", "--prompt", DRUM, "-o", "speech.wav")[0] == 0
    code, out, err = run(
        "generate", "--prompt", "a mouth", "--audio", "speech.wav", "--drive", "-o", "talk.mp4", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["clips"][0]["frames"] == 9


def test_a_rewritten_prompt_is_shown_used_and_recorded(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Rewriter:
        def __init__(self, folder: Path) -> None:
            assert folder == tmp_path

        def __call__(self, messages: list[dict[str, str]]) -> str:
            return f"A red circle, which {messages[-1]['content']} <sfx>boing</sfx>"

    monkeypatch.setattr("sky4.prompting.enhance.LocalRewriter", Rewriter)
    code, out, err = run("generate", "--prompt", "jumps", "--enhance", str(tmp_path), "-o", "clip.mp4", "--json")
    assert code == 0, err
    rewritten = "A red circle, which jumps <sfx>boing</sfx>"
    assert f"prompt: {rewritten}" in err
    assert json.loads(out)["clips"][0]["prompt"] == rewritten
    request = json.loads(run("show", "clip.mp4", "--json", model=False)[1])["request"]
    assert (request["prompt"], request["enhanced_from"]) == (rewritten, "jumps")


def test_rerun_makes_the_same_latents_and_says_so(run) -> None:
    assert run("generate", "--prompt", DRUM, "-o", "clip.mp4", "--seed", "3", "--dtype", "bfloat16")[0] == 0
    code, out, err = run("rerun", "clip.mp4", "-o", "again.mov", model=False)
    assert code == 0, err
    assert "the latents are the same, bit for bit" in err
    assert out.startswith("again.mov  32x32")


def test_rerun_on_other_weights_exits_1_and_says_why(run, nano_model: Path, tmp_path: Path) -> None:
    assert run("generate", "--prompt", DRUM, "-o", "clip.mp4")[0] == 0
    other = altered(nano_model, tmp_path / "other", lambda weights: {n: w * 1.01 for n, w in weights.items()})
    code, _, err = run("rerun", "clip.mp4", "-o", "again.mp4", "--model", str(other), model=False)
    assert code == 1
    assert "its latents differ from those of 'clip.mp4': the model's weights are others" in err


def test_show_prints_the_recipe(run) -> None:
    assert run("generate", "--prompt", "红 circle", "-o", "clip.mp4")[0] == 0
    code, out, _ = run("show", "clip.mp4", model=False)
    assert code == 0
    assert json.loads(out)["request"]["prompt"] == "红 circle"
    assert '"prompt": "红 circle"' in out


def test_doctor_finds_nothing_wrong_with_a_good_model(run) -> None:
    code, out, err = run("doctor", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["faults"] == []
    assert facts["model"]["name"] == "nano"
    assert all(facts["codecs"].values())
    code, out, _ = run("doctor")
    assert code == 0
    assert "model             name nano" in out


def test_doctor_tells_a_folder_that_is_no_model(run, tmp_path: Path) -> None:
    code, out, _ = run("doctor", "--model", str(tmp_path), model=False)
    assert code == 1
    assert "fault" in out
    assert "no readable model.json" in out


def altered(model: Path, folder: Path, change: Any) -> Path:
    """A copy of a model folder whose transformer's weights went through `change`."""
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    for part in model.iterdir():
        if part.name != "transformer":
            (folder / part.name).symlink_to(part)
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").symlink_to(model / "transformer" / "config.json")
    weights = load_file(model / "transformer" / "model.safetensors")
    save_file(change(weights), folder / "transformer" / "model.safetensors")
    return folder
