"""What a device multiplies natively."""

from __future__ import annotations

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 pay: on GPUs, and on CPUs with instructions for them. Elsewhere they are
    emulated, at a hundredth of float32's speed."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
