"""Reading pictures, video and sound: against files made by libav and Pillow directly."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from sky4.errors import RequestError
from sky4.media import (
    iterate_video,
    probe_audio,
    probe_image,
    probe_video,
    read_audio,
    read_image,
    read_recipe,
    read_video,
    write_clip,
)
from tests.clips import Clips


def make_video(
    path: Path,
    levels: Sequence[int],
    pts: Sequence[int] | None = None,
    base: Fraction = Fraction(1, 16),
    size: tuple[int, int] = (64, 32),
    aspect: Fraction | None = None,
    rotation: int | None = None,
    picture: np.ndarray | None = None,
) -> Path:
    """Grey frames of the given levels at the given times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1 / base, options={"crf": "8", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = *size, "yuv420p", base
        stream.codec_context.time_base = base
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for index, level in enumerate(levels):
            pixels = np.full((size[1], size[0], 3), level, np.uint8) if picture is None else picture
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (pts[index] if pts else index), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_sound(path: Path, wave: np.ndarray, rate: int, layout: str, codec: str = "pcm_s16le") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(wave.astype(np.float32), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def levels_of(frames: np.ndarray) -> list[int]:
    return [round(float(frame.mean())) for frame in frames]


def test_frames_come_back_in_order_at_their_own_rate(tmp_path: Path) -> None:
    levels = [20, 60, 100, 140, 180, 220]
    path = make_video(tmp_path / "v.mp4", levels)
    facts = probe_video(path)
    assert (facts.width, facts.height, facts.fps, facts.frames, facts.has_audio) == (64, 32, 16, 6, False)
    assert facts.seconds == Fraction(6, 16)
    assert levels_of(read_video(path)) == pytest.approx(levels, abs=2)


def test_variable_frame_rate_is_resampled_by_time(tmp_path: Path) -> None:
    # shown for 1, 4, 1 and (by the muxer's last duration) some sixteenths of a second
    path = make_video(tmp_path / "v.mkv", [20, 90, 160, 230], pts=[0, 1, 5, 6])
    assert levels_of(read_video(path, Fraction(16), frames=7)) == pytest.approx([20, 90, 90, 90, 90, 160, 230], abs=2)
    assert levels_of(read_video(path, Fraction(32), frames=14))[2:10] == pytest.approx([90] * 8, abs=2)


@pytest.mark.parametrize(
    ("suffix", "rate", "pts", "variable"),
    [
        (".mp4", Fraction(30000, 1001), None, False),
        (".mkv", Fraction(30000, 1001), None, False),  # whole milliseconds: 33, 33, 34
        (".mkv", Fraction(60), None, False),
        (".mp4", Fraction(16), [0, 1, 2, 3, 5, 6, 7, 8], True),  # one frame dropped
        (".mkv", Fraction(16), [0, 1, 2, 3, 4, 5, 6, 8], True),
        (".mp4", Fraction(16), [0, 4], False),  # two frames tell of no change
    ],
)
def test_a_variable_rate_is_told_from_a_clock_that_rounds(
    tmp_path: Path, suffix: str, rate: Fraction, pts: list[int] | None, variable: bool
) -> None:
    count = len(pts) if pts else 40
    path = make_video(tmp_path / f"v{suffix}", [50] * count, pts=pts, base=1 / rate)
    facts = probe_video(path)
    assert facts.variable is variable
    if variable:  # 8 frames in 9 sixteenths of a second
        assert float(facts.fps) == pytest.approx(8 / (9 / 16), abs=0.3)
        assert facts.fps.denominator <= 100
        assert facts.frames == len(read_video(path, facts.fps)) == 8


def test_a_faster_source_is_thinned_out_evenly(tmp_path: Path) -> None:
    levels = list(range(10, 250, 4))  # 60 frames at 30 per second: 2 s
    path = make_video(tmp_path / "v.mp4", levels, base=Fraction(1, 30))
    got = levels_of(read_video(path, Fraction(10)))
    assert got == pytest.approx(levels[1::3], abs=2) or got == pytest.approx(levels[::3], abs=2)
    assert len(got) == 20


def test_a_phone_video_is_shown_upright(tmp_path: Path) -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :16] = (255, 0, 0)  # a red band on the left of what is stored
    # a display matrix of -90 degrees: players turn the stored frame clockwise, so its left side comes on top
    path = make_video(tmp_path / "v.mp4", [0], rotation=-90, picture=picture)
    assert (probe_video(path).width, probe_video(path).height) == (32, 64)
    frame = read_video(path)[0]
    assert frame.shape == (64, 32, 3)
    assert frame[8, 16, 0] > 200
    assert frame[56, 16, 0] < 50


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", [50], aspect=Fraction(2))
    assert (probe_video(path).width, probe_video(path).height) == (128, 32)
    assert read_video(path).shape == (1, 32, 128, 3)


def test_a_size_is_covered_by_the_centre(tmp_path: Path) -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :16], picture[:, 48:] = 255, 255  # white sides that a square cut leaves out
    path = make_video(tmp_path / "v.mp4", [0], picture=picture)
    assert read_video(path, size=(16, 16))[0].max() < 60
    Image.fromarray(picture).save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png", (16, 16)).max() < 60
    assert read_image(tmp_path / "p.png", (16, 16)).shape == (16, 16, 3)


@pytest.mark.parametrize("rate", [None, Fraction(8), Fraction(40)])
def test_frames_at_the_head_are_left_out(tmp_path: Path, rate: Fraction | None) -> None:
    path = make_video(tmp_path / "v.mp4", list(range(10, 250, 20)))
    whole = read_video(path, rate)
    for skip in (1, 3, len(whole) - 1):
        assert np.array_equal(read_video(path, rate, skip=skip), whole[skip:])
    assert np.array_equal(read_video(path, rate, frames=2, skip=2), whole[2:4])
    with pytest.raises(RequestError, match="begin earlier"):
        read_video(path, rate, skip=len(whole))


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mp4", "libx264"), (".mkv", "libx265"), (".webm", "libvpx-vp9"), (".ts", "libx264"), (".avi", "mpeg4")],
)
def test_far_into_a_file_the_same_frames_come_as_from_its_start(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"v{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (48, 32, 32, 3), dtype=np.uint8)  # 12 s
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(4), options={"g": "8"})  # keyframes, and B-frames by default
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for index, picture in enumerate(noise):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 4)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for rate in (None, Fraction(3)):
        whole = read_video(path, rate)
        for skip in (22, 29, len(whole) - 1):
            assert np.array_equal(read_video(path, rate, skip=skip), whole[skip:]), (rate, skip)


def test_frames_are_streamed_not_gathered(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", [50] * 40)
    frames = iterate_video(path, size=(8, 8))
    assert next(frames).shape == (8, 8, 3)
    frames.close()


def test_pictures_are_upright_and_without_transparency(tmp_path: Path) -> None:
    stored = np.zeros((4, 8, 3), np.uint8)
    stored[:, :2] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to display
    Image.fromarray(stored).save(tmp_path / "p.png", exif=exif)
    picture = read_image(tmp_path / "p.png")
    assert picture.shape == (8, 4, 3)
    assert picture[0, 0].tolist() == [255, 0, 0]
    assert probe_image(tmp_path / "p.png") == (4, 8)
    clear = np.full((4, 4, 4), 255, np.uint8)
    clear[..., 3] = 0
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").max() == 0


@pytest.mark.parametrize(("rate", "layout", "channels"), [(44100, "stereo", 2), (48000, "mono", 1), (22050, "5.1", 6)])
def test_any_sound_becomes_stereo_at_44_1_khz(tmp_path: Path, rate: int, layout: str, channels: int) -> None:
    seconds = 0.5
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(round(seconds * rate)) / rate)
    wave = np.zeros((channels, tone.size))
    wave[: min(channels, 2)] = tone
    path = make_sound(tmp_path / "s.wav", wave, rate, layout)
    sound = read_audio(path)
    assert sound.dtype == np.float32
    assert sound.shape[0] == 2
    assert abs(sound.shape[1] - seconds * 44100) <= 1
    spectrum = np.abs(np.fft.rfft(sound[0] * np.hanning(sound.shape[1])))
    assert abs(spectrum.argmax() / seconds - 1000) <= 2
    assert np.allclose(sound[0], sound[1], atol=1e-3)
    if layout != "5.1":  # more channels than two are mixed down
        assert np.abs(sound).max() == pytest.approx(0.5, abs=0.01)
    assert probe_audio(path) == pytest.approx(seconds, abs=1e-3)


def test_only_the_seconds_asked_for_are_read(tmp_path: Path) -> None:
    path = make_sound(tmp_path / "s.wav", np.full((2, 44100), 0.25), 44100, "stereo")
    assert read_audio(path, seconds=0.1).shape == (2, 4410)
    assert read_audio(path, seconds=3).shape == (2, 44100)


def test_mp3_priming_is_taken_off(tmp_path: Path) -> None:
    wave = np.zeros((2, 22050))
    wave[:, 11025:11045] = 0.9
    sound = read_audio(make_sound(tmp_path / "s.m4a", wave, 44100, "stereo", codec="aac"))
    assert abs(int(np.abs(sound[0]).argmax()) - 11035) < 16
    assert sound.shape[1] == 22050


@pytest.mark.parametrize("read", [probe_image, probe_video, probe_audio])
def test_missing_and_undecodable_files_are_refused_with_their_name(tmp_path: Path, read) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no media file" * 50)
    empty = tmp_path / "empty.png"
    empty.touch()
    for path, words in ((tmp_path / "gone.png", "does not exist"), (broken, "cannot be decoded"), (empty, "cannot be")):
        with pytest.raises(RequestError, match=words) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_truncated_picture_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:4000])
    with pytest.raises(RequestError, match="cannot be decoded as a picture"):
        probe_image(tmp_path / "cut.png")


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (11_000, 11_000)).save(tmp_path / "large.png")
    with pytest.raises(RequestError, match="100 megapixels"):
        read_image(tmp_path / "large.png")


def test_streams_that_are_not_there_are_named(tmp_path: Path) -> None:
    silent = make_video(tmp_path / "v.mp4", [50, 60])
    with pytest.raises(RequestError, match="holds no sound"):
        read_audio(silent)
    blind = make_sound(tmp_path / "s.wav", np.full((2, 4410), 0.25), 44100, "stereo")
    with pytest.raises(RequestError, match="holds no picture"):
        probe_video(blind)


def test_a_foreign_file_holds_no_recipe(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", [50, 60])
    with pytest.raises(RequestError, match="holds no sky4 recipe"):
        read_recipe(path)
    with pytest.raises(RequestError, match="does not exist"):
        read_recipe(tmp_path / "gone.mp4")


def test_a_file_whose_codec_is_not_known_is_refused(clips: Clips, tmp_path: Path) -> None:
    """As a header that is broken may say: no decoder is found then, and nothing is known of the stream."""
    data = clips("plain").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data.replace(b"avc1", b"xxxx"))
    with pytest.raises(RequestError, match="'.*a.mp4' is broken, or its video is of a codec"):
        probe_video(tmp_path / "a.mp4")


def test_metadata_of_any_bytes_does_not_keep_a_film_from_being_read(tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    write_clip(path, [np.zeros((3, 32, 32, 3), np.uint8)], None, fps=Fraction(16), recipe={"title": "plain"})
    path.write_bytes(path.read_bytes().replace(b"plain", b"pl\xff\xfen"))
    with pytest.raises(UnicodeDecodeError), av.open(str(path)):
        pass  # libav's own reader gives up on it
    assert len(read_video(path)) == 3
