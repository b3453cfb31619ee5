"""The refiner: the video tower once more, with Video Sparse Attention (model.md, sections 7 and 8)."""

from __future__ import annotations

from dataclasses import replace

import torch

from sky4.config import TransformerConfig
from sky4.model.attention import SparseAttention
from sky4.model.transformer import Branch


def refiner(config: TransformerConfig) -> Branch:
    """A fresh refiner. Its tokens are patches of Concat(V, I, M) as the video tower's, and so are its outputs.

    It has no data gate: what passes by the tower is known in closed form (conditioning/refiner.py).
    """
    config = replace(config, data_gate=False)
    return Branch(
        config, config.video_in_channels, config.video_out_channels, reads_text=True, attention=SparseAttention
    )


@torch.no_grad()
def refiner_from(video: Branch, dual_blocks: int | None = None, single_blocks: int | None = None) -> Branch:
    """A refiner with the weights of a video tower, but for its head, which starts at zero.

    What it adds to is the interpolated clip (conditioning/refiner.py): at the start it adds nothing. Fewer blocks than
    the tower's are taken evenly out of them. Raises ValueError for more.
    """
    config = video.config
    counts = dual_blocks or config.dual_blocks, single_blocks or config.single_blocks
    taken = _evenly(counts[0], config.dual_blocks)
    taken += [config.dual_blocks + index for index in _evenly(counts[1], config.single_blocks)]
    made = refiner(replace(config, dual_blocks=counts[0], single_blocks=counts[1]))
    weights = made.state_dict() | {
        name: weight
        for name, weight in video.state_dict().items()
        if not name.startswith(("blocks.", "head.", "data_gate."))
    }
    for index, place in enumerate(taken):
        weights |= {f"blocks.{index}.{name}": weight for name, weight in video.blocks[place].state_dict().items()}
    made.load_state_dict(weights)
    return made


def _evenly(count: int, of: int) -> list[int]:
    """`count` of `of` places; the first and the last where there are two or more."""
    if count > of:
        raise ValueError(f"a refiner of {count} blocks cannot start from a tower of {of}; ask for no more")
    return [round(index * (of - 1) / max(1, count - 1)) for index in range(count)]
