"""Latents and masks in, the towers' inputs out: no files, no networks."""

from sky4.conditioning.assemble import (
    Keyframes,
    assemble_audio,
    assemble_video,
    audio_velocity,
    keyframe_velocity,
    video_velocity,
)
from sky4.conditioning.inpaint import VideoCondition
from sky4.conditioning.references import (
    AudioReferences,
    VideoReferences,
    join_audio_references,
    join_video_references,
)
from sky4.conditioning.tokens import ShotSwitch

__all__ = [
    "AudioReferences",
    "Keyframes",
    "ShotSwitch",
    "VideoCondition",
    "VideoReferences",
    "assemble_audio",
    "assemble_video",
    "audio_velocity",
    "join_audio_references",
    "join_video_references",
    "keyframe_velocity",
    "video_velocity",
]
