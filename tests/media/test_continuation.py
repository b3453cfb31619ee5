"""Made sound joined on to a source's packets: those stay byte by byte, and nothing is heard of the seam.

The source is the start of a chirp; what is made is the same chirp going on, computed from its formula.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sky4.errors import RequestError
from sky4.media import KeptThenMade, check_continuable, joined_packets, read_audio, write_clip
from tests.clips import Clips
from tests.media.test_soundtrack import heard, packets_of

HALF = Fraction(1, 2)


def chirp_at(time: np.ndarray, channels: int) -> np.ndarray:
    """The clips' chirp at any time, also before and after the clip's two seconds."""
    sweep = 2 * np.pi * (200 * time + 250 * time**2)
    return np.stack([0.4 * np.sin(sweep * (1 + channel / 2)) for channel in range(channels)]).astype(np.float32)


def made(begin: float, seconds: float, channels: int) -> np.ndarray:
    wave = chirp_at(begin + np.arange(round(seconds * 44100)) / 44100, channels)
    return np.repeat(wave, 2, axis=0) if channels == 1 else wave


def steepest(wave: np.ndarray, begin: float, end: float, rate: int) -> float:
    return float(np.abs(np.diff(wave[max(0, round(begin * rate)) : round(end * rate)])).max())


def write(path: Path, sound, seconds: Fraction) -> Path:
    frames = np.full((round(seconds * 5), 32, 48, 3), 90, np.uint8)
    write_clip(path, [frames], sound, fps=Fraction(5), recipe={})
    return path


# name, suffix of the output, channels, what a good encoder of this codec is off by, packets that may be given up
SOURCES = [
    ("plain", ".mp4", 2, 0.02, 9),
    ("plain", ".mkv", 2, 0.02, 9),
    ("vp9-opus", ".webm", 2, 0.08, 9),
    ("pcm-mov", ".mov", 2, 2e-4, 2),
    ("odd-size", ".mkv", 2, 2e-4, 2),
    ("mono-8-khz", ".mov", 1, 0.02, 2),
    ("mono-aac-8-khz", ".mp4", 1, 0.05, 9),
]


@pytest.mark.parametrize(("name", "suffix", "channels", "error", "given_up"), SOURCES)
@pytest.mark.parametrize("backward", [False, True])
def test_the_sources_packets_stay_and_the_sound_goes_on_without_a_click(
    tmp_path: Path, clips: Clips, name: str, suffix: str, channels: int, error: float, given_up: int, backward: bool
) -> None:
    begin = -1.0 if backward else 1.5
    joint = KeptThenMade(
        clips(name), Fraction(0), Fraction(2), made(begin, 1.5, channels), 44100, HALF, backward
    )  # fmt: skip
    assert joint.seconds == 3
    joined = joined_packets(joint)
    path = write(tmp_path / f"clip{suffix}", joined.sound, Fraction(3))
    theirs, ours = packets_of(clips(name)), packets_of(path)
    count = joined.kept.stop - joined.kept.start
    assert count >= len(theirs) - given_up
    kept = [packet.payload for packet in joined.sound.packets][joined.kept]
    assert kept == (theirs[-count:] if backward else theirs[:count])
    assert b"".join(ours) == b"".join(packet.payload for packet in joined.sound.packets)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        rate = stream.rate
        assert (stream.codec_context.channels, stream.codec_context.name) == told(clips(name), channels)
        if stream.duration is not None:
            assert stream.duration * stream.time_base == 3
    sound = heard(path)
    assert 0 <= len(sound) - 3 * rate < (1024 if suffix in (".mp4", ".mov") else 1)
    assert abs(read_audio(path).shape[1] - 3 * 44100) <= 1
    ideal = chirp_at((-1.0 if backward else 0.0) + np.arange(3 * rate) / rate, channels)[0]
    seam = joined.seam / rate
    off = np.abs(sound[: 3 * rate] - ideal)
    meet = 1 if backward else 2  # where the source begins or ends; the seam lies a little inside of it
    assert off[round((meet - 0.25) * rate) : round((meet + 0.25) * rate)].max() <= error
    # a click would be steeper than the chirp's steepest beside it
    beside = max(steepest(ideal, seam - 0.2, seam - 0.05, rate), steepest(ideal, seam + 0.05, seam + 0.25, rate))
    assert steepest(sound, seam - 0.05, seam + 0.05, rate) <= 1.05 * beside + error / 2


def told(path: Path, channels: int) -> tuple[int, str]:
    with av.open(str(path)) as container:
        return channels, container.streams.audio[0].codec_context.name


def test_a_part_of_the_source_goes_on_too(tmp_path: Path, clips: Clips) -> None:
    joint = KeptThenMade(clips("plain"), HALF, Fraction(1), made(1.25, 1.25, 2), 44100, Fraction(1, 4))
    joined = joined_packets(joint)
    path = write(tmp_path / "clip.mp4", joined.sound, Fraction(2))
    theirs, ours = packets_of(clips("plain")), packets_of(path)
    begin = theirs.index(ours[0])
    assert ours[joined.kept] == theirs[begin : begin + joined.kept.stop]
    off = heard(path)[: 2 * 44100] - chirp_at(0.5 + np.arange(2 * 44100) / 44100, 2)[0]
    assert np.abs(off).max() < 0.02


def test_made_sound_takes_over_within_the_new_packets_alone(clips: Clips, tmp_path: Path) -> None:
    """Another sound altogether: the source is whole up to the crossfade, which ends where the source does."""
    silence = np.zeros((2, 66150), np.float32)
    for backward in (False, True):
        joint = KeptThenMade(clips("pcm-mov"), Fraction(0), Fraction(2), silence, 44100, HALF, backward)
        wave = read_audio(write(tmp_path / f"{backward}.mov", joined_packets(joint).sound, Fraction(3)))
        assert wave.shape == (2, 3 * 44100)
        source = read_audio(clips("pcm-mov"))
        kept = wave[:, 44100 + 882 :] if backward else wave[:, : 2 * 44100 - 882]
        theirs = source[:, 882 : 2 * 44100] if backward else source[:, : 2 * 44100 - 882]
        assert np.abs(kept - theirs)[:, 200:-200].max() < 2e-3  # the resampler looks across the ends
        assert np.abs(wave[:, : 44100 - 200] if backward else wave[:, 2 * 44100 + 200 :]).max() < 1e-4


def test_without_an_overlap_the_source_ends_and_the_made_sound_begins_softly(clips: Clips, tmp_path: Path) -> None:
    loud = np.full((2, 44100), 0.9, np.float32)
    for backward in (False, True):
        joint = KeptThenMade(clips("pcm-mov"), Fraction(0), Fraction(2), loud, 44100, backward=backward)
        wave = read_audio(write(tmp_path / f"{backward}.mov", joined_packets(joint).sound, Fraction(3)))
        assert wave.shape == (2, 3 * 44100)
        assert np.abs(np.diff(wave, axis=1)).max() < 0.2


def sound_file(path: Path, codec: str, rate: int, layout: str, channels: int, step: int = 1024) -> Path:
    """Two seconds of a 300 Hz tone."""
    wave = np.tile(tone(0, 2, rate), (channels, 1))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout, options={"strict": "experimental"})
        for begin in range(0, 2 * rate, step):
            part = np.ascontiguousarray(wave[:, begin : begin + step])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def tone(begin: float, seconds: float, rate: int) -> np.ndarray:
    return 0.4 * np.sin(600 * np.pi * (begin + np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout", "channels"),
    [
        ("cinema.mp4", "aac", 48000, "5.1", 6),
        ("camera.mov", "pcm_s24le", 48000, "stereo", 2),
        ("old.mov", "pcm_s16be", 44100, "mono", 1),
        ("telephone.mov", "pcm_mulaw", 8000, "mono", 1),
        ("float.mkv", "pcm_f32le", 96000, "stereo", 2),
        ("call.webm", "libopus", 48000, "mono", 1),
        ("apple.mov", "alac", 44100, "stereo", 2),
        ("dvd.mkv", "ac3", 48000, "stereo", 2),
        ("low.mp4", "aac", 22050, "mono", 1),
    ],
)
def test_other_codecs_go_on_in_their_own_rate_and_channels(
    tmp_path: Path, name: str, codec: str, rate: int, layout: str, channels: int
) -> None:
    path = sound_file(tmp_path / name, codec, rate, layout, channels)
    wave = np.tile(tone(1.5, 1.5, 44100), (2, 1))
    joined = joined_packets(KeptThenMade(path, Fraction(0), Fraction(2), wave, 44100, HALF))
    written = write(tmp_path / f"longer{path.suffix}", joined.sound, Fraction(3))
    theirs, ours = b"".join(packets_of(path)), b"".join(packets_of(written))
    kept = sum(len(packet.payload) for packet in joined.sound.packets[joined.kept])
    assert kept > 0.8 * len(theirs)
    assert ours[:kept] == theirs[:kept]
    sound = heard(written)[: 3 * rate]
    assert abs(len(sound) - 3 * rate) <= 1
    assert np.abs(sound - tone(0, 3, rate))[rate // 10 : 2 * rate].max() < 0.03


def vorbis(folder: Path) -> Path:
    """Vorbis has long and short packets as it likes."""
    return sound_file(folder / "v.mkv", "vorbis", 44100, "stereo", 2)


def test_what_cannot_be_gone_on_from_is_refused_before_any_work(tmp_path: Path, clips: Clips) -> None:
    def said(path: Path, out: str, **how: bool) -> str:
        with pytest.raises(RequestError) as caught:
            check_continuable(path, Fraction(0), Fraction(2), tmp_path / out, "use --encode-audio", **how)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is vorbis" in said(vorbis(tmp_path), "clip.mkv")
    assert "use --encode-audio" in said(tmp_path / "v.mkv", "clip.mkv")
    assert "is aac, and WebM output does not hold" in said(clips("plain"), "clip.webm")
    assert "holds no sound" in said(clips("silent"), "clip.mp4")
    check_continuable(clips("plain"), Fraction(0), Fraction(2), tmp_path / "clip.mp4", "use --encode-audio")
    check_continuable(clips("vp9-opus"), Fraction(0), Fraction(2), tmp_path / "c.webm", "-", backward=True)


def test_mp3_goes_on_forward_only(tmp_path: Path) -> None:
    path = sound_file(tmp_path / "m.mkv", "libmp3lame", 44100, "stereo", 2)
    wave = np.tile(tone(1.5, 1.5, 44100), (2, 1))
    joined = joined_packets(KeptThenMade(path, Fraction(0), Fraction(2), wave, 44100, HALF))
    written = write(tmp_path / "clip.mkv", joined.sound, Fraction(3))
    assert packets_of(written)[joined.kept] == packets_of(path)[joined.kept]
    off = np.abs(heard(written)[: 3 * 44100] - tone(0, 3, 44100))
    assert off[4410:88200].max() < 0.05
    with pytest.raises(RequestError, match="lean on those before"):
        check_continuable(path, Fraction(0), Fraction(2), tmp_path / "clip.mkv", "use --encode-audio", backward=True)
