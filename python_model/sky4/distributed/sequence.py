"""A sequence shared out over processes, by all-to-all over heads.

Each process holds some tokens of a tower's media, in their order; what is done token by token is done there. Around an
attention the tokens' heads change hands: each process then has all tokens of some heads. Text tokens are few: all
processes hold all of them, and take their own heads of them. Neither tokens nor heads need be a multiple of the
processes: the first ones take one more.

    P tensors   B batch   n of N media tokens, and h of H heads, are this process's   N_t text tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from sky4.distributed.ranks import lost
from sky4.inputs import TowerInput


@dataclass(frozen=True)
class Sharing:
    """The processes that share sequences: the number of this one, how many they are, and how they reach one another."""

    rank: int = 0
    world: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def over(cls, mesh: DeviceMesh) -> Sharing:
        """All processes of a mesh with one dimension."""
        return cls(mesh.get_local_rank(), mesh.size(), mesh.get_group())

    def of(self, tokens: int, heads: int) -> Share:
        """How so many tokens with so many heads are shared out."""
        if self.world == 1:
            return Share((tokens,), (heads,), 0, None)
        return Share(parts(tokens, self.world), parts(heads, self.world), self.rank, self.group)


ALONE = Sharing()


def parts(count: int, among: int) -> tuple[int, ...]:
    """`count` in equal parts; the first ones are larger by one where they cannot be equal."""
    least, more = divmod(count, among)
    return tuple(least + (rank < more) for rank in range(among))


@dataclass(frozen=True)
class Share:
    """Who has which tokens and heads of one tower. tokens, heads: of each process, in their order."""

    tokens: tuple[int, ...]
    heads: tuple[int, ...]
    rank: int
    group: dist.ProcessGroup | None

    @property
    def alone(self) -> bool:
        return len(self.tokens) == 1

    def tower(self, media: TowerInput) -> TowerInput:
        """A tower's input with this process's tokens; the mask, which says which keys count, stays whole."""
        if self.alone:
            return media
        begin, own = sum(self.tokens[: self.rank]), self.tokens[self.rank]
        return replace(
            media,
            tokens=media.tokens.narrow(1, begin, own),
            positions=media.positions.narrow(-2, begin, own),
            segment=None if media.segment is None else media.segment.narrow(0, begin, own),
            reference_tokens=min(max(media.reference_tokens - begin, 0), own),
        )

    def by_head(self, *media: Tensor) -> tuple[Tensor, ...]:
        """All tokens of this process's heads, each [B, N, h, d], of media [B, n, H, d], in one exchange."""
        if self.alone:
            return media
        together = torch.stack(media)  # [P, B, n, H, d]
        count, batch, _, _, channels = together.shape
        own = self.heads[self.rank]
        wanted = [(count, batch, tokens, own, channels) for tokens in self.tokens]
        return torch.cat(self._exchanged(together.split(self.heads, dim=3), wanted), dim=2).unbind()

    def own_heads(self, *text: Tensor) -> tuple[Tensor, ...]:
        """This process's heads, each [B, N_t, h, d], of what all processes hold, [B, N_t, H, d]. No exchange."""
        if self.alone:
            return text
        return tuple(x.narrow(2, sum(self.heads[: self.rank]), self.heads[self.rank]) for x in text)

    def by_token(self, media: Tensor) -> Tensor:
        """The way back: this process's tokens with all heads, [B, n, H, d], of media [B, N, h, d]."""
        if self.alone:
            return media
        return self._back(list(media.split(self.tokens, dim=1)), self.tokens[self.rank])

    def both_by_token(self, media: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """The same in one exchange with the heads of the text [B, N_t, h, d], which becomes [B, N_t, H, d]."""
        if self.alone:
            return media, text
        own, still = self.tokens[self.rank], text.shape[1]
        given = [torch.cat([piece, text], dim=1) for piece in media.split(self.tokens, dim=1)]
        out, text_out = self._back(given, own + still).split([own, still], dim=1)
        return out, text_out

    def _back(self, given: Sequence[Tensor], length: int) -> Tensor:
        batch, channels = given[0].shape[0], given[0].shape[-1]
        return torch.cat(self._exchanged(given, [(batch, length, heads, channels) for heads in self.heads]), dim=2)

    def whole(self, x: Tensor) -> Tensor:
        """All tokens [B, N, C] on every process, of this one's x [B, n, C]."""
        if self.alone:
            return x
        batch, _, channels = x.shape
        given = [x] * len(self.tokens)
        return torch.cat(self._exchanged(given, [(batch, tokens, channels) for tokens in self.tokens]), dim=1)

    def _exchanged(self, given: Sequence[Tensor], wanted: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """given[i] goes to process i, and what comes from process i has the shape wanted[i]."""
        counts = [prod(shape) for shape in wanted]
        sent = torch.cat([piece.flatten() for piece in given])
        got = sent.new_empty(sum(counts))
        with lost():
            dist.all_to_all_single(got, sent, counts, [piece.numel() for piece in given], group=self.group)
        return [piece.view(shape) for piece, shape in zip(got.split(counts), wanted, strict=True)]
