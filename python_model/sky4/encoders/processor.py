"""A multi-modal model's own processor, put together from a local folder, and the text that places references in it.

Two departures from `AutoProcessor`, so that one folder gives the same numbers on every machine: pictures always go
through the processor's PIL form, and there is no video processor (the library has it for torchvision alone), so that a
clip is given as pictures, evenly spaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sky4.encoders.protocols import AudioReference, ImageReference, Reference, VideoReference
from sky4.errors import RequestError

VIDEO_PICTURES = 8  # of one clip; enough to tell who and what, at the cost of eight pictures' tokens


def load_processor(folder: Path, model_type: str, tokenizer: Any) -> Any | None:
    """The processor of a folder of that model type, with every sense that its files describe; None for a text model."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name

    name = PROCESSOR_MAPPING_NAMES.get(model_type) or PROCESSOR_MAPPING_NAMES.get(model_type.removesuffix("_thinker"))
    library_class = processor_class_from_name(name) if name else None
    if library_class is None:
        return None
    settings, _ = library_class.get_processor_dict(folder)
    senses = [_sense(part, folder, tokenizer) for part in library_class.get_attributes()]
    if all(sense is None or sense is tokenizer for sense in senses):
        return None

    class Processor(library_class):  # type: ignore[misc, valid-type]
        """The library's class, allowed to lack a sense."""

        def check_argument_for_proper_class(self, _: str, argument: Any) -> type:
            return type(argument)

    settings.setdefault("chat_template", tokenizer.chat_template)
    return Processor.from_args_and_dict(senses, settings)


def pictures_of(reference: ImageReference | VideoReference) -> list[NDArray[np.uint8]]:
    """The pictures [H, W, 3] a reference is seen as: itself, or up to VIDEO_PICTURES of its frames, evenly spaced."""
    if isinstance(reference, ImageReference):
        return [reference.pixels]
    frames = reference.frames
    chosen = np.linspace(0, len(frames) - 1, min(VIDEO_PICTURES, len(frames))).round().astype(int)
    return [frames[index] for index in chosen]


def sound_of(reference: AudioReference, sample_rate: int) -> NDArray[np.float32]:
    """A reference's sound in mono [S] at the rate the model hears."""
    from math import gcd

    from scipy.signal import resample_poly

    common = gcd(sample_rate, reference.sample_rate)
    mono = reference.wave.mean(axis=0, dtype=np.float32)
    heard: NDArray[np.float32] = resample_poly(mono, sample_rate // common, reference.sample_rate // common)
    return heard.astype(np.float32)


def ear(processor: Any | None) -> Any | None:
    """The part of a processor that takes sound; None where it has none. The library has two names for it."""
    return getattr(processor, "audio_processor", None) or getattr(processor, "feature_extractor", None)


def check_senses(processor: Any | None, references: Sequence[Reference]) -> None:
    """Raise RequestError for the first reference that the model has no sense for."""
    for reference in references:
        heard = isinstance(reference, AudioReference)
        if (ear(processor) if heard else getattr(processor, "image_processor", None)) is None:
            sense = "hear sound" if heard else "see pictures"
            raise RequestError(
                f"the text encoder cannot {sense}, so it cannot take the reference {reference.name}; "
                "leave the reference out, or use a model whose text encoder can"
            )


def layout(processor: Any | None, tokenizer: Any, prompt: str, references: Sequence[Reference]) -> str:
    """The text the model reads: each reference's name and placeholders, then the prompt; as a chat where it is one.

    A model without a chat template reads the bare text, without references the prompt alone.
    """
    chat = processor if processor is not None else tokenizer
    if not chat.chat_template:
        named = "".join(f"{reference.name}: {_placeholders(processor, reference)}\n" for reference in references)
        return named + prompt
    content: list[dict[str, str]] = []
    for reference in references:
        content.append({"type": "text", "text": f"{reference.name}: "})
        if isinstance(reference, AudioReference):
            content.append({"type": "audio"})
        else:
            content.extend({"type": "image"} for _ in pictures_of(reference))
        content.append({"type": "text", "text": "\n"})
    message = {"role": "user", "content": [*content, {"type": "text", "text": prompt}] if references else prompt}
    text: str = chat.apply_chat_template([message], tokenize=False, add_generation_prompt=False)
    return text


def media_tokens(processor: Any | None) -> list[str]:
    """The placeholders that stand for pictures and sound and that no prompt may hold."""
    names = ("image_token", "video_token", "audio_token")
    return [token for token in (getattr(processor, name, None) for name in names) if token]


def _placeholders(processor: Any, reference: Reference) -> str:
    if isinstance(reference, AudioReference):
        return _between(processor, processor.audio_token, "audio_bos_token", "audio_eos_token")
    one = _between(processor, processor.image_token, "vision_start_token", "vision_end_token")
    return one * len(pictures_of(reference))


def _between(processor: Any, token: str, start: str, end: str) -> str:
    return f"{getattr(processor, start, '')}{token}{getattr(processor, end, '')}"


def _sense(part: str, folder: Path, tokenizer: Any) -> Any | None:
    """One part of a processor; None where the folder does not describe it."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    if "tokenizer" in part:
        return tokenizer
    described = any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
    if not described or "video" in part:
        return None
    if "image" in part:
        return AutoImageProcessor.from_pretrained(folder, backend="pil")
    return AutoFeatureExtractor.from_pretrained(folder)
