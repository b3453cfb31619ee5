"""The two towers and the joint model (model.md, section 3). `forward` is the figure.

B batch   N media tokens of a tower   N_t text tokens   D width   G timestep groups (layers.py)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sky4.config import TransformerConfig
from sky4.distributed.sequence import ALONE, Sharing
from sky4.inputs import TextInput, TowerInput
from sky4.model.attention import Attention, DenseAttention, SparseAttention
from sky4.model.blocks import Block, Depths, DualBlock, Exchange, SingleBlock
from sky4.model.layers import Context, CrossAttention, Linear, Modulation, TimestepEmbedding, modulate
from sky4.model.rope import rotation, temporal, with_still
from sky4.ops.cubes import video_tiling
from sky4.ops.joint_attention import join_masks

LAST_NOISE = 0.02  # 1 - t below which a difference's velocity grows no more
FRESH_AT_FIRST = 4.0  # the gates' logit at the start

__all__ = ["Branch", "JointTransformer", "TextInput", "TowerInput"]


class Branch(nn.Module):
    """One tower: video, audio, or the refiner.

    `in_channels`, `out_channels` per token; `reads_text` adds the text cross-attention (the video tower's);
    `attention` makes each block's self-attention. `sharing`: the processes that share its media tokens.
    """

    sharing: Sharing = ALONE

    def __init__(
        self,
        config: TransformerConfig,
        in_channels: int,
        out_channels: int,
        reads_text: bool,
        attention: Callable[[TransformerConfig], Attention] = DenseAttention,
    ) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.token_in = Linear(in_channels, width)
        self.keyframe = nn.Parameter(torch.zeros(width))  # added to the tokens of segment 1
        self.text_in = Linear(config.text_channels, width)
        self.time_in = TimestepEmbedding(width)
        self.shared_modulation = Linear(width, 6 * width) if config.modulation == "shared" else None
        reads_early = reads_text and config.text_cross_attention == "all"
        self.blocks: Depths[Block] = Depths(
            [DualBlock(config, reads_early, attention(config)) for _ in range(config.dual_blocks)]
            + [SingleBlock(config, reads_text, attention(config)) for _ in range(config.single_blocks)]
        )
        self.head_modulation = Linear(width, 2 * width)
        self.head = Linear(width, out_channels)
        self.data_gate = DataGate(in_channels, width, out_channels) if config.data_gate else None
        initialise(self)

    def forward(self, media: TowerInput, text: TextInput) -> Tensor:
        """Velocities [B, N, out_channels] of this tower alone, references included."""
        x, c, context = self.embed(media, text)
        for block in self.blocks:
            x, c = block.attend(x, c, context)
            x, c = block.feed_forward(x, c, context)
        return self.velocity(x, context)

    def embed(self, media: TowerInput, text: TextInput) -> tuple[Tensor, Tensor, Context]:
        """The first media tokens [B, N, D] of this process, text tokens [B, N_t, D], and what all blocks share."""
        dtype = self.token_in.weight.dtype
        whole, share = media.tokens, self.sharing.of(media.tokens.shape[1], self.config.heads)
        media = share.tower(media)
        x = self.token_in(media.tokens.to(dtype))
        if media.segment is not None:
            x = x + ((media.segment == 1).to(x.dtype)[:, None] * self.keyframe.to(x.dtype))
        c = self.text_in(text.hidden.to(dtype))
        condition = self.time_in(media.timestep)[:, None]  # [B, 1, D]
        if media.reference_tokens:
            data = self.time_in(torch.ones_like(media.timestep))[:, None]
            condition = torch.cat([data, condition], dim=1)  # [B, 2, D]
        condition = F.silu(condition)
        axes, theta = self.config.rope_axes, self.config.rope_theta
        turn = rotation(media.positions, axes, theta)
        return (
            x,
            c,
            Context(
                media=media,
                turn=turn,
                joint_turn=with_still(turn, c.shape[1]),
                time_turn=rotation(temporal(media.positions), axes, theta),
                condition=condition,
                shared=None if self.shared_modulation is None else self.shared_modulation(condition),
                reference_tokens=media.reference_tokens,
                mask=media.mask,
                joint_mask=join_masks([whole, c], [media.mask, text.mask]),
                text=c,
                text_mask=text.mask,
                share=share,
                cubes=None if media.cubes is None else (video_tiling(media.cubes.grid), media.cubes.density),
            ),
        )

    def depths(self) -> list[tuple[nn.Module, ...]]:
        """What works together at each depth: a block."""
        return [(block,) for block in nn.ModuleList.__iter__(self.blocks)]

    def velocity(self, x: Tensor, context: Context) -> Tensor:
        scale, shift = self.head_modulation(context.condition).chunk(2, dim=-1)
        x = modulate(x, shift, scale, context.reference_tokens)
        made: Tensor = self.head(x)
        return context.share.whole(made if self.data_gate is None else self.data_gate(x, made, context.media))


class DataGate(nn.Module):
    """A tower's velocity by two readings of its data, mixed per token and channel by a gate g that the token decides.

    Fresh (g = 1): data of unit variance, of which the best linear guess from V is t·V / (t² + (1 - t)²). Unchanged
    (g = 0): a difference (`guide`) that is zero, so that V is noise alone. To either the head adds its own part, and I
    where the tower has one by a further factor; the scales are those at which every part has the velocity's size at any
    t (our choice, after the preconditioning of Karras et al., 2022). What it saves: the noise of V need not pass a
    narrow tower.
    """

    def __init__(self, in_channels: int, width: int, out_channels: int) -> None:
        super().__init__()
        self.reads_known = in_channels >= 2 * out_channels  # V, I; what is left is the mask
        self.out_channels = out_channels
        self.gate = Linear(width, (2 if self.reads_known else 1) * out_channels)

    def forward(self, x: Tensor, made: Tensor, media: TowerInput) -> Tensor:
        """[B, N, out_channels] of the last, modulated tokens [B, N, D] and the head's output for them."""
        logits, *factors = self.gate(x).float().split(self.out_channels, dim=-1)
        noisy, *known = media.tokens.float().split(self.out_channels, dim=-1)
        made = made.float()
        if self.reads_known:
            made = made + factors[0] * known[0]
        t = media.timestep.float()[:, None, None]
        spread = t.square() + (1 - t).square()
        fresh, unchanged = (2 * t - 1) / spread, -1 / (1 - t).clamp(min=LAST_NOISE)
        velocity: Tensor = torch.lerp(unchanged, fresh, logits.sigmoid()) * noisy + made * spread.rsqrt()
        return velocity


class JointTransformer(nn.Module):
    """Video and audio towers that read one another at every depth."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.video = Branch(config, config.video_in_channels, config.video_out_channels, reads_text=True)
        self.audio = Branch(config, config.audio_channels, config.audio_channels, reads_text=False)
        self.exchanges: Depths[Exchange] = Depths([Exchange(config) for _ in range(config.blocks)])
        initialise(self.exchanges)

    def depths(self) -> list[tuple[nn.Module, ...]]:
        """What works together at each depth: a block of either tower and their exchange."""
        towers = nn.ModuleList.__iter__(self.video.blocks), nn.ModuleList.__iter__(self.audio.blocks)
        return list(zip(*towers, nn.ModuleList.__iter__(self.exchanges), strict=True))

    def forward(
        self, video: TowerInput | None, audio: TowerInput | None, text: TextInput, *, exchange: bool = True
    ) -> tuple[Tensor | None, Tensor | None]:
        """Velocities per token: video [B, N, C·patch²], audio [B, N, C_audio]; references included.

        Where a tower is None the other runs alone; `exchange=False` runs both without reading one another.
        """
        if video is None or audio is None or not exchange:
            return (
                None if video is None else self.video(video, text),
                None if audio is None else self.audio(audio, text),
            )
        v, v_text, at_v = self.video.embed(video, text)
        a, a_text, at_a = self.audio.embed(audio, text)
        for video_block, audio_block, between in zip(self.video.blocks, self.audio.blocks, self.exchanges, strict=True):
            v, v_text = video_block.attend(v, v_text, at_v)  # eq. 1-4 (video re-reads the text)
            a, a_text = audio_block.attend(a, a_text, at_a)  # eq. 1-3
            a = between.audio_reads_video(a, v, at_a, at_v)  # eq. 5
            v = between.video_reads_audio(v, a, at_v, at_a)  #       ... the updated audio
            v, v_text = video_block.feed_forward(v, v_text, at_v)
            a, a_text = audio_block.feed_forward(a, a_text, at_a)
        return self.video.velocity(v, at_v), self.audio.velocity(a, at_a)


def initialise(module: nn.Module) -> None:
    """Xavier for the projections; zero for what must start silent: AdaLN, heads, outputs of cross-attention."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, TimestepEmbedding):
            nn.init.normal_(part.hidden.weight, std=0.02)
            nn.init.normal_(part.out.weight, std=0.02)
    for part in module.modules():
        silent = []
        if isinstance(part, Modulation):
            silent = [part.linear]
        elif isinstance(part, CrossAttention):
            silent = [part.out]
        elif isinstance(part, SparseAttention):
            silent = [part.gates]
        elif isinstance(part, DataGate):
            silent = [part.gate]
        elif isinstance(part, Branch):
            silent = [part.shared_modulation, part.head_modulation, part.head]
        for linear in silent:
            if linear is not None:
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
        if isinstance(part, DataGate):
            nn.init.constant_(part.gate.bias[: part.out_channels], FRESH_AT_FIRST)
