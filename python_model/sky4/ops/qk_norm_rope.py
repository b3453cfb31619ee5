"""What happens to queries and keys between their projection and the attention, in one pass over memory.

Bias, RMSNorm, rotary embedding, and for Video Sparse Attention the reorder into cubes and their means: on the CPU
these steps written apart take as long as the attention that follows them.

    B batch   N tokens   H heads   d channels per head (even)   M cubes
"""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

from sky4.ops import reference
from sky4.ops.backend import OURS, dense_rows, native, runs_directly, select, stream


@overload
def qk_norm_rope(
    x: Tensor,
    weight: Tensor | None,
    turn: Tensor | None,
    eps: float,
    *,
    bias: Tensor | None = None,
    order: Tensor | None = None,
    starts: None = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor: ...


@overload
def qk_norm_rope(
    x: Tensor,
    weight: Tensor | None,
    turn: Tensor | None,
    eps: float,
    *,
    bias: Tensor | None = None,
    order: Tensor | None = None,
    starts: Tensor,
    out: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...


def qk_norm_rope(
    x: Tensor,
    weight: Tensor | None,
    turn: Tensor | None,
    eps: float,
    *,
    bias: Tensor | None = None,
    order: Tensor | None = None,
    starts: Tensor | None = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Bias, RMSNorm with `weight`, then the rotation of each interleaved pair, with one rounding at the end.

    x       [B, N, H, d]        queries or keys (or values, without weight and turn), any strides
    weight  [d] or [H, d]       RMSNorm over each head's channels, or over all heads together; None: no norm
    turn    [1 or B, N, 1, d/2] complex of length 1; None: no rotation
    bias    [H, d]              added first
    order   [N] int64           row i of the result is token order[i] (`CubeTiling`); None: as they are
    starts  [M + 1] int32       cube c is rows starts[c] .. starts[c + 1] - 1 of the result
    out     [B, N, H, d]        where to write, such as a part of a longer buffer; only where no gradient is wanted
    backend: one of `sky4.ops.backend.NAMES`; None takes what `set_backend` chose.

    Computed in float32 (float64 for a float64 x). Returns x's dtype [B, N, H, d]; with `starts` also the mean of each
    cube's rows [B, M, H, d]. Raises ValueError for shapes that do not fit and for a backend that cannot serve.
    """
    _check(x, weight, turn, bias, order, starts, out)
    chosen = select("qk_norm_rope", x, backend)
    given = [t for t in (x, weight, bias) if t is not None]
    if out is not None and torch.is_grad_enabled() and any(t.requires_grad for t in given):
        raise ValueError("qk_norm_rope: out is given and an input requires a gradient; leave out None in training")
    if chosen in OURS:
        result, pooled = _ours(x, weight, turn, eps, bias, order, starts, out)
    else:
        compute = reference.qk_norm_rope if chosen == "reference" else _in_torch
        result = compute(x, weight, turn, eps, bias)
        result = result if order is None else result.index_select(1, order)
        pooled = result if starts is None else reference.cube_means(result, starts)
        result = result if out is None else out.copy_(result)
    return result if starts is None else (result, pooled)


def _ours(
    x: Tensor,
    weight: Tensor | None,
    turn: Tensor | None,
    eps: float,
    bias: Tensor | None,
    order: Tensor | None,
    starts: Tensor | None,
    out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(result, the cubes' means, or an empty tensor without `starts`)."""
    real = None
    if turn is not None:
        real = torch.view_as_real(turn)[:, :, 0].float().contiguous()  # [1 or B, N, d/2, 2]
    if out is None and not runs_directly([t for t in (x, weight, bias, real) if t is not None]):
        made, means = torch.ops.sky4.qk_norm_rope(x, weight, real, bias, order, starts, eps)
        return made, means
    fresh, pooled = _outputs(x, starts)
    result = fresh if out is None else out
    _forward(x, weight, real, bias, order, starts, eps, result, pooled)
    return result, pooled


def _outputs(x: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
    cubes = 0 if starts is None else starts.shape[0] - 1
    return x.new_empty(x.shape), x.new_empty(x.shape[0], cubes, *x.shape[2:])


def _forward(
    x: Tensor,
    weight: Tensor | None,
    real: Tensor | None,
    bias: Tensor | None,
    order: Tensor | None,
    starts: Tensor | None,
    eps: float,
    out: Tensor,
    pooled: Tensor,
) -> None:
    native().qk_norm_rope(
        dense_rows(x),
        out,
        bias=_parameter(bias, x),
        weight=_parameter(weight, x),
        turn=real,
        order=order,
        starts=starts,
        pooled=None if starts is None else pooled,
        eps=eps,
        stream=stream(x),
    )


def _parameter(value: Tensor | None, x: Tensor) -> Tensor | None:
    """A weight as the kernels take it: in x's dtype or float32."""
    if value is None:
        return None
    value = value.detach()
    return (value if value.dtype in (x.dtype, torch.float32) else value.float()).contiguous()


# The operator: for autograd, torch.compile and fake tensors.

torch.library.define(
    "sky4::qk_norm_rope",
    "(Tensor x, Tensor? weight, Tensor? turn, Tensor? bias, Tensor? order, Tensor? starts, float eps) "
    "-> (Tensor out, Tensor pooled)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "sky4::qk_norm_rope_backward",
    "(Tensor grad, Tensor? pooled_grad, Tensor x, Tensor? weight, Tensor? turn, Tensor? bias, Tensor? order, "
    "Tensor? starts, float eps) -> (Tensor x_grad, Tensor weight_grad)",
    tags=torch.Tag.pt2_compliant_tag,
)


def _run(
    x: Tensor,
    weight: Tensor | None,
    turn: Tensor | None,
    bias: Tensor | None,
    order: Tensor | None,
    starts: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    out, pooled = _outputs(x, starts)
    _forward(x, weight, turn, bias, order, starts, eps, out, pooled)
    return out, pooled


def _run_backward(
    grad: Tensor,
    pooled_grad: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    turn: Tensor | None,
    bias: Tensor | None,
    order: Tensor | None,
    starts: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    x_grad, weight_grad = _gradient_outputs(x, weight)
    native().qk_norm_rope_backward(
        dense_rows(x),
        dense_rows(grad),
        x_grad,
        bias=_parameter(bias, x),
        weight=_parameter(weight, x),
        turn=turn,
        order=order,
        starts=None if pooled_grad is None else starts,
        grad_pooled=None if pooled_grad is None else dense_rows(pooled_grad),
        grad_weight=None if weight is None else weight_grad,
        eps=eps,
    )
    return x_grad, weight_grad


def _gradient_outputs(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(0 if weight is None else weight.shape, dtype=torch.float32)


torch.library.impl("sky4::qk_norm_rope", ("cpu", "cuda"), _run)
torch.library.impl("sky4::qk_norm_rope_backward", "cpu", _run_backward)
torch.library.register_fake(
    "sky4::qk_norm_rope_backward", lambda grad, pooled, x, weight, *_: _gradient_outputs(x, weight)
)
torch.library.register_fake("sky4::qk_norm_rope", lambda x, *rest: _outputs(x, rest[4]))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor, pooled_grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, turn, bias, order, starts = ctx.saved_tensors
    means = None if starts is None else pooled_grad
    if x.device.type != "cuda":
        x_grad, made = torch.ops.sky4.qk_norm_rope_backward(grad, means, x, weight, turn, bias, order, starts, ctx.eps)
        weight_grad = None if weight is None else made.to(weight.dtype)
        bias_grad = None if bias is None else x_grad.sum((0, 1), dtype=torch.float32).to(bias.dtype)
    else:
        if means is not None:
            sizes = starts.diff()
            share = (means / sizes[:, None, None]).repeat_interleave(sizes, dim=1, output_size=x.shape[1])
            grad = grad + share
        if order is not None:
            grad = torch.empty_like(grad).index_copy_(1, order, grad)
        rotation = None if turn is None else torch.view_as_complex(turn)[:, :, None]
        x_grad, weight_grad, bias_grad = _gradients(grad, x, weight, rotation, bias, ctx.eps)
    return x_grad, weight_grad, None, bias_grad, None, None, None


torch.library.register_autograd("sky4::qk_norm_rope", _backward, setup_context=_keep)


# The same in torch. The rotation is a complex product, because torch runs it several times faster on the CPU than the
# same sums on strided halves; the backward keeps only the input.


def _in_torch(x: Tensor, weight: Tensor | None, turn: Tensor | None, eps: float, bias: Tensor | None) -> Tensor:
    out: Tensor = _QKNormRope.apply(x, weight, turn, eps, bias)  # type: ignore[no-untyped-call]
    return out


class _QKNormRope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, turn: Tensor | None, eps: float, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight, turn, bias)
        ctx.eps = eps
        y = _biased_copy(x, bias)
        if weight is not None:
            y = y.mul_(_inverse(y, weight, eps)).mul_(weight)
        return _turned(y, turn).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, turn, bias = ctx.saved_tensors
        x_grad, weight_grad, bias_grad = _gradients(grad, x, weight, turn, bias, ctx.eps)
        return x_grad, weight_grad, None, None, bias_grad


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor | None, turn: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Of x, weight and bias from that of the result, all rows in x's order."""
    # The normalised input n = x·inverse; with g the gradient at its weighted value, as for any RMSNorm:
    # d_weight = sum(g·n), d_x = inverse·(g·weight - n·mean(g·weight·n)).
    y_grad = _turned(_wide_copy(grad), None if turn is None else turn.conj())
    weight_grad = None
    if weight is not None:
        n = _biased_copy(x, bias)
        inverse = _inverse(n, weight, eps)
        n = n.mul_(inverse)
        product = y_grad * n  # [B, N, H, d]
        weight_grad = product.flatten(0, 3 - weight.dim()).sum(0).to(weight.dtype)
        if weight.dim() == 1:
            share = (product @ weight.to(product.dtype) / weight.numel())[..., None]  # [B, N, H, 1]
        else:
            share = (product * weight).mean((-2, -1), keepdim=True)  # [B, N, 1, 1]
        y_grad = y_grad.mul_(weight).sub_(n.mul_(share)).mul_(inverse)
    bias_grad = None if bias is None else y_grad.sum((0, 1)).to(bias.dtype)
    return y_grad.to(x.dtype), weight_grad, bias_grad


def _inverse(y: Tensor, weight: Tensor, eps: float) -> Tensor:
    axes = (-1,) if weight.dim() == 1 else (-2, -1)
    return torch.rsqrt(y.square().mean(axes, keepdim=True) + eps)  # [B, N, H, 1] or [B, N, 1, 1]


def _biased_copy(x: Tensor, bias: Tensor | None) -> Tensor:
    y = _wide_copy(x)
    return y if bias is None else y.add_(bias)


def _wide_copy(x: Tensor) -> Tensor:
    """x in at least float32, contiguous, and never x itself: what follows works in place."""
    return x.to(torch.promote_types(x.dtype, torch.float32), memory_format=torch.contiguous_format, copy=True)


def _turned(y: Tensor, turn: Tensor | None) -> Tensor:
    if turn is not None:
        torch.view_as_complex(y.view(*y.shape[:-1], -1, 2)).mul_(turn)
    return y


def _check(
    x: Tensor,
    weight: Tensor | None,
    turn: Tensor | None,
    bias: Tensor | None,
    order: Tensor | None,
    starts: Tensor | None,
    out: Tensor | None,
) -> None:
    if x.dim() != 4:
        raise ValueError(f"qk_norm_rope needs x [B, N, H, d], got {list(x.shape)}")
    batch, tokens, heads, channels = x.shape
    if weight is not None and weight.shape not in ((channels,), (heads, channels)):
        raise ValueError(f"qk_norm_rope needs weight [{channels}] or [{heads}, {channels}], got {list(weight.shape)}")
    if turn is not None and (turn.shape[1:] != (tokens, 1, channels // 2) or turn.shape[0] not in (1, batch)):
        raise ValueError(
            f"qk_norm_rope needs a rotation [1 or {batch}, {tokens}, 1, {channels // 2}], got {list(turn.shape)}"
        )
    if turn is not None and not turn.is_complex():
        raise ValueError(f"qk_norm_rope needs a complex rotation, got {turn.dtype}")
    if bias is not None and bias.shape != (heads, channels):
        raise ValueError(f"qk_norm_rope needs bias [{heads}, {channels}], got {list(bias.shape)}")
    if order is not None and (order.dtype != torch.int64 or order.shape != (tokens,)):
        raise ValueError(f"qk_norm_rope needs order int64 [{tokens}], got {order.dtype} {list(order.shape)}")
    if starts is not None and (starts.dtype != torch.int32 or starts.dim() != 1 or not len(starts)):
        raise ValueError(f"qk_norm_rope needs starts int32 [M + 1], got {starts.dtype} {list(starts.shape)}")
    if out is not None and (out.shape != x.shape or out.dtype != x.dtype):
        raise ValueError(f"qk_norm_rope needs out {x.dtype} {list(x.shape)}, got {out.dtype} {list(out.shape)}")
