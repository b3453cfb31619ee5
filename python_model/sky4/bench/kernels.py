"""`sky4 bench kernels`: the cases of the shapes asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sky4.bench.assemble import assemble_cases
from sky4.bench.attention import attention_cases
from sky4.bench.cases import Case, Setting
from sky4.bench.shapes import CPU_DEFAULTS, CUDA_DEFAULTS, AttentionShape, CubeShape, Shape, parse_shape
from sky4.bench.sparse import sparse_cases
from sky4.bench.whole_sparse import whole_cases
from sky4.errors import RequestError

KERNELS = (
    "prep",
    "prepared_attention",
    "joint_attention",
    "cross_attention",
    "block_sparse_attention",
    "video_sparse_attention",
    "select_cubes",
    "latent_assemble",
)


def shapes_wanted(names: Sequence[str], device: torch.device) -> list[Shape]:
    """The shapes by name or by hand; the device's defaults where none is named. RequestError for an unknown one."""
    found: dict[Shape, None] = {}
    for name in names or (CUDA_DEFAULTS if device.type == "cuda" else CPU_DEFAULTS):
        found.update(dict.fromkeys(parse_shape(name)))
    return list(found)


def kernels_wanted(names: Sequence[str]) -> set[str]:
    """RequestError for a name that is none of `KERNELS`."""
    for name in names:
        if name not in KERNELS:
            raise RequestError(f"--kernel {name} is unknown; choose of {', '.join(KERNELS)}")
    return set(names or KERNELS)


def kernel_cases(shapes: Sequence[Shape], kernels: set[str], setting: Setting, backward: bool) -> list[Case]:
    """All cases, the small ones first: what they leave of the budget goes to the large ones.

    RequestError where the shapes have nothing of the kernels.
    """
    cases = []
    for shape in shapes:
        if isinstance(shape, AttentionShape):
            cases += attention_cases(shape, setting, kernels, backward)
        elif isinstance(shape, CubeShape):
            cases += sparse_cases(shape, setting, kernels, backward) + whole_cases(shape, setting, kernels)
        else:
            cases += assemble_cases(shape, setting, kernels)
    if not cases:
        raise RequestError(f"--kernel {', '.join(sorted(kernels))}: none of the shapes has such a case; add a --shape")
    return sorted(cases, key=lambda case: (case.flop or 0, case.bytes))
