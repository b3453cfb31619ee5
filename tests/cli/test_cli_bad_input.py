"""Bad input, line by line: one sentence with the flag, the value and the remedy; the right exit code; nothing left."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sky4.media import write as media_write
from sky4cli.main import main

Refused = Callable[..., str]


@pytest.fixture
def refused(
    nano_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Run `sky4 generate` and return its one sentence; nothing may have been written."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save("a.png")

    def call(*argv: str, code: int = 2, prompt: str = "a red circle", model: Path = nano_model, lines: int = 1) -> str:
        before = sorted(path for path in tmp_path.rglob("*"))
        out = () if "-o" in argv else ("-o", "clip.mp4")
        found = main(["generate", "--prompt", prompt, "--model", str(model), "--quiet", *out, *argv])
        shown = capsys.readouterr()
        assert found == code, shown.err
        assert sorted(path for path in tmp_path.rglob("*")) == before
        assert shown.out == ""
        assert shown.err.startswith("sky4: ")
        assert shown.err.count("\n") == lines, shown.err
        assert "Traceback" not in shown.err
        return shown.err

    return call


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """What must be refused before any weight is read: reading one fails the test."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded for a request that is refused")

    monkeypatch.setattr("sky4.pipeline.components.load_transformer", fail)
    monkeypatch.setattr("sky4.pipeline.components.load_video_codec", fail)
    monkeypatch.setattr("sky4.pipeline.components.load_text_encoder", fail)


@pytest.mark.usefixtures("no_weights")
class TestBeforeWeights:
    def test_a_name_that_no_reference_has(self, refused: Refused) -> None:
        said = refused(prompt="a circle beside @image_1", lines=4)
        assert "no reference is named @image_1; add --ref image_1=PATH" in said
        assert "column 17" in said
        assert said.splitlines()[-1].strip() == "^" * len("@image_1")

    def test_a_name_that_is_nearly_a_references(self, refused: Refused) -> None:
        assert "did you mean @Actor-0?" in refused("--ref", "Actor-0=a.png", prompt="@Actor-1 waves", lines=4)

    def test_a_tag_that_is_not_closed(self, refused: Refused) -> None:
        said = refused(prompt="a circle <sfx>a drum", lines=4)
        assert "column 10" in said
        assert "</sfx>" in said

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ("image_1", "expected NAME=PATH"),
            ("image_1=gone.png", "gone.png does not exist"),
            ("audio_1=a.png", "promises audio, not image"),
        ],
    )
    def test_a_reference_that_cannot_be_one(self, refused: Refused, value: str, words: str) -> None:
        said = refused("--ref", value, prompt="a @image_1")
        assert words in said
        assert f"--ref {value}" in said

    @pytest.mark.parametrize("flag", ["--image", "--last-image", "--video"])
    def test_a_missing_file(self, refused: Refused, flag: str) -> None:
        said = refused(flag, "gone.png")
        assert flag in said
        assert "'gone.png' does not exist" in said

    def test_a_missing_sound(self, refused: Refused) -> None:
        assert "--audio: 'gone.wav' does not exist" in refused("--audio", "gone.wav", "--drive")

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (("--image", "broken"), "cannot be decoded as a picture; give a PNG, JPEG or WebP"),
            (("--last-image", "broken"), "--last-image"),
            (("--video", "broken"), "cannot be decoded as a video"),
            (("--audio", "broken", "--drive"), "cannot be decoded as sound"),
            (("--video", "a.png", "--frames", "9"), "lasts"),
            (("--audio", "a.png", "--drive"), "holds no sound"),
        ],
    )
    def test_a_file_that_cannot_be_decoded(self, refused: Refused, flags: tuple[str, ...], words: str) -> None:
        Path("broken").write_bytes(b"no picture, no sound" * 99)
        assert words in refused(*flags)

    @pytest.mark.parametrize(
        ("size", "words"),
        [
            ("60x64", "--size 60x64: width must be a multiple of 16 pixels for this model, got 60; nearest: 48 or 64"),
            ("64x70", "nearest: 64 or 80"),
            ("8x8", "nearest: 16"),
            ("0x64", "nearest: 1"),
            ("big", "--size big: expected WIDTHxHEIGHT"),
        ],
    )
    def test_a_size_that_the_codec_cannot_make(self, refused: Refused, size: str, words: str) -> None:
        assert words in refused("--size", size)

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (("--frames", "0"), "--frames: the number of frames 0 is outside 1 to 4096; nearest: 1"),
            (("--frames", "-8"), "nearest: 1"),
            (("--seconds", "0"), "--seconds 0: must be above 0"),
            (("--seconds", "soon"), "--seconds soon: expected a number"),
            (("--seconds", "2", "--frames", "9"), "both given"),
            (("--fps", "1/0"), "--fps 1/0: expected a number such as 16 or 30000/1001"),
            (("--steps", "0"), "--steps"),
            (("--guidance", "nan"), "--guidance nan"),
            (("--seed", "-1"), "--seed"),
        ],
    )
    def test_a_length_or_a_number_that_cannot_be(self, refused: Refused, flags: tuple[str, ...], words: str) -> None:
        assert words in refused(*flags)

    def test_a_folder_that_is_no_model(self, refused: Refused, tmp_path: Path) -> None:
        assert "it holds no readable model.json" in refused(model=tmp_path)
        assert "is no folder" in refused(model=tmp_path / "gone")

    @pytest.mark.parametrize(
        ("text", "words"),
        [("{", "is not a model that this sky4 reads"), ('{"format": "other"}', "sky4-model"), ("[]", "not a model")],
    )
    def test_a_model_json_that_is_none(self, refused: Refused, tmp_path: Path, text: str, words: str) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "model.json").write_text(text)
        said = refused(model=tmp_path / "model")
        assert words in said
        assert f"--model {tmp_path / 'model'}" in said

    def test_a_model_without_its_codec(self, refused: Refused, nano_model: Path, tmp_path: Path) -> None:
        shutil.copytree(nano_model, tmp_path / "model", ignore=shutil.ignore_patterns("video_vae", "*.safetensors"))
        said = refused(model=tmp_path / "model")
        assert "is not a whole model" in said
        assert "video_vae" in said

    def test_an_existing_file_is_not_replaced_without_force(self, refused: Refused) -> None:
        Path("clip.mp4").write_bytes(b"precious")
        assert "--force" in refused()
        assert Path("clip.mp4").read_bytes() == b"precious"

    def test_one_existing_file_of_several_stops_them_all(self, refused: Refused) -> None:
        Path("clip-2.mp4").write_bytes(b"precious")
        assert "'clip-2.mp4' exists already" in refused("-n", "3")

    @pytest.mark.parametrize(
        ("out", "words"),
        [
            ("gone/clip.mp4", "'gone' is not a folder; create it first"),
            ("a.png/clip.mp4", "'a.png' is not a folder"),
            ("/proc/clip.mp4", "takes no new file"),
            ("clip.avi", "ends in '.avi'"),
        ],
    )
    def test_an_output_that_cannot_be_written(self, refused: Refused, out: str, words: str) -> None:
        said = refused("-o", out)
        assert words in said
        assert out in said

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (("--only", "video", "-o", "x.wav"), "--only video does not fit into the output 'x.wav'"),
            (("--audio", "a.wav"), "needs --drive"),
            (("--drive",), "add --audio FILE"),
            (("--image", "a.png", "-o", "x.wav"), "--image cannot shape a sound alone"),
            (("--negative-prompt", "x", "--guidance", "1", "--audio-guidance", "1"), "--negative-prompt does nothing"),
            (("--device", "tpu"), "--device tpu is unknown"),
            (("--device", "cuda:99"), "--device cuda:99 is not there"),
            (("--dtype", "int4"), "--dtype int4 is unknown"),
            (("--attention-backend", "magic"), "--attention-backend magic is not available: choose one of auto"),
            (("--enhance", "."), "--enhance"),
        ],
    )
    def test_flags_that_do_not_go_together_or_are_not_there(
        self, refused: Refused, flags: tuple[str, ...], words: str
    ) -> None:
        assert words in refused(*flags)


def changed_weights(model: Path, folder: Path, part: str, change: Callable[[dict], dict]) -> Path:
    """A copy of the model, one of whose weight files went through `change`."""
    shutil.copytree(model, folder)
    [file] = (folder / part).glob("*.safetensors")
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


def without_first(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(sorted(weights.items())[1:])


def with_another(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**weights, "sparkle.weight": torch.zeros(2)}


@pytest.mark.parametrize("part", ["transformer", "video_vae", "audio_vae", "text_encoder"])
def test_missing_weights_are_listed(refused: Refused, nano_model: Path, tmp_path: Path, part: str) -> None:
    model = changed_weights(nano_model, tmp_path / "model", part, without_first)
    [file] = (nano_model / part).glob("*.safetensors")
    said = refused(model=model, code=1)
    assert min(load_file(file)) in said
    assert "missing" in said


@pytest.mark.parametrize("part", ["transformer", "video_vae", "audio_vae", "text_encoder"])
def test_extra_weights_are_listed(refused: Refused, nano_model: Path, tmp_path: Path, part: str) -> None:
    said = refused(model=changed_weights(nano_model, tmp_path / "model", part, with_another), code=1)
    assert "extra" in said
    assert "sparkle.weight" in said


def test_weights_that_are_no_safetensors_are_told(refused: Refused, nano_model: Path, tmp_path: Path) -> None:
    shutil.copytree(nano_model, tmp_path / "model")
    (tmp_path / "model" / "transformer" / "model.safetensors").write_bytes(b"cut off")
    assert "cannot read the weights" in refused(model=tmp_path / "model", code=1)


def test_parts_that_do_not_belong_together_are_told(refused: Refused, nano_model: Path, tmp_path: Path) -> None:
    shutil.copytree(nano_model, tmp_path / "model")
    manifest = tmp_path / "model" / "model.json"
    values = json.loads(manifest.read_text())
    values["transformer"]["text_channels"] = 32
    manifest.write_text(json.dumps(values))
    said = refused(model=tmp_path / "model", code=1)
    assert "the text encoder of --model" in said
    assert "has 64 channels and its transformer wants 32" in said


def test_latents_that_are_not_finite_are_not_saved(refused: Refused, nano_model: Path, tmp_path: Path) -> None:
    def poisoned(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: weight * float("nan") if "head" in name else weight for name, weight in weights.items()}

    said = refused(model=changed_weights(nano_model, tmp_path / "model", "transformer", poisoned), code=1)
    assert "latents ceased to be finite at step 1" in said


@pytest.mark.parametrize("out", ["clip.mp4", "clip.mkv", "folder", "clip.png"])
def test_a_full_disk_is_told_and_leaves_nothing(refused: Refused, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    def full(*args: object, **_: object) -> None:
        if isinstance(args[0], Path) and args[0].name.endswith(".partial") and out == "clip.png":
            args[0].write_bytes(b"half a picture")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(media_write, "_write_container", full)
    monkeypatch.setattr(media_write, "_save_png", full)
    said = refused("-o", out, code=1)
    assert f"no space is left to write '{out}'" in said
    assert "-o" in said


def test_running_out_of_memory_names_the_flags_to_change(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("sky4.pipeline.generate.sample", hungry)
    assert "ran out of memory at --size 32x32 and 9 frames; lower either" in refused(code=1)


def test_an_interrupt_while_decoding_leaves_no_file(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sky4.pipeline.windows.to_frames", interrupted)
    assert "interrupted" in refused(code=130)


def test_ctrl_c_while_sampling_exits_130_and_leaves_no_partial_file(nano_model: Path, tmp_path: Path) -> None:
    argv = [
        "generate",
        "--prompt",
        "a",
        "--model",
        str(nano_model),
        "--steps",
        "1000",
        "-o",
        str(tmp_path / "clip.mp4"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "sky4cli", *argv],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell ignores SIGINT for what it starts in the background, and so would this test's child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("sampling"):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert out == ""
    assert os.listdir(tmp_path) == []


def test_a_file_that_holds_no_recipe_cannot_be_shown_or_rerun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for argv in (["show", str(tmp_path / "a.png")], ["rerun", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.mp4")]):
        assert main(argv) == 2
        assert "holds no sky4 recipe" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "gone.mp4")]) == 2
    assert "does not exist" in capsys.readouterr().err
