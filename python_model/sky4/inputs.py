"""What the towers are given: tokens, positions and times, never files or grids (model.md, sections 3 and 4).

B batch   N media tokens of a tower, references first   N_t text tokens   C_in channels of one token
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Cubes:
    """Says that a tower's tokens are a video alone, in the cube order of `grid` (T, H, W) (ops/cubes.py).

    density: the share of the cubes that each cube reads, in (0, 1]; 1 is dense.
    """

    grid: tuple[int, int, int]
    density: float = 1.0


@dataclass
class TowerInput:
    """One tower's tokens.

    tokens: [B, N, C_in]; a video token is a patch (1, p, p) of Concat(V, I, M), an audio token one audio latent.
    positions: [N, 3] or [B, N, 3] float32, (time, y, x) in video-latent units.
    timestep: [B] in [0, 1]; 0 is noise, 1 is data.
    reference_tokens: the first so many tokens are in-context references, modulated as data (t = 1).
    segment: [N] int64, 0 = ordinary, 1 = high-resolution keyframe; None = all ordinary.
    mask: [B, N] bool, True = real token; None = nothing is padded.
    cubes: of a tower whose attention is sparse; None = the tokens come in any order.
    """

    tokens: Tensor
    positions: Tensor
    timestep: Tensor
    reference_tokens: int = 0
    segment: Tensor | None = None
    mask: Tensor | None = None
    cubes: Cubes | None = None


@dataclass
class TextInput:
    """The text encoder's hidden states [B, N_t, D_text] and their mask [B, N_t] (True = real; None = nothing padded).

    Sample by sample: a prompt without any real token is allowed and is read as nothing.
    """

    hidden: Tensor
    mask: Tensor | None
