"""The source's own sound under another picture: its packets byte by byte, in time, in every container that holds them.

Judged by libav's demuxer and decoder alone.
"""

from __future__ import annotations

import hashlib
import os
import wave as wave_module
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sky4.errors import RequestError, Sky4Failure
from sky4.media import Soundtrack, check_soundtrack, kept_sound, mixed, read_audio, write_clip
from sky4.media import write as write_module
from tests.clips import Clips, chirp

RECIPE = {"version": 1}


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def streamhash(path: Path) -> str:
    """SHA-256 over the packets' bytes, as ffmpeg's streamhash muxer computes it."""
    return hashlib.sha256(b"".join(packets_of(path))).hexdigest()


def heard(path: Path) -> np.ndarray:
    """The first channel as a player hears it: decoded with what the container says is to be cut off in front."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        stream = container.streams.audio[0]
        parts = [np.asarray(frame.to_ndarray(), np.float32).reshape(-1, frame.samples, order="F") for frame in frames]
        lead = round(frames[0].pts * frames[0].time_base * stream.rate)
    assert lead == 0, "the sound starts with the picture"
    return np.concatenate(parts, axis=1)[0]


def written(path: Path, source: Path, frames: int = 50, fps: int = 25, skip: Fraction = Fraction(0)) -> Path:
    sound = kept_sound(Soundtrack(source, skip), Fraction(frames, fps))
    picture = [np.full((frames, 32, 48, 3), 90, np.uint8)]
    write_clip(path, picture, sound, fps=Fraction(fps), recipe=RECIPE)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert next(container.decode(stream)).pts == 0
    return path


@pytest.mark.parametrize(
    ("source", "suffix"),
    [
        *(("plain", suffix) for suffix in (".mp4", ".mov", ".mkv")),
        *(("vp9-opus", suffix) for suffix in (".webm", ".mkv", ".mp4")),
        *(("pcm-mov", suffix) for suffix in (".mov", ".mkv")),
        *(("odd-size", suffix) for suffix in (".mkv", ".mp4")),
        *(("mono-8-khz", suffix) for suffix in (".mov", ".mkv")),
        *(("mono-aac-8-khz", suffix) for suffix in (".mp4", ".mkv")),
    ],
)
def test_kept_packets_are_the_sources_byte_by_byte_and_decode_to_the_same_samples(
    tmp_path: Path, clips: Clips, source: str, suffix: str
) -> None:
    path = written(tmp_path / f"clip{suffix}", clips(source))
    assert streamhash(path) == streamhash(clips(source))
    assert packets_of(path) == packets_of(clips(source))
    theirs, ours = heard(clips(source)), heard(path)
    assert np.array_equal(ours[: len(theirs)], theirs[: len(ours)])
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
    # MP4 tells the exact end beside the packets, which decoders of libav read on their own
    assert abs(len(ours) - 2 * rate) <= 1024


@pytest.mark.parametrize(
    ("source", "suffix", "error"),
    [
        ("plain", ".mp4", 2e-5),  # AAC fills bands with noise whose seed a decoder carries on from the start
        ("plain", ".mkv", 2e-5),
        ("vp9-opus", ".webm", 1e-4),  # Opus carries its state on for longer than what is kept before the part
        ("vp9-opus", ".mp4", 1e-4),
        ("odd-size", ".mkv", 0),
        ("pcm-mov", ".mov", 0),
        ("pcm-mov", ".mkv", 0),
    ],
)
def test_a_part_starts_at_its_sample_and_ends_with_its_last_packet(
    tmp_path: Path, clips: Clips, source: str, suffix: str, error: float
) -> None:
    path = written(tmp_path / f"clip{suffix}", clips(source), frames=20, skip=Fraction(1, 2))
    every, kept = packets_of(clips(source)), packets_of(path)
    begin = every.index(kept[0])
    assert kept == every[begin : begin + len(kept)]
    assert 0 < begin < len(every) - len(kept)
    theirs, ours = heard(clips(source)), heard(path)
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
    first, longest = rate // 2, 4608
    assert 0 <= len(ours) - rate * 20 // 25 < longest
    theirs = theirs[first : first + len(ours)]
    assert np.abs(ours - theirs).max() <= error


def test_a_sound_that_ends_before_the_picture_is_kept_whole(tmp_path: Path, clips: Clips) -> None:
    path = written(tmp_path / "clip.mp4", clips("plain"), frames=75)
    assert streamhash(path) == streamhash(clips("plain"))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 75


def test_a_sound_that_starts_after_the_picture_keeps_its_place(tmp_path: Path, clips: Clips) -> None:
    late = tmp_path / "late.mkv"
    with av.open(str(clips("plain"))) as source, av.open(str(late), "w") as container:
        streams = [container.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            if packet.dts is not None:
                if packet.stream.type == "audio":
                    shift = round(Fraction(1, 2) / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = streams[packet.stream.index]
                container.mux(packet)
    path = tmp_path / "clip.mp4"
    write_clip(
        path, [np.zeros((50, 32, 48, 3), np.uint8)], kept_sound(Soundtrack(late), Fraction(2)), fps=Fraction(25),
        recipe=RECIPE,
    )  # fmt: skip
    assert np.array_equal(read_audio(path)[:, :88200], read_audio(late)[:, :88200])
    assert np.abs(read_audio(path)[:, : 44100 // 2 - 1100]).max() == 0


@pytest.mark.parametrize(
    ("source", "out", "words"),
    [
        ("vp9-opus", "clip.mov", ["is opus", "MOV output does not hold", ".mp4 or .mkv or .webm"]),
        ("plain", "clip.webm", ["is aac", "WebM output does not hold", ".mp4 or .mov or .mkv"]),
        ("pcm-mov", "clip.webm", ["is pcm_s16le", ".mov or .mkv"]),
        ("plain", "clip.wav", ["lays sound under a picture"]),
        ("plain", "clip.png", ["lays sound under a picture"]),
        ("silent", "clip.mp4", ["--keep-audio", "holds no sound", "drop --keep-audio"]),
    ],
)
def test_what_an_output_cannot_hold_is_said_before_any_work(
    clips: Clips, source: str, out: str, words: list[str]
) -> None:
    with pytest.raises(RequestError) as caught:
        check_soundtrack(Soundtrack(clips(source)), Fraction(2), Path(out))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["truncated", "empty", "zeros"])
def test_a_broken_file_is_refused_with_its_name(clips: Clips, name: str) -> None:
    with pytest.raises(RequestError, match="cannot be decoded as sound"):
        kept_sound(Soundtrack(clips(name)), Fraction(2))


def test_a_part_without_sound_is_refused(clips: Clips) -> None:
    with pytest.raises(RequestError, match=r"no sound from 5\.00 to 6\.00 s; take another part"):
        kept_sound(Soundtrack(clips("plain"), Fraction(5)), Fraction(1))


def test_broadcast_aac_which_no_file_holds_as_it_is_is_refused(tmp_path: Path, clips: Clips) -> None:
    with av.open(str(clips("plain"))) as source, av.open(str(tmp_path / "tv.ts"), "w") as container:
        stream = container.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    with pytest.raises(RequestError, match="--mix instead, which encodes it anew"):
        check_soundtrack(Soundtrack(tmp_path / "tv.ts"), Fraction(1), tmp_path / "clip.mp4")


def test_a_folder_of_pictures_gets_the_decoded_sound(tmp_path: Path, clips: Clips) -> None:
    sound = kept_sound(Soundtrack(clips("mono-aac-8-khz")), Fraction(1))
    write_clip(tmp_path / "frames", [np.zeros((25, 32, 48, 3), np.uint8)], sound, fps=Fraction(25), recipe=RECIPE)
    with wave_module.open(str(tmp_path / "frames" / "audio.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (8000, 2, 8000)
        stored = np.frombuffer(file.readframes(8000), np.int16).reshape(-1, 2).T / 32768
    theirs = heard(clips("mono-aac-8-khz"))[:8000]
    assert np.abs(stored - theirs).max() < 2 / 32768


def test_bytes_that_changed_are_not_handed_over(tmp_path: Path, clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_module.PacketSound, "digest", "another")
    with pytest.raises(Sky4Failure, match="was not kept byte by byte"):
        written(tmp_path / "clip.mp4", clips("plain"))
    assert os.listdir(tmp_path) == []


def test_made_sound_is_added_at_its_gain(clips: Clips) -> None:
    made = np.full((2, 88200), 0.1, np.float32)
    own = read_audio(clips("plain"))[:, :88200]
    mix = mixed(made, Soundtrack(clips("plain"), mix=0.5), 44100)
    assert np.allclose(mix, own + 0.05, atol=1e-6)
    later = mixed(made[:, :44100], Soundtrack(clips("plain"), Fraction(1, 2), 0.5), 44100)
    assert np.allclose(later, own[:, 22050:66150] + 0.05, atol=1e-6)


def test_a_mix_that_would_clip_is_turned_down_as_one(clips: Clips) -> None:
    made = np.ones((2, 88200), np.float32)
    own = read_audio(clips("plain"))[:, :88200]
    mix = mixed(made, Soundtrack(clips("plain"), mix=2.0), 44100)
    assert np.abs(mix).max() <= 0.98 + 1e-6
    assert np.allclose(mix / mix[0, 0] * (own + 2)[0, 0], own + 2, atol=1e-4)  # the same wave, lower


def test_a_short_source_under_a_long_clip_is_mixed_into_its_start(clips: Clips) -> None:
    mix = mixed(np.full((2, 132300), 0.1, np.float32), Soundtrack(clips("plain"), mix=1.0), 44100)
    assert mix.shape == (2, 132300)
    assert np.allclose(mix[:, 100000:], 0.1)


@pytest.mark.parametrize(("gain", "skip"), [(-1.0, 0), (11.0, 0), (float("nan"), 0), (0.5, -1)])
def test_a_gain_or_start_without_sense_is_refused(gain: float, skip: int) -> None:
    with pytest.raises(RequestError, match="--mix" if skip == 0 else "--from"):
        Soundtrack(Path("a.mp4"), Fraction(skip), gain)


def test_the_chirp_of_the_clips_is_loud_enough_to_tell(clips: Clips) -> None:
    assert np.corrcoef(heard(clips("plain"))[:88200], chirp(Fraction(2), 44100, 1)[0])[0, 1] > 0.99
