"""What a piece of the real code costs: it runs on tensors without values, and every operation is counted.

A multiply and an add are two FLOPs. Bytes are those that operations read and write, as if nothing stayed in a cache.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sky4.ops.backend import unavailable, use_backend

Kind = Literal["linear", "attention", "convolution"]

aten = torch.ops.aten
LINEAR = {aten.linear, aten.mm, aten.addmm, aten.bmm, aten.baddbmm}
CONVOLUTION = {aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution}
TRANSPOSED = {aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d}
TAKEN_APART = {aten.matmul, aten.einsum}  # counted by what they are made of
PEAKS = ("peak_bytes", "heap_bytes", "mapped_bytes")
# The largest block that glibc keeps in its heap, where freed blocks stay with the process; larger ones come from the
# system and go back to it.
HEAP_BLOCK = 32 * 2**20
SILENT = {"prim::device", "aten::empty", "aten::new_empty", "aten::empty_like"}  # compute nothing


@dataclass(frozen=True)
class Cost:
    """Of one call, or of several.

    peak_bytes: the most that was alive at once of what it made itself; heap_bytes, mapped_bytes: the same of blocks up
    to HEAP_BLOCK and of larger ones. made_bytes: what of it is its result, and stays.
    """

    linear_flop: int = 0
    attention_flop: int = 0
    convolution_flop: int = 0
    moved_bytes: int = 0
    operations: int = 0
    peak_bytes: int = 0
    heap_bytes: int = 0
    mapped_bytes: int = 0
    made_bytes: int = 0

    @property
    def flop(self) -> int:
        return self.linear_flop + self.attention_flop + self.convolution_flop

    def times(self, calls: int) -> Cost:
        """So many calls, one after the other."""
        still = (*PEAKS, "made_bytes")
        return Cost(
            **{f.name: getattr(self, f.name) * (1 if f.name in still else calls) for f in fields(self)},
        )

    def shared(self, processes: int) -> Cost:
        """What each of so many processes does of it; its result is whole on all, and no operation is spared."""
        still = ("operations", "made_bytes")
        return Cost(**{f.name: getattr(self, f.name) // (1 if f.name in still else processes) for f in fields(self)})

    def then(self, other: Cost) -> Cost:
        """Both, one after the other; the result of the first is alive during the second."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        for name in PEAKS:
            sums[name] = max(getattr(self, name), self.made_bytes + getattr(other, name))
        return Cost(**sums)


@contextmanager
def without_values(device: str) -> Iterator[str]:
    """Tensors made inside have shapes and no values; yields the device to make them on.

    The CPU stands for itself: what the code does there alone, it does here too. Any other device is torch's meta.
    """
    if device == "cpu":
        # what is kept for later, such as the order of a video's cubes, has been made with values
        with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
            yield "cpu"
    else:
        with torch.inference_mode():
            yield "meta"


def traced(function: Callable[[], Any], device: str) -> Cost:
    """The cost of a call, inside of `without_values`."""
    # our kernels know their shapes without a device; without the extension torch's own attention stands in
    kernels = "auto" if device == "cpu" else "torch" if unavailable("cpu") else "cpu"
    counter = _Counter()
    with use_backend(kernels) if kernels != "auto" else nullcontext(), counter:
        result = function()
    made = counter.alive
    del result
    return Cost(
        linear_flop=counter.flop["linear"],
        attention_flop=counter.flop["attention"],
        convolution_flop=counter.flop["convolution"],
        moved_bytes=counter.moved,
        operations=counter.operations,
        peak_bytes=counter.peak,
        heap_bytes=counter.peak_heap,
        mapped_bytes=counter.peak_mapped,
        made_bytes=made,
    )


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flop: dict[Kind, int] = {"linear": 0, "attention": 0, "convolution": 0}
        self.moved = self.operations = self.alive = self.peak = 0
        self.heap = self.peak_heap = self.peak_mapped = 0
        self._read_share = 1.0  # of the cubes that sparse attention reads, as it was last selected
        self._storages: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet, kwargs = function._overloadpacket, kwargs or {}
        if packet in TAKEN_APART:
            with self:
                return function.decompose(*args, **kwargs)
        if packet is aten.scaled_dot_product_attention:
            result: Any = args[0].new_empty(*args[0].shape[:-1], args[2].shape[-1])
        else:
            result = function(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        name = function._schema.name
        before = {x.untyped_storage()._cdata for x in given}
        fresh = [x for x in made if x.untyped_storage()._cdata not in before]
        self._keep(fresh)
        if (fresh or function._schema.is_mutable) and name not in SILENT:
            self.operations += 1
            self.moved += sum(x.numel() * x.element_size() for x in (*given, *(fresh or made)))
            if name == "sky4::select_cubes":
                self._read_share = args[2] / args[1].shape[1]
            if kind := _kind(packet, name):
                self.flop[kind] += _flop(packet, name, args, made[0], self._read_share)
        return result

    def _keep(self, made: list[Tensor]) -> None:
        for x in made:
            storage = x.untyped_storage()
            key = storage._cdata
            if key not in self._storages:
                self._storages[key] = storage.nbytes()
                self._count(storage.nbytes())
                weakref.finalize(storage, self._drop, key)
        self.peak = max(self.peak, self.alive)
        self.peak_heap = max(self.peak_heap, self.heap)
        self.peak_mapped = max(self.peak_mapped, self.alive - self.heap)

    def _drop(self, key: int) -> None:
        self._count(-self._storages.pop(key))

    def _count(self, size: int) -> None:
        self.alive += size
        if abs(size) <= HEAP_BLOCK:
            self.heap += size


def _kind(packet: Any, name: str) -> Kind | None:
    if packet in LINEAR:
        return "linear"
    if packet in CONVOLUTION or packet in TRANSPOSED:
        return "convolution"
    if packet is aten.scaled_dot_product_attention or name in ("sky4::joint_attention", "sky4::block_sparse_attention"):
        return "attention"
    return None


def _flop(packet: Any, name: str, args: Any, made: Tensor, read_share: float) -> int:
    return int(_products(packet, name, args, made, read_share))


def _products(packet: Any, name: str, args: Any, made: Tensor, read_share: float) -> Any:
    if packet in LINEAR:
        left = args[1] if packet in (aten.addmm, aten.baddbmm) else args[0]
        return 2 * made.numel() * left.shape[-1]
    if packet in CONVOLUTION or packet in TRANSPOSED:
        transposed = packet in TRANSPOSED or (packet is aten.convolution and args[6])
        image, weight = args[0], args[1]
        # every input of a transposed convolution meets the kernel once, of an ordinary one every output
        return 2 * (image if transposed else made).numel() * math.prod(weight.shape[1:])
    if name == "sky4::joint_attention":
        queries, keys, values = args[:3]
        batch, _, heads, channels = queries[0].shape
        rows, columns = (sum(x.shape[1] for x in part) for part in (queries, keys))
        return 2 * batch * heads * rows * columns * (channels + values[0].shape[-1])
    if name == "sky4::block_sparse_attention":
        q, k, text_keys = args[0], args[1], args[6]
        columns = read_share * k.shape[1] + (0 if text_keys is None else text_keys.shape[1])
        return round(4 * q.numel() * columns)
    if packet is aten.scaled_dot_product_attention:
        q, k, v = args[:3]
        return 2 * math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])
    raise AssertionError(f"no formula for {name}")
