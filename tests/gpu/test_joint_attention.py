"""joint_attention on CUDA: FlashAttention's rule on its own lengths and on ours, and what must hold to the bit.

B batch, L_i length of segment i, H heads, d channels per head.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.gpu.attention_oracle import Expected, assert_flash_rule, assert_lse, expected, key_mask

DTYPES = [torch.bfloat16, torch.float16]
# FlashAttention's own pairs of query and key lengths.
LENGTHS = [
    *((1, 1), (64, 128), (128, 192), (256, 256), (239, 1), (799, 3), (113, 203), (113, 128), (128, 217), (113, 211)),
    *((108, 256), (256, 512), (384, 256), (640, 128), (512, 256), (1024, 1024), (1023, 1024), (1024, 1023)),
    *((4096, 4096), (4224, 4224)),
]


@pytest.fixture(params=["chosen", "mma"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels that this GPU gets, and those of older ones."""
    if request.param == "mma":
        monkeypatch.setenv("SKY4_CUDA_PATH", "mma")


def tokens(B: int, lengths, H: int, d: int, dtype, device, seed: int, size: float = 1.0) -> list[Tensor]:
    """One [B, L, H, d] per length, each a slice as it comes out of a projection to queries, keys and values."""
    generator = torch.Generator(device).manual_seed(seed)
    return [
        (torch.randn(B, L, 3, H, d, device=device, generator=generator) * size).to(dtype)[:, :, seed % 3]
        for L in lengths
    ]


def lengths_on(lengths, device) -> list[Tensor | None]:
    return [None if x is None else torch.tensor(x, dtype=torch.int32, device=device) for x in lengths]


def forward(kernels, q, k, v, lengths=(), scale=None) -> tuple[Tensor, Tensor]:
    B, _, H, d = q[0].shape
    total = sum(x.shape[1] for x in q)
    out = torch.full((B, total, H, d), 7.0, dtype=q[0].dtype, device=q[0].device)
    lse = torch.full((B, H, total), 7.0, device=q[0].device)
    scale = d**-0.5 if scale is None else scale
    kernels.joint_attention(q, k, v, out, lengths=lengths_on(lengths, out.device), lse=lse, scale=scale)
    return out, lse


def backward(kernels, q, k, v, out, lse, grad_out, lengths=(), scale=None) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the concatenated queries, keys and values."""
    gradients = [[torch.full_like(x, 7.0) for x in part] for part in (q, k, v)]
    scale = q[0].shape[-1] ** -0.5 if scale is None else scale
    lengths = lengths_on(lengths, out.device)
    kernels.joint_attention_backward(q, k, v, out, lse, grad_out, *gradients, lengths=lengths, scale=scale)
    dq, dk, dv = (torch.cat(part, 1) for part in gradients)
    return dq, dk, dv


def check(kernels, q, k, v, lengths=(), scale=None, gradients=False) -> Expected:
    """Runs the kernel and holds it to the rule."""
    visible = None
    if lengths:
        visible = key_mask(lengths, [x.shape[1] for x in k], q[0].device)
    out, lse = forward(kernels, q, k, v, lengths, scale)
    generator = torch.Generator(out.device).manual_seed(9)
    grad_out = torch.randn(out.shape, device=out.device, generator=generator).to(out.dtype) if gradients else None
    joined = [torch.cat(x, 1) for x in (q, k, v)]
    right = expected(*joined, q[0].shape[-1] ** -0.5 if scale is None else scale, visible, grad_out)
    assert_flash_rule(out, right.exact[0], right.by_torch[0])
    assert_lse(lse, right.lse)
    if gradients:
        ours = backward(kernels, q, k, v, out, lse, grad_out, lengths, scale)
        for name, x, exact, by_torch in zip(("dq", "dk", "dv"), ours, right.exact[1:], right.by_torch[1:], strict=True):
            assert_flash_rule(x, exact, by_torch, name)
    return right


def qkv(cuda, B, queries, keys, H, d, dtype, size=1.0):
    made = (
        tokens(B, lengths, H, d, dtype, cuda.device, seed, size) for seed, lengths in enumerate((queries, keys, keys))
    )
    return tuple(made)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize(("L_q", "L_k"), LENGTHS)
def test_one_segment_keeps_the_rule(cuda, L_q, L_k, d, dtype) -> None:
    check(cuda, *qkv(cuda, 2 if L_q > 1000 else 9, [L_q], [L_k], 6, d, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [32, 96])
@pytest.mark.parametrize(("L_q", "L_k"), [(1, 1), (113, 203), (256, 512), (1023, 1024)])
def test_the_other_head_dims_keep_the_rule(cuda, L_q, L_k, d, dtype) -> None:
    check(cuda, *qkv(cuda, 2, [L_q], [L_k], 6, d, dtype), gradients=True)


@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize("text", [0, 1, 77, 512])
@pytest.mark.parametrize("media", [1, 63, 64, 65, 127, 175, 176, 177, 1000, 4095])
def test_media_and_text_as_separate_segments_keep_the_rule(cuda, media, text, d) -> None:
    check(cuda, *qkv(cuda, 2, [media, text], [media, text], 3, d, torch.bfloat16))


@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("L_q", "L_k"), [(218, 8192), (8192, 218), (218, 218), (1, 5000), (16, 40_000)])
def test_audio_and_other_small_sides_keep_the_rule(cuda, L_q, L_k, d, dtype) -> None:
    check(cuda, *qkv(cuda, 1, [L_q], [L_k], 4, d, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize(
    ("queries", "keys"),
    [
        ([1], [1]),
        ([64], [128]),
        ([113], [203]),
        ([799], [3]),
        ([512, 77], [512, 77]),
        ([1000, 1], [1000, 1]),
        ([65], [5, 7]),
    ],
    ids=str,
)
def test_gradients_keep_the_rule(cuda, queries, keys, d, dtype) -> None:
    check(cuda, *qkv(cuda, 2, queries, keys, 6, d, dtype), gradients=True)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(
    "lengths",
    [
        ([200, 131, 1], None),
        (None, [0, 77, 5]),
        ([0, 64, 199], [77, 0, 1]),
        ([0, 7, 0], [0, 77, 9]),  # the first sample has no key at all
    ],
    ids=str,
)
def test_only_the_keys_within_their_length_count(cuda, lengths, gradients) -> None:
    q, k, v = qkv(cuda, 3, [150, 20], [200, 77], 4, 64, torch.bfloat16)
    for part in (k, v):  # what lies beyond must not be read into the result
        for segment, counts in zip(part, lengths, strict=True):
            for b, count in enumerate(counts or []):
                segment[b, count:] = 1000.0
    out, lse = forward(cuda, q, k, v, lengths)
    clean = [[x.masked_fill(x == 1000.0, 0.0) for x in part] for part in (k, v)]
    check(cuda, q, *clean, lengths=lengths, gradients=gradients)
    again, lse_again = forward(cuda, q, *clean, lengths)
    assert torch.equal(out, again) and torch.equal(lse, lse_again)


def test_no_keys_at_all_give_zero_and_minus_infinity(cuda) -> None:
    q, k, v = qkv(cuda, 2, [70], [0], 2, 64, torch.bfloat16)
    out, lse = forward(cuda, q, k, v)
    assert (out == 0).all() and torch.isneginf(lse).all()
    dq, _, _ = backward(cuda, q, k, v, out, lse, torch.ones_like(out))
    assert (dq == 0).all()


def test_no_queries_are_no_work(cuda) -> None:
    out, lse = forward(cuda, *qkv(cuda, 2, [0], [70], 2, 64, torch.bfloat16))
    assert out.numel() == 0 and lse.numel() == 0


def test_two_segments_equal_their_concatenation_in_any_order(cuda) -> None:
    q, k, v = qkv(cuda, 2, [500, 77], [500, 77], 4, 128, torch.bfloat16)
    right = check(cuda, q, k, v)
    joined = [[torch.cat(x, 1)] for x in (q, k, v)]
    swapped = (q, k[::-1], v[::-1])
    for given in (joined, swapped):
        out, lse = forward(cuda, *given)
        assert_flash_rule(out, right.exact[0], right.by_torch[0])
        assert_lse(lse, right.lse)


@pytest.mark.parametrize("size", [0.01, 8.0])
def test_flat_and_peaked_scores_keep_the_rule(cuda, size) -> None:
    check(cuda, *qkv(cuda, 1, [300], [700], 4, 64, torch.bfloat16, size), gradients=True)


def test_any_strides_whose_last_is_one(cuda) -> None:
    base = torch.randn(2, 4, 130, 2, 64, device=cuda.device).bfloat16()  # [B, H, L, key or value, d]
    q = [base[:, :, :, 0].transpose(1, 2)]
    k, v = [base[:, :, 3:, 0].transpose(1, 2)], [base[:, :1, 3:, 1].transpose(1, 2).expand(2, 127, 4, 64)]
    check(cuda, q, k, v)


def test_many_small_problems(cuda) -> None:
    check(cuda, *qkv(cuda, 35_000, [2], [3], 2, 32, torch.bfloat16))


@pytest.mark.parametrize(("L_q", "L_k"), [(1000, 1077), (218, 8192)])
def test_the_same_inputs_give_the_same_bits(cuda, L_q, L_k) -> None:
    q, k, v = qkv(cuda, 2, [L_q], [L_k], 8, 128, torch.bfloat16)
    grad_out = torch.randn_like(q[0])
    out, lse = forward(cuda, q, k, v)
    gradients = backward(cuda, q, k, v, out, lse, grad_out)
    for _ in range(100):
        again = forward(cuda, q, k, v)
        assert torch.equal(out, again[0]) and torch.equal(lse, again[1])
    for _ in range(20):
        again = backward(cuda, q, k, v, out, lse, grad_out)
        assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))


def test_work_waits_for_its_stream(cuda) -> None:
    q, k, v = qkv(cuda, 1, [300], [300], 4, 64, torch.bfloat16)
    right, _ = forward(cuda, q, k, v)
    late = torch.zeros_like(q[0])
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)  # the queries come late, on this stream
        late.copy_(q[0])
        out, _ = forward(cuda, [late], k, v)
        torch.cuda.current_stream().synchronize()
    assert torch.equal(out, right)


def test_query_offsets_beyond_two_to_the_31(cuda) -> None:
    L = 2**31 // (24 * 128) + 200
    q = torch.randn(1, L, 24, 128, device=cuda.device, dtype=torch.bfloat16)
    _, k, v = qkv(cuda, 1, [1], [64], 24, 128, torch.bfloat16)
    out, lse = forward(cuda, [q], k, v)
    right = expected(q[:, -150:], k[0], v[0], 128**-0.5)
    assert_flash_rule(out[:, -150:], right.exact[0], right.by_torch[0])
    assert_lse(lse[:, :, -150:], right.lse)


def test_key_offsets_beyond_two_to_the_31(cuda) -> None:
    L = 2**31 // (24 * 128) + 200
    k, v = (torch.randn(1, L, 24, 128, device=cuda.device, dtype=torch.bfloat16) for _ in range(2))
    q, _, _ = qkv(cuda, 1, [40], [1], 24, 128, torch.bfloat16)
    k[:, -100:] += 40 * q[0].mean(1, keepdim=True)  # the last keys are heard
    out, lse = forward(cuda, q, [k], [v])
    for h in range(0, 24, 8):  # a bounded part of the scores at a time
        heads = slice(h, h + 8)
        right = expected(q[0][:, :, heads], k[:, :, heads], v[:, :, heads], 128**-0.5)
        assert_flash_rule(out[:, :, heads], right.exact[0], right.by_torch[0])
        assert_lse(lse[:, heads], right.lse)


def test_what_does_not_fit_is_named(cuda) -> None:
    q, k, v = qkv(cuda, 1, [4], [4], 2, 64, torch.bfloat16)
    with pytest.raises(TypeError, match=r"queries\[0\] has dtype float32, expected bfloat16 or float16"):
        forward(cuda, [q[0].float()], k, v)
    with pytest.raises(TypeError, match=r"keys\[0\] is on device cpu, expected cuda"):
        forward(cuda, q, [k[0].cpu()], v)
    with pytest.raises(ValueError, match=r"keys\[0\] has shape \[1, 4, 2, 32\], expected \[1, 4, 2, 64\]"):
        forward(cuda, q, [k[0][..., :32]], v)
