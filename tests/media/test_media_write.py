"""Clips on disk, judged by libav's own decoding and by nothing of ours."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import wave as wave_module
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from sky4.errors import RequestError, Sky4Failure
from sky4.media import read_audio, read_recipe, write_clip
from sky4.media import write as write_module

RATE = 44100
RECIPE = {"version": 1, "request": {"prompt": '红 圆 "a" <sfx>b</sfx>'}}
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50), (12, 34, 56), (255, 255, 255)]


def chunks(frames: int, size: tuple[int, int] = (32, 48)) -> list[np.ndarray]:
    """Frames of one colour each, in chunks of 1, 4, 4, ... as a causal video VAE decodes them."""
    clip = np.zeros((frames, *size, 3), np.uint8)
    for index in range(frames):
        clip[index] = COLOURS[index % len(COLOURS)]
    return [clip[:1], *np.split(clip[1:], range(4, frames - 1, 4))]


def clicks(samples: int, at: list[int]) -> np.ndarray:
    wave = np.zeros((2, samples), np.float32)
    for start in at:
        wave[:, start : start + 20] = 0.9
    return wave


def decoded_sound(path: Path) -> tuple[np.ndarray, int]:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].codec_context.sample_rate
    if frames[0].shape[0] == 1:  # packed channels
        return np.concatenate(frames, axis=1).reshape(-1, 2).T, rate
    return np.concatenate(frames, axis=1), rate


@pytest.mark.parametrize("fps", [Fraction(16), Fraction(30000, 1001), Fraction(24), Fraction(25, 2)])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_picture_and_sound_start_together_and_end_within_one_audio_frame(
    tmp_path: Path, suffix: str, fps: Fraction
) -> None:
    path, frames = tmp_path / f"clip{suffix}", 21
    samples = round(frames / fps * RATE)
    written = write_clip(path, chunks(frames), clicks(samples, [4410, samples - 20]), fps=fps, recipe=RECIPE)
    assert (written.frames, written.seconds) == (frames, frames / fps)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == fps
        times = [frame.pts * frame.time_base for frame in container.decode(stream)]
    assert len(times) == frames
    assert times[0] == 0
    tick = Fraction(1, 1000) if suffix in (".mkv", ".webm") else Fraction(0)  # Matroska counts milliseconds
    assert all(abs(time - index / fps) <= tick for index, time in enumerate(times))
    sound, rate = decoded_sound(path)
    assert 0 <= sound.shape[1] - samples * rate / RATE < 1024
    loud = np.flatnonzero(np.abs(sound[0]) > 0.3 * np.abs(sound[0]).max())
    assert abs(loud[0] - 4410 * rate / RATE) <= 4
    assert abs(loud[-1] - (samples - 1) * rate / RATE) <= 8


@pytest.mark.parametrize(
    ("suffix", "video", "audio", "rate"),
    [
        (".mp4", "h264", "aac", 44100),
        (".mov", "h264", "aac", 44100),
        (".mkv", "h264", "flac", 44100),
        (".webm", "vp9", "opus", 48000),
    ],
)
def test_each_suffix_holds_its_codecs_and_true_colours(
    tmp_path: Path, suffix: str, video: str, audio: str, rate: int
) -> None:
    path = tmp_path / f"clip{suffix}"
    write_clip(path, chunks(5), clicks(13781, [100]), fps=Fraction(16), recipe=RECIPE)
    with av.open(str(path)) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert (picture.codec_context.name, sound.codec_context.name.removeprefix("lib")) == (video, audio)
        assert (sound.codec_context.sample_rate, sound.codec_context.layout.name) == (rate, "stereo")
        assert picture.codec_context.pix_fmt == "yuv420p"
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(picture)]
        assert (picture.codec_context.colorspace, picture.codec_context.color_range) == (1, 1)  # BT.709, limited
    for frame, colour in zip(decoded, COLOURS, strict=False):
        assert np.abs(frame.astype(int) - np.array(colour)).mean() < 4


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv", "clip.webm", "clip.wav", "clip.png", "clip"])
def test_the_recipe_comes_back_from_every_format(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    frames = None if name.endswith(".wav") else [np.zeros((1, 32, 32, 3), np.uint8)]
    audio = None if name.endswith(".png") else clicks(2756, [10])
    long_recipe = {**RECIPE, "note": "x" * 100_000}  # longer than QuickTime's 64 KB strings
    write_clip(path, frames, audio, fps=Fraction(16), recipe=long_recipe)
    assert read_recipe(path) == {"format": "sky4-recipe", **long_recipe}


@pytest.mark.parametrize("name", ["take:2.mp4", "http:x.wav", "%03d.mkv", "-n.webm", "圆 🔴.mp4"])
def test_any_file_name_is_a_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    frames = None if name.endswith(".wav") else chunks(5)
    write_clip(Path(name), frames, clicks(13781, [10]), fps=Fraction(16), recipe=RECIPE)
    assert os.listdir(tmp_path) == [name]
    assert read_recipe(Path(name))["version"] == 1
    assert abs(read_audio(Path(name)).shape[1] - 13781) <= 1  # Opus goes through 48 kHz and back


def test_a_folder_holds_every_frame_exactly_and_the_sound_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    clip = chunks(9)
    write_clip(path, clip, clicks(24806, [500]), fps=Fraction(16), recipe=RECIPE)
    pictures = sorted(path.glob("*.png"))
    assert [picture.name for picture in pictures] == [f"{index:05d}.png" for index in range(9)]
    stored = np.stack([np.asarray(Image.open(picture)) for picture in pictures])
    assert np.array_equal(stored, np.concatenate(clip))
    with wave_module.open(str(path / "audio.wav")) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getnframes()) == (44100, 2, 24806)


def test_short_sound_is_padded_and_long_sound_is_cut_to_the_picture(tmp_path: Path) -> None:
    for samples in (100, 90_000):
        path = tmp_path / f"{samples}.mkv"
        write_clip(path, chunks(9), clicks(samples, [10]), fps=Fraction(16), recipe=RECIPE)
        assert decoded_sound(path)[0].shape[1] == round(Fraction(9, 16) * RATE)


def test_sound_keeps_its_channels_and_is_clipped_not_wrapped(tmp_path: Path) -> None:
    loud = np.stack([np.full(4410, 1.5, np.float32), np.zeros(4410, np.float32)])
    write_clip(tmp_path / "a.wav", None, loud, fps=Fraction(16), recipe=RECIPE)
    sound, _ = decoded_sound(tmp_path / "a.wav")
    assert sound[0].min() > 0.99 * np.iinfo(np.int16).max
    assert not sound[1].any()


def test_an_existing_file_is_kept_without_force_and_replaced_with_it(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(RequestError, match="--force"):
        write_clip(path, chunks(5), None, fps=Fraction(16), recipe=RECIPE)
    assert path.read_bytes() == b"precious"
    write_clip(path, chunks(5), None, fps=Fraction(16), recipe=RECIPE, force=True)
    assert read_recipe(path)["version"] == 1
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_force_replaces_only_folders_that_sky4_wrote(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "wedding.jpg").write_bytes(b"precious")
    with pytest.raises(RequestError, match="no folder that sky4 wrote"):
        write_clip(photos, chunks(5), None, fps=Fraction(16), recipe=RECIPE, force=True)
    ours = tmp_path / "ours"
    write_clip(ours, chunks(9), None, fps=Fraction(16), recipe=RECIPE)
    write_clip(ours, chunks(5), None, fps=Fraction(16), recipe=RECIPE, force=True)
    assert len(list(ours.glob("*.png"))) == 5
    assert sorted(os.listdir(tmp_path)) == ["ours", "photos"]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip"])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_nothing_is_left_when_the_frames_break_off(tmp_path: Path, name: str, fault: BaseException) -> None:
    def breaking():
        yield from chunks(9)[:2]
        raise fault

    expected = Sky4Failure if isinstance(fault, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_clip(tmp_path / name, breaking(), None, fps=Fraction(16), recipe=RECIPE)
    if expected is Sky4Failure:
        assert "no space is left" in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_takes_no_more_is_told_in_one_sentence(tmp_path: Path) -> None:
    """The kernel itself refuses to let the file grow: the same path as a full disk, without needing one."""
    script = """
import resource, signal, sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from sky4.errors import Sky4Failure
from sky4.media import write_clip
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8)
for name in ("clip.mp4", "clip.mkv", "clip", "clip.wav"):
    try:
        audio = np.random.default_rng(0).uniform(-1, 1, (2, 44100)).astype(np.float32)
        frames = None if name == "clip.wav" else [noise]
        write_clip(Path(sys.argv[1]) / name, frames, audio, fps=Fraction(16), recipe={})
    except Sky4Failure as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("no space is left") == 4, run.stdout
    assert os.listdir(tmp_path) == []


def test_a_file_that_lost_frames_is_not_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = write_module._write_container

    def claims_one_more(*args):
        count, *rest = real_write(*args)
        return count + 1, *rest

    monkeypatch.setattr(write_module, "_write_container", claims_one_more)
    with pytest.raises(Sky4Failure, match="10 frames were written and 9 came back"):
        write_clip(tmp_path / "clip.mp4", [np.concatenate(chunks(9))], None, fps=Fraction(16), recipe=RECIPE)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "frames", "audio", "words"),
    [
        ("clip.avi", 5, True, "ends in '.avi'"),
        ("clip.wav", 5, True, "sound alone"),
        ("clip.png", 1, True, "no sound"),
        ("clip.png", 5, False, "one picture"),
        ("clip.png", 0, False, "neither picture nor sound"),
        ("missing/clip.mp4", 5, True, "create it first"),
        ("file.txt/clip.mp4", 5, True, "is not a folder"),
    ],
)
def test_what_cannot_be_written_is_said(tmp_path: Path, name: str, frames: int, audio: bool, words: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    video = chunks(frames) if frames > 1 else ([np.zeros((1, 32, 32, 3), np.uint8)] if frames else None)
    sound = clicks(4410, [10]) if audio else None
    with pytest.raises(RequestError, match=words):
        write_clip(tmp_path / name, video, sound, fps=Fraction(16), recipe=RECIPE)
    assert os.listdir(tmp_path) == ["file.txt"]


def test_odd_sizes_are_refused_by_h264_and_kept_by_pictures(tmp_path: Path) -> None:
    odd = [np.zeros((5, 31, 33, 3), np.uint8)]
    with pytest.raises(RequestError, match="even sizes only, got 33x31"):
        write_clip(tmp_path / "clip.mp4", odd, None, fps=Fraction(16), recipe=RECIPE)
    assert os.listdir(tmp_path) == []
    write_clip(tmp_path / "clip", odd, None, fps=Fraction(16), recipe=RECIPE)
    assert Image.open(tmp_path / "clip" / "00000.png").size == (33, 31)


SPOILT = """
import hashlib, sys
from fractions import Fraction
from pathlib import Path
import av, numpy as np
from sky4.media import write_clip
random = np.random.default_rng(0)
noise = random.integers(0, 255, (48, 80, 3), dtype=np.uint8)
rolled = np.stack([np.roll(noise, 3 * index, 1) // 2 for index in range(10)])
frames = rolled + random.integers(0, 32, rolled.shape, dtype=np.uint8)
write_clip(Path(sys.argv[1]), [frames], None, fps=Fraction(10), recipe={})
with av.open(sys.argv[1]) as clip:
    print(hashlib.sha256(b"".join(bytes(packet) for packet in clip.demux(video=0) if packet.size)).hexdigest())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone fills memory with a pattern of one's choice")
def test_the_same_frames_give_the_same_bits_whatever_the_memory_held(tmp_path: Path) -> None:
    # MALLOC_PERTURB_ fills what is allocated: x264's macroblock tree, with AVX-512, read of it what it never wrote
    found = set()
    for pattern in ("0", "1", "85"):
        argv = [sys.executable, "-c", SPOILT, str(tmp_path / f"{pattern}.mkv")]
        done = subprocess.run(argv, env=os.environ | {"MALLOC_PERTURB_": pattern}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
