"""Several sounds that drive one picture, each its own region of it.

The picture moves everywhere as all sounds together have it, and in a voice's region as that voice alone has it: the
velocities are laid into one another, so that one picture is made.

Legend: B batch, C latent channels, T latent frames, h w latent grid, T_a audio tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sky4.diffusion.guidance import Evaluate, Prompt
from sky4.diffusion.sampler import State, Times


@dataclass(frozen=True)
class Voice:
    """Clean audio latents [1, T_a, C], and how much of each cell is theirs [1, 1, 1, h, w], 0 to 1."""

    latents: Tensor
    region: Tensor


def voiced(evaluate: Evaluate, voices: Sequence[Voice]) -> Evaluate:
    """The velocity under the state's own sound, in the voices' regions under theirs. Without any it is `evaluate`."""
    if not voices:
        return evaluate

    def laid(state: State, times: Times, prompts: tuple[Prompt, ...], *, exchange: bool) -> State:
        video, audio = evaluate(state, times, prompts, exchange=exchange)
        if video is None or state[1] is None:
            return video, audio
        made = video
        for voice in voices:
            heard = voice.latents.to(state[1]).expand_as(state[1])
            alone, _ = evaluate((state[0], heard), times, prompts, exchange=exchange)
            assert alone is not None, "the picture is there"
            made = made + voice.region.to(video) * (alone - video)
        return made, audio

    return laid
