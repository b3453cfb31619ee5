"""Presets as models without weights: the transformer of `sky4.config`, with codecs and a text encoder of that scale.

The codecs and text encoders are public ones whose channels fit: Wan 2.1's video codec (8 x 8 x 4, 16 channels), an
Oobleck audio codec of hop 1024 with 64 channels, Qwen3-VL of 8 or 2 billion parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from sky4.config import preset
from sky4.errors import RequestError
from sky4.pipeline.model_folder import Defaults, Manifest, ModelFolder, RefinerEntry, TextEncoderEntry
from sky4.planning.sketch import ModelSketch

PlannedPreset = Literal["1b", "full"]

VIDEO_CODEC = {
    "_class_name": "AutoencoderKLWan",
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.0] * 16,
    "latents_std": [1.0] * 16,
}
AUDIO_CODEC = {
    "_class_name": "AutoencoderOobleck",
    "encoder_hidden_size": 128,
    "downsampling_ratios": [2, 4, 4, 4, 8],
    "channel_multiples": [1, 2, 4, 8, 16],
    "decoder_channels": 128,
    "decoder_input_channels": 64,
    "audio_channels": 2,
    "sampling_rate": 44100,
}
MAX_TOKENS = 512  # of a prompt; what its length costs is counted as if all were used


def _qwen(width: int, layers: int, hidden: int, heads: int, vision: Mapping[str, int], tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": tied,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "hidden_size": width,
            "num_hidden_layers": layers,
            "intermediate_size": hidden,
            "num_attention_heads": heads,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
        },
        "vision_config": {"model_type": "qwen3_vl_vision", "out_hidden_size": width, **vision},
    }


TEXT_ENCODERS = {
    "full": _qwen(4096, 36, 12288, 32, {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304}, tied=False),
    "1b": _qwen(2048, 28, 6144, 16, {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096}, tied=True),
}
# The base at the size and rate of the published base model, refined to 1080p and 32 frames a second, 481 of them.
BASE = Defaults(width=832, height=480, frames=241, fps=Fraction(16), steps=50, guidance=5.0, audio_guidance=5.0)
WHOLE_TILE = (121, 136, 240)  # the refiner's input at once: 1088 x 1920, 481 frames


def preset_sketch(name: str) -> ModelSketch:
    """RequestError for a preset of which no plan on paper is made."""
    folder = preset_folder(name)
    configs = {"video_codec": VIDEO_CODEC, "audio_codec": AUDIO_CODEC, "text_encoder": TEXT_ENCODERS[name]}
    return ModelSketch(folder, configs, weights=False)


def preset_folder(name: str) -> ModelFolder:
    """What stands for the folder of such a model. RequestError as preset_sketch."""
    if name not in TEXT_ENCODERS:
        raise RequestError(f"--preset {name} is unknown; choose one of {', '.join(TEXT_ENCODERS)}")
    config = preset(name)
    manifest = Manifest(
        format="sky4-model",
        version=1,
        name=f"preset {name}",
        transformer=config,
        video_codec="Wan 2.1",
        audio_codec="Oobleck",
        text_encoder=TextEncoderEntry("Qwen3-VL", max_tokens=MAX_TOKENS),
        defaults=BASE,
        refiner=RefinerEntry("refiner", config, tile=WHOLE_TILE, overlap=(0, 0, 0)),
    )
    return ModelFolder(Path(f"preset {name}"), manifest, 8, 4, 44100, 1024)
