"""A made clip: latents, and the frames and sound that they decode to, streamed into a file with their recipe.

Legend: C latent channels, T latent frames, h w latent grid, T_a audio tokens, f frames of a chunk, S samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sky4 import __version__
from sky4.diffusion.sampler import State
from sky4.errors import Sky4Failure
from sky4.geometry import ClipGeometry
from sky4.media import (
    Sound,
    VideoFacts,
    WrittenClip,
    iterate_video,
    kept_sound,
    mixed,
    probe_video,
    read_audio,
    write_clip,
)
from sky4.pipeline.components import Components
from sky4.pipeline.composite import Change, composite
from sky4.pipeline.given import padded
from sky4.pipeline.request import ClipRequest

RECIPE_VERSION = 1

Progress = Callable[[str, int, int], None]  # stage, pieces done, pieces in all


@dataclass(frozen=True)
class Clip:
    """One clip of a request of one variation.

    latents: (video [1, C, T, h, w], audio [1, T_a, C]), None where the tower did not run.
    """

    request: ClipRequest
    geometry: ClipGeometry
    components: Components
    latents: State

    @cached_property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of the latents' float32 bytes, by modality."""
        named = zip(("video", "audio"), self.latents, strict=True)
        return {name: checksum(latents) for name, latents in named if latents is not None}

    @property
    def fps(self) -> Fraction:
        """Of the written picture: a given video keeps its own."""
        return self.request.fps if self._source is None else self._source.fps

    @property
    def frame_count(self) -> int:
        if self._source is None:
            return self.request.frames
        return max(1, min(self._source.frames, round(self.request.seconds * self._source.fps)))

    @cached_property
    def _source(self) -> VideoFacts | None:
        return None if self.request.video is None else probe_video(self.request.video)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Chunks [f, H, W, 3], decoded as they are asked for; of a given video, its own frames in its own size; with a
        canvas, laid into the sources' own frames."""
        if self._source is not None and self.request.video is not None:
            even = self._source.width // 2 * 2, self._source.height // 2 * 2  # what H.264 and VP9 can hold
            for picture in islice(iterate_video(self.request.video, self._source.fps, even), self.frame_count):
                yield picture[None]
            return
        if self.request.canvas is None:
            yield from self._made()
            return
        self.change.clear()
        yield from composite(self._made(), self.request, self.change)

    @cached_property
    def change(self) -> Change:
        """How far what is kept of the sources was changed, of the frames asked for last, before any encoding."""
        return Change()

    def _made(self) -> Iterator[NDArray[np.uint8]]:
        """Chunks [f, h, w, 3] of the size that the model works at."""
        latents, left = self.latents[0], self.frame_count
        assert latents is not None, "no picture was asked for"
        for chunk in self.components.video_codec.decode(latents):
            frames = to_frames(chunk)[:left]  # the model makes 4n+1 frames; what was not asked for is cut off
            left -= len(frames)
            if len(frames):
                yield frames

    def audio(self) -> NDArray[np.float32]:
        """The sound [2, S], exactly as long as the picture; a given sound is its own."""
        samples = round(self.request.seconds * self.geometry.sample_rate)
        if self.request.audio is not None:
            return padded(
                read_audio(self.request.audio, float(self.request.seconds), self.geometry.sample_rate), samples
            )
        latents = self.latents[1]
        assert latents is not None, "no sound was asked for"
        with torch.inference_mode():
            wave = self.components.audio_codec.decode(latents, self.geometry.audio_samples)[0].float().cpu()
        if not bool(wave.isfinite().all()):
            raise Sky4Failure("the decoded sound is not finite, so nothing was saved; compute with --dtype float32")
        return padded(np.asarray(wave.numpy(), np.float32), samples)

    def sound(self) -> Sound | None:
        """What is heard under the picture: the made sound, the source's own, or both; None for silence."""
        track = self.request.soundtrack
        if track is not None and not track.mix:
            return kept_sound(track, self.frame_count / self.fps)
        if not self.request.wants_audio:
            return None
        return self.audio() if track is None else mixed(self.audio(), track, self.geometry.sample_rate)

    def recipe(self) -> dict[str, Any]:
        """How this clip was made, as JSON values: enough to make it again."""
        components = self.components
        return {
            "version": RECIPE_VERSION,
            "sky4": __version__,
            "request": self.request.to_dict(),
            "model": {
                "name": components.folder.manifest.name,
                "path": str(components.folder.path.absolute()),
                "digest": components.digest,
            },
            "computed": {
                "device": str(components.device),
                "dtype": str(components.dtype).removeprefix("torch."),
                "attention_backend": components.backend,
                "threads": components.threads,
                "torch": torch.__version__,
            },
            "inputs": {str(path.absolute()): file_digest(path) for _, path in self.request.files()},
            "latents": self.checksums,
        }

    def save(self, path: Path, *, force: bool = False, progress: Progress | None = None) -> WrittenClip:
        """Decode into `path`, in the format of its suffix. RequestError, Sky4Failure as `media.write_clip`."""
        request = self.request
        return write_clip(
            path,
            _told(self.frames(), self.frame_count, progress) if request.wants_video else None,
            self.sound(),
            fps=self.fps,
            recipe=self.recipe(),
            sample_rate=self.geometry.sample_rate,
            force=force,
        )


def checksum(latents: Tensor) -> str:
    """SHA-256 over the float32 little-endian bytes, whatever device they lie on."""
    array = latents.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False)
    return f"sha256:{hashlib.sha256(array.tobytes()).hexdigest()}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or over the names and digests of all files of a folder of pictures."""
    if path.is_dir():
        inside = [f"{file.name} {file_digest(file)}" for file in sorted(path.iterdir()) if file.is_file()]
        return f"sha256:{hashlib.sha256(chr(10).join(inside).encode()).hexdigest()}"
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def to_frames(chunk: Tensor) -> NDArray[np.uint8]:
    """Pixels [1, 3, f, H, W] in [-1, 1] to frames [f, H, W, 3]. Sky4Failure where they are not finite."""
    if not bool(chunk.isfinite().all()):
        raise Sky4Failure("the decoded picture is not finite, so nothing was saved; compute with --dtype float32")
    frames = chunk[0].permute(1, 2, 3, 0).add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return np.asarray(frames.cpu().contiguous().numpy(), np.uint8)


def _told(chunks: Iterator[NDArray[np.uint8]], total: int, progress: Progress | None) -> Iterator[NDArray[np.uint8]]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if progress is not None:
            progress("decoding", done, total)
