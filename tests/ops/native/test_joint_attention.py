"""sky4._C.joint_attention and its backward against float64 attention: never less exact than torch by more than twice.

B batch, L_i length of query segment i, L_j of key segment j, H heads, d channels per head.
"""

import numpy as np
import pytest
import torch

from sky4 import _C
from tests.ops.native.attention_cases import (
    assert_as_exact_as_torch,
    gradients,
    level,
    normal,
    softmax_attention,
    torch_attention,
)

__all__ = ["level"]  # a fixture
DTYPES = [torch.float32, torch.bfloat16]
# FlashAttention-3's pairs of lengths; the longest stand in the slow test.
PAIRS = [(1, 1), (64, 128), (128, 192), (256, 256), (239, 1), (799, 3), (113, 203), (113, 128), (128, 217)]
PAIRS += [(113, 211), (108, 256), (256, 512), (384, 256), (640, 128), (512, 256), (1023, 1024), (1024, 1023)]


def segments(lengths, H=2, d=64, B=1, dtype=torch.float32, seed=0):
    return [normal(B, n, H, d, dtype=dtype, seed=seed + i) for i, n in enumerate(lengths)]


def attend(queries, keys, values, lengths=(), scale=None):
    out = torch.full_like(torch.cat(queries, 1), 7)
    lse = torch.full((out.shape[0], out.shape[2], out.shape[1]), 7.0)
    scale = out.shape[-1] ** -0.5 if scale is None else scale
    _C.joint_attention(queries, keys, values, out, lengths=lengths, lse=lse, scale=scale)
    return out, lse


def attend_backward(queries, keys, values, out, lse, grad_out, lengths=(), scale=None):
    grads = [[torch.full_like(x, 7) for x in part] for part in (queries, keys, values)]
    scale = out.shape[-1] ** -0.5 if scale is None else scale
    _C.joint_attention_backward(
        queries, keys, values, out, lse, grad_out, *grads, lengths=lengths, scale=scale
    )  # fmt: skip
    return grads


def kept(keys, lengths, B):
    """[B, 1, 1, sum L_j]: which keys count."""
    rows = []
    for b in range(B):
        for i, k in enumerate(keys):
            count = int(lengths[i][b]) if i < len(lengths) and lengths[i] is not None else k.shape[1]
            rows.append(torch.arange(k.shape[1]) < count)
    return torch.cat(rows).reshape(B, 1, 1, -1)


def check(queries, keys, values, lengths=(), scale=None):
    """Output, lse and gradients against float64 attention over the concatenated segments."""
    joined = [torch.cat(part, 1) for part in (queries, keys, values)]
    scale = joined[0].shape[-1] ** -0.5 if scale is None else scale
    keep = kept(keys, lengths, joined[0].shape[0]) if any(x is not None for x in lengths) else None
    exact, exact_lse = softmax_attention(*(x.double() for x in joined), keep, scale)
    out, lse = attend(queries, keys, values, lengths, scale)
    assert_as_exact_as_torch(out, torch_attention(*joined, keep, scale), exact)
    torch.testing.assert_close(lse.double(), exact_lse, atol=2e-5, rtol=2e-5)

    grad_out = normal(*out.shape, dtype=out.dtype, seed=99)
    grads = attend_backward(queries, keys, values, out, lse, grad_out, lengths, scale)
    in_double = [x.double() for x in joined]
    wanted = gradients(lambda *x: softmax_attention(*x, keep, scale)[0], in_double, grad_out.double())
    theirs = gradients(lambda *x: torch_attention(*x, keep, scale), joined, grad_out)
    for name, ours, other, want in zip("qkv", grads, theirs, wanted, strict=True):
        assert_as_exact_as_torch(torch.cat(ours, 1), other, want, f"gradient of {name}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pair", PAIRS)
def test_is_as_exact_as_torch_on_flash_attentions_lengths(pair, dtype):
    check(segments([pair[0]], dtype=dtype), segments([pair[1]], dtype=dtype, seed=5),
          segments([pair[1]], dtype=dtype, seed=9))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [4096, 4224])
def test_is_as_exact_as_torch_on_long_ones(length, dtype):
    parts = [segments([length], H=1, d=128, dtype=dtype, seed=seed) for seed in (0, 5, 9)]
    check(*parts)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [32, 64, 96, 128])
def test_every_level_is_as_exact_as_torch(level, d, dtype):
    parts = [segments(lengths, H=2, d=d, B=2, dtype=dtype, seed=seed)
             for lengths, seed in (((70, 19), 0), ((130, 45), 5), ((130, 45), 9))]  # fmt: skip
    check(*parts)
    check(*parts, lengths=[None, torch.tensor([0, 44], dtype=torch.int32)])


@pytest.mark.parametrize("video", [1, 63, 64, 65, 127, 175, 176, 177, 1000])
@pytest.mark.parametrize("text", [0, 1, 77])
def test_two_segments_are_their_concatenation(video, text):
    parts = [segments([video, text], seed=seed) for seed in (0, 5, 9)]
    check(*parts)
    out, lse = attend(*parts)
    whole, whole_lse = attend(*([torch.cat(part, 1)] for part in parts))
    assert torch.equal(out, whole) and torch.equal(lse, whole_lse)


@pytest.mark.parametrize("dtype", DTYPES)
def test_four_segments(dtype):
    queries = segments([40, 1, 100, 7], dtype=dtype)
    keys, values = (segments([65, 3, 0, 200], dtype=dtype, seed=seed) for seed in (5, 9))
    check(queries, keys, values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_audio_asks_video(dtype):
    """218 audio queries against many keys: few tiles, so the keys are split and combined."""
    check(segments([218], H=1, dtype=dtype), segments([2100], H=1, dtype=dtype, seed=5),
          segments([2100], H=1, dtype=dtype, seed=9))  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_lengths_cut_the_keys_of_each_sample(dtype):
    queries = segments([90], B=4, dtype=dtype)
    keys, values = (segments([130, 50], B=4, dtype=dtype, seed=seed) for seed in (5, 9))
    first, second = torch.tensor([130, 0, 64, 1], dtype=torch.int32), torch.tensor([50, 0, 7, 0], dtype=torch.int32)
    check(queries, keys, values, [first, second])
    for part in (keys, values):  # what is cut is never read
        part[0][2, 64:] = float("nan")
        part[1][3] = float("inf")
    out, lse = attend(queries, keys, values, [first, second])
    assert torch.isfinite(out).all()
    assert (out[1] == 0).all() and (lse[1] == float("-inf")).all()
    grads = attend_backward(queries, keys, values, out, lse, normal(*out.shape, dtype=dtype), [first, second])
    assert (grads[1][0][2, 64:] == 0).all() and (grads[2][1][3] == 0).all() and (grads[0][0][1] == 0).all()


def test_no_keys_at_all_give_zeros():
    queries, empty = segments([30]), segments([0])
    out, lse = attend(queries, empty, empty)
    assert (out == 0).all() and (lse == float("-inf")).all()
    grads = attend_backward(queries, empty, empty, out, lse, normal(*out.shape))
    assert (grads[0][0] == 0).all()


def test_no_queries_and_no_batch():
    keys = segments([30])
    assert attend(segments([0]), keys, keys)[0].shape == (1, 0, 2, 64)
    nothing = [x[:0] for x in keys]
    assert attend(nothing, nothing, nothing)[0].shape == (0, 30, 2, 64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_may_lie_anyhow(dtype):
    """Heads before tokens, a slice of a packed qkv, an expanded batch; and outputs that are slices of longer ones."""
    q = normal(2, 3, 100, 64, dtype=dtype).transpose(1, 2)
    packed = normal(2, 90, 3, 3, 64, dtype=dtype, seed=1)
    k, v = packed[:, :, 1], packed[:, :, 2]
    text = normal(1, 20, 3, 64, dtype=dtype, seed=2).expand(2, -1, -1, -1)
    wanted, _ = attend([q.contiguous()], [k.contiguous(), text.contiguous()], [v.contiguous(), text.contiguous()])
    longer = torch.full((2, 300, 3, 64), 7.0, dtype=dtype)
    out = longer[:, 50:150]
    _C.joint_attention([q], [k, text], [v, text], out, scale=64**-0.5)
    assert torch.equal(out, wanted)
    assert (longer[:, :50] == 7).all() and (longer[:, 150:] == 7).all()


def test_numpy_arrays_do_as_well():
    q, k, v = (normal(1, 40, 2, 32, seed=seed) for seed in range(3))
    out = np.zeros((1, 40, 2, 32), np.float32)
    _C.joint_attention([q.numpy()], [k.numpy()], [v.numpy()], out, scale=0.2)
    assert torch.equal(torch.from_numpy(out), attend([q], [k], [v], scale=0.2)[0])


@pytest.mark.parametrize("scale", [0.0, -0.3, 4.0, 16.0])
def test_any_scale(scale):
    check(*(segments([100], seed=seed) for seed in (0, 5, 9)), scale=scale)


def test_bfloat16_reaches_its_range():
    """Scores of thousands neither overflow nor vanish; infinities and NaN stay in the rows that meet them."""
    q, k, v = (normal(1, 80, 1, 64, dtype=torch.bfloat16, seed=seed) * 300 for seed in range(3))
    assert_as_exact_as_torch(attend([q], [k], [v])[0], torch_attention(q, k, v, None, 0.125),
                             softmax_attention(q.double(), k.double(), v.double(), None, 0.125)[0])  # fmt: skip
    q[0, 3] = float("nan")
    out, lse = attend([q], [k], [v])
    others = [r for r in range(80) if r != 3]
    assert out[0, 3].isnan().all() and lse[0, 0, 3].isnan()
    assert out[0, others].isfinite().all()
    v[0, 5, 0, 7] = float("inf")
    bad = ~attend([q], [k], [v])[0][0, others, 0].isfinite()
    assert not bad[:, :7].any() and not bad[:, 8:].any()


def test_order_of_key_segments_hardly_matters():
    queries = segments([100])
    keys, values = (segments([130, 40], seed=seed) for seed in (5, 9))
    torch.testing.assert_close(
        attend(queries, keys, values)[0], attend(queries, keys[::-1], values[::-1])[0], atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("lengths", [(70, 2000), (300, 500)])
def test_the_same_bits_whatever_the_threads(lengths, monkeypatch):
    queries = segments([lengths[0]], H=3)
    keys, values = (segments([lengths[1]], H=3, seed=seed) for seed in (5, 9))
    grad_out = normal(*queries[0].shape, seed=3)

    def everything():
        out, lse = attend(queries, keys, values)
        grads = attend_backward(queries, keys, values, out, lse, grad_out)
        return [out, lse, *(x for part in grads for x in part)]

    several = everything()
    monkeypatch.setenv("SKY4_THREADS", "1")
    for one, other in zip(everything(), several, strict=True):
        assert torch.equal(one, other)


def test_wrong_arguments_are_named():
    q, k = segments([10])[0], segments([20], seed=1)[0]
    out = torch.empty_like(q)

    def call(queries=q, keys=k, values=k, out=out, **more):
        _C.joint_attention([queries], [keys], [values], out, scale=1.0, **more)

    with pytest.raises(ValueError, match=r"values\[0\] has 19 tokens, expected 20|values\[0\] has shape"):
        call(values=k[:, :19])
    with pytest.raises(TypeError, match=r"keys\[0\] has dtype bfloat16, expected float32"):
        call(keys=k.bfloat16())
    with pytest.raises(TypeError, match=r"queries\[0\] has dtype float64|float64|dtype float"):
        call(queries=q.double())
    with pytest.raises(ValueError, match="40 channels per head, expected 32, 64, 96 or 128"):
        call(queries=q[..., :40])
    with pytest.raises(ValueError, match=r"keys\[0\] has stride 2 along its last axis"):
        call(keys=normal(1, 20, 2, 128)[..., ::2])
    with pytest.raises(ValueError, match="out has shape"):
        call(out=out[:, :9])
    with pytest.raises(ValueError, match="lse has shape"):
        call(lse=torch.empty(1, 2, 11))
    with pytest.raises(ValueError, match=r"lengths\[0\] has shape"):
        call(lengths=[torch.zeros(3, dtype=torch.int32)])
    with pytest.raises(ValueError, match="queries holds no segment"):
        _C.joint_attention([], [k], [k], out, scale=1.0)
    with pytest.raises(ValueError, match="keys holds 5 segments"):
        _C.joint_attention([q], [k] * 5, [k] * 5, out, scale=1.0)
    with pytest.raises(TypeError, match=r"queries\[0\] is a int|queries\[0\] is a"):
        call(queries=3)


def test_a_tensor_that_wants_a_gradient_is_refused():
    """The door of sky4.ops detaches; here a forgotten gradient must not vanish silently."""
    q = segments([10])[0]
    with pytest.raises(BufferError, match="require gradient"):
        _C.joint_attention([q.clone().requires_grad_()], [q], [q], torch.empty_like(q), scale=1.0)


def test_levels_are_listed_and_forced(level):
    assert _C.isa() == level
    with pytest.raises(ValueError, match="isa is 'sse9', expected one that this processor runs: .*portable"):
        _C.set_isa("sse9")
    assert _C.isa() == level
