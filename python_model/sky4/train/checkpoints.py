"""Checkpoints that resume exactly: safetensors for tensors, JSON for counters; complete or absent, never half.

A run's folder holds checkpoints/00001200/{model,ema,optimizer}.safetensors and state.json. A checkpoint is written
into a folder of a temporary name and renamed; only then is the oldest one removed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sky4.errors import Sky4Failure
from sky4.model.checkpoint import to_disk

PARTS = ("model", "ema", "optimizer")
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of model, moving average and optimizer by name, and `state`: counters and what the run depends on."""

    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint, keep: int) -> Path:
    """Write checkpoint number `step` and leave the newest `keep`. Raises Sky4Failure where it cannot be written."""
    path = checkpoint_path(folder, step)
    partial = folder / f"{step:08d}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for part in PARTS:
            _save(getattr(checkpoint, part), partial / f"{part}.safetensors")
        _write(partial / "state.json", json.dumps({"version": VERSION} | checkpoint.state, indent=1).encode())
        if path.exists():  # the same step again, after a resume
            shutil.rmtree(path)
        os.replace(partial, path)
    except OSError as error:
        raise Sky4Failure(f"cannot write the checkpoint {path}: {error}") from error
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.name.isdigit() and (path / "state.json").is_file())


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Raises Sky4Failure for a folder that is no checkpoint of this version."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if state.pop("version") != VERSION:
            raise Sky4Failure(f"the checkpoint {path} is of another version than {VERSION}")
        tensors = {part: load_file(path / f"{part}.safetensors", device=str(device)) for part in PARTS}
    except (OSError, KeyError, json.JSONDecodeError, SafetensorError) as error:
        raise Sky4Failure(f"cannot read the checkpoint {path}: {error}") from error
    return Checkpoint(tensors["model"], tensors["ema"], tensors["optimizer"], state)


def load_ema(path: Path) -> dict[str, Tensor]:
    """The moving average alone: what is exported and what the next stage starts from."""
    try:
        return load_file(path / "ema.safetensors")
    except (OSError, SafetensorError) as error:
        raise Sky4Failure(f"cannot read the checkpoint {path}: {error}") from error


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    to_disk(path)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    to_disk(path)
