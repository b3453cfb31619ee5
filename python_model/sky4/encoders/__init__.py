"""Frozen networks around the towers: pictures, sound and words become latents and hidden states, and back.

Each is a thin wrapper of a library's class behind one of the protocols below. The libraries are imported when a codec
or encoder is loaded, not with this package.
"""

from sky4.encoders.audio_vae import load_audio_codec
from sky4.encoders.protocols import (
    AudioCodec,
    AudioReference,
    ImageReference,
    Reference,
    TextEncoder,
    VideoCodec,
    VideoReference,
)
from sky4.encoders.text import load_text_encoder
from sky4.encoders.video_vae import load_video_codec

__all__ = [
    "AudioCodec",
    "AudioReference",
    "ImageReference",
    "Reference",
    "TextEncoder",
    "VideoCodec",
    "VideoReference",
    "load_audio_codec",
    "load_text_encoder",
    "load_video_codec",
]
