"""Random draws that are functions of (seed, purpose, number), so that the state of a run's data is its counters alone.

No generator lives longer than one draw: batch size, workers, prefetching and a resume change nothing.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

ROUNDS = 4  # of the Feistel network: four make a strong pseudo-random permutation (Luby and Rackoff)

Integers = npt.NDArray[np.uint64]


def generator(seed: int, purpose: str, number: int) -> np.random.Generator:
    """The Philox stream of one purpose of one sample (or batch)."""
    digest = blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    # The number is the high half of the 256-bit counter: each stream has 2^128 draws of its own.
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"), counter=number << 128))


def permuted(places: npt.NDArray[np.int64], count: int, seed: int, purpose: str) -> npt.NDArray[np.int64]:
    """Items at `places` of an endless sequence that runs through [0, count) in a new keyed order each epoch.

    Place p is item perm_e(p mod count) of epoch e = p // count. Nothing is stored: the permutation is a keyed
    bijection, a Feistel network over the next power of four, walked on until it lands inside [0, count).
    Raises ValueError for an empty range.
    """
    if count < 1:
        raise ValueError(f"there must be something to permute, got a range of {count}")
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    epochs, items = np.divmod(places.astype(np.uint64), np.uint64(count))
    keys = _epoch_keys(epochs, seed, purpose)
    items = _feistel(items, keys, half)
    while (outside := items >= count).any():  # cycle walking: still a bijection, fewer than four turns on average
        items[outside] = _feistel(items[outside], keys[:, outside], half)
    return items.astype(np.int64)


def _epoch_keys(epochs: Integers, seed: int, purpose: str) -> Integers:
    """Round keys [ROUNDS, n]; a batch crosses into another epoch at most now and then."""
    keys = np.empty((ROUNDS, len(epochs)), dtype=np.uint64)
    for epoch in np.unique(epochs):
        draws = generator(seed, f"order/{purpose}", int(epoch)).integers(0, 2**64, ROUNDS, dtype=np.uint64)
        keys[:, epochs == epoch] = draws[:, None]
    return keys


def _feistel(values: Integers, keys: Integers, half: int) -> Integers:
    mask, bits = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << bits) | right


def _mix(values: Integers) -> Integers:
    """The finaliser of splitmix64; uint64 arithmetic wraps on purpose."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
