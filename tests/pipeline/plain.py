"""A request from text alone, as small as the nano model takes."""

from fractions import Fraction

from sky4.pipeline.request import ClipRequest

PLAIN = ClipRequest(
    prompt="a red circle <sfx>a drum</sfx>",
    width=32,
    height=32,
    frames=9,
    fps=Fraction(16),
    steps=2,
    guidance=2.0,
    audio_guidance=2.0,
    shift=1.0,
)
