"""One depth of a tower, and the exchange between the towers at that depth (model.md, section 3).

A block has two halves so that the exchange can stand between them: `attend` and `feed_forward`.

    B batch   N media tokens   N_t text tokens   D width   H heads   d = D / H
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sky4.config import TransformerConfig
from sky4.model.attention import Attention
from sky4.model.layers import (
    Context,
    CrossAttention,
    FeedForward,
    Linear,
    Modulation,
    QKNorm,
    SelfAttention,
    add_gated,
    linear,
    modulate,
    split_heads,
)
from sky4.ops.joint_attention import joint_attention


class TextReading(nn.Module):
    """Eq. 4: the media tokens read the prompt once more.

    The keys come from the projected prompt, not from the text stream of the block: our choice, because they then are
    the same at every sampling step and may be kept.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = CrossAttention(config.width, config.heads)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q = self.attention.queries(x)
        k, v = self.attention.keys_values(context.text)
        (out,) = joint_attention([q], [k], [v], [context.text_mask])
        return x + self.attention.finish(out)


class DualBlock(nn.Module):
    """Media and text with separate weights, joined in one attention."""

    def __init__(self, config: TransformerConfig, reads_text: bool, joint: Attention) -> None:
        super().__init__()
        self.joint = joint
        shared = config.modulation == "shared"
        self.modulation = Modulation(config.width, 6, shared)
        self.text_modulation = Modulation(config.width, 6, shared)
        self.attention = SelfAttention(config.width, config.heads)
        self.text_attention = SelfAttention(config.width, config.heads)
        self.text_reading = TextReading(config) if reads_text else None
        self.mlp = FeedForward(config.width, config.mlp_ratio)
        self.text_mlp = FeedForward(config.width, config.mlp_ratio)

    def attend(self, x: Tensor, text: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        shift, scale, gate, *_ = self.modulation(context)
        text_shift, text_scale, text_gate, *_ = _own_time(self.text_modulation(context))
        inward = modulate(x, shift, scale, context.reference_tokens)
        media_qkv = self.attention.project(inward, context.turn)
        text_qkv = self.text_attention.project(modulate(text, text_shift, text_scale), None)
        out, text_out = self.joint.streams(inward, media_qkv, text_qkv, context)
        x = add_gated(x, gate, self.attention.finish(out), context.reference_tokens)
        text = add_gated(text, text_gate, self.text_attention.finish(text_out))
        if self.text_reading is not None:
            x = self.text_reading(x, context)
        return x, text

    def feed_forward(self, x: Tensor, text: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        *_, shift, scale, gate = self.modulation(context)
        *_, text_shift, text_scale, text_gate = _own_time(self.text_modulation(context))
        update = self.mlp(modulate(x, shift, scale, context.reference_tokens))
        text_update = self.text_mlp(modulate(text, text_shift, text_scale))
        return add_gated(x, gate, update, context.reference_tokens), add_gated(text, text_gate, text_update)


class SingleBlock(nn.Module):
    """Media and text as one sequence with one set of weights; attention and MLP in parallel from one norm."""

    def __init__(self, config: TransformerConfig, reads_text: bool, joint: Attention) -> None:
        super().__init__()
        self.joint = joint
        self.heads = config.heads
        self.parts = [3 * config.width, config.mlp_ratio * config.width]
        self.modulation = Modulation(config.width, 3, config.modulation == "shared")
        self.inward = Linear(config.width, sum(self.parts))  # q, k, v and the MLP's hidden layer
        self.norm_q = QKNorm(config.head_dim)
        self.norm_k = QKNorm(config.head_dim)
        self.outward = Linear(config.width + self.parts[1], config.width)
        self.text_reading = TextReading(config) if reads_text else None

    def attend(self, x: Tensor, text: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        media_tokens = x.shape[1]
        both = torch.cat([x, text], dim=1)  # [B, N + N_t, D]
        shift, scale, gate = self.modulation(context)
        inward = modulate(both, shift, scale, context.reference_tokens)
        q, k, v, hidden = self._project(inward, context.joint_turn)
        out = self.joint.sequence(inward, (q, k, v), media_tokens, context)
        both = add_gated(both, gate, self._finish(out, hidden), context.reference_tokens)
        x, text = both[:, :media_tokens], both[:, media_tokens:]
        if self.text_reading is not None:
            x = self.text_reading(x, context)
        return x, text

    def _project(self, x: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        qkv, hidden = torch.split(self.inward(x), self.parts, dim=-1)
        q, k, v = split_heads(qkv, 3, self.heads)
        return self.norm_q(q, turn), self.norm_k(k, turn), v, hidden

    def _finish(self, out: Tensor, hidden: Tensor) -> Tensor:
        """outward([attention ; MLP]) as a sum of two products: no copy of the wide activations side by side, unless the
        weights are in eight bits, which cannot be cut."""
        if hasattr(self.outward.weight, "qdata"):
            whole: Tensor = self.outward(torch.cat([out.flatten(2), F.gelu(hidden, approximate="tanh")], dim=-1))
            return whole
        attention_weight, mlp_weight = torch.split(self.outward.weight, [self.parts[0] // 3, self.parts[1]], dim=1)
        attended = linear(out.flatten(2), attention_weight, self.outward.bias)
        return attended + linear(F.gelu(hidden, approximate="tanh"), mlp_weight)

    def feed_forward(self, x: Tensor, text: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Nothing: the MLP ran beside the attention."""
        return x, text


class Exchange(nn.Module):
    """Eq. 5: audio reads video, then video reads the audio so updated. Positions count in time only."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.audio_attention = CrossAttention(config.width, config.heads)
        self.video_attention = CrossAttention(config.width, config.heads)

    def audio_reads_video(self, audio: Tensor, video: Tensor, at_audio: Context, at_video: Context) -> Tensor:
        return _read(self.audio_attention, audio, video, at_audio, at_video)

    def video_reads_audio(self, video: Tensor, audio: Tensor, at_video: Context, at_audio: Context) -> Tensor:
        return _read(self.video_attention, video, audio, at_video, at_audio)


def _read(attention: CrossAttention, x: Tensor, source: Tensor, at_x: Context, at_source: Context) -> Tensor:
    (q,) = at_x.share.by_head(attention.queries(x, at_x.time_turn))
    k, v = at_source.share.by_head(*attention.keys_values(source, at_source.time_turn))
    (out,) = joint_attention([q], [k], [v], [at_source.mask])
    return x + attention.finish(at_x.share.by_token(out))


def _own_time(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Text has no references: of the groups it takes the last, the tower's own timestep."""
    return tuple(v[:, -1:] for v in values)


Block = DualBlock | SingleBlock
PartT = TypeVar("PartT")


class Depths(nn.ModuleList, Generic[PartT]):
    """A module list that says what it holds."""

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[PartT]: ...  # type: ignore[override]
