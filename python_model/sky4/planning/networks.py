"""A model's networks without values, and what their weights take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from sky4.encoders.protocols import AudioCodec, VideoCodec
from sky4.model.eight_bit import SCALE_BYTES, narrowed
from sky4.planning.sketch import ModelSketch, audio_codec_of, idle_units, parameters, placed, video_codec_of

BLOCKS = ("transformer", "refiner")  # networks whose blocks may be streamed, or kept in eight bits


@dataclass(frozen=True)
class Part:
    """A network: its parameters, and the bytes of its weights in memory: all, or the most at once when streamed.

    widened_bytes: read and written at each evaluation to widen weights that are kept in eight bits.
    """

    name: str
    parameters: int
    bytes: int
    streamed_bytes: int
    widened_bytes: int = 0


class Networks:
    """The empty networks of a sketch: made on the meta device, then placed where `without_values` says."""

    def __init__(self, sketch: ModelSketch) -> None:
        self.transformer: Any = sketch.transformer()
        self.refiner: Any = sketch.refiner()
        self.video_vae: Any = sketch.video_vae()
        self.audio_vae: Any = sketch.audio_vae()
        self.text_model: Any = sketch.text_model()
        self.device = "meta"
        self._idle = idle_units(sketch.part_folder("audio_codec")) if sketch.weights else frozenset[str]()

    def place(self, device: str, dtype: torch.dtype, chunk: int | None) -> None:
        """All but the text encoder. chunk: latent frames that the video codec takes at once."""
        self.device, self._chunk = device, chunk
        for made, kind in (
            (self.transformer, dtype),
            (self.refiner, dtype),
            (self.video_vae, dtype),
            (self.audio_vae, torch.float32),
        ):
            if made is not None:
                placed(made, device, kind)

    def video_codec(self) -> VideoCodec:
        return video_codec_of(self.video_vae, self._chunk)

    @cached_property
    def audio_codec(self) -> AudioCodec:
        return audio_codec_of(self.audio_vae, self._idle)


def parts_of(networks: Networks, dtype: torch.dtype, weights: str = "") -> dict[str, Part]:
    """Every network of the model, counted. weights: what the blocks' are kept in, where not in `dtype`."""
    found = {
        "text_encoder": networks.text_model,
        "video_codec": networks.video_vae,
        "audio_codec": networks.audio_vae,
        "transformer": networks.transformer,
        "refiner": networks.refiner,
    }
    parts = {}
    for name, made in found.items():
        if made is None:
            continue
        size = 4 if name == "audio_codec" else dtype.itemsize
        count = parameters(made)
        at_once, all_of_it = count, count * size
        wide = sum(weight.numel() for weight in _narrowed(made)) if weights and name in BLOCKS else 0
        if wide:
            scales = sum(weight.shape[0] for weight in _narrowed(made)) * SCALE_BYTES
            widest = max(weight.numel() for weight in _narrowed(made)) * size  # a layer at work is widened
            all_of_it = (count - wide) * size + wide + scales + widest
        if name in BLOCKS:
            depths = [sum(parameters(one) for one in depth) for depth in made.depths()]
            # the depth at work, and the next one, which is read ahead
            at_once = count - sum(depths) + max(a + b for a, b in zip(depths, [*depths[1:], 0], strict=True))
        parts[name] = Part(name, count, all_of_it, at_once * size, wide * (1 + 2 * size))
    return parts


def _narrowed(model: Any) -> list[torch.Tensor]:
    return [layer.weight for layer in narrowed(model)]
