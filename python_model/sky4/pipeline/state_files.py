"""Files of saved state: written beside their place and renamed, each with a checksum of its own. No pickle.

A file is one safetensors file: the tensors, and JSON facts in its header.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sky4.files import replacing
from sky4.pipeline.resume import FORMAT, VERSION

log = logging.getLogger("sky4")


@dataclass(frozen=True)
class Held:
    """Tensors, on the CPU, and what is told of them."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """OSError or SafetensorError where the disk takes it not; the file that was there is then left as it was."""
    onto_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    told = {**facts, "version": VERSION, "checksum": _digest(onto_cpu)}
    with replacing(path) as partial:
        save_file(onto_cpu, partial, {FORMAT: json.dumps(told)})


def read_tensors(path: Path, **wanted: Any) -> Held | None:
    """None where there is no such file, and, with a note, where it is damaged or its facts are not as `wanted`."""
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})[FORMAT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        log.warning(f"{path} cannot be read ({type(error).__name__}), so what it held is made again")
        return None
    whole = isinstance(facts, dict) and facts.get("checksum") == _digest(tensors)
    if not whole or any(facts.get(name) != value for name, value in {**wanted, "version": VERSION}.items()):
        why = "is of another run" if whole else "is damaged"
        log.warning(f"{path} {why}, so what it held is made again")
        return None
    return Held(tensors, facts)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
