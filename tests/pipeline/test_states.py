"""Saved state: a run killed at any step goes on to the same bits, and a state that is not its own is not used."""

from __future__ import annotations

import json
import logging
import random
import shutil
import signal
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sky4.diffusion.sampler import METHODS, Method, Moment
from sky4.errors import RequestError
from sky4.media import write_clip
from sky4.pipeline import generate, states
from sky4.pipeline.clip import Clip
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip, generate_clips
from sky4.pipeline.request import Canvas, ClipRequest, Segments, Source
from sky4.pipeline.resume import NAME, check_resume, rewritten_prompt
from sky4.pipeline.states import ResumeFolder
from tests.pipeline.lives import killed_after, life
from tests.pipeline.plain import PLAIN

LONG = replace(PLAIN, frames=29, segments=Segments(13, 5))


def film(folder: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 255, (12, 40, 50, 3), dtype=np.uint8)
    write_clip(folder / "film.mkv", [frames], None, fps=Fraction(16), recipe={})
    return folder / "film.mkv"


def extension(folder: Path) -> ClipRequest:
    """20 frames behind a film of 12, on its canvas: its colours are matched from window to window."""
    path = film(folder)
    source = Source(path, str(path), frames=12)
    return replace(PLAIN, frames=32, sources=(source,), canvas=Canvas(50, 40), segments=Segments(13, 5))


def run(request: ClipRequest, components: Components, folder: Path, every: int | None = None) -> list[Clip]:
    kept = ResumeFolder.open(folder, request, components, every)
    return list(generate_clips(request, components, states=kept))


def same(clip: Clip, other: Clip) -> bool:
    pairs = zip(clip.windows, other.windows, strict=True)
    return all(
        one.match == two.match and all(torch.equal(a, b) for a, b in zip(one.latents, two.latents, strict=True))
        for one, two in pairs
    )


@pytest.mark.parametrize("form", ["one window", "three windows", "an extension"])
@pytest.mark.parametrize("sampler", METHODS)
def test_killed_at_random_steps_again_and_again_it_ends_with_the_same_bits(
    components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: Method, form: str
) -> None:
    base = {"one window": PLAIN, "three windows": LONG}.get(form) or extension(tmp_path)
    request = replace(base, sampler=sampler, steps=6, seed=7)
    undisturbed = generate_clip(request, components)
    evaluations = random.Random(f"{sampler} {form}")
    lives = 0
    ended: int = signal.SIGKILL
    while ended == signal.SIGKILL:
        lives += 1
        with monkeypatch.context() as patch:
            # two evaluations make a step of Heun's method, so that each life gets on by a step
            killed_after(evaluations.randint(2, 5), patch)
            ended = life(lambda: run(request, components, tmp_path / "state", every=1))
    assert lives >= 2
    assert ended == 0
    [resumed] = run(request, components, tmp_path / "state")
    assert same(resumed, undisturbed)
    assert resumed.checksums == undisturbed.checksums


def test_nothing_that_is_done_is_done_again(
    components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = replace(LONG, steps=4)
    with monkeypatch.context() as patch:
        killed_after(4 + 3, patch)  # in the last step of the second window
        assert life(lambda: run(request, components, tmp_path / "state", every=1)) == signal.SIGKILL
    steps: list[tuple[int, int]] = []
    kept = ResumeFolder.open(tmp_path / "state", request, components)
    [_] = generate_clips(
        request, components, states=kept, seen=lambda _, window, moment, __: steps.append((window.index, moment.step))
    )
    assert steps == [(1, 4), (2, 1), (2, 2), (2, 3), (2, 4)]


def test_after_the_last_step_only_the_decoding_is_left(
    components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [clip] = run(PLAIN, components, tmp_path / "state")
    monkeypatch.setattr(generate, "model_velocity", lambda *_: pytest.fail("sampling began again"))
    [again] = run(PLAIN, components, tmp_path / "state")
    assert same(again, clip)
    assert np.array_equal(np.concatenate(list(again.frames())), np.concatenate(list(clip.frames())))


def test_an_interruption_writes_the_newest_moment_whatever_the_interval(components: Components, tmp_path: Path) -> None:
    request = replace(PLAIN, steps=6)

    def interrupt(*told: Any) -> None:
        if told[2].step == 4:
            raise KeyboardInterrupt

    kept = ResumeFolder.open(tmp_path / "state", request, components, every=100)
    with pytest.raises(KeyboardInterrupt):
        list(generate_clips(request, components, states=kept, seen=interrupt))
    steps: list[int] = []
    kept = ResumeFolder.open(tmp_path / "state", request, components)
    [resumed] = generate_clips(request, components, states=kept, seen=lambda *told: steps.append(told[2].step))
    assert steps == [5, 6]
    assert same(resumed, generate_clip(request, components))


def test_variations_that_are_written_are_left_out(components: Components, tmp_path: Path) -> None:
    request = replace(PLAIN, variations=3, seed=5)
    kept = ResumeFolder.open(tmp_path / "state", request, components)
    first = next(iter(generate_clips(request, components, states=kept)))
    (tmp_path / "clip-1.mp4").touch()
    kept.clip(first.request).finish({"path": str(tmp_path / "clip-1.mp4")})
    assert [path.name for path in (tmp_path / "state" / "5").iterdir()] == ["written.json"]
    assert [clip.request.seed for clip in run(request, components, tmp_path / "state")] == [6, 7]
    (tmp_path / "clip-1.mp4").unlink()  # what is gone is made again
    assert [clip.request.seed for clip in run(request, components, tmp_path / "state")] == [5, 6, 7]


@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied", "of another request"])
def test_a_state_that_does_not_hold_is_passed_over_with_a_sentence(
    components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, harm: str
) -> None:
    caplog.set_level(logging.WARNING, "sky4")
    request = replace(PLAIN, steps=4)
    with monkeypatch.context() as patch:
        killed_after(3, patch)
        life(lambda: run(request, components, tmp_path / "state", every=1))
    [file] = (tmp_path / "state" / "0").glob("*.safetensors")
    content = file.read_bytes()
    if harm == "of another request":
        other = replace(request, prompt="something else")
        run(other, components, tmp_path / "other")
        shutil.copy(next((tmp_path / "other" / "0").glob("window*")), file)
    else:
        flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        file.write_bytes({"cut": content[:-7], "flipped": flipped, "emptied": b""}[harm])
    [made] = run(request, components, tmp_path / "state")
    assert same(made, generate_clip(request, components))
    [said] = caplog.messages
    assert str(file) in said
    assert said.endswith("so what it held is made again")


@pytest.mark.parametrize("harm", [b"", b"{", b"[]", b'{"format": "sky4-state", "version": 99}', b"\xff\xfe"])
def test_a_folder_whose_facts_cannot_be_read_begins_anew(
    components: Components, tmp_path: Path, caplog: Any, harm: bytes
) -> None:
    run(PLAIN, components, tmp_path / "state")
    (tmp_path / "state" / NAME).write_bytes(harm)
    check_resume(tmp_path / "state", PLAIN, resume=True)
    [made] = run(replace(PLAIN, seed=1), components, tmp_path / "state")
    assert made.request.seed == 1
    assert "so the run begins anew" in caplog.text
    assert not (tmp_path / "state" / "0").exists()


def test_a_state_of_another_request_or_model_is_refused_in_one_sentence(
    components: Components, nano_model: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    run(PLAIN, components, state)
    with pytest.raises(RequestError, match=r"is of another request \(steps is 2 there and 9 here, seed is 0 there"):
        check_resume(state, replace(PLAIN, seed=4, steps=9), resume=True)
    with pytest.raises(RequestError, match="holds the state of a run that did not end; add --resume"):
        check_resume(state, PLAIN, resume=False)
    check_resume(state, PLAIN, resume=True)
    facts = json.loads((state / NAME).read_text())
    for change, words in (
        ({"model": {**facts["model"], "digest": "sha256:0"}}, "is of another model"),
        ({"computed": {**facts["computed"], "dtype": "bfloat16"}}, "dtype is bfloat16 there and float32 here"),
    ):
        (state / NAME).write_text(json.dumps({**facts, **change}))
        with pytest.raises(RequestError, match=words) as caught:
            ResumeFolder.open(state, PLAIN, components)
        assert "\n" not in str(caught.value)


def test_an_input_file_that_changed_is_another_request(components: Components, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    request = replace(PLAIN, sources=(Source(picture, "--image"),))
    for colour in ("red", "blue"):
        Image.new("RGB", (32, 32), colour).save(picture)
        if colour == "red":
            run(request, components, tmp_path / "state")
    with pytest.raises(RequestError, match="inputs"):
        run(request, components, tmp_path / "state")


def test_clearing_takes_away_what_was_kept_and_nothing_else(components: Components, tmp_path: Path) -> None:
    state = tmp_path / "state"
    for place in (state / "2024", state / "0"):  # somebody's pictures
        place.mkdir(parents=True)
        (place / "me.jpg").touch()
    kept = ResumeFolder.open(state, LONG, components)
    list(generate_clips(LONG, components, states=kept))
    assert len(list((state / "0").glob("window-*"))) == 3
    kept.clear()
    assert sorted(path.relative_to(state).as_posix() for path in state.rglob("*")) == [
        *("0", "0/me.jpg", "2024", "2024/me.jpg"),
    ]


def test_frames_that_the_next_window_keeps_are_decoded_anew_where_they_are_lost(
    components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = extension(tmp_path)
    with monkeypatch.context() as patch:
        killed_after(PLAIN.steps + 1, patch)
        life(lambda: run(request, components, tmp_path / "state", every=1))
    [lost] = (tmp_path / "state" / "0").glob("kept-*")
    lost.unlink()
    [resumed] = run(request, components, tmp_path / "state")
    assert same(resumed, generate_clip(request, components))


def test_a_full_disk_does_not_end_the_run(
    components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(states, "write_tensors", full)
    [made] = run(PLAIN, components, tmp_path / "state")
    assert same(made, generate_clip(PLAIN, components))
    assert [message for message in caplog.messages if "No space left on device" in message] == [
        f"the state cannot be written to '{tmp_path / 'state' / '0'}' (No space left on device); "
        "the run goes on without"
    ]


def test_large_states_are_written_less_often(
    components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is a fake: a step takes 1 s, writing 0.19 s, and may take a twentieth of the time."""
    now, written = [0.0], []
    monkeypatch.setattr(states.time, "monotonic", lambda: now[0])

    def write(self: Any, file: str, facts: dict[str, Any], moment: Moment) -> None:
        now[0] += 0.19
        written.append(moment.step)

    monkeypatch.setattr(states.ClipStates, "write_moment", write)
    kept = states.ClipStates(tmp_path, "an identity")
    with kept.sampling("window 0", (torch.zeros(1), None), 11) as state:
        for step in range(1, 12):
            now[0] += 1.0
            state.passed(Moment(step, (torch.zeros(1), None)))
    assert written == [1, 5, 9, 11]  # four steps apart, and always the last


def test_no_pickle_is_written(components: Components, tmp_path: Path) -> None:
    run(LONG, components, tmp_path / "state")
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    for path in files:
        load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())


def test_a_rewritten_prompt_is_taken_from_the_state(components: Components, tmp_path: Path) -> None:
    rewritten = replace(PLAIN, prompt="a red circle, which jumps", enhanced_from="jumps")
    run(rewritten, components, tmp_path)
    assert rewritten_prompt(tmp_path, replace(PLAIN, prompt="jumps")) == "a red circle, which jumps"
    assert rewritten_prompt(tmp_path, replace(PLAIN, prompt="sleeps")) is None
    assert rewritten_prompt(None, PLAIN) is None
