"""The flow-matching convention, stated here once (report, flow matching; model.md section 5).

z_t = t*z0 + (1 - t)*eps: t = 0 is noise, t = 1 is data. The model predicts v = dz/dt = z0 - eps.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Draw = Literal["uniform", "logit_normal"]


def noised(z0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """z_t [B, ...] of data z0 and noise eps of one shape, and t [B] (or one number for all)."""
    t = over(t, z0)
    return t * z0 + (1.0 - t) * eps


def velocity_target(z0: Tensor, eps: Tensor) -> Tensor:
    """v = z0 - eps, the same at every t."""
    return z0 - eps


def data_estimate(z_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """The data that a velocity points at: z_t + (1 - t)*v; exact for v = z0 - eps."""
    return z_t + (1.0 - over(t, z_t)) * velocity


def noise_estimate(z_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """The noise that a velocity comes from: z_t - t*v; exact for v = z0 - eps."""
    return z_t - over(t, z_t) * velocity


def shift(t: Tensor, by: float) -> Tensor:
    """Timestep shift: the noise share s = 1 - t becomes by*s / (1 + (by - 1)*s), hence t / (by - (by - 1)*t).

    by > 1 spends more steps where noise is strong, as larger clips need; 1 changes nothing; 0 and 1 stay.
    Raises ValueError where `by` is not positive.
    """
    if not (by > 0 and math.isfinite(by)):
        raise ValueError(f"the timestep shift must be above 0, got {by}; 1 is no shift")
    return t / (by - (by - 1.0) * t)


def sample_t(
    uniform: Tensor, kind: Draw = "uniform", *, mean: float = 0.0, std: float = 1.0, shift_by: float = 1.0
) -> Tensor:
    """Training timesteps [B] from uniform draws [B] in (0, 1), so that whoever keys the draws keys the timesteps.

    kind: "uniform" t = u; "logit_normal" t = sigmoid(mean + std*g), g the normal quantile of u. Then shifted.
    """
    if kind == "uniform":
        t = uniform
    elif kind == "logit_normal":
        # float64: the quantile of a float32 u next to 1 would be infinite
        inner = uniform.double().clamp(1e-12, 1.0 - 1e-12)
        t = torch.sigmoid(mean + std * torch.special.ndtri(inner)).to(uniform.dtype)
    else:
        raise ValueError(f"unknown timestep draw {kind!r}; use 'uniform' or 'logit_normal'")
    return shift(t, shift_by)


def over(t: Tensor, like: Tensor) -> Tensor:
    """t [B] as [B, 1, ...] to multiply `like` [B, ...]; a single number stays one."""
    t = t.to(like.dtype)
    return t if t.ndim == 0 else t.reshape(-1, *([1] * (like.ndim - 1)))
