"""From shared flags and a source file to a request: what the model works at, and which part of the file is taken."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from sky4.errors import RequestError
from sky4.pipeline.model_folder import ModelFolder
from sky4cli.requests import Sampling, Shape, outputs_of_source, read_source, request_of, source_shape


def grey_video(path: Path, frames: int, rate: Fraction, pts: list[int] | None = None) -> Path:
    size = (64, 36)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(frames):
            picture = np.full((size[1], size[0], 3), index * 255 // frames, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = pts[index] if pts else index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def folder(nano_model: Path) -> ModelFolder:
    return ModelFolder.read(nano_model)  # 32x32, 9 frames, cells of 16 pixels


def test_what_is_not_said_comes_from_the_model_folder(folder: ModelFolder) -> None:
    request = request_of("a", Shape(32, 32, 9, Fraction(16)), Sampling(steps=3, guidance=1.0), folder.defaults)
    assert (request.steps, request.guidance, request.audio_guidance, request.sampler) == (3, 1.0, 2.0, "euler")


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((1920, 1080), (48, 32)),
        ((1080, 1920), (32, 48)),
        ((200, 200), (32, 32)),
        ((60, 40), (48, 32)),
        ((6400, 16), (640, 16)),
    ],
)
def test_the_working_size_has_the_files_proportions_and_the_models_area(
    folder: ModelFolder, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    assert folder.size_like(*size) == wanted
    folder.geometry(*wanted, 9, Fraction(16))


def test_a_source_keeps_its_rate_and_length(folder: ModelFolder, tmp_path: Path) -> None:
    path = grey_video(tmp_path / "a.mp4", 25, Fraction(30000, 1001))
    source = read_source(path, folder.defaults)
    assert (source.fps, source.frames, source.skip, source.notes) == (Fraction(30000, 1001), 25, 0, ())
    assert source_shape(source, None, folder) == Shape(48, 32, 25, Fraction(30000, 1001))
    assert source_shape(source, "64x64", folder).width == 64
    assert source.default_out("edited") == Path("a-edited.mp4")


def test_a_part_is_counted_at_the_working_rate(folder: ModelFolder, tmp_path: Path) -> None:
    path = grey_video(tmp_path / "a.mp4", 32, Fraction(16))
    part = read_source(path, folder.defaults, start="0.5", seconds="1")
    assert (part.skip, part.frames) == (8, 16)
    part = read_source(path, folder.defaults, fps="8", start="0.5")
    assert (part.fps, part.skip, part.frames) == (8, 4, 12)


def test_a_variable_rate_is_noted_once(folder: ModelFolder, tmp_path: Path) -> None:
    path = grey_video(tmp_path / "a.mkv", 9, Fraction(16), pts=[0, 1, 2, 3, 6, 9, 12, 15, 18])
    [note] = read_source(path, folder.defaults).notes
    assert "has a variable frame rate; it is read at" in note


def test_a_picture_is_a_clip_of_one_frame(folder: ModelFolder, tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    source = read_source(tmp_path / "a.png", folder.defaults)
    assert (source.kind, source.frames, source.fps) == ("image", 1, 16)
    assert outputs_of_source(source, Path("b.png"), None) == outputs_of_source(source, Path("b.mp4"), None) == "still"
    assert source.default_out("edited") == Path("a-edited.png")
    with pytest.raises(RequestError, match="is a picture"):
        read_source(tmp_path / "a.png", folder.defaults, seconds="1")


@pytest.mark.parametrize(
    ("start", "seconds", "words"),
    [
        ("2", None, "--from 2: .* lasts 1.00 s; begin earlier"),
        ("-1", None, "--from -1: must be 0 or more"),
        ("soon", None, "--from soon: expected a number"),
        (None, "0", "--seconds 0: must be above 0"),
        (None, "3", "--seconds 3: .* has 1.00 s; ask for no more"),
        ("0.5", "0.75", "--seconds 0.75: .* has 0.50 s from --from 0.5 on"),
    ],
)
def test_a_part_outside_the_file_is_refused(
    folder: ModelFolder, tmp_path: Path, start: str | None, seconds: str | None, words: str
) -> None:
    path = grey_video(tmp_path / "a.mp4", 16, Fraction(16))
    with pytest.raises(RequestError, match=words):
        read_source(path, folder.defaults, start=start, seconds=seconds)


def test_a_long_file_wants_a_part(folder: ModelFolder, tmp_path: Path) -> None:
    path = grey_video(tmp_path / "a.mp4", 40, Fraction(2))
    with pytest.raises(RequestError, match="lasts 20.0 s, more than 15 s; take a part of it with --from and --seconds"):
        read_source(path, folder.defaults)
    assert read_source(path, folder.defaults, start="6").frames == 28
    assert read_source(path, folder.defaults, seconds="18").frames == 36
    assert read_source(path, folder.defaults, longest=None).frames == 40
