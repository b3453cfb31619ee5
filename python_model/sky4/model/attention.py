"""A tower's self-attention over its media and its prompt: dense, or sparse over cubes of a video (model.md, section 8).

Both serve the two forms that a block has: media and text as two streams, or as one sequence with the text at its end.

Where several processes share the media's tokens, each attends with some of the heads, to all tokens (`context.share`).

B batch   N media tokens (of this process)   N_t text tokens   D width   H heads   d = D / H
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, cat, nn

from sky4.config import TransformerConfig
from sky4.model.layers import Context, Linear, split_heads
from sky4.ops.joint_attention import joint_attention
from sky4.ops.vsa import Triple, video_sparse_attention


class Attention(Protocol):
    """x: what queries, keys and values were projected from, [B, N, D] of the media, or [B, N + N_t, D] of both."""

    def streams(self, x: Tensor, media: Triple, text: Triple, context: Context) -> tuple[Tensor, Tensor]:
        """Media [B, N, H, d] and text [B, N_t, H, d]."""
        ...

    def sequence(self, x: Tensor, both: Triple, media_tokens: int, context: Context) -> Tensor:
        """Media with the text behind it, [B, N + N_t, H, d]."""
        ...


class DenseAttention(nn.Module):
    """Every token reads every token. No weights."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()

    def streams(self, x: Tensor, media: Triple, text: Triple, context: Context) -> tuple[Tensor, Tensor]:
        share = context.share
        q, k, v = zip(share.by_head(*media), share.own_heads(*text), strict=True)
        out, text_out = joint_attention(list(q), list(k), list(v), [context.mask, context.text_mask])
        return share.both_by_token(out, text_out)

    def sequence(self, x: Tensor, both: Triple, media_tokens: int, context: Context) -> Tensor:
        if not context.share.alone:
            return _as_streams(self, x, both, media_tokens, context)
        q, k, v = both
        (out,) = joint_attention([q], [k], [v], [context.joint_mask])
        return out


class SparseAttention(nn.Module):
    """Video Sparse Attention: each cube of video tokens reads the cubes that matter to it, and all of the prompt.

    The gates of its two stages start at 0 (coarse) and 1 (fine): with every cube read it then is dense attention.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.gates = Linear(config.width, 2 * config.width)

    def streams(self, x: Tensor, media: Triple, text: Triple, context: Context) -> tuple[Tensor, Tensor]:
        assert context.cubes is not None, "sparse attention needs a video in cube order"
        (tiling, density), share = context.cubes, context.share
        q, k, v, coarse, fine = share.by_head(*media, *split_heads(self.gates(x), 2, self.heads))
        text_q, text_k, text_v = share.own_heads(*text)
        out, text_out = video_sparse_attention(
            (q, k, v),
            (text_q, text_k, text_v),
            tiling,
            density,
            gates=(coarse, 1 + fine),
            text_mask=context.text_mask,
        )
        assert text_out is not None
        return share.both_by_token(out, text_out)

    def sequence(self, x: Tensor, both: Triple, media_tokens: int, context: Context) -> Tensor:
        return _as_streams(self, x, both, media_tokens, context)


def _as_streams(attention: Attention, x: Tensor, both: Triple, media_tokens: int, context: Context) -> Tensor:
    """The one sequence taken apart into media and text, and put together again."""
    q, k, v = both
    n = media_tokens
    media, text = (q[:, :n], k[:, :n], v[:, :n]), (q[:, n:], k[:, n:], v[:, n:])
    return cat(attention.streams(x[:, :n], media, text, context), dim=1)
