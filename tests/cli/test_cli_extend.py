"""`sky4 extend` through the command line, on a nano model: lengths as promised, the source untouched, bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from sky4.media import read_audio, read_video, write_clip
from sky4cli.main import main

Run = Callable[..., tuple[int, str, str]]
RATE = 44100


def film(path: Path, frames: int = 20, fps: Fraction = Fraction(10), sound: bool = True, side: int = 48) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (frames, side, 80, 3), dtype=np.uint8)
    tone = 0.3 * np.tile(np.sin(np.arange(round(frames / fps * RATE)) / 30), (2, 1)).astype(np.float32)
    write_clip(path, [pictures], tone if sound else None, fps=fps, recipe={})


@pytest.fixture
def run(nano_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call `sky4 extend` in a folder with film.mkv: 20 frames of 80x48 at 10 a second, with sound."""
    monkeypatch.chdir(tmp_path)
    film(Path("film.mkv"))

    def call(*argv: str) -> tuple[int, str, str]:
        code = main(["extend", *argv, "--prompt", "a circle", "--model", str(nano_model), "--steps", "1"])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What `sky4 extend` says to bad input: one sentence, exit 2, nothing written, no weights read."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded for a request that is refused")

    for name in ("load_transformer", "load_video_codec", "load_text_encoder"):
        monkeypatch.setattr(f"sky4.pipeline.components.{name}", fail)

    def call(*argv: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        code, out, err = run(*argv, "--quiet")
        assert (code, out) == (2, ""), err
        assert sorted(tmp_path.rglob("*")) == before
        assert err.startswith("sky4: ")
        assert err.count("\n") == 1
        return err

    return call


@pytest.mark.parametrize("direction", [(), ("--backward",)])
def test_the_clip_goes_on_in_its_own_size_rate_and_frames(run: Run, direction: tuple[str, ...]) -> None:
    code, out, err = run("film.mkv", "--seconds", "1.5", *direction, "-o", "long", "--json")
    assert code == 0, err
    [made] = json.loads(out)["clips"]
    assert (made["width"], made["height"], made["frames"], made["fps"]) == (80, 48, 35, "10")
    shown = np.stack([np.asarray(Image.open(file)) for file in sorted(Path("long").glob("*.png"))])
    assert np.array_equal(shown[15:] if direction else shown[:20], read_video(Path("film.mkv")))
    # nano's windows are of 9 frames and keep 5: 15 more are made in 4 rounds
    at = [1.5, 1.1, 0.7, 0.3] if direction else [2.0, 2.4, 2.8, 3.2]
    assert [seam["seconds"] for seam in made["seams"]] == sorted(at)
    assert min(made["usual"].values()) >= 0  # None of neither stream
    assert set(made["usual"]) == {"colour", "motion", "loudness"}


@pytest.mark.parametrize(
    ("frames", "fps", "flags", "wanted"),
    [
        (20, Fraction(10), ("--seconds", "0.3"), 23),
        (20, Fraction(10), ("--seconds", "2"), 40),
        (20, Fraction(10), ("--to", "2.5"), 25),
        (21, Fraction(30000, 1001), ("--seconds", "0.5"), 36),
        (21, Fraction(30000, 1001), ("--seconds", "0.5", "--backward", "--overlap", "9", "--window", "13"), 36),
        (9, Fraction(16), ("--seconds", "1", "--overlap", "1"), 25),
        (6, Fraction(25, 2), ("--seconds", "1", "--window", "17"), 18),
        (3, Fraction(12), ("--seconds", "0.5"), 9),
    ],
)
def test_frames_and_samples_are_exact(
    run: Run, frames: int, fps: Fraction, flags: tuple[str, ...], wanted: int
) -> None:
    film(Path("other.mkv"), frames, fps)
    code, out, err = run("other.mkv", *flags, "-o", "long", "--json")
    assert code == 0, err
    assert json.loads(out)["clips"][0]["frames"] == wanted
    assert len(list(Path("long").glob("*.png"))) == wanted
    with av.open("long/audio.wav") as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == round(wanted / fps * RATE)


def test_a_part_is_extended_and_the_line_tells_of_the_seam(run: Run) -> None:
    code, out, err = run("film.mkv", "--from", "0.5", "--until", "1.5", "--seconds", "0.4", "-o", "long")
    assert code == 0, err
    assert out.splitlines()[0].startswith("long  80x48  1.40 s  seed 0  took ")
    assert out.splitlines()[1] == "long  what is kept: unchanged before encoding, unchanged in the file"
    assert out.splitlines()[2].startswith("long  seam at 1.00 s: colour step ")
    shown = np.stack([np.asarray(Image.open(file)) for file in sorted(Path("long").glob("*.png"))])
    assert np.array_equal(shown[:10], read_video(Path("film.mkv"))[5:15])


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
@pytest.mark.parametrize("direction", [(), ("--backward",)])
def test_the_sounds_packets_are_the_sources_own(run: Run, suffix: str, direction: tuple[str, ...]) -> None:
    film(Path(f"own{suffix}"))
    code, _, err = run(f"own{suffix}", "--seconds", "0.5", *direction, "-o", f"long{suffix}")
    assert code == 0, err
    own, whole = packets(Path(f"own{suffix}")), packets(Path(f"long{suffix}"))
    if direction:
        own, whole = own[::-1], whole[::-1]
    same = next(index for index, (one, other) in enumerate(zip(own, whole, strict=False)) if one != other)
    assert len(whole) > len(own)
    assert same >= len(own) - 11  # at the seam a few hundredths of a second are encoded anew
    wave = read_audio(Path(f"long{suffix}"))
    assert abs(wave.shape[1] - 2.5 * RATE) <= 1024


def test_sound_that_no_encoder_goes_on_from_is_refused_unless_encoded_anew(run: Run) -> None:
    film(Path("a.mp4"))
    with av.open("a.mp4") as source, av.open("vorbis.mkv", "w") as made:
        picture = made.add_stream_from_template(source.streams.video[0])
        sound = made.add_stream("vorbis", rate=RATE, layout="stereo", options={"strict": "experimental"})
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = picture
                made.mux(packet)
        source.seek(0)
        for frame in source.decode(audio=0):
            made.mux(sound.encode(frame))
        made.mux(sound.encode(None))
    before = sorted(Path().iterdir())
    code, _, err = run("vorbis.mkv", "--seconds", "0.5", "-o", "long.mkv", "--quiet")
    assert code == 2
    assert "the sound of 'vorbis.mkv' is vorbis" in err
    assert err.endswith("add --encode-audio, which has all of the sound encoded anew\n")
    assert sorted(Path().iterdir()) == before
    code, _, err = run("vorbis.mkv", "--seconds", "0.5", "-o", "long.mkv", "--encode-audio")
    assert code == 0, err


def test_a_silent_clip_stays_silent_unless_sound_is_asked_for(run: Run) -> None:
    film(Path("silent.mp4"), sound=False)
    code, _, err = run("silent.mp4", "--seconds", "0.4")
    assert code == 0, err
    assert err.count("note: 'silent.mp4' has no sound, so none is made; --sound makes it for what is added") == 1
    with av.open("silent-extended.mp4") as container:
        assert not container.streams.audio
    code, _, err = run("silent.mp4", "--seconds", "0.4", "--sound", "-o", "heard")
    assert code == 0, err
    assert "no sound" not in err
    wave = read_audio(Path("heard/audio.wav"))
    assert not wave[:, : 2 * RATE].any()
    assert wave[:, 2 * RATE :].any()
    code, _, err = run("film.mkv", "--seconds", "0.4", "--no-sound", "-o", "mute.mp4")
    assert code == 0, err
    with av.open("mute.mp4") as container:
        assert not container.streams.audio


def test_an_odd_size_is_cut_for_a_container_and_kept_in_a_folder(run: Run) -> None:
    Path("odd").mkdir()
    pictures = np.random.default_rng(0).integers(0, 255, (9, 48, 80, 3), dtype=np.uint8)
    with av.open("odd.mkv", "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 79, 47, "bgr0"
        for picture in pictures[:, :47, :79]:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    code, out, err = run("odd.mkv", "--seconds", "0.4", "-o", "even.mp4", "--json")
    assert code == 0, err
    assert "79x47 is cut to 78x46" in err
    assert (json.loads(out)["clips"][0]["width"], json.loads(out)["clips"][0]["height"]) == (78, 46)
    code, out, _ = run("odd.mkv", "--seconds", "0.4", "-o", "whole", "--json")
    assert (json.loads(out)["clips"][0]["width"], json.loads(out)["clips"][0]["height"]) == (79, 47)
    assert np.array_equal(np.asarray(Image.open("whole/00000.png")), pictures[0, :47, :79])


def test_rerun_makes_an_extension_again(run: Run, nano_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("film.mkv", "--seconds", "1", "-o", "long.mkv")[0] == 0
    assert main(["rerun", "long.mkv", "-o", "again.mkv", "--model", str(nano_model)]) == 0
    assert "the latents are the same, bit for bit" in capsys.readouterr().err


def test_another_shot_is_asked_for_in_words_and_has_no_seam(run: Run) -> None:
    code, out, err = run("film.mkv", "--seconds", "1", "--transition", "cut-in", "-o", "long", "--json")
    assert code == 0, err
    [made] = json.loads(out)["clips"]
    assert made["prompt"] == "Cut in to a close-up: a circle"
    assert made["switch"] == {"seconds": 2.0, "transition": "cut-in"}
    assert 2.0 not in [seam["seconds"] for seam in made["seams"]]
    shown = np.stack([np.asarray(Image.open(file)) for file in sorted(Path("long").glob("*.png"))])
    assert np.array_equal(shown[:20], read_video(Path("film.mkv")))
    code, out, err = run("film.mkv", "--seconds", "0.4", "--transition", "auto", "-o", "goes-on", "--json")
    assert code == 0, err
    assert "note: --transition auto is none, as the last shot is " in err
    assert json.loads(out)["clips"][0]["prompt"] == "a circle"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--seconds", "1", "--transition", "cut-up"), "--transition cut-up is unknown; choose one of none, cut-in, "),
        (("--seconds", "1", "--transition", "cut-in", "--backward"), "is for what follows a clip; drop --backward"),
        (("--seconds", "0"), "--seconds 0: must be above 0"),
        (("--seconds", "-3"), "--seconds -3: must be above 0"),
        (("--seconds", "soon"), "--seconds soon: expected a number"),
        (("--seconds", "10800"), "--seconds 10800 would add 10800 s, more than 600 s at a time; ask for less"),
        ((), "--seconds, how much is added, and --to, how long the whole becomes, are both missing; give --seconds 5"),
        (("--seconds", "1", "--to", "5"), "are both given; drop one of them"),
        (("--to", "1.5"), "--to 1.5: 'film.mkv' gives 2.00 s already; ask for more"),
        (("--seconds", "1", "--overlap", "33"), "--overlap 33: 'film.mkv' gives 20 frames, fewer than a round keeps; "),
        (("--seconds", "1", "--overlap", "6"), "--overlap 6 is not 4n + 1 frames, as the codec wants; nearest: 5 or 9"),
        (("--seconds", "1", "--overlap", "0"), "--overlap: the number of kept frames 0 is outside 1 to 4095"),
        (("--seconds", "1", "--window", "10"), "--window 10 is not 4n + 1 frames, as the codec wants; nearest: 9 or 1"),
        (("--seconds", "1", "--window", "9", "--overlap", "9"), "--overlap 9 leaves nothing to make of --window 9"),
        (("--seconds", "1", "--overlap", "1", "--backward"), "--overlap 1 holds no whole group of 4; use 5 or more"),
        (("--seconds", "1", "--from", "2.5"), "--from 2.5: 'film.mkv' lasts 2.00 s; begin earlier"),
        (("--seconds", "1", "--until", "9"), "--until 9: 'film.mkv' lasts 2.00 s"),
        (("--seconds", "1", "--until", "0.5", "--from", "1"), "what is taken of it begins at 1 s"),
        (("--seconds", "1", "-o", "film.mkv", "--force"), "the output 'film.mkv' is the input 'film.mkv'"),
        (("--seconds", "1", "-o", "long.wav"), "the output 'long.wav' would be a sound alone"),
        (("--seconds", "1", "-o", "long.png"), "the output 'long.png' holds one frame and 'film.mkv' has 30"),
        (("--seconds", "1", "-o", "film.mkv"), "the output 'film.mkv' exists already"),
        (("--seconds", "1", "--fps", "0"), "--fps 0: must be above 0"),
    ],
)
def test_bad_input_is_one_sentence(refused: Callable[..., str], flags: tuple[str, ...], words: str) -> None:
    assert words in refused("film.mkv", *flags)


def test_files_that_are_no_clip_are_refused(refused: Callable[..., str]) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("a.png")
    assert "'a.png' is a picture; `sky4 generate --image a.png` makes a clip" in refused("a.png", "--seconds", "1")
    assert "'gone.mp4' does not exist" in refused("gone.mp4", "--seconds", "1")
    Path("broken.mp4").write_bytes(b"no film" * 99)
    assert "cannot be decoded as a video" in refused("broken.mp4", "--seconds", "1")


def test_a_video_of_hours_is_refused_with_the_flags_that_take_a_part(refused: Callable[..., str]) -> None:
    with av.open("hours.mkv", "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(1, 10), options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(720):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    said = refused("hours.mkv", "--seconds", "1", "--fps", "16")
    assert "'hours.mkv' gives 7200 s, more than 600 s; take a part of it with --from and --until" in said


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(nano_model: Path, tmp_path: Path) -> None:
    """Extending 5 s to 60 s peaks within a tenth of extending it to 10 s."""
    film(tmp_path / "film.mkv", 80, Fraction(16), side=64)
    peaks = []
    for to in ("10", "60"):
        code = (
            "import resource, sys; from sky4cli.main import main; code = main(sys.argv[1:]); "
            "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        argv = ["extend", "film.mkv", "--to", to, "--prompt", "a", "--model", str(nano_model), "--steps", "1"]
        done = subprocess.run(
            [sys.executable, "-c", code, *argv, "--window", "33", "--overlap", "5", "-o", f"{to}.mkv", "--quiet"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        exit_code, peak = done.stdout.split()[-2:]
        assert exit_code == "0", done.stderr
        peaks.append(int(peak))
    assert peaks[1] < 1.1 * peaks[0], peaks
