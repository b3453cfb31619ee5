"""Two runs' weights as one: a weighted mean, weight by weight (model soups, arXiv:2203.05482).

Of runs that began at the same weights, the mean has what both can do where either alone has lost some of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sky4.errors import RequestError, Sky4Failure


def mix_folders(
    first: Path, second: Path, target: Path, share: float, only: Sequence[str] = (), *, force: bool = False
) -> int:
    """Write `target`: the folder `first` with `share` of `second` in its weights; returns how many tensors are mixed.

    only: how the names of the tensors begin that are mixed, all of them for none. RequestError for folders whose
    weights do not fit one another, and for a target that exists without `force`.
    """
    if not 0 <= share <= 1:
        raise RequestError(f"--share {share:g} is no share; give 0 (FIRST alone) to 1 (SECOND alone)")
    if target.exists() and not force:
        raise RequestError(f"{target} already exists; choose another folder or give --force")
    files = sorted(path.relative_to(first) for path in first.rglob("*.safetensors"))
    if not files:
        raise RequestError(f"'{first}' holds no weights (.safetensors); give the folder of a model")
    partial, mixed = target.with_name(f".{target.name}.{os.getpid()}.partial"), 0
    try:
        shutil.copytree(first, partial)
        for name in files:
            weights, notes = _read(first / name)
            others, _ = _read(second / name)
            _check_fit(first / name, weights, second / name, others)
            chosen = [key for key in weights if not only or key.startswith(tuple(only))]
            for key in chosen:
                weights[key] = _mean(weights[key], others[key], share)
            mixed += len(chosen)
            save_file(weights, partial / name, metadata=notes)
        if not mixed:
            raise RequestError(f"no weight's name begins with {' or '.join(only)}; drop --only, or name others")
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
    except OSError as error:
        raise Sky4Failure(f"cannot write {target}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return mixed


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """(tensors by name, what the file says of itself)."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RequestError(f"cannot read the weights {path}: {error}; both folders must hold the same files") from error


def _check_fit(path: Path, weights: dict[str, Tensor], other: Path, others: dict[str, Tensor]) -> None:
    unlike = sorted(
        name
        for name in weights.keys() | others.keys()
        if name not in weights or name not in others or weights[name].shape != others[name].shape
    )
    if unlike:
        raise RequestError(
            f"{path} and {other} are not of one form: they differ in {unlike[0]}; mix two runs of one model"
        )


def _mean(one: Tensor, other: Tensor, share: float) -> Tensor:
    if not one.is_floating_point():
        return one
    return torch.lerp(one.float(), other.float(), share).to(one.dtype)
