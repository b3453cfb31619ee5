"""Cases of Video Sparse Attention: the fine stage on cubes of 64 tokens, and the choice of cubes.

The selection is random: neighbouring cubes of a real clip share more of their keys. B = 1, H heads, N video tokens in
cube order, M cubes, K of them kept, N_t text tokens, d channels per head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sky4.bench import exact, ours
from sky4.bench.attention import BACKWARD
from sky4.bench.cases import OURS, Built, Candidate, Case, Setting
from sky4.bench.opponents import NOT_COMPILED, compiled_flex
from sky4.bench.shapes import CubeShape, cubes_of

CUBE = 64
DENSE, GATHERED, MASKED = "sky4 dense", "gathered SDPA", "masked SDPA"
GATHERED_BYTES = 2**28  # of the keys gathered at a time: beyond that, more memory makes it no faster
MASK_BYTES = 2**31  # of the largest mask tried


def sparse_cases(shape: CubeShape, setting: Setting, kernels: set[str], backward: bool) -> list[Case]:
    """The cases of one shape that `kernels` asks for."""
    cases = []
    if "block_sparse_attention" in kernels:
        cases.append(_fine(shape, setting))
        if backward:
            cases.append(_backward(shape, setting))
    if "select_cubes" in kernels:
        cases.append(_select(shape, setting))
    return cases


class Selection:
    """K cubes for every head and query cube."""

    def __init__(self, shape: CubeShape, indices: Tensor) -> None:
        """indices [H, M, K]: the key cubes of each query cube, ascending."""
        tiling, device = ours.cube_tiling(shape.grid), indices.device
        self.indices, self.sizes, self.starts = indices, tiling.sizes.long().to(device), tiling.starts.to(device)
        self.cube_of = torch.repeat_interleave(torch.arange(len(self.sizes), device=device), self.sizes)  # [N]
        self.bits = torch.stack([ours.mask_to_bits(self.mask(head)) for head in range(len(indices))])[None]

    @classmethod
    def random(cls, shape: CubeShape, setting: Setting) -> Selection:
        count, generator = cubes_of(shape.grid), setting.generator
        rows = [
            torch.rand(count, count, generator=generator, device=setting.device).topk(shape.keep).indices
            for _ in range(shape.heads)
        ]
        return cls(shape, torch.stack(rows).sort(-1).values)

    def mask(self, head: int) -> Tensor:
        """[M, M] bool: which key cubes a query cube reads."""
        count = len(self.sizes)
        return torch.zeros(count, count, dtype=torch.bool, device=self.sizes.device).scatter_(
            1, self.indices[head], True
        )

    def pairs(self) -> int:
        """Token pairs of all heads."""
        return sum(int((self.sizes[chosen].sum(-1) * self.sizes).sum()) for chosen in self.indices)  # [M, K] each

    def allowed(self, rows: Tensor, text: int) -> Tensor:
        """[H, R, N + N_t] bool for the given token rows; text is always read."""
        parts = []
        for head in range(len(self.indices)):
            of_cubes = self.mask(head)[self.cube_of[rows.to(self.cube_of.device)]]
            parts.append(F.pad(of_cubes[:, self.cube_of], (0, text), value=True))
        return torch.stack(parts)


def expected_pairs(shape: CubeShape) -> int:
    """Token pairs before a selection is drawn, exact where all cubes are full."""
    tokens, count = shape.grid[0] * shape.grid[1] * shape.grid[2], cubes_of(shape.grid)
    return shape.heads * tokens * tokens * shape.keep // count


def _tokens(shape: CubeShape) -> int:
    return shape.grid[0] * shape.grid[1] * shape.grid[2]


def sparse_case(
    name: str, shape: CubeShape, setting: Setting, build: Callable[[], Built], factor: float = 1.0, more: int = 0
) -> Case:
    """A case whose work is `factor` times that of the fine stage and `more` flop."""
    tokens, row = _tokens(shape), shape.heads * shape.channels * setting.dtype.itemsize
    moved = row * (4 * tokens + 2 * shape.text)
    flop = 4 * shape.channels * (expected_pairs(shape) + shape.heads * tokens * shape.text)
    indices = shape.heads * cubes_of(shape.grid) * (shape.keep * 8 + cubes_of(shape.grid) // 8)
    return Case(name, build, round(factor * flop) + more, moved, 4 * moved + 2 * indices)


def inputs(shape: CubeShape, setting: Setting) -> tuple[Tensor, ...]:
    """q, k, v [1, N, H, d] in cube order, and the keys and values of the text [1, N_t, H, d]."""
    generator = setting.generator
    qkv = setting.randn(1, _tokens(shape), 3, shape.heads, shape.channels, generator=generator)
    text = setting.randn(1, shape.text, 2, shape.heads, shape.channels, generator=generator)
    return (*qkv.unbind(2), *text.unbind(2))


def _fine(shape: CubeShape, setting: Setting) -> Case:
    def build() -> Built:
        q, k, v, text_k, text_v = inputs(shape, setting)
        chosen = Selection.random(shape, setting)
        text = (text_k, text_v) if shape.text else None
        rows = exact.checked_rows(q.shape[1], shape.heads * q.shape[1] ** 2)
        all_k, all_v = torch.cat([k, text_k], 1), torch.cat([v, text_v], 1)

        def error(found: Tensor) -> float:
            truth = exact.attention(q, all_k, all_v, rows, chosen.allowed(rows, shape.text))
            return exact.max_error(found[:, rows], truth)

        what = f"output, {exact.told_rows(rows, q.shape[1])}"
        served = ours.backend_of("block_sparse_attention", q, setting.backend)
        flop = 4 * shape.channels * (chosen.pairs() + shape.heads * _tokens(shape) * shape.text)
        dense_flop = 4 * shape.heads * shape.channels * q.shape[1] * all_k.shape[1]
        keys, values = ([k, text_k], [v, text_v]) if shape.text else ([k], [v])
        candidates = {
            OURS: Candidate(
                lambda: ours.block_sparse(q, k, v, chosen.bits, chosen.starts, text, setting.backend),
                error,
                what,
                flop,
                served,
            ),
            DENSE: Candidate(lambda: ours.attention([q], keys, values, setting.backend), flop=dense_flop),
            GATHERED: Candidate(gathered(q, k, v, chosen, text), error, what, flop),
        }
        missing = {}
        mask = shape.heads * q.shape[1] * all_k.shape[1]
        if mask <= MASK_BYTES:
            candidates[MASKED] = Candidate(_masked(q, all_k, all_v, chosen, shape.text), error, what, dense_flop)
        else:
            missing[MASKED] = f"its mask would take {mask / 2**30:.0f} GiB"
        flex = _flex(q, k, v, chosen, shape, setting)
        if isinstance(flex, str):
            missing["FlexAttention"] = flex
        else:
            candidates["FlexAttention"] = Candidate(flex, error, what, flop)
        return Built(candidates, missing)

    return sparse_case(f"block_sparse_attention {title(shape)}", shape, setting, build)


def title(shape: CubeShape) -> str:
    return f"{shape.name}, {shape.keep} of {cubes_of(shape.grid)} cubes"


def gathered(
    q: Tensor, k: Tensor, v: Tensor, chosen: Selection, text: tuple[Tensor, Tensor] | None
) -> Callable[[], Tensor]:
    """The selected cubes' keys gathered for every query cube, then SDPA: what torch offers without a sparse kernel.

    Cubes are padded to 64 slots beforehand; gathering and attention are what is timed.
    """
    ragged = bool((chosen.sizes < CUBE).any())
    slots = torch.arange(CUBE, device=q.device)
    real = slots < chosen.sizes[:, None]  # [M, 64]
    rows = torch.where(real, chosen.starts[:-1, None] + slots, 0).long()
    cubes = [x[0][rows].permute(2, 0, 1, 3).contiguous() for x in (q, k, v)]  # [H, M, 64, d]
    heads, count, _, channels = cubes[0].shape
    keep = chosen.indices.shape[-1]
    at_a_time = max(1, GATHERED_BYTES // (heads * keep * CUBE * channels * q.element_size()))
    per_head = torch.arange(heads, device=q.device)[:, None, None]
    text_length = 0 if text is None else text[0].shape[1]

    def read(x: Tensor, which: Tensor, words: Tensor | None) -> Tensor:
        found = x[per_head, which].flatten(2, 3).transpose(0, 1)  # [m, H, K·64, d]
        if words is None:
            return found
        return torch.cat([found, words[0].transpose(0, 1).expand(len(found), -1, -1, -1)], 2)

    def call() -> Tensor:
        out = torch.empty_like(cubes[0])
        for first in range(0, count, at_a_time):
            which = chosen.indices[:, first : first + at_a_time]  # [H, m, K]
            mask = None
            if ragged:
                mask = F.pad(real[which].flatten(2).transpose(0, 1)[:, :, None], (0, text_length), value=True)
            some = F.scaled_dot_product_attention(
                cubes[0][:, first : first + at_a_time].transpose(0, 1),
                read(cubes[1], which, None if text is None else text[0]),
                read(cubes[2], which, None if text is None else text[1]),
                attn_mask=mask,
            )
            out[:, first : first + at_a_time] = some.transpose(0, 1)
        return out.permute(1, 2, 0, 3)[real][None]  # [1, N, H, d]

    return call


def _masked(q: Tensor, k: Tensor, v: Tensor, chosen: Selection, text: int) -> Callable[[], Tensor]:
    """Dense SDPA under the selection's mask."""
    mask = chosen.allowed(torch.arange(q.shape[1]), text)[None]
    queries, keys, values = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    return lambda: F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask).transpose(1, 2)


def _flex(
    q: Tensor, k: Tensor, v: Tensor, chosen: Selection, shape: CubeShape, setting: Setting
) -> Callable[[], Tensor] | str:
    """FlexAttention on the same block list, or why not."""
    if 4 * shape.channels * expected_pairs(shape) < setting.compile_from:
        return NOT_COMPILED
    if shape.text or bool((chosen.sizes < CUBE).any()):
        return "its blocks are all of one size; this shape has border cubes or text"
    from torch.nn.attention.flex_attention import BlockMask

    count = torch.full(chosen.indices.shape[:2], shape.keep, dtype=torch.int32, device=q.device)[None]
    padded = F.pad(chosen.indices, (0, len(chosen.sizes) - shape.keep)).int()[None]
    # the lists are of full blocks: nothing inside them is masked
    empty = torch.zeros_like(count)
    mask = BlockMask.from_kv_blocks(empty, padded, count, padded, BLOCK_SIZE=CUBE)
    queries, keys, values = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    attend = compiled_flex(queries, keys, values, block_mask=mask)
    return attend if isinstance(attend, str) else lambda: attend(queries, keys, values).transpose(1, 2)


def _backward(shape: CubeShape, setting: Setting) -> Case:
    """Ours against the gathered form; the graph is made once and kept."""

    def build() -> Built:
        q, k, v, text_k, text_v = (x.detach().clone().requires_grad_() for x in inputs(shape, setting))
        chosen = Selection.random(shape, setting)
        text = (text_k, text_v) if shape.text else None
        leaves = [q, k, v, *(text or ())]
        out_grad = setting.randn(*q.shape, generator=setting.generator)
        rows = exact.checked_rows(q.shape[1], shape.heads * q.shape[1] ** 2)

        def error(grads: Any) -> float:
            all_k, all_v = torch.cat([k, text_k], 1).detach(), torch.cat([v, text_v], 1).detach()
            allowed = chosen.allowed(rows, shape.text)
            truth = exact.query_gradient(q.detach(), all_k, all_v, out_grad, rows, allowed)
            return exact.max_error(grads[0][:, rows], truth)

        candidates, missing = {}, {}
        told: dict[str, Any] = {"error": error}
        told["error_of"] = f"gradient of the queries, {exact.told_rows(rows, q.shape[1])}"
        with torch.enable_grad():
            out = ours.block_sparse(q, k, v, chosen.bits, chosen.starts, text, setting.backend)
            candidates[OURS] = Candidate(lambda: torch.autograd.grad(out, leaves, out_grad, retain_graph=True), **told)
            kept = shape.heads * len(chosen.sizes) * shape.keep * CUBE * shape.channels * setting.dtype.itemsize
            if 2 * kept <= MASK_BYTES:
                other = gathered(q, k, v, chosen, text)()
                candidates[GATHERED] = Candidate(
                    lambda: torch.autograd.grad(other, leaves, out_grad, retain_graph=True), **told
                )
            else:
                missing[GATHERED] = f"the gathered keys and values that it keeps would take {2 * kept / 2**30:.0f} GiB"
        return Built(candidates, missing)

    return sparse_case(f"block_sparse_attention backward {title(shape)}", shape, setting, build, BACKWARD)


def _select(shape: CubeShape, setting: Setting) -> Case:
    count = cubes_of(shape.grid)

    def build() -> Built:
        generator = setting.generator
        q, k = (setting.randn(1, count, shape.heads, shape.channels, generator=generator) for _ in range(2))
        heads = [(q[0, :, head], k[0, :, head]) for head in range(shape.heads)]

        def by_topk() -> list[Tensor]:
            return [(a @ b.T).topk(shape.keep).indices for a, b in heads]

        def lost(chosen: list[Tensor]) -> float:
            """The most that the sum of a row's chosen scores falls short of the best, in score units."""
            short = 0.0
            for (a, b), indices in zip(heads, chosen, strict=True):
                scores = a.double() @ b.double().T
                best = scores.topk(shape.keep).values.sum(-1)
                short = max(short, float((best - scores.gather(1, indices).sum(-1)).max()))
            return max(short, 0.0)

        what = "score that the choice of a row loses, all rows"
        return Built(
            {
                OURS: Candidate(
                    lambda: ours.select(q, k, shape.keep, setting.backend),
                    lambda bits: lost(list(chosen_cubes(bits, count, shape.keep))),
                    what,
                ),
                "torch matmul + topk": Candidate(by_topk, lost, what),
            }
        )

    row = shape.heads * count
    moved = row * (2 * shape.channels * setting.dtype.itemsize + 4 * -(-count // 32))
    flop = 2 * row * count * shape.channels
    return Case(f"select_cubes {title(shape)}", build, flop, moved, moved + 8 * count * (count + shape.keep))


def chosen_cubes(bits: Tensor, count: int, keep: int) -> Tensor:
    """Bits [1, H, M, W] as indices [H, M, K]. RuntimeError where a row does not hold exactly `keep` cubes."""
    mask = ours.bits_to_mask(bits[0], count)
    if bool((mask.sum(-1) != keep).any()):
        raise RuntimeError(f"a row of the selection does not hold {keep} cubes")
    return mask.nonzero()[:, 2].view(*mask.shape[:2], keep)
