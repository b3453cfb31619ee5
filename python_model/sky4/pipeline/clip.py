"""A made clip: latents, and the frames and sound that they decode to, streamed into a file with their recipe.

Legend: C latent channels, T latent frames, h w latent grid, T_a audio tokens, f frames of a chunk, S samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sky4 import __version__
from sky4.diffusion.sampler import State
from sky4.geometry import ClipGeometry
from sky4.media import (
    INSIDE,
    Provenance,
    Sound,
    VideoFacts,
    WrittenClip,
    iterate_video,
    joined_packets,
    kept_sound,
    mixed,
    probe_video,
    write_clip,
)
from sky4.media.recipe import VERSION as RECIPE_VERSION
from sky4.pipeline.components import Components
from sky4.pipeline.composite import Change, composite
from sky4.pipeline.digest import file_digest
from sky4.pipeline.given import padded
from sky4.pipeline.grounding import given_pictures, grounded
from sky4.pipeline.heard import continued, whole_wave
from sky4.pipeline.request import ClipRequest, Source
from sky4.pipeline.segments import switch_of, whole_source
from sky4.pipeline.speakers import heard
from sky4.pipeline.windows import Frames, MadeWindow, sample_at

Progress = Callable[[str, int, int], None]  # stage, pieces done, pieces in all
Watch = Callable[[Iterator[Frames]], Iterator[Frames]]  # passes a clip's frames on, and may look at them


@dataclass(frozen=True)
class Clip:
    """One clip of a request of one variation. geometry: of one window. windows: in the order of making."""

    request: ClipRequest
    geometry: ClipGeometry
    components: Components
    windows: tuple[MadeWindow, ...]

    @cached_property
    def latents(self) -> State:
        """(video [1, C, T, h, w], audio [1, T_a, C]) of all windows, one behind the other in the order of making.

        None where the tower did not run.
        """
        video, audio = zip(*(made.latents for made in self.windows), strict=True)
        return _behind_one_another(video, 2), _behind_one_another(audio, 1)

    @cached_property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of the latents' float32 bytes, by modality."""
        named = zip(("video", "audio"), self.latents, strict=True)
        return {name: checksum(latents) for name, latents in named if latents is not None}

    @property
    def fps(self) -> Fraction:
        """Of the written picture: a given video keeps its own."""
        return self.request.out_fps if self._source is None else self._source.fps

    @property
    def frame_count(self) -> int:
        if self._source is None:
            return self.request.out_frames
        return max(1, min(self._source.frames, round(self.request.seconds * self._source.fps)))

    @cached_property
    def _source(self) -> VideoFacts | None:
        """Of a given video whose frames are written as they are."""
        given = None if self.request.refinement is not None else self.request.video
        return None if given is None else probe_video(given)

    @property
    def _pieces(self) -> list[Source | MadeWindow]:
        """What follows one another in the clip: the source that it extends, if any, and the windows."""
        source = whole_source(self.request)
        pieces: list[Source | MadeWindow] = [*self.windows] if source is None else [source, *self.windows]
        return pieces[::-1] if self.windows[0].window.backward else pieces

    @property
    def given(self) -> range:
        """The frames that a source gives whole, so that the model does not make them."""
        source = whole_source(self.request)
        begin = 0 if source is None else self.request.start_of(source)
        return range(begin, begin + (0 if source is None else source.frames))

    @property
    def seams(self) -> list[int]:
        """The frames with which another piece of the clip begins, unless it is another shot."""
        begins = {made.window.begins for made in self.windows if not made.window.anchor} | {
            self.given.start,
            self.given.stop,
        }
        return sorted(frame for frame in begins if 0 < frame < self.frame_count and frame != self.switch)

    @property
    def switch(self) -> int | None:
        """The frame with which another shot begins, as the request asks; None where the shot goes on."""
        return switch_of(self.request)

    def frames(self) -> Iterator[Frames]:
        """Chunks [f, H, W, 3], decoded as they are asked for; of a given video, its own frames in its own size, or
        refined and held to them; with a canvas, laid into the sources' own frames."""
        if self._source is not None and self.request.video is not None:
            even = self._source.width // 2 * 2, self._source.height // 2 * 2  # what H.264 and VP9 can hold
            for picture in islice(iterate_video(self.request.video, self._source.fps, even), self.frame_count):
                yield picture[None]
            return
        if self.request.canvas is None:
            given, refinement = given_pictures(self.request), self.request.refinement
            if given is None or refinement is None:
                yield from self._made()
            else:
                yield from grounded(self._made(), given, refinement.rate)
            return
        self.change.clear()
        yield from composite(self._made(), self.request, self.change)

    @cached_property
    def change(self) -> Change:
        """How far what is kept of the sources was changed, of the frames asked for last, before any encoding."""
        return Change()

    def _made(self) -> Iterator[Frames]:
        """Chunks [f, h, w, 3] of the size that the model works at."""
        for piece in self._pieces:
            if isinstance(piece, MadeWindow):
                yield from piece.shown(self.components)
            else:  # the source's own frames cover whatever stands here
                yield from repeat(np.zeros((1, 1, 1, 3), np.uint8), piece.frames)

    def audio(self) -> NDArray[np.float32]:
        """The sound [2, S], exactly as long as the picture; a given sound is its own, and so is a source's."""
        request, geometry = self.request, self.geometry
        samples = sample_at(request.frames, request, geometry)
        given = heard(request, geometry.sample_rate)
        if given is not None:
            return padded(given, samples)
        return whole_wave(request, geometry, self.windows, self.components.audio_codec)

    def sound(self) -> Sound | None:
        """What is heard under the picture: the made sound, the source's own, or both, mixed or one behind the other.

        None for silence.
        """
        request, geometry = self.request, self.geometry
        track = request.soundtrack
        if track is not None and not track.mix:
            if not request.wants_audio:
                return kept_sound(track, self.frame_count / self.fps)
            joint = continued(track, request, geometry, self.windows, self.components.audio_codec)
            return joined_packets(joint).sound
        if not request.wants_audio:
            return None
        return self.audio() if track is None else mixed(self.audio(), track, geometry.sample_rate)

    def recipe(self) -> dict[str, Any]:
        """How this clip was made, as JSON values: enough to make it again."""
        return {
            "version": RECIPE_VERSION,
            **facts_of(self.request, self.components),
            "clip": {"frames": self.frame_count, "fps": str(self.fps)},
            "latents": self.checksums,
        }

    def save(
        self,
        path: Path,
        *,
        force: bool = False,
        progress: Progress | None = None,
        watch: Watch | None = None,
        provenance: Provenance = INSIDE,
    ) -> WrittenClip:
        """Decode into `path`, in the format of its suffix. RequestError, Sky4Failure as `media.write_clip`.

        watch: sees the frames as they are written. provenance: where the recipe goes, and who signs.
        """
        request = self.request
        frames = _told(self.frames(), self.frame_count, progress) if request.wants_video else None
        sound = self.sound()
        if watch is not None:
            frames = None if frames is None else watch(frames)
        return write_clip(
            path,
            frames,
            sound,
            fps=self.fps,
            recipe=self.recipe(),
            sample_rate=self.geometry.sample_rate,
            force=force,
            provenance=provenance,
        )


def facts_of(request: ClipRequest, components: Components) -> dict[str, Any]:
    """What decides a clip's bits, as JSON values: request, weights, what computes, input files."""
    return {
        "sky4": __version__,
        "request": request.to_dict(),
        "model": {
            "name": components.folder.manifest.name,
            "path": str(components.folder.path.absolute()),
            "digest": components.digest,
        },
        "computed": {
            "device": str(components.device) if components.ranks.world == 1 else components.device.type,
            "dtype": str(components.dtype).removeprefix("torch."),
            "attention_backend": components.backend,
            "threads": components.threads,
            "processes": components.ranks.world,
            "economy": asdict(components.economy),
            "torch": torch.__version__,
        },
        "inputs": {str(path.absolute()): file_digest(path) for _, path in request.files()},
    }


def work_digest(request: ClipRequest, components: Components) -> bytes:
    """SHA-256 of what decides a clip's bits: alike on all processes that make it, wherever their files lie."""
    facts = facts_of(request, components)
    facts["model"].pop("path")
    facts["inputs"] = list(facts["inputs"].values())
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


def checksum(latents: Tensor) -> str:
    """SHA-256 over the float32 little-endian bytes, whatever device they lie on."""
    array = latents.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False)
    return f"sha256:{hashlib.sha256(array.tobytes()).hexdigest()}"


def _behind_one_another(latents: Sequence[Tensor | None], axis: int) -> Tensor | None:
    made = [part for part in latents if part is not None]
    return None if not made else made[0] if len(made) == 1 else torch.cat(made, axis)


def _told(chunks: Iterator[Frames], total: int, progress: Progress | None) -> Iterator[Frames]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if progress is not None:
            progress("decoding", done, total)
