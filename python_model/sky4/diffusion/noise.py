"""Noise that depends on (seed, modality, sample) alone: not on batch size or place, device, dtype or offloading.

The draws come from Philox, a counter-based generator whose 128-bit key is a digest of the three; numbers are made on
the CPU in float32, one sample at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor


def noise(shape: Sequence[int], seed: int, modality: str, sample_index: int) -> Tensor:
    """Standard normal float32 [*shape] of one sample, on the CPU. modality: "video", "audio" or any other purpose."""
    return torch.from_numpy(_generator(seed, modality, sample_index).standard_normal(tuple(shape), dtype=np.float32))


def batch_noise(
    shape: Sequence[int],
    seed: int,
    modality: str,
    indices: Sequence[int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Noise [B, *shape] of the samples `indices`: each row is what the sample gets alone."""
    rows = [noise(shape, seed, modality, index) for index in indices]
    return torch.stack(rows).to(device=device, dtype=dtype)


def uniform(seed: int, purpose: str, sample_index: int, count: int = 1) -> Tensor:
    """`count` uniform draws in [0, 1), float64, keyed the same way."""
    return torch.from_numpy(_generator(seed, purpose, sample_index).random(count))


def _generator(seed: int, purpose: str, sample_index: int) -> np.random.Generator:
    digest = blake2b(f"{seed}/{purpose}/{sample_index}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
