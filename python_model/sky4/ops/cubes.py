"""How a video's tokens fall into cubes for Video Sparse Attention, and how a selection of cubes is written down.

Cubes follow one another by time, row, column (column fastest), and so do the tokens inside a cube. A cube at a border
holds the tokens that exist and nothing else: no padding, so cube c is rows starts[c] .. starts[c + 1] - 1.

    N tokens of the grid (T, H, W)   M cubes   W words of 32 cubes, ceil(M / 32)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

CUBE_TOKENS = 64  # the most tokens of one cube: BlockSparseAttention::kCube of csrc/block_sparse_attention.h
WORD = 32

Grid = tuple[int, int, int]
CUBE: Grid = (4, 4, 4)
SLAB: Grid = (1, 8, 8)


@dataclass(frozen=True)
class CubeTiling:
    """The cubes of a grid; `cube_tiling` gives the one of its kind.

    grid: (T, H, W) in tokens. cube: its sides, at most 64 tokens together.
    residual_slab: a lone last frame (T = 4k + 1, as all our lengths are) is cut as (1, 8, 8) instead of filling a
    quarter of a layer of cubes. With any other T there is no such frame and nothing changes.
    """

    grid: Grid
    cube: Grid = CUBE
    residual_slab: bool = False

    def __post_init__(self) -> None:
        if len(self.grid) != 3 or min(self.grid) < 1:
            raise ValueError(f"CubeTiling needs a grid of three sides of at least 1, got {self.grid}")
        volume = self.cube[0] * self.cube[1] * self.cube[2]
        if min(self.cube) < 1 or volume > CUBE_TOKENS:
            raise ValueError(f"CubeTiling needs a cube of 1 to {CUBE_TOKENS} tokens, got {self.cube} = {volume}")
        if self.residual_slab and self.cube != CUBE:
            raise ValueError(f"CubeTiling has residual_slab for cube {CUBE} only, got {self.cube}")

    @cached_property
    def order(self) -> Tensor:
        """[N] int64: row i in cube order is token order[i] of the raster (time, row, column)."""
        frames, height, width = self.grid
        with _kept_for_later():
            t, y, x = torch.meshgrid(*(torch.arange(side) for side in self.grid), indexing="ij")
            lone = frames - 1 if self._has_slab else frames
            _, rows, columns = (torch.where(t < lone, a, b) for a, b in zip(self.cube, SLAB, strict=True))
            # The cube's place by time, row, column as one number; a stable sort keeps the raster inside.
            layer = torch.where(t < lone, t // self.cube[0], frames)
            return ((layer * height + y // rows) * width + x // columns).flatten().argsort(stable=True)

    @cached_property
    def inverse(self) -> Tensor:
        """[N] int64: raster token j is row inverse[j] in cube order."""
        with _kept_for_later():
            return self.order.argsort()

    @cached_property
    def sizes(self) -> Tensor:
        """[M] int32: tokens of each cube."""
        with _kept_for_later():
            if not self._has_slab:
                return _sizes(self.grid, self.cube)
            frames, *picture = self.grid
            return torch.cat([_sizes((frames - 1, *picture), self.cube), _sizes((1, *picture), SLAB)])

    @cached_property
    def starts(self) -> Tensor:
        """[M + 1] int32: cube c is rows starts[c] .. starts[c + 1] - 1."""
        with _kept_for_later():
            return torch.cat([self.sizes.new_zeros(1), self.sizes.cumsum(0, dtype=torch.int32)])

    @property
    def cubes(self) -> int:
        return len(self.sizes)

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def _has_slab(self) -> bool:
        return self.residual_slab and self.grid[0] % self.cube[0] == 1

    def tile(self, x: Tensor) -> Tensor:
        """Raster to cube order along axis 1 of x [B, N, ...]."""
        return x.index_select(1, on_device(self, x.device)[0])

    def untile(self, x: Tensor) -> Tensor:
        """Cube order back to the raster along axis 1 of x [B, N, ...]."""
        return x.index_select(1, on_device(self, x.device)[1])


@lru_cache(maxsize=64)
def cube_tiling(grid: Grid, cube: Grid = CUBE, residual_slab: bool = False) -> CubeTiling:
    """The `CubeTiling` of these sides, made once."""
    return CubeTiling(grid, cube, residual_slab)


def video_tiling(grid: Grid) -> CubeTiling:
    """The cubes of a video's latents, 4n + 1 or any other number of frames long: a lone last frame lies in slabs."""
    return cube_tiling(grid, residual_slab=True)


@lru_cache(maxsize=64)
def on_device(tiling: CubeTiling, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(order, inverse, starts) of a tiling on a device, brought there once."""
    with torch.inference_mode(False):
        return tiling.order.to(device), tiling.inverse.to(device), tiling.starts.to(device)


@contextmanager
def _kept_for_later() -> Iterator[None]:
    """What is made here outlives the caller's inference mode and default device."""
    with torch.inference_mode(False), torch.device("cpu"):
        yield


def _sizes(grid: Sequence[int], cube: Grid) -> Tensor:
    t, y, x = (
        torch.tensor([min(side, length - at) for at in range(0, length, side)], dtype=torch.int32)
        for length, side in zip(grid, cube, strict=True)
    )
    return (t[:, None, None] * y[:, None] * x).flatten()


# A selection of key cubes as bits: [..., W] int32, bit k % 32 of word k / 32 selects key cube k.


def words(cubes: int) -> int:
    return -(-cubes // WORD)


def mask_to_bits(mask: Tensor) -> Tensor:
    """[..., M] bool -> [..., W] int32."""
    padded = torch.nn.functional.pad(mask, (0, words(mask.shape[-1]) * WORD - mask.shape[-1]))
    powers = torch.ones(WORD, dtype=torch.int32, device=mask.device) << torch.arange(
        WORD, dtype=torch.int32, device=mask.device
    )
    bits: Tensor = (padded.unflatten(-1, (-1, WORD)) * powers).sum(-1, dtype=torch.int32)
    return bits


def bits_to_mask(bits: Tensor, cubes: int) -> Tensor:
    """[..., W] int32 -> [..., M] bool for M = `cubes`."""
    if bits.shape[-1] != words(cubes):
        raise ValueError(f"bits_to_mask needs {words(cubes)} words for {cubes} cubes, got {bits.shape[-1]}")
    place = torch.arange(WORD, dtype=torch.int32, device=bits.device)
    return ((bits[..., None] >> place) & 1).flatten(-2)[..., :cubes].bool()


def bits_to_lists(bits: Tensor, cubes: int) -> tuple[Tensor, Tensor]:
    """The selection as lists: ascending cube numbers [..., M] int32 filled up with -1, and how many [...] int32.

    This is FastVideo's (q2k_idx, q2k_num).
    """
    mask = bits_to_mask(bits, cubes)
    number = mask.sum(-1, dtype=torch.int32)
    index = mask.argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    slot = torch.arange(cubes, dtype=torch.int32, device=bits.device)
    return torch.where(slot < number[..., None], index, -1), number


def lists_to_bits(index: Tensor, number: Tensor, cubes: int) -> Tensor:
    """The way back from `bits_to_lists`: the first `number` [...] of index [..., K], of any K and in any order."""
    slot = torch.arange(index.shape[-1], device=index.device)
    spare = torch.where(slot < number[..., None], index.long(), cubes)  # unused entries fall into one column too many
    mask = torch.zeros(*index.shape[:-1], cubes + 1, dtype=torch.bool, device=index.device)
    return mask_to_bits(mask.scatter_(-1, spare, True)[..., :cubes])
