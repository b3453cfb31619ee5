"""Joint attention against float64 and against its definition, on every backend."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sky4.ops.joint_attention import CPU_TRAINING_KEYS, joint_attention, select_backend, set_backend, use_backend

NAMED = ("reference", "matmul", "torch")


def segments(*lengths: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, n, 3, 16, generator=generator).to(dtype) for n in lengths]


def exact(queries: list[Tensor], keys: list[Tensor], values: list[Tensor], mask: Tensor | None = None) -> Tensor:
    q, k, v = (torch.cat(x, 1).double() for x in (queries, keys, values))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


@pytest.mark.parametrize("backend", NAMED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [(5, 3), (1, 1), (67, 13), (218, 40)])
def test_error_is_at_most_twice_that_of_torch(backend: str, dtype: torch.dtype, lengths: tuple[int, int]) -> None:
    q, k, v = (segments(*lengths, dtype=dtype, seed=i) for i in range(3))
    truth = exact(q, k, v)
    joined = [torch.cat(x, 1).transpose(1, 2) for x in (q, k, v)]
    theirs = F.scaled_dot_product_attention(*joined).transpose(1, 2)
    ours = torch.cat(joint_attention(q, k, v, backend=backend), 1)
    rounding = (truth.to(dtype).double() - truth).abs().max()
    times = 4 if backend == "matmul" and dtype == torch.bfloat16 else 2  # its scores are rounded before the softmax
    assert (ours - truth).abs().max() <= times * (theirs - truth).abs().max() + rounding


@pytest.mark.parametrize("backend", NAMED)
def test_outputs_follow_the_query_segments(backend: str) -> None:
    q, k, v = (segments(4, 3, seed=i) for i in range(3))
    media, text = joint_attention(q, k, v, backend=backend)
    assert media.shape == q[0].shape and text.shape == q[1].shape
    torch.testing.assert_close(torch.cat([media, text], 1), exact(q, k, v).float())


@pytest.mark.parametrize("backend", NAMED)
def test_one_segment_of_another_length_is_cross_attention(backend: str) -> None:
    q, k, v = segments(5), segments(9, seed=1), segments(9, seed=2)
    (out,) = joint_attention(q, k, v, backend=backend)
    torch.testing.assert_close(out, exact(q, k, v).float())


@pytest.mark.parametrize("backend", NAMED)
def test_keys_kept_from_elsewhere_need_no_queries(backend: str) -> None:
    q, k, v = segments(5), segments(5, 9, seed=1), segments(5, 9, seed=2)
    (out,) = joint_attention(q, k, v, backend=backend)
    torch.testing.assert_close(out, exact(q, k, v).float())


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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sample_without_keys_reads_zero_and_passes_no_gradient(backend: str, dtype: torch.dtype) -> None:
    q, k, v = (segments(4, dtype=dtype, seed=i)[0].requires_grad_() for i in range(3))
    mask = torch.tensor([[False] * 4, [True] * 4])
    (out,) = joint_attention([q], [k], [v], [mask], backend=backend)
    assert torch.equal(out[0], torch.zeros_like(out[0])) and out[1].abs().min() > 0
    out.sum().backward()
    for x in (q, k, v):
        assert torch.equal(x.grad[0], torch.zeros_like(x.grad[0])) and x.grad.isfinite().all()


@pytest.mark.parametrize("backend", NAMED)
def test_gradients_are_those_of_the_definition(backend: str) -> None:
    inputs = [x[..., :2, :4].double().requires_grad_() for i in range(3) for x in segments(3, 2, seed=i)]
    mask = torch.tensor([[True, False], [True, True]])

    def run(*x: Tensor) -> tuple[Tensor, ...]:
        return joint_attention(x[0:2], x[2:4], x[4:6], [None, mask], backend=backend)

    assert torch.autograd.gradcheck(run, inputs)


def test_backends_are_chosen_by_name_and_restored() -> None:
    q = torch.zeros(1, 1, 4, 8)
    with use_backend("reference"):
        assert select_backend(q, q) == "reference"
        with use_backend("torch"):
            assert select_backend(q, q) == "torch"
        assert select_backend(q, q) == "reference"


def test_auto_takes_the_matmul_for_short_training_on_the_cpu() -> None:
    short, long = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, CPU_TRAINING_KEYS + 1, 8)
    trained = short.clone().requires_grad_()
    assert select_backend(trained, short, "auto") == "matmul"
    assert select_backend(trained, long, "auto") == "torch"
    assert select_backend(short, short, "auto") == "torch"
    with torch.no_grad():
        assert select_backend(trained, short, "auto") == "torch"


def test_an_unknown_backend_is_refused_with_the_remedy() -> None:
    for ask in (lambda: set_backend("flash"), lambda: joint_attention(*(segments(2),) * 3, backend="flash")):
        with pytest.raises(ValueError, match="'flash' is not available; choose one of auto, reference, matmul, torch"):
            ask()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], segments(2), segments(2)), "at least one query segment"),
        ((segments(2), segments(2, 3), segments(2)), "as many values"),
        ((segments(2), segments(2), segments(3)), "must agree"),
        ((segments(2), [torch.zeros(2, 2, 3, 8)], segments(2)), r"like its first query, got \[2, 2, 3, 8"),
        ((segments(2), segments(2), segments(2), [torch.ones(2, 2)]), "a key mask must be bool"),
    ],
)
def test_shapes_that_do_not_fit_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        joint_attention(*arguments)


def test_it_runs_on_the_meta_device() -> None:
    q, k, v = (torch.empty(1, 7, 2, 8, device="meta") for _ in range(3))
    for backend in NAMED:
        (out,) = joint_attention([q], [k], [v], backend=backend)
        assert out.shape == q.shape
