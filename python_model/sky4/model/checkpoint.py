"""Weights on disk: safetensors, strict, sharded where large, whole or not there.

A transformer's folder holds config.json and either model.safetensors or model-0000i-of-0000n.safetensors with
model.safetensors.index.json (the layout that the Hugging Face libraries read).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sky4.config import TransformerConfig, config_from_dict, config_to_dict
from sky4.errors import Sky4Failure
from sky4.model.refiner import refiner
from sky4.model.transformer import Branch, JointTransformer

SHARD_BYTES = 5_000_000_000  # what the hub and most file systems still handle with ease
CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
NAMES_SHOWN = 20
ModelT = TypeVar("ModelT", bound=nn.Module)


class WeightsError(Sky4Failure):
    """Weights that do not fit the model; `missing`, `extra` and `misshaped` name every one of them."""

    def __init__(self, source: str, missing: Iterable[str], extra: Iterable[str], misshaped: Iterable[str]) -> None:
        self.missing, self.extra, self.misshaped = sorted(missing), sorted(extra), sorted(misshaped)
        found = [
            _listed(kind, names)
            for kind, names in (("missing", self.missing), ("extra", self.extra), ("of another shape", self.misshaped))
            if names
        ]
        super().__init__(f"the weights in {source} do not fit this model: {'; '.join(found)}")


def save_transformer(
    model: JointTransformer | Branch, folder: Path, dtype: torch.dtype | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write configuration and weights (in `dtype`, or as they are) into `folder`, replacing what it held.

    Everything is written beside `folder` under a temporary name and then renamed. Raises Sky4Failure where it cannot
    be written.
    """
    partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    try:
        partial.mkdir(parents=True)
        try:
            _write_into(partial, model, dtype, shard_bytes)
            _replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except (OSError, SafetensorError) as fault:
        raise Sky4Failure(f"cannot write the weights to {folder}: {fault}") from fault


def load_transformer(
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    config: TransformerConfig | None = None,
) -> JointTransformer:
    """The model that `folder` holds, in eval mode, in `dtype` (or as stored) on `device`.

    `config`, where given, must be the one in the folder. Raises Sky4Failure for a folder that is not readable,
    and its subclass WeightsError for missing, extra or misshaped weights.
    """
    return _loaded(JointTransformer, folder, device, dtype, config)


def load_refiner(
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    config: TransformerConfig | None = None,
) -> Branch:
    """As `load_transformer`, the refiner that `folder` holds."""
    return _loaded(refiner, folder, device, dtype, config)


def _loaded(
    build: Callable[[TransformerConfig], ModelT],
    folder: Path,
    device: torch.device | str,
    dtype: torch.dtype | None,
    config: TransformerConfig | None,
) -> ModelT:
    model = described(build, folder, config)
    weights = read_weights(folder, device)
    check_fit(str(folder), {name: w.shape for name, w in model.state_dict().items()}, weights)
    model.load_state_dict({name: w.to(dtype) if dtype else w for name, w in weights.items()}, assign=True)
    return model.eval()


def described(
    build: Callable[[TransformerConfig], ModelT], folder: Path, config: TransformerConfig | None = None
) -> ModelT:
    """The model that `folder` describes, on the meta device, without weights. As load_transformer."""
    stored = _stored_config(folder)
    if config is not None and config != stored:
        raise Sky4Failure(f"{folder / CONFIG} describes another transformer than the one asked for")
    with torch.device("meta"):
        return build(stored)


def read_weights(folder: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """All tensors of a folder, single or sharded. Raises Sky4Failure where a file is missing or damaged."""
    weights: dict[str, Tensor] = {}
    try:
        for file in weight_files(folder):
            weights.update(load_file(file, device=str(device)))
    except (OSError, SafetensorError) as fault:
        raise Sky4Failure(f"cannot read the weights in {folder}: {fault}") from fault
    return weights


def weight_files(folder: Path, stem: str = "model") -> list[Path]:
    """The safetensors files of a folder: those of its index, or the single one. Raises Sky4Failure without either."""
    index = folder / f"{stem}.safetensors.index.json"
    single = folder / f"{stem}.safetensors"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError) as fault:
            raise Sky4Failure(f"cannot read {index}: {fault!r}") from fault
        return [folder / name for name in names]
    if single.is_file():
        return [single]
    raise Sky4Failure(f"{folder} holds no weights: neither {single.name} nor {index.name}")


def check_fit(source: str, shapes: Mapping[str, torch.Size], weights: Mapping[str, Tensor]) -> None:
    """Raises WeightsError unless the weights have exactly these names and shapes."""
    misshaped = [
        f"{name} {list(weights[name].shape)} instead of {list(shape)}"
        for name, shape in shapes.items()
        if name in weights and weights[name].shape != shape
    ]
    missing, extra = shapes.keys() - weights.keys(), weights.keys() - shapes.keys()
    if missing or extra or misshaped:
        raise WeightsError(source, missing, extra, misshaped)


def _write_into(folder: Path, model: nn.Module, dtype: torch.dtype | None, shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    filled, total = 0, 0
    for name, parameter in model.state_dict().items():
        size = parameter.numel() * (dtype or parameter.dtype).itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = parameter
        filled, total = filled + size, total + size
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [SINGLE]
    for shard, name in zip(shards, names, strict=True):  # converted one shard at a time: never a second copy of all
        save_file({key: w.detach().to("cpu", dtype or w.dtype).contiguous() for key, w in shard.items()}, folder / name)
        to_disk(folder / name)
    if len(shards) > 1:
        where = {key: name for shard, name in zip(shards, names, strict=True) for key in shard}
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    _write_json(folder / CONFIG, config_to_dict(model.config))


def _replace(new: Path, folder: Path) -> None:
    if not folder.exists():
        os.replace(new, folder)
        return
    old = new.with_suffix(".old")
    os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old)


def _stored_config(folder: Path) -> TransformerConfig:
    try:
        values = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as fault:
        raise Sky4Failure(f"{folder} is not a transformer's folder: {CONFIG} cannot be read ({fault})") from fault
    try:
        return config_from_dict(TransformerConfig, values)
    except ValueError as fault:
        raise Sky4Failure(f"{folder / CONFIG} is not a transformer's configuration: {fault}") from fault


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    to_disk(path)


def to_disk(path: Path) -> None:
    """Flush a file before it is renamed: after a power cut it is whole or not there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _listed(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(names[:NAMES_SHOWN])}{more})"
