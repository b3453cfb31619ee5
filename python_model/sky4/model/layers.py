"""The parts of a block: time embedding, AdaLN modulation, attention cut at its seam, feed-forward.

B batch   N tokens of a sequence   D width   H heads   d = D / H
G groups of tokens with one timestep each: 1, or 2 where references (group 0, t = 1) lead the sequence
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sky4.distributed.sequence import Share
from sky4.inputs import TowerInput
from sky4.ops.backend import cpu_multiplies_bf16
from sky4.ops.cubes import CubeTiling
from sky4.ops.qk_norm_rope import qk_norm_rope

NORM_EPS = 1e-6
TIME_CHANNELS = 256  # sinusoids of the timestep embedding; as in the video model whose weights can be taken over
TIME_SCALE = 1000.0  # t in [0, 1] spans this many units of the sinusoids' argument
TIME_PERIOD = 10000.0


@dataclass
class Context:
    """What stays the same in a tower over all its blocks. N are the tokens of this process, of M in all (`share`)."""

    media: TowerInput  # of this process
    turn: Tensor  # [1 or B, N, 1, d/2] rotation of the media tokens
    joint_turn: Tensor  # [1 or B, N + N_t, 1, d/2] the same with the text tokens after them, which stay as they are
    time_turn: Tensor  # [1 or B, N, 1, d/2] the same in time only, for the exchange
    condition: Tensor  # [B, G, D] activated timestep embedding
    shared: Tensor | None  # [B, G, 6D] the tower's own AdaLN projection, where blocks share it
    reference_tokens: int
    mask: Tensor | None  # [B, M]
    joint_mask: Tensor | None  # [B, M + N_t]
    text: Tensor  # [B, N_t, D] projected prompt, the same at all depths and steps
    text_mask: Tensor | None  # [B, N_t]
    share: Share  # which tokens and heads this process has
    cubes: tuple[CubeTiling, float] | None = None  # of a video in cube order, and the share of them that each reads


class Linear(nn.Linear):
    """nn.Linear, with `linear`'s way around slow bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·weightT + bias. bfloat16 is multiplied in float32 on a CPU without bfloat16 products: torch's own way is slow
    there (one core with AVX2, 400 to 1344 rows: 3 to 4 GFLOP/s against 15 to 22 this way, conversions included).
    """
    if x.dtype == weight.dtype == torch.bfloat16 and x.device.type == "cpu" and not cpu_multiplies_bf16():
        wide = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
        return wide.to(torch.bfloat16)
    return F.linear(x, weight, bias)


class TimestepEmbedding(nn.Module):
    """t [B] -> [B, D]: sinusoids of 1000·t (cosines first), then an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = Linear(TIME_CHANNELS, width)
        self.out = Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        angle = TIME_SCALE * t.float()[:, None] * time_frequencies(t.device)
        waves = torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.hidden.weight.dtype)
        out: Tensor = self.out(F.silu(self.hidden(waves)))
        return out


def time_frequencies(device: torch.device) -> Tensor:
    """The frequencies [128] of the timestep's sinusoids."""
    half = TIME_CHANNELS // 2
    steps = torch.arange(half, dtype=torch.float32, device=device)
    return torch.exp(-math.log(TIME_PERIOD) * steps / half)


class Modulation(nn.Module):
    """`count` AdaLN values per group of tokens, zero at the start.

    Own projection of the timestep, or (shared) the tower's projection plus a bias of this block.
    """

    def __init__(self, width: int, count: int, shared: bool) -> None:
        super().__init__()
        self.count = count
        self.linear = None if shared else Linear(width, count * width)
        self.bias = nn.Parameter(torch.zeros(count * width)) if shared else None

    def forward(self, context: Context) -> tuple[Tensor, ...]:
        if self.linear is not None:
            values = self.linear(context.condition)
        else:
            assert self.bias is not None and context.shared is not None
            values = context.shared[..., : self.bias.numel()] + self.bias.to(context.shared.dtype)
        return tuple(values.chunk(self.count, dim=-1))  # count x [B, G, D]


def modulate(x: Tensor, shift: Tensor, scale: Tensor, reference_tokens: int = 0) -> Tensor:
    """LayerNorm(x)·(1 + scale) + shift with the values of each token's group."""
    x = layer_norm(x)
    return _by_group(lambda x, shift, scale: torch.addcmul(shift, x, 1 + scale), reference_tokens, (x,), (shift, scale))


def add_gated(x: Tensor, gate: Tensor, update: Tensor, reference_tokens: int = 0) -> Tensor:
    """x + gate·update with the gate of each token's group."""
    return _by_group(
        lambda x, update, gate: torch.addcmul(x, gate, update), reference_tokens, (x, update.to(x.dtype)), (gate,)
    )


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


def _by_group(
    apply: Callable[..., Tensor], reference_tokens: int, tokens: tuple[Tensor, ...], values: tuple[Tensor, ...]
) -> Tensor:
    values = tuple(v.to(tokens[0].dtype) for v in values)
    if values[0].shape[1] == 1:
        return apply(*tokens, *values)
    head = apply(*(x[:, :reference_tokens] for x in tokens), *(v[:, :1] for v in values))
    tail = apply(*(x[:, reference_tokens:] for x in tokens), *(v[:, 1:] for v in values))
    return torch.cat([head, tail], dim=1)


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, N, parts·D] -> parts x [B, N, H, d], views."""
    return x.view(*x.shape[:-1], parts, heads, x.shape[-1] // (parts * heads)).unbind(2)  # N may be 0


class QKNorm(nn.Module):
    """RMSNorm per head, then (where a rotation is given) RoPE."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))

    def forward(self, x: Tensor, turn: Tensor | None) -> Tensor:  # [B, N, H, d]
        return qk_norm_rope(x, self.weight, turn, NORM_EPS)


class SelfAttention(nn.Module):
    """One stream's share of a joint attention: `project`, then the joint op elsewhere, then `finish`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.norm_q = QKNorm(width // heads)
        self.norm_k = QKNorm(width // heads)
        self.out = Linear(width, width)

    def project(self, x: Tensor, turn: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = split_heads(self.qkv(x), 3, self.heads)
        return self.norm_q(q, turn), self.norm_k(k, turn), v

    def finish(self, out: Tensor) -> Tensor:
        finished: Tensor = self.out(out.flatten(2))
        return finished


class CrossAttention(nn.Module):
    """Queries of one sequence over the keys of another; the output projection starts at zero.

    Both sides pass a LayerNorm without weights (the projections would absorb them): our choice.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.norm_q = QKNorm(width // heads)
        self.norm_k = QKNorm(width // heads)
        self.out = Linear(width, width)

    def queries(self, x: Tensor, turn: Tensor | None = None) -> Tensor:
        (q,) = split_heads(self.query(layer_norm(x)), 1, self.heads)
        return self.norm_q(q, turn)  # type: ignore[no-any-return]

    def keys_values(self, source: Tensor, turn: Tensor | None = None) -> tuple[Tensor, Tensor]:
        k, v = split_heads(self.key_value(layer_norm(source)), 2, self.heads)
        return self.norm_k(k, turn), v

    def finish(self, out: Tensor) -> Tensor:
        finished: Tensor = self.out(out.flatten(2))
        return finished


class FeedForward(nn.Module):
    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.hidden = Linear(width, ratio * width)
        self.out = Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(F.gelu(self.hidden(x), approximate="tanh"))
        return out
