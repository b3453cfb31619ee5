"""latent_assemble on CUDA: the bits of the CPU kernel, which tests/ops/test_latent_assemble.py holds to its oracle.

B batch, C latent channels, T -> T2 latent frames, h, w -> H, W latent grid, K keyframes.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

DTYPES = [torch.float32, torch.bfloat16]


def given(low, target, keyframes, dtype, mask_dtype=None, device="cpu") -> dict[str, Tensor | None]:
    """Arguments on `device` (the keyframes' indices stay on the CPU); `low` is B, C, T, h, w."""
    generator = torch.Generator().manual_seed(1)
    B, C = low[:2]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype).to(device)

    mask = (torch.rand(B, 1, *target, generator=generator) < 0.4).to(mask_dtype or dtype).to(device)
    return {
        "low": normal(*low),
        "noise": normal(B, C, *target),
        "keyframes": normal(B, C, len(keyframes), *target[1:]) if keyframes else None,
        "keyframe_indices": torch.tensor(keyframes) if keyframes else None,
        "source": normal(B, C, *target) if mask_dtype else None,
        "source_mask": mask if mask_dtype else None,
    }


def assembled(run, arguments) -> Tensor:
    noise = arguments["noise"]
    out = torch.full((noise.shape[0], 2 * noise.shape[1], *noise.shape[2:]), 7.0).to(noise)
    run(*arguments.values(), out)
    return out.cpu()


def on_the_cpu(arguments) -> Tensor:
    from sky4 import _C

    return assembled(_C.latent_assemble, {name: None if x is None else x.cpu() for name, x in arguments.items()})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("low", "target"),
    [
        ((2, 3, 3, 4, 8), (5, 8, 16)),  # rows of whole 16-byte runs
        ((1, 2, 3, 4, 5), (5, 7, 11)),  # one element at a time
        ((1, 1, 1, 1, 1), (1, 1, 8)),  # a single cell
        ((1, 1, 4, 9, 40), (2, 3, 8)),  # to a smaller grid
        ((1, 2, 2, 3, 3), (3, 33, 24)),  # more than one block for a plane, a large factor
    ],
    ids=str,
)
@pytest.mark.parametrize("mask_dtype", [None, torch.bool, "own"], ids=str)
def test_the_bits_are_those_of_the_cpu_kernel(kernels, low, target, dtype, mask_dtype) -> None:
    mask_dtype = dtype if mask_dtype == "own" else mask_dtype
    keyframes = [target[0] - 1] if mask_dtype else []
    arguments = given(low, target, keyframes, dtype, mask_dtype, kernels.device)
    assert torch.equal(assembled(kernels.latent_assemble, arguments), on_the_cpu(arguments))


def test_more_keyframes_than_one_launch_lists(kernels) -> None:
    frames = list(range(1, 1201, 2))
    arguments = given((1, 1, 2, 1, 1), (1202, 1, 4), frames, torch.float32, None, kernels.device)
    assert torch.equal(assembled(kernels.latent_assemble, arguments), on_the_cpu(arguments))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views_with_any_strides(kernels, dtype) -> None:
    arguments = given((1, 2, 3, 4, 8), (5, 8, 16), [0, 2], dtype, torch.bool, kernels.device)
    padded = {"noise": (3, 0), "source": (8, 8), "source_mask": (1, 0), "low": (5, 0)}
    for name, (left, right) in padded.items():  # off their alignment, and on it
        x = arguments[name]
        whole = torch.zeros(*x.shape[:-1], x.shape[-1] + left + right, dtype=x.dtype, device=x.device)
        whole[..., left : left + x.shape[-1]] = x
        arguments[name] = whole[..., left : left + x.shape[-1]]
    assert torch.equal(assembled(kernels.latent_assemble, arguments), on_the_cpu(arguments))


def test_not_a_number_and_infinity_stay_where_they_are_read(kernels) -> None:
    arguments = given((1, 1, 2, 3, 4), (3, 6, 8), [], torch.float32, None, kernels.device)
    arguments["low"][0, 0, 0, 1, 2] = float("nan")
    arguments["noise"][0, 0, 0, 0, 0] = float("inf")
    ours, theirs = assembled(kernels.latent_assemble, arguments), on_the_cpu(arguments)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())


def test_keyframes_out_of_range_or_named_twice_are_refused(kernels) -> None:
    for frames, message in (([5], "holds 5, expected 0 to 4"), ([1, 1], "holds 1 twice")):
        arguments = given((1, 1, 3, 2, 2), (5, 4, 4), frames, torch.float32, None, kernels.device)
        with pytest.raises(ValueError, match=message):
            assembled(kernels.latent_assemble, arguments)


def test_a_clip_of_1080p(cuda) -> None:
    arguments = given((1, 16, 21, 68, 120), (41, 135, 240), [0, 20], torch.bfloat16, torch.bool, cuda.device)
    assert torch.equal(assembled(cuda.latent_assemble, arguments), on_the_cpu(arguments))
