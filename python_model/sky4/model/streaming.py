"""A transformer whose blocks lie in their files and come into memory one depth after the other.

While a depth computes, the next one is read in another thread. The results are those of the whole model, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sky4.errors import Sky4Failure
from sky4.model.blocks import Depths, PartT
from sky4.model.checkpoint import ModelT, check_fit, described, weight_files
from sky4.model.refiner import refiner
from sky4.model.transformer import Branch, JointTransformer

Weights = dict[str, Tensor]


def stream_transformer(folder: Path, device: torch.device, dtype: torch.dtype | None = None) -> JointTransformer:
    """As `checkpoint.load_transformer`, but for the blocks, which stay in their files until they are used.

    Raises Sky4Failure for a folder that is not readable, and its subclass WeightsError for missing, extra or misshaped
    weights: all names and shapes are checked now.
    """
    return _streamed(described(JointTransformer, folder), WeightStore(folder, device, dtype))


def stream_refiner(folder: Path, device: torch.device, dtype: torch.dtype | None = None) -> Branch:
    """As `stream_transformer`, the refiner that `folder` holds."""
    return _streamed(described(refiner, folder), WeightStore(folder, device, dtype))


def depth_owners(model: nn.Module) -> dict[str, nn.Module]:
    """What holds the list of depths at each place of a model, such as video.blocks."""
    if isinstance(model, JointTransformer):
        return {"video.blocks": model.video, "audio.blocks": model.audio, "exchanges": model}
    return {"blocks": model}


def without_depths(model: nn.Module, owners: Mapping[str, nn.Module]) -> list[str]:
    """The names of the weights that lie in none of these lists."""
    return [name for name in model.state_dict() if not name.startswith(tuple(f"{place}." for place in owners))]


def _streamed(model: ModelT, store: WeightStore) -> ModelT:
    owners = depth_owners(model)
    check_fit(store.told, {name: w.shape for name, w in model.state_dict().items()}, store.shapes())
    put(model, store.read(without_depths(model, owners)))
    reader = ThreadPoolExecutor(1, "sky4-weights")
    for place, owner in owners.items():
        name = place.rpartition(".")[2]
        setattr(owner, name, StreamedDepths(getattr(owner, name), place, store, reader))
    return model.eval()


class WeightStore:
    """The tensors of a folder of safetensors, read when they are asked for, in `dtype`, onto `device`."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype | None) -> None:
        self.told, self._device, self._dtype = str(folder), device, dtype
        self._files: dict[str, Path] = {}
        for file in weight_files(folder):
            with self._opened(file) as weights:
                self._files.update(dict.fromkeys(weights.keys(), file))

    def shapes(self) -> dict[str, Tensor]:
        """Empty tensors of all names, on the meta device."""
        found = {}
        for file in dict.fromkeys(self._files.values()):
            with self._opened(file) as weights:
                for name in weights.keys():  # noqa: SIM118  (no mapping: it cannot be iterated over)
                    found[name] = torch.empty(weights.get_slice(name).get_shape(), device="meta")
        return found

    def read(self, names: list[str]) -> Weights:
        """Copies: the files' own pages are let go of, so that they do not count as the process's memory."""
        found: Weights = {}
        for file in dict.fromkeys(self._files[name] for name in names):
            with self._opened(file) as weights:
                for name in names:
                    if self._files[name] == file:
                        stored: Tensor = weights.get_tensor(name)
                        found[name] = stored.to(self._device, self._dtype or stored.dtype, copy=True)
        return found

    def _opened(self, file: Path) -> safe_open:
        try:
            return safe_open(file, "pt")
        except (OSError, SafetensorError) as fault:
            raise Sky4Failure(f"cannot read the weights in {file}: {fault}") from fault


class StreamedDepths(Depths[PartT]):
    """Iterating brings each part's weights in before it is handed out, and lets them go when the next one is due."""

    def __init__(self, parts: Depths[PartT], place: str, store: WeightStore, reader: ThreadPoolExecutor) -> None:
        super().__init__(nn.ModuleList.__iter__(parts))
        self._place, self._store, self._reader = place, store, reader

    def __iter__(self) -> Iterator[PartT]:  # type: ignore[override]
        parts = list(super().__iter__())
        ahead = self._soon(0, parts)
        for index, part in enumerate(parts):
            weights = ahead.result()
            if index + 1 < len(parts):
                ahead = self._soon(index + 1, parts)
            empty = dict(part.named_parameters())  # type: ignore[attr-defined]
            put(part, weights)  # type: ignore[arg-type]
            del weights
            try:
                yield part
            finally:
                put(part, empty)  # type: ignore[arg-type]

    def _soon(self, index: int, parts: list[PartT]) -> Future[Weights]:
        names = [name for name, _ in parts[index].named_parameters()]  # type: ignore[attr-defined]
        return self._reader.submit(self._read, f"{self._place}.{index}.", names)

    def _read(self, prefix: str, names: list[str]) -> Weights:
        found = self._store.read([prefix + name for name in names])
        return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def put(module: nn.Module, weights: Weights) -> None:
    """Give a module, and those inside it, these weights for its own, by name."""
    for name, tensor in weights.items():
        owner, _, last = name.rpartition(".")
        weight = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
        module.get_submodule(owner)._parameters[last] = weight
