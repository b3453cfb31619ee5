"""A good clip passes every gate, and a clip spoilt in one way is refused by the gate for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sky4.checking import GATES, Facts, Limits, Verdict, judge, measure
from sky4.checking.picture import SIDE, PictureMeter
from sky4.errors import RequestError
from sky4.media import write_clip
from sky4.world.render import render_video
from sky4.world.scene import sample_scene
from sky4.world.sound import render_audio
from sky4cli.main import main
from tests.clips import Clips

FPS, RATE, FRAMES, SIZE = Fraction(16), 44100, 81, 64
CHECKSUM = f"sha256:{'0' * 64}"


@dataclass(frozen=True)
class Made:
    """A clip of the world, to be spoilt."""

    frames: NDArray[np.uint8]
    wave: NDArray[np.float32]
    recipe: dict[str, Any] = field(default_factory=lambda: recipe())


def recipe(**changes: Any) -> dict[str, Any]:
    clip = {"frames": FRAMES, "fps": str(FPS)}
    told = {"version": 1, "request": {}, "model": {}, "clip": clip, "latents": {"video": CHECKSUM, "audio": CHECKSUM}}
    return told | changes


@pytest.fixture(scope="module")
def good() -> Made:
    """A thing that bounces, each contact heard."""
    scene = next(
        scene
        for scene in (sample_scene(7, index) for index in range(200))
        if scene.motion == "bounce" and scene.tempo == "slow"
    )
    pixels = render_video([scene], FRAMES, FPS, SIZE)[0]
    frames = pixels.add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()
    wave = render_audio([scene], round(FRAMES / FPS * RATE), RATE)[0].numpy()
    return Made(np.ascontiguousarray(frames), wave)


def write(path: Path, made: Made) -> Path:
    write_clip(path, [made.frames], made.wave, fps=FPS, recipe=made.recipe, sample_rate=RATE)
    return path


def judged(path: Path, limits: Limits | None = None) -> dict[str, Verdict]:
    return {verdict.gate: verdict for verdict in judge(measure(path), limits or Limits())}


def failed(path: Path, limits: Limits | None = None) -> set[str]:
    return {name for name, verdict in judged(path, limits).items() if verdict.failed}


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ""])
def test_a_good_clip_passes_every_gate_in_every_format(good: Made, tmp_path: Path, suffix: str) -> None:
    verdicts = judged(write(tmp_path / f"clip{suffix}", good))
    assert {name: verdict.told for name, verdict in verdicts.items() if not verdict.passed} == {}
    assert list(verdicts) == list(GATES)


def test_counts_are_exact(good: Made, tmp_path: Path) -> None:
    facts = measure(write(tmp_path / "clip.mp4", good))
    assert facts.picture is not None and facts.sound is not None
    assert (facts.picture.frames, facts.picture.fps) == (FRAMES, FPS)
    assert (facts.sound.samples, facts.sound.rate) == (round(FRAMES / FPS * RATE), RATE)


def test_a_rate_that_is_no_whole_number_stays_the_fraction_that_it_is(clips: Clips) -> None:
    facts = measure(clips("ntsc"))
    assert facts.picture is not None
    assert facts.picture.fps == Fraction(30000, 1001)
    assert facts.picture.frames == 60


def black(made: Made) -> Made:
    return replace(made, frames=_with(made.frames, slice(20, 40), np.zeros(3, np.uint8)))


def frozen(made: Made) -> Made:
    return replace(made, frames=_with(made.frames, slice(20, 60), made.frames[20]))


def repeated(made: Made) -> Made:
    return replace(made, frames=_with(made.frames, slice(45, 75), made.frames[5:35]))


def _with(frames: NDArray[np.uint8], where: slice, what: NDArray[np.uint8]) -> NDArray[np.uint8]:
    spoilt = frames.copy()
    spoilt[where] = what
    return spoilt


def late(made: Made) -> Made:
    shift = round(0.3 * RATE)
    return replace(made, wave=np.pad(made.wave, ((0, 0), (shift, 0)))[:, : made.wave.shape[1]])


def loud(made: Made) -> Made:
    return replace(made, wave=np.clip(made.wave * 30, -1, 1))


def faint(made: Made) -> Made:
    return replace(made, wave=made.wave * np.float32(0.004))


def silent(made: Made) -> Made:
    return replace(made, wave=np.zeros_like(made.wave))


def other_count(made: Made) -> Made:
    return replace(made, recipe=recipe(clip={"frames": 80, "fps": "16"}))


def other_rate(made: Made) -> Made:
    return replace(made, recipe=recipe(clip={"frames": 81, "fps": "30000/1001"}))


def no_checksums(made: Made) -> Made:
    return replace(made, recipe=recipe(latents={"video": "sha256:beef"}))


def no_recipe(made: Made) -> Made:
    return replace(made, recipe={})


@pytest.mark.parametrize(
    ("gate", "spoil"),
    [
        ("black", black),
        ("frozen", frozen),
        ("repeated", repeated),
        ("sync", late),
        ("clipping", loud),
        ("silence", silent),
        ("loudness", faint),
        ("recipe", other_count),
        ("recipe", other_rate),
        ("recipe", no_checksums),
        ("recipe", no_recipe),
    ],
)
def test_a_clip_spoilt_in_one_way_is_refused_by_its_gate(
    good: Made, tmp_path: Path, gate: str, spoil: Callable[[Made], Made]
) -> None:
    refused = failed(write(tmp_path / "clip.mkv", spoil(good)))
    assert gate in refused
    # a sound that is turned up or down may well fail beside; a spoilt picture or recipe fails for itself alone
    assert refused <= {gate, *(("loudness", "clipping", "silence") if spoil in (loud, faint) else ())}
    assert failed(write(tmp_path / "good.mkv", good)) == set()


def test_sound_that_ends_early_is_refused_with_the_samples_counted(good: Made, tmp_path: Path) -> None:
    whole, short = write(tmp_path / "whole.mkv", good), tmp_path / "short.mkv"
    with av.open(str(whole)) as source, av.open(str(short), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            heard = packet.stream.type == "audio" and (packet.pts or 0) * packet.time_base > 4.5
            if packet.size and not heard:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    assert "tail" in failed(short)
    assert "early" in judged(short)["tail"].told


def test_frames_that_are_stated_and_missing_are_refused(good: Made, tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", good)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    refused = failed(path)
    assert refused & {"frames", "decodes"}


@pytest.mark.parametrize("kind", ["truncated", "empty", "zeros"])
def test_a_file_that_does_not_decode_fails_that_gate_alone(clips: Clips, kind: str) -> None:
    assert failed(clips(kind)) == {"decodes"}


def test_uneven_frame_times_are_refused(clips: Clips) -> None:
    assert "rate" in failed(clips("variable-rate"))


def test_a_clip_without_events_says_so_and_is_not_refused(clips: Clips) -> None:
    verdict = judged(clips("plain"))["sync"]
    assert verdict.passed is None
    assert "no events" in verdict.told


@pytest.mark.parametrize(("amplitude_db", "expected"), [(-23.0, -23.0), (-33.0, -33.0)])
def test_loudness_is_that_of_the_standards_own_test_signal(
    tmp_path: Path, amplitude_db: float, expected: float
) -> None:
    """EBU Tech 3341, case 1 and 2: a stereo sine of 1 kHz at so many dBFS for 20 s is as loud, to 0.1 LU."""
    time = np.arange(20 * 48000) / 48000
    tone = (10 ** (amplitude_db / 20) * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    path = tmp_path / "tone.wav"
    write_clip(path, None, np.stack([tone, tone]), fps=FPS, recipe=recipe(), sample_rate=48000)
    facts = measure(path)
    assert facts.sound is not None and facts.sound.loudness is not None and facts.sound.true_peak is not None
    assert abs(facts.sound.loudness - expected) <= 0.1
    assert abs(facts.sound.true_peak - amplitude_db) <= 0.2


def test_limits_are_the_callers(good: Made, tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mkv", black(good))
    assert failed(path, Limits(black=1.5)) == set()
    assert failed(path, Limits(black=1.5, loudest=-59, quietest=-60)) == {"loudness"}
    with pytest.raises(RequestError, match="--max-black -1"):
        Limits(black=-1)
    with pytest.raises(RequestError, match="--min-loudness"):
        Limits(quietest=-5, loudest=-5)


def test_a_repeat_is_found_by_its_place_and_lag() -> None:
    random = np.random.default_rng(0)
    frames = random.uniform(0, 255, (60, SIDE, SIDE)).astype(np.float32)
    frames[35:50] = frames[10:25]
    meter = PictureMeter(4)
    for frame in frames:
        meter.add(frame)
    _, still, [found] = meter.finish()
    assert (found.span.first, found.span.count, found.lag) == (35, 15, 25)
    assert still == ()


def test_a_thing_that_stands_still_is_frozen_and_no_repeat(good: Made, tmp_path: Path) -> None:
    facts: Facts = measure(write(tmp_path / "clip.mkv", frozen(good)))
    assert facts.picture is not None
    assert facts.picture.repeated == ()
    [span] = facts.picture.frozen
    assert abs(span.first - 20) <= 1 and abs(span.count - 40) <= 1


def test_the_command_tells_files_and_exits_1_where_one_is_refused(
    good: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, spoilt = write(tmp_path / "good.mkv", good), write(tmp_path / "bad.mkv", black(good))
    assert main(["check", str(sound), "--quiet"]) == 0
    assert "passed" in capsys.readouterr().out
    assert main(["check", str(sound), str(spoilt), "--json", "--quiet"]) == 1
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert [file["passed"] for file in told["files"]] == [True, False]
    assert told["files"][1]["gates"]["black"]["passed"] is False
    assert told["files"][1]["picture"]["black"] == [[1.25, 2.5]]
    assert shown.err == "sky4: 1 of 2 files failed a gate\n"
    assert main(["check", str(spoilt), "--max-black", "2", "--quiet"]) == 0
    assert main(["check", str(spoilt), "--skip", "black", "--quiet"]) == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["gone.mp4"], "'gone.mp4' does not exist or is no file"),
        ([".", "--skip", "smell"], "--skip smell is no gate; the gates are decodes"),
        ([".", "--max-tail", "-1"], "--max-tail -1.0 is no limit"),
    ],
)
def test_bad_input_is_one_sentence(capsys: pytest.CaptureFixture[str], argv: list[str], words: str) -> None:
    assert main(["check", *argv]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_none_of_the_bundled_models_own_clips_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = (
        "a red circle bounces on the ground, moving right <sfx>a low drum at each bounce</sfx>",
        "a small blue star moves up in the middle, pulsing slowly <sfx>a glass chime at each pulse</sfx>",
    )
    for number, prompt in enumerate(prompts):
        argv = ["generate", "--prompt", prompt, "-n", "2", "-o", str(tmp_path / f"{number}.mp4"), "--json"]
        assert main(argv) == 0
        shown = capsys.readouterr()
        assert "warning" not in shown.err
        assert [clip["check"]["passed"] for clip in json.loads(shown.out)["clips"]] == [True, True]
    assert main(["check", *map(str, sorted(tmp_path.glob("*.mp4")))]) == 0
