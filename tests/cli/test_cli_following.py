"""--resume-dir, --resume, --events and --preview-every, through the command line, on a nano model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sky4.encoders.video_vae import WanCodec
from sky4.pipeline import generate, preview, states
from sky4.pipeline.events import read_event
from sky4cli.main import main
from tests.pipeline.lives import killed_after, life

DRUM = "a red circle bounces <sfx>a low drum at each bounce</sfx>"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(nano_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`sky4 generate` in a folder of its own; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(preview, "SCENES", 1)
    monkeypatch.setattr(states, "SHARE", float("inf"))  # steps of milliseconds: written all the same

    def call(*argv: str, command: tuple[str, ...] = ("generate", "--prompt", DRUM)) -> tuple[int, str, str]:
        out = () if "-o" in argv else ("-o", "clip.mp4")
        code = main([*command, "--model", str(nano_model), "--steps", "4", *out, *argv])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def latents(out: str) -> list[dict[str, str]]:
    return [clip["latents"] for clip in json.loads(out)["clips"]]


def told(path: str) -> list[dict[str, Any]]:
    return [read_event(line) for line in Path(path).read_text().splitlines()]


def test_a_run_that_was_killed_goes_on_and_leaves_no_state(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = latents(run("-o", "whole.mp4", "--json")[1])
    with monkeypatch.context() as patch:
        killed_after(3, patch)
        assert life(lambda: run("--resume-dir", "state")) == signal.SIGKILL
    assert not Path("clip.mp4").exists()
    assert Path("state/0/sampling.safetensors").exists()
    code, out, err = run("--resume-dir", "state", "--resume", "--json", "--events", "log")
    assert code == 0, err
    assert latents(out) == undisturbed
    assert [line["done"] for line in told("log") if line.get("stage") == "sampling" and "done" in line] == [3, 4]
    assert not Path("state").exists()


def test_a_state_is_neither_overwritten_nor_taken_for_another_requests(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        killed_after(2, patch)
        life(lambda: run("--resume-dir", "state"))
    monkeypatch.setattr("sky4.pipeline.components.load_transformer", lambda *_: pytest.fail("weights were loaded"))
    for argv, words in (
        ((), "holds the state of a run that did not end; add --resume"),
        (("--resume", "--seed", "5"), "is of another request (seed is 0 there and 5 here)"),
        (("--resume", "--frames", "5"), "is of another request (frames is 9 there and 5 here)"),
    ):
        code, out, err = run("--resume-dir", "state", "--quiet", *argv)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert words in err
    assert Path("state/0/sampling.safetensors").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--resume",), "--resume needs the folder"),
        (("--preview-every", "0"), "--preview-every 0 is less than 1 step"),
        (("--events", "-", "--json"), "--events - and --json both write to stdout"),
        (("--events", "fd:1"), "name a descriptor from 3 up"),
        (("--events", "photo.png"), "is no log of sky4"),
        (("--resume-dir", "photo.png"), "is no folder"),
        (("--resume-dir", "/proc/state"), "takes no files"),
        (("-o", "own.mp4", "--preview-every", "2"), "is no preview that sky4 drew"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence_before_weights(
    run: Run, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], words: str
) -> None:
    for name in ("photo.png", "own.preview.png"):
        Image.new("RGB", (4, 4)).save(name)
    monkeypatch.setattr("sky4.pipeline.components.load_transformer", lambda *_: pytest.fail("weights were loaded"))
    before = {path: path.read_bytes() for path in Path().glob("*") if path.is_file()}
    code, out, err = run("--quiet", *argv)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert words in err
    assert {path: path.read_bytes() for path in Path().glob("*") if path.is_file()} == before


def test_ctrl_c_saves_the_state_exits_130_and_says_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = latents(run("-o", "whole.mp4", "--json")[1])
    calls = []
    made = generate.model_velocity

    def model_velocity(*given: Any) -> Any:
        evaluate = made(*given)

        def interrupted(*state: Any, **more: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                signal.raise_signal(signal.SIGINT)
            return evaluate(*state, **more)

        return interrupted

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start without
    with monkeypatch.context() as patch:
        patch.setattr(generate, "model_velocity", model_velocity)
        code, out, err = run("--resume-dir", "state", "--events", "log", "--preview-every", "2")
    signal.signal(signal.SIGINT, handler)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == (
        "sky4: interrupted; the state is in 'state': the same command with --resume goes on from it"
    )
    assert (told("log")[-1]["ok"], told("log")[-1]["code"]) == (False, 130)
    assert Path("clip.preview.png").exists()  # what there is to see of it
    code, out, err = run("--resume-dir", "state", "--resume", "--preview-every", "2", "--json")
    assert code == 0, err
    assert latents(out) == undisturbed
    assert not Path("clip.preview.png").exists()
    assert not Path("state").exists()


def test_variations_that_were_written_stay_as_they_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = latents(run("-o", "whole.mkv", "-n", "3", "--json")[1])
    argv = ("-o", "clip.mkv", "-n", "3", "--resume-dir", "state")
    with monkeypatch.context() as patch:
        killed_after(6, patch)
        assert life(lambda: run(*argv)) == signal.SIGKILL
    first = Path("clip-1.mkv").stat()
    code, out, err = run(*argv, "--resume", "--json")
    assert code == 0, err
    assert "'clip-1.mkv' was written by the run before this one" in err
    assert latents(out) == undisturbed
    assert Path("clip-1.mkv").stat() == first
    assert Path("clip-3.mkv").exists()


def test_an_output_that_is_not_the_runs_own_is_not_replaced_on_resume(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        killed_after(2, patch)
        life(lambda: run("--resume-dir", "state"))
    Path("clip.mp4").write_text("mine")
    code, _, err = run("--resume-dir", "state", "--resume")
    assert code == 2
    assert "'clip.mp4' exists already" in err
    assert Path("clip.mp4").read_text() == "mine"


def test_after_memory_ran_out_in_decoding_only_that_is_done_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = latents(run("-o", "whole.mp4", "--json")[1])
    decoded = WanCodec._decoded

    def starving(self: WanCodec, tensor: torch.Tensor, latent_frames: int | None = None) -> Any:
        if latent_frames is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from decoded(self, tensor, latent_frames)

    monkeypatch.setattr(WanCodec, "_decoded", starving)
    code, out, err = run("--json", "--events", "log")
    assert code == 0, err
    assert latents(out) == undisturbed
    assert "memory ran out while decoding (whole frames); going on with 1 latent frame at a time" in err
    assert any("memory ran out" in line["message"] for line in told("log") if line["event"] == "warning")
    assert [line["done"] for line in told("log") if line.get("stage") == "sampling" and "done" in line][-1] == 4


def test_a_process_that_died_while_it_decoded_decodes_in_smaller_pieces(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = latents(run("-o", "whole.mp4", "--json")[1])
    with monkeypatch.context() as patch:  # what the kernel does to one that takes too much
        patch.setattr(WanCodec, "_decoded", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        assert life(lambda: run("--resume-dir", "state")) == signal.SIGKILL
    monkeypatch.setattr(generate, "sample", lambda *_, resumed, **__: pytest.fail("sampled again"))
    code, out, err = run("--resume-dir", "state", "--resume", "--json")
    assert code == 0, err
    assert "decodes in smaller pieces" in err
    assert latents(out) == undisturbed


def test_events_on_stdout_stand_alone(run: Run) -> None:
    code, out, err = run("--events", "-")
    assert code == 0, err
    lines = [read_event(line) for line in out.splitlines()]
    assert [lines[0]["event"], lines[-1]["event"]] == ["start", "end"]
    assert lines[0]["command"] == "generate"
    assert "clip.mp4  32x32" in err
    [made] = [line for line in lines if line["event"] == "artifact"]
    assert (made["kind"], made["path"], made["details"]["frames"]) == ("clip", "clip.mp4", 9)


def test_previews_are_told_of_and_gone_when_the_clip_is_there(run: Run) -> None:
    code, _, err = run("--preview-every", "2", "--events", "log", "--sampler", "unipc")
    assert code == 0, err
    found = [(line["kind"], line["details"].get("step")) for line in told("log") if line["event"] == "artifact"]
    assert found == [("preview", 2), ("preview", 4), ("clip", None)]
    assert not Path("clip.preview.png").exists()


def test_rerun_and_extend_take_them_too(run: Run, nano_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("-o", "first.mkv")[0] == 0
    extend = ("extend", "first.mkv", "--prompt", DRUM, "--seconds", "0.75")
    whole = latents(run("-o", "whole.mkv", "--json", command=extend)[1])
    with monkeypatch.context() as patch:
        killed_after(6, patch)  # in the second window
        assert life(lambda: run("-o", "longer.mkv", "--resume-dir", "state", command=extend)) == signal.SIGKILL
    code, out, err = run("-o", "longer.mkv", "--resume-dir", "state", "--resume", "--json", command=extend)
    assert code == 0, err
    assert latents(out) == whole
    again = ["rerun", "longer.mkv", "-o", "again.mkv", "--resume-dir", "state", "--events", "log", "--quiet"]
    assert main(again) == 0
    assert told("log")[0]["command"] == "rerun"
