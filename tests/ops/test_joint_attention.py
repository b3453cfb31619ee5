"""Joint attention against float64 and against its definition, on every backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sky4.ops.joint_attention import compacted, joint_attention

NAMED = ("reference", "torch", "cpu")
DTYPES = (torch.float32, torch.bfloat16)


def segments(*lengths: int, dtype: torch.dtype = torch.float32, seed: int = 0, channels: int = 32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, n, 3, channels, generator=generator).to(dtype) for n in lengths]


def random_masks(*lengths: int, seed: int = 7) -> list[Tensor]:
    """Masks with holes; of the second sample the first segment is all masked."""
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.rand(2, n, generator=generator) < 0.5 for n in lengths]
    masks[0][1] = False
    masks[-1][:, -1] = True
    return masks


def exact(queries: list[Tensor], keys: list[Tensor], values: list[Tensor], mask: Tensor | None = None) -> Tensor:
    q, k, v = (torch.cat(list(x), 1).double() for x in (queries, keys, values))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


@pytest.mark.parametrize("backend", NAMED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [(5, 3), (1, 1), (67, 13), (218, 40)])
def test_error_is_at_most_twice_that_of_torch(backend: str, dtype: torch.dtype, lengths: tuple[int, int]) -> None:
    q, k, v = (segments(*lengths, dtype=dtype, seed=i) for i in range(3))
    truth = exact(q, k, v)
    joined = [torch.cat(x, 1).transpose(1, 2) for x in (q, k, v)]
    theirs = F.scaled_dot_product_attention(*joined).transpose(1, 2)
    ours = torch.cat(joint_attention(q, k, v, backend=backend), 1)
    rounding = 2 * (truth.to(dtype).double() - truth).abs().max()
    assert (ours - truth).abs().max() <= 2 * (theirs - truth).abs().max() + rounding


@pytest.mark.parametrize("backend", NAMED)
def test_outputs_follow_the_query_segments(backend: str) -> None:
    q, k, v = (segments(4, 3, seed=i) for i in range(3))
    media, text = joint_attention(q, k, v, backend=backend)
    assert media.shape == q[0].shape and text.shape == q[1].shape
    torch.testing.assert_close(torch.cat([media, text], 1), exact(q, k, v).float())


@pytest.mark.parametrize("backend", NAMED)
@pytest.mark.parametrize(("queries", "keys"), [((5,), (9,)), ((5,), (5, 9)), ((3, 2, 1), (7,)), ((2, 3), (4, 1, 2, 6))])
def test_queries_and_keys_come_in_any_segments(backend: str, queries: tuple[int, ...], keys: tuple[int, ...]) -> None:
    q, k, v = segments(*queries), segments(*keys, seed=1), segments(*keys, seed=2)
    out = torch.cat(joint_attention(q, k, v, backend=backend), 1)
    torch.testing.assert_close(out, exact(q, k, v).float())


def test_more_segments_than_the_kernels_take_go_to_torch() -> None:
    q, k, v = (segments(2, 1, 2, 1, 2, seed=i) for i in range(3))
    torch.testing.assert_close(torch.cat(joint_attention(q, k, v), 1), exact(q, k, v).float())
    with pytest.raises(ValueError, match="it takes 4 segments and got 5"):
        joint_attention(q, k, v, backend="cpu")


def test_tensors_of_two_dtypes_are_no_case_for_the_kernels() -> None:
    q, k, v = segments(2), segments(3), segments(3, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="of one dtype and these are torch.float32 and torch.bfloat16"):
        joint_attention(q, k, v, backend="cpu")


@pytest.mark.parametrize("backend", NAMED)
def test_views_of_a_projection_are_read_as_they_lie(backend: str) -> None:
    qkv = segments(11, seed=3, channels=96)[0].unflatten(-1, (3, 32)).transpose(2, 3)  # heads and parts interleaved
    q, k, v = qkv.unbind(2)
    wide = torch.cat([qkv, qkv], dim=1)[:, :11]
    for views in ((q, k, v), wide.unbind(2), [x.transpose(1, 3).contiguous().transpose(1, 3) for x in (q, k, v)]):
        (out,) = joint_attention(*([x] for x in views), backend=backend)
        torch.testing.assert_close(out, exact([q], [k], [v]).float())


@pytest.mark.parametrize("backend", NAMED)
def test_masked_keys_are_not_read(backend: str) -> None:
    q, k, v = (segments(6, 4, seed=i) for i in range(3))
    text_mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    out = torch.cat(joint_attention(q, k, v, [None, text_mask], backend=backend), 1)
    mask = torch.cat([torch.ones(2, 6, dtype=torch.bool), text_mask], 1)
    torch.testing.assert_close(out, exact(q, k, v, mask).float())
    k[1][~text_mask], v[1][~text_mask] = 1e4, 1e4
    assert torch.equal(out, torch.cat(joint_attention(q, k, v, [None, text_mask], backend=backend), 1))


@pytest.mark.parametrize("backend", NAMED)
def test_masks_may_have_holes(backend: str) -> None:
    q, k, v = segments(9), segments(70, 13, seed=1), segments(70, 13, seed=2)
    masks = random_masks(70, 13)
    (out,) = joint_attention(q, k, v, masks, backend=backend)
    torch.testing.assert_close(out, exact(q, k, v, torch.cat(masks, 1)).float())


def test_compaction_keeps_what_counts_and_its_order() -> None:
    (k,), (v,) = segments(20), segments(20, seed=1)
    (mask,) = random_masks(20)
    for where in (mask, mask.sort(dim=1, descending=True).values):
        near_k, near_v, lengths = compacted(k, v, where)
        for sample in range(2):
            n = int(lengths[sample])
            assert torch.equal(near_k[sample, :n], k[sample][where[sample]])
            assert torch.equal(near_v[sample, :n], v[sample][where[sample]])
    assert compacted(k, v, where)[0] is k  # already so: nothing moves
    for nothing in (None, torch.ones_like(mask)):
        assert all(a is b for a, b in zip(compacted(k, v, nothing), (k, v, None), strict=True))


@pytest.mark.parametrize("backend", NAMED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sample_without_keys_reads_zero_and_passes_no_gradient(backend: str, dtype: torch.dtype) -> None:
    q, k, v = (segments(4, dtype=dtype, seed=i)[0].requires_grad_() for i in range(3))
    mask = torch.tensor([[False] * 4, [True] * 4])
    (out,) = joint_attention([q], [k], [v], [mask], backend=backend)
    assert torch.equal(out[0], torch.zeros_like(out[0])) and out[1].abs().min() > 0
    out.sum().backward()
    for x in (q, k, v):
        assert torch.equal(x.grad[0], torch.zeros_like(x.grad[0])) and x.grad.isfinite().all()


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_gradients_are_those_of_the_definition(backend: str) -> None:
    inputs = [x[..., :2, :4].double().requires_grad_() for i in range(3) for x in segments(3, 2, seed=i)]
    mask = torch.tensor([[True, False], [True, True]])

    def run(*x: Tensor) -> tuple[Tensor, ...]:
        return joint_attention(x[0:2], x[2:4], x[4:6], [None, mask], backend=backend)

    assert torch.autograd.gradcheck(run, inputs)


def gradients(inputs: list[Tensor], masks: list[Tensor | None], backend: str) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    outs = joint_attention(leaves[0:2], leaves[2:4], leaves[4:6], masks, backend=backend)
    loss = sum((out * torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype)).sum() for out in outs)
    return list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernel_s_gradients_err_at_most_twice_as_much_as_torch_s(dtype: torch.dtype, masked: bool) -> None:
    inputs = [x.to(dtype) for i in range(3) for x in segments(70, 13, seed=i)]
    masks = random_masks(70, 13) if masked else [None, None]
    truth = gradients([x.double() for x in inputs], masks, "reference")
    ours, theirs = (gradients(inputs, masks, backend) for backend in ("cpu", "torch"))
    for name, a, b, t in zip(["q", "q_text", "k", "k_text", "v", "v_text"], ours, theirs, truth, strict=True):
        rounding = 2 * (t.to(dtype).double() - t).abs().max() + 1e-6
        assert (a - t).abs().max() <= 2 * (b - t).abs().max() + rounding, name


def test_the_same_inputs_give_the_same_bits() -> None:
    inputs = [x for i in range(3) for x in segments(70, 13, seed=i)]
    first, second = (gradients(inputs, random_masks(70, 13), "cpu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("backend", ["auto", *NAMED])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_the_log_sum_exp_is_that_of_the_scores(backend: str, dtype: torch.dtype) -> None:
    if backend == "cpu" and dtype == torch.float64:
        pytest.skip("the kernels do not compute in float64")
    q, k, v = (segments(6, 4, dtype=dtype, seed=i) for i in range(3))
    masks = [torch.tensor([[True] * 6, [False] * 6]), torch.tensor([[True, False] * 2, [False] * 4])]
    outs, lse = joint_attention(q, k, v, masks, backend=backend, return_lse=True)
    assert len(outs) == 2 and not lse.requires_grad
    scores = torch.einsum("bqhd,bkhd->bhqk", torch.cat(q, 1).double(), torch.cat(k, 1).double()) / 32**0.5
    expected = scores.masked_fill(~torch.cat(masks, 1)[:, None, None], -torch.inf).logsumexp(-1)
    assert torch.equal(lse[1], torch.full_like(lse[1], -torch.inf))
    torch.testing.assert_close(lse[0].double(), expected[0], atol=1e-2 if dtype == torch.bfloat16 else 1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], segments(2), segments(2)), "at least one query segment"),
        ((segments(2), segments(2, 3), segments(2)), "as many values"),
        ((segments(2), segments(2), segments(3)), "must agree"),
        ((segments(2), [torch.zeros(2, 2, 3, 8)], segments(2)), r"like its first query, got \[2, 2, 3, 8"),
        (([torch.zeros(2, 3, 8)], segments(2), segments(2)), r"got a first query \[2, 3, 8\]"),
        ((segments(2), segments(2), segments(2), [torch.ones(2, 2)]), "a key mask must be bool"),
    ],
)
def test_shapes_that_do_not_fit_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        joint_attention(*arguments)


@pytest.mark.parametrize("backend", NAMED)
def test_it_runs_on_the_meta_device(backend: str) -> None:
    q, k, v = (torch.empty(1, 7, 2, 32, device="meta") for _ in range(3))
    mask = torch.empty(1, 7, dtype=torch.bool, device="meta")
    (out,), lse = joint_attention([q], [k], [v], [mask], backend=backend, return_lse=True)
    assert out.shape == q.shape and lse.shape == (1, 2, 7)


def test_fake_tensors_pass_through_the_operator() -> None:
    with FakeTensorMode():
        q, k, v = (torch.empty(1, 7, 2, 32, requires_grad=True) for _ in range(3))
        (out,) = joint_attention([q], [k], [v], backend="cpu")
        out.sum().backward()
        assert q.grad.shape == q.shape


@pytest.mark.parametrize("grad", [False, True])
def test_the_operators_keep_torch_s_contract(grad: bool) -> None:
    q, k, v = ([x.requires_grad_(grad) for x in segments(3, 2, seed=i)] for i in range(3))
    for lengths in ([], [torch.tensor([3, 0], dtype=torch.int32), torch.tensor([1, 2], dtype=torch.int32)]):
        torch.library.opcheck(torch.ops.sky4.joint_attention.default, (q, k, v, lengths, 0.2))


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_it_compiles_without_a_break(masked: bool) -> None:
    inputs = [x for i in range(3) for x in segments(6, 4, seed=i)]
    masks = random_masks(6, 4) if masked else [None, None]

    def run(*x: Tensor) -> Tensor:
        return torch.cat(joint_attention(x[0:2], x[2:4], x[4:6], masks, backend="cpu"), 1).sin()

    compiled: Callable[..., Tensor] = torch.compile(run, fullgraph=True, backend="aot_eager")
    leaves = [[x.clone().requires_grad_() for x in inputs] for _ in range(2)]
    outs = [function(*x) for function, x in zip((run, compiled), leaves, strict=True)]
    torch.testing.assert_close(*outs)
    for out in outs:
        out.sum().backward()
    for a, b in zip(*leaves, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), run(*inputs))
