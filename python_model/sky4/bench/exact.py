"""What the figures of error are measured against: the same mathematics in float64, on some rows where the whole is too
much.

B = 1, H heads, N queries, L keys, d channels per head, M cubes.
"""

from __future__ import annotations

import torch
from torch import Tensor

WHOLE_PAIRS = 2**24  # query-key pairs of all heads up to which every row is checked
ROWS = 64  # checked beyond that, evenly spaced, first and last among them


def checked_rows(queries: int, pairs: int) -> Tensor:
    """Indices of the query rows whose output is compared; pairs: queries times keys, of all heads."""
    if pairs <= WHOLE_PAIRS or queries <= ROWS:
        return torch.arange(queries)
    return torch.linspace(0, queries - 1, ROWS, dtype=torch.float64).round().long()


def told_rows(rows: Tensor, queries: int) -> str:
    return "all rows" if len(rows) == queries else f"{len(rows)} of {queries} rows"


def attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, allowed: Tensor | None = None) -> Tensor:
    """[1, R, H, d] float64: the given rows of softmax(q·kT / sqrt(d))·v for q, k, v [1, N or L, H, d].

    allowed: [H, R, L] bool, True where a key is read. One head after the other, so that large shapes fit.
    """
    parts = []
    for head in range(q.shape[2]):
        some = q[0, rows.to(q.device), head].double()
        scores = some @ k[0, :, head].double().T * some.shape[-1] ** -0.5
        if allowed is not None:
            scores = scores.masked_fill(~allowed[head], -torch.inf)
        parts.append(scores.softmax(-1) @ v[0, :, head].double())
    return torch.stack(parts, dim=1)[None]


def query_gradient(
    q: Tensor, k: Tensor, v: Tensor, out_grad: Tensor, rows: Tensor, allowed: Tensor | None = None
) -> Tensor:
    """[1, R, H, d] float64: the gradient of the given query rows; it needs no other row."""
    parts = []
    scale = q.shape[-1] ** -0.5
    for head in range(q.shape[2]):
        some, keys, values = q[0, rows.to(q.device), head].double(), k[0, :, head].double(), v[0, :, head].double()
        grad = out_grad[0, rows.to(q.device), head].double()
        scores = some @ keys.T * scale
        if allowed is not None:
            scores = scores.masked_fill(~allowed[head], -torch.inf)
        p = scores.softmax(-1)
        p_grad = grad @ values.T
        parts.append((p * (p_grad - (p * p_grad).sum(-1, keepdim=True))) @ keys * scale)
    return torch.stack(parts, dim=1)[None]


def norm_rope(x: Tensor, weight: Tensor, turn: Tensor | None, eps: float) -> Tensor:
    """[1, N, H, d] float64: RMSNorm over d, then the rotation of each interleaved pair."""
    y = x.double()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps) * weight.double()
    if turn is None:
        return y
    pairs = torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn.to(torch.complex128)).flatten(-2)


def max_error(found: Tensor, exact: Tensor) -> float:
    """The largest absolute difference."""
    return float((found.double() - exact).abs().max())
