"""Clips as other programs make them, drawn by libavfilter's own sources, in containers and codecs of many kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.filter


@dataclass(frozen=True)
class Foreign:
    """One clip. width, height: as displayed. frames at fps: what a command should promise, of a variable rate too."""

    name: str
    width: int = 96
    height: int = 64
    frames: int = 16
    fps: Fraction = Fraction(16)
    codec: str = "libx264"
    pixels: str = "yuv420p"
    sound: str | None = "aac"
    sound_rate: int = 44100
    layout: str = "stereo"
    pts: tuple[int, ...] = ()
    rotation: int = 0
    aspect: Fraction = Fraction(1)

    @property
    def stored(self) -> tuple[int, int]:
        """(width, height) in the file."""
        across, down = (self.height, self.width) if self.rotation % 180 else (self.width, self.height)
        return round(across / self.aspect), down

    @property
    def seconds(self) -> Fraction:
        return self.frames / self.fps


FOREIGN = (
    # 12 frames in 18 sixteenths of a second, which the last one's length rounds
    Foreign("variable rate.mkv", frames=12, fps=Fraction(32, 3), pts=(0, 1, 2, 3, 4, 6, 8, 10, 11, 13, 15, 17)),
    Foreign("rotated.mp4", width=64, height=96, rotation=-90),
    Foreign("10 bits.mp4", codec="libx265", pixels="yuv420p10le"),
    Foreign("vp9.webm", codec="libvpx-vp9", sound="libopus", sound_rate=48000),
    Foreign("ntsc.mov", frames=30, fps=Fraction(30000, 1001)),
    Foreign("odd.mkv", width=75, height=51, codec="libx264", pixels="yuv444p", sound="flac"),
    Foreign("silent.mp4", sound=None),
    Foreign("telephone.mkv", sound="pcm_s16le", sound_rate=8000, layout="mono"),
    Foreign("anamorphic.mp4", aspect=Fraction(4, 3)),
    Foreign("old.avi", codec="mpeg4", sound="mp2"),
)


def draw(clip: Foreign, folder: Path) -> Path:
    """The clip as a file of its name."""
    path = folder / clip.name
    base = Fraction(1, 16) if clip.pts else 1 / clip.fps
    with av.open(str(path), "w") as container:
        video = container.add_stream(clip.codec, rate=1 / base, options={"bf": "0"} if "264" in clip.codec else {})
        (video.width, video.height), video.pix_fmt = clip.stored, clip.pixels
        video.time_base = video.codec_context.time_base = base
        video.codec_context.sample_aspect_ratio = clip.aspect
        if clip.rotation:
            video.set_display_rotation(clip.rotation)
        sound = container.add_stream(clip.sound, rate=clip.sound_rate, layout=clip.layout) if clip.sound else None
        width, height = clip.stored
        source = f"size={width}x{height}:rate={1 / base}:duration=9"
        for number, frame in enumerate(_take(_video_source(source), clip.frames)):
            frame = frame.reformat(format=clip.pixels)
            frame.pts, frame.time_base = clip.pts[number] if clip.pts else number, base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            _encode_sine(container, sound, clip)
    return path


def _video_source(options: str) -> Callable[[], av.VideoFrame]:
    graph = av.filter.Graph()
    graph.link_nodes(graph.add("testsrc2", options), graph.add("buffersink")).configure()
    return graph.vpull


def _take(pull: Callable[[], av.VideoFrame], count: int) -> Iterator[av.VideoFrame]:
    return (pull() for _ in range(count))


def _encode_sine(container: av.container.OutputContainer, stream: av.AudioStream, clip: Foreign) -> None:
    graph = av.filter.Graph()
    length = f"frequency=440:sample_rate={clip.sound_rate}:duration={float(clip.seconds):.4f}"
    graph.link_nodes(graph.add("sine", length), graph.add("abuffersink")).configure()
    resampler = av.AudioResampler(stream.format, clip.layout, clip.sound_rate, stream.frame_size or 1024)
    while True:
        try:
            frame = graph.pull()
        except (av.error.EOFError, av.error.BlockingIOError):
            break
        for made in resampler.resample(frame):
            container.mux(stream.encode(made))
    for made in (*resampler.resample(None), None):
        container.mux(stream.encode(made))
