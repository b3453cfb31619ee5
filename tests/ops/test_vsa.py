"""Video Sparse Attention against masked dense attention in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sky4.ops import block_sparse_attention as fine_module
from sky4.ops import vsa_reference
from sky4.ops.block_sparse_attention import block_sparse_attention
from sky4.ops.cubes import bits_to_mask, cube_tiling, mask_to_bits
from sky4.ops.joint_attention import joint_attention
from sky4.ops.vsa import cube_means, cubes_kept, select_cubes, video_sparse_attention

BACKENDS = ("torch", "cpu")
DTYPES = (torch.float32, torch.bfloat16)
EIGHT = cube_tiling((2, 2, 2))


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def starts_of(sizes: list[int]) -> Tensor:
    return F.pad(torch.tensor(sizes).cumsum(0), (1, 0)).int()


@dataclass(frozen=True)
class Case:
    """Of the fine stage."""

    q: Tensor
    k: Tensor
    v: Tensor
    selected: Tensor
    query_starts: Tensor
    key_starts: Tensor
    text: tuple[Tensor, Tensor] | None = None
    text_mask: Tensor | None = None

    def run(self, backend: str) -> Tensor:
        return block_sparse_attention(**vars(self), backend=backend)

    def exact(self) -> Tensor:
        return vsa_reference.block_sparse_attention(**vars(self.wide()))[0]

    def wide(self) -> Case:
        text = None if self.text is None else (self.text[0].double(), self.text[1].double())
        return replace(self, q=self.q.double(), k=self.k.double(), v=self.v.double(), text=text)

    def with_leaves(self) -> tuple[Case, list[Tensor]]:
        leaves = [x.clone().requires_grad_() for x in (self.q, self.k, self.v, *(self.text or ()))]
        text = None if self.text is None else (leaves[3], leaves[4])
        return replace(self, q=leaves[0], k=leaves[1], v=leaves[2], text=text), leaves


def make(
    query_sizes: list[int],
    key_sizes: list[int],
    keep: int | None = 2,
    text: int = 0,
    dtype: torch.dtype = torch.float32,
    channels: int = 32,
    seed: int = 0,
) -> Case:
    """`keep` cubes for every query cube by chance, or (None) rows of any count with empty and full ones among them."""
    B, H = 2, 3
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(B, H, len(query_sizes), len(key_sizes), generator=generator)
    if keep is None:
        mask = chance < 0.3
        mask[:, 0, 0], mask[:, 1, 0] = False, True
    else:
        mask = chance.argsort(-1).argsort(-1) < keep
    n, m = sum(query_sizes), sum(key_sizes)
    text_kv = None
    if text:
        text_kv = normal(B, text, H, channels, seed=4, dtype=dtype), normal(B, text, H, channels, seed=5, dtype=dtype)
    return Case(
        *(normal(B, length, H, channels, seed=i, dtype=dtype) for i, length in enumerate((n, m, m))),
        mask_to_bits(mask),
        starts_of(query_sizes),
        starts_of(key_sizes),
        text_kv,
    )


RAGGED = [64, 1, 15, 16, 17, 63, 64, 64]
CASES = {
    "whole cubes": lambda dtype: make([64] * 16, [64] * 16, 2, dtype=dtype),
    "ragged cubes": lambda dtype: make(RAGGED, RAGGED, 3, dtype=dtype),
    "other keys than queries": lambda dtype: make(RAGGED[:5], RAGGED * 5, 6, dtype=dtype),
    "fewer keys than queries": lambda dtype: make([37] * 9, [50, 33], 1, dtype=dtype),
    "rows of any count": lambda dtype: make(RAGGED, RAGGED * 5, None, dtype=dtype),
    "rows of any count beside text": lambda dtype: make(RAGGED, RAGGED, None, text=77, dtype=dtype),
    "one token": lambda dtype: make([1], [1], 1, dtype=dtype),
    "text": lambda dtype: make(RAGGED, RAGGED, 2, text=9, dtype=dtype),
    "masked text": lambda dtype: replace(
        make(RAGGED, RAGGED, 2, text=70, dtype=dtype),
        text_mask=torch.stack([torch.arange(70) % 3 == 1, torch.zeros(70, dtype=torch.bool)]),
    ),
    "128 channels": lambda dtype: make(RAGGED, RAGGED, 3, dtype=dtype, channels=128),
}


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_the_fine_stage_is_dense_attention_under_the_mask(name: str, dtype: torch.dtype, backend: str) -> None:
    case = CASES[name](dtype)
    truth = case.exact()
    theirs = case.run("torch")
    rounding = 2 * (truth.to(dtype).double() - truth).abs().max() + 1e-6
    assert (case.run(backend) - truth).abs().max() <= 2 * (theirs - truth).abs().max() + rounding
    assert (theirs - truth).abs().max() <= (0.02 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["ragged cubes", "rows of any count beside text", "masked text"])
def test_the_kernel_s_gradients_err_at_most_twice_as_much_as_torch_s(name: str, dtype: torch.dtype) -> None:
    plain = CASES[name](dtype)

    def gradients(case: Case, backend: str) -> list[Tensor]:
        case, leaves = case.with_leaves()
        out = case.run(backend)
        weight = (torch.arange(out.numel()) % 13 - 6).view_as(out).to(out.dtype) / 8
        return list(torch.autograd.grad((out * weight).sum(), leaves))

    truth = gradients(plain.wide(), "reference")
    ours, theirs = gradients(plain, "cpu"), gradients(plain, "torch")
    for which, a, b, t in zip(["q", "k", "v", "text k", "text v"], ours, theirs, truth, strict=False):
        rounding = 2 * (t.to(dtype).double() - t).abs().max() + 1e-5
        assert (a - t).abs().max() <= 2 * (b - t).abs().max() + rounding, which


def test_the_reference_s_backward_is_the_derivative() -> None:
    case, leaves = make([3, 1], [2, 3, 1], None, text=2, channels=4).wide().with_leaves()
    leaves = [x.detach()[:1, :, :2].clone().requires_grad_() for x in leaves]

    def function(q: Tensor, k: Tensor, v: Tensor, text_k: Tensor, text_v: Tensor) -> Tensor:
        bits = case.selected[:1, :2]
        return vsa_reference.block_sparse_attention(
            q, k, v, bits, case.query_starts, case.key_starts, (text_k, text_v)
        )[0]

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_a_query_that_reads_nothing_gets_zero(backend: str) -> None:
    case = make(RAGGED, RAGGED, 2)
    case.selected[0, 1, 3:5] = 0
    case, leaves = case.with_leaves()
    out = case.run(backend)
    rows = slice(int(case.query_starts[3]), int(case.query_starts[5]))
    assert torch.equal(out[0, rows, 1], torch.zeros_like(out[0, rows, 1])) and out.isfinite().all()
    out.sum().backward()
    assert all(x.grad.isfinite().all() for x in leaves)
    assert torch.equal(leaves[0].grad[0, rows, 1], torch.zeros_like(out[0, rows, 1]))


def test_torch_s_path_gives_the_same_in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["rows of any count beside text"](torch.float32)
    whole = case.run("torch")
    monkeypatch.setattr(fine_module, "GATHERED_ELEMENTS", 1)
    torch.testing.assert_close(case.run("torch"), whole)


def test_the_same_inputs_give_the_same_bits() -> None:
    def everything() -> list[Tensor]:
        case, leaves = CASES["rows of any count beside text"](torch.float32).with_leaves()
        out = case.run("cpu")
        return [out, *torch.autograd.grad(out.square().sum(), leaves)]

    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(everything(), everything(), strict=True))


@pytest.mark.parametrize("name", ["ragged cubes", "masked text"])
def test_the_fine_operator_keeps_torch_s_contract(name: str) -> None:
    case, _ = CASES[name](torch.float32).with_leaves()
    text = case.text or (None, None)
    lengths = None if case.text_mask is None else case.text_mask.sum(1, dtype=torch.int32)
    tensors = (case.q, case.k, case.v, case.query_starts, case.key_starts, case.selected, *text, lengths)
    torch.library.opcheck(torch.ops.sky4.block_sparse_attention.default, (*tensors, 0.2))


@pytest.mark.slow
def test_the_fine_stage_compiles_without_a_break() -> None:
    case = CASES["masked text"](torch.float32)

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return replace(case, q=q, k=k, v=v).run("cpu").sin()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    grads = []
    for way in (function, compiled):
        leaves = [x.clone().requires_grad_() for x in (case.q, case.k, case.v)]
        way(*leaves).sum().backward()
        grads.append([x.grad for x in leaves])
    torch.testing.assert_close(*grads)


def test_the_fine_stage_runs_on_the_meta_device() -> None:
    case = CASES["text"](torch.float32)
    moved = {name: x.to("meta") if isinstance(x, Tensor) else x for name, x in vars(case).items()}
    moved["text"] = tuple(x.to("meta") for x in case.text)
    assert Case(**moved).run("cpu").shape == case.q.shape


# selection


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep", [1, 4, 31, 32, 33, 70])
def test_exactly_keep_cubes_of_the_highest_score_are_chosen(backend: str, dtype: torch.dtype, keep: int) -> None:
    q, k = normal(2, 9, 3, 32, seed=0, dtype=dtype), normal(2, 70, 3, 32, seed=1, dtype=dtype)
    mask = bits_to_mask(select_cubes(q, k, keep, backend=backend), 70)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double())
    assert (mask.sum(-1) == keep).all()
    worst = scores.masked_fill(~mask, torch.inf).amin(-1)
    best_left = scores.masked_fill(mask, -torch.inf).amax(-1)
    assert (worst >= best_left - 1e-5).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keep", [1, 3, 10])
def test_of_equal_scores_the_lower_index_wins(backend: str, keep: int) -> None:
    generator = torch.Generator().manual_seed(2)
    q, k = (torch.randint(-1, 2, (1, n, 2, 4), generator=generator).float() for n in (20, 40))  # exact sums, many ties
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k)
    chosen = bits_to_mask(select_cubes(q, k, keep, backend=backend), 40)
    for row, mask in zip(scores.flatten(0, 2).tolist(), chosen.flatten(0, 2), strict=True):
        best = sorted(range(40), key=lambda i: (-row[i], i))[:keep]
        assert mask.nonzero().flatten().tolist() == sorted(best)


@pytest.mark.parametrize("backend", BACKENDS)
def test_not_a_number_comes_last(backend: str) -> None:
    q, k = torch.ones(1, 1, 1, 4), torch.arange(8.0).view(1, 8, 1, 1).repeat(1, 1, 1, 4)
    k[0, 7], k[0, 5], k[0, 2] = torch.nan, -torch.inf, torch.nan
    chosen = [bits_to_mask(select_cubes(q, k, n, backend=backend), 8).flatten().nonzero().flatten() for n in (5, 6, 7)]
    assert [c.tolist() for c in chosen] == [[0, 1, 3, 4, 6], [0, 1, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]]


def test_scores_are_held_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = normal(1, 9, 2, 8, seed=0), normal(1, 40, 2, 8, seed=1)
    whole = vsa_reference.select_cubes(q, k, 5)
    monkeypatch.setattr(vsa_reference, "SCORES_HELD", 1)
    assert torch.equal(vsa_reference.select_cubes(q, k, 5), whole)


def test_the_selection_passes_no_gradient_and_keeps_torch_s_contract() -> None:
    q, k = normal(1, 9, 2, 32, seed=0).requires_grad_(), normal(1, 40, 2, 32, seed=1)
    for backend in BACKENDS:
        assert not select_cubes(q, k, 5, backend=backend).requires_grad
    torch.library.opcheck(torch.ops.sky4.select_cubes.default, (q.detach(), k, 5))


@pytest.mark.parametrize(("density", "cubes", "kept"), [(1.0, 7, 7), (1 / 3, 3060, 1020), (0.1, 30, 3), (0.01, 7, 1)])
def test_density_is_a_share_rounded_up(density: float, cubes: int, kept: int) -> None:
    assert cubes_kept(density, cubes) == kept


# the whole


def triples(tokens: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(normal(2, tokens, 3, 32, seed=seed + i, dtype=dtype) for i in range(3))


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
@pytest.mark.parametrize("slab", [False, True])
@pytest.mark.parametrize("text", ["none", "whole", "masked"])
@pytest.mark.parametrize("gated", [False, True])
def test_coarse_and_fine_are_gated_together(backend: str, slab: bool, text: str, gated: bool) -> None:
    tiling = cube_tiling((5, 6, 7), residual_slab=slab)
    video, words = triples(tiling.tokens), None if text == "none" else triples(9, seed=3)
    mask = torch.arange(18).view(2, 9) % 4 != 1 if text == "masked" else None
    gates = (normal(2, tiling.tokens, 3, 32, seed=8), normal(2, tiling.tokens, 1, 1, seed=9)) if gated else None
    selected = select_cubes(*(cube_means(x, tiling.starts) for x in video[:2]), cubes_kept(0.4, tiling.cubes))
    wide = [None if x is None else tuple(t.double() for t in x) for x in (video, words, gates)]
    expected = vsa_reference.video_sparse_attention(wide[0], wide[1], tiling.starts, selected, wide[2], mask)
    found = video_sparse_attention(video, words, tiling, 0.4, gates=gates, text_mask=mask, backend=backend)
    for ours, truth in zip(found, expected, strict=True):
        assert (ours is None) == (truth is None)
        if ours is not None:
            torch.testing.assert_close(ours.double(), truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_cubes_kept_is_dense_attention(backend: str, dtype: torch.dtype) -> None:
    tiling = cube_tiling((5, 6, 7))
    video, words = triples(tiling.tokens, dtype=dtype), triples(9, seed=3, dtype=dtype)
    found = video_sparse_attention(video, words, tiling, 1.0, backend=backend)
    dense = joint_attention(*([a, b] for a, b in zip(video, words, strict=True)), backend="reference")
    near = 2e-2 if dtype == torch.bfloat16 else 1e-5
    for ours, theirs in zip(found, dense, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=near)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_flow_through_both_stages(backend: str) -> None:
    tiling = cube_tiling((5, 6, 7))
    selected = []

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in (*triples(tiling.tokens), *triples(9, seed=3))]
        gates = [normal(2, tiling.tokens, 3, 32, seed=i).to(dtype).requires_grad_() for i in (8, 9)]
        video, words = tuple(leaves[:3]), tuple(leaves[3:])
        if dtype == torch.float64:
            outs = vsa_reference.video_sparse_attention(video, words, tiling.starts, selected[0], tuple(gates))
        else:
            outs = video_sparse_attention(video, words, tiling, 0.4, gates=tuple(gates), backend=backend)
            means = (cube_means(x, tiling.starts) for x in video[:2])
            selected.append(select_cubes(*means, cubes_kept(0.4, tiling.cubes), backend=backend))
        return list(torch.autograd.grad(sum(out.square().sum() for out in outs), [*leaves, *gates]))

    for ours, truth in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=1e-5 * float(truth.abs().max()) + 1e-6)


def test_means_made_before_are_used() -> None:
    tiling = cube_tiling((5, 6, 7))
    video = triples(tiling.tokens)
    means = tuple(cube_means(x, tiling.starts) for x in video[:2])
    plain = video_sparse_attention(video, None, tiling, 0.4, backend="torch")[0]
    assert torch.equal(video_sparse_attention(video, None, tiling, 0.4, means=means, backend="torch")[0], plain)
    other = (means[0], -means[1])
    assert not torch.equal(video_sparse_attention(video, None, tiling, 0.4, means=other, backend="torch")[0], plain)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: video_sparse_attention(triples(9), None, EIGHT, 0.5), r"\[2, 8, 3, 32\] for the grid"),
        (
            lambda: video_sparse_attention(triples(8), (*triples(3)[:2], triples(4)[2]), EIGHT, 0.5),
            r"text \[2, N_t, 3, 32\], got \[2, 4, 3, 32\]",
        ),
        (lambda: cubes_kept(1.5, 4), "above 0 and at most 1, got 1.5"),
        (lambda: select_cubes(triples(4)[0], triples(5)[0], 6), r"between 1 and 5 \(the key cubes\), got 6"),
        (lambda: select_cubes(triples(4)[0], triples(5)[0][..., :8], 1), r"keys \[2, M, 3, 32\], got \[2, 5, 3, 8\]"),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"v": torch.zeros(2, 5, 3, 32)}, r"v torch.float32 \[2, 4, 3, 32\], got torch.float32 \[2, 5, 3, 32\]"),
        ({"k": torch.zeros(2, 4, 3, 32).double()}, r"k torch.float32 \[2, 4, 3, 32\], got torch.float64"),
        ({"q": torch.zeros(4, 3, 32)}, r"q and k \[B, N, H, d\], got \[4, 3, 32\] and \[2, 4, 3, 32\]"),
        ({"selected": torch.zeros(2, 3, 1, 2).int()}, r"selected torch.int32 \[2, 3, 1, 1\], got .* \[2, 3, 1, 2\]"),
        ({"key_starts": torch.tensor([0, 4])}, "key_starts torch.int32"),
        ({"text": (torch.zeros(2, 2, 3, 32), torch.zeros(2, 3, 3, 32))}, r"text values torch.float32 \[2, 2, 3, 32\]"),
        ({"text_mask": torch.ones(2, 3).bool()}, "text_mask and no text"),
    ],
)
def test_of_the_fine_stage_too(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(make([4], [4], 1), **changed).run("auto")
