"""Transformers whose blocks keep the weights of their linear layers in eight bits, by torchao (an extra).

int8: whole numbers; fp8: float8 e4m3. Either has one scale for each output channel, and products are made in the
model's own dtype: only the weights are narrow. What lies outside the blocks, biases and norms are as they were.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sky4.config import TransformerConfig
from sky4.errors import RequestError
from sky4.model.checkpoint import ModelT, check_fit, described
from sky4.model.refiner import refiner
from sky4.model.streaming import WeightStore, put
from sky4.model.transformer import Branch, JointTransformer

KINDS = ("int8", "fp8")
TALKATIVE = ("torchao", "torch.utils._pytree")  # while it loads: of kernels for other GPUs, of its own old ways
SCALE_BYTES = 4  # of an output channel's scale


def is_installed() -> bool:
    return find_spec("torchao") is not None


def require_torchao(kind: str) -> Any:
    """torchao's configuration for that kind. RequestError where it is not installed, or not for this torch."""
    if not is_installed():
        raise RequestError(
            f"--dtype {kind} needs torchao, which is not installed here; pip install 'sky4[quant]', or choose another"
        )
    heard = {name: logging.getLogger(name).level for name in TALKATIVE}
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig
    except Exception as error:  # whatever an extension that was built for another torch raises
        raise RequestError(
            f"--dtype {kind}: torchao does not load ({type(error).__name__}: {error}); pip install -U 'sky4[quant]'"
        ) from error
    finally:
        for name, level in heard.items():
            logging.getLogger(name).setLevel(level)
    return Int8WeightOnlyConfig() if kind == "int8" else Float8WeightOnlyConfig()


def load_transformer(
    folder: Path, device: torch.device, dtype: torch.dtype, config: TransformerConfig, kind: str
) -> JointTransformer:
    """As `checkpoint.load_transformer`, with narrow weights; layer by layer, so that the wide ones are never in memory
    all at once."""
    return _loaded(JointTransformer, folder, device, dtype, config, kind)


def load_refiner(
    folder: Path, device: torch.device, dtype: torch.dtype, config: TransformerConfig, kind: str
) -> Branch:
    """As `load_transformer`, the refiner that `folder` holds."""
    return _loaded(refiner, folder, device, dtype, config, kind)


def narrowed(model: JointTransformer | Branch) -> list[nn.Linear]:
    """The layers whose weights become narrow: those of the blocks."""
    parts = (part for depth in model.depths() for part in depth)
    return [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)]


def _loaded(
    build: Callable[[TransformerConfig], ModelT],
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    config: TransformerConfig,
    kind: str,
) -> ModelT:
    how = require_torchao(kind)
    from torchao.quantization import quantize_

    model, store = described(build, folder, config), WeightStore(folder, device, dtype)
    check_fit(store.told, {name: w.shape for name, w in model.state_dict().items()}, store.shapes())
    narrow = {id(layer) for layer in narrowed(model)}  # type: ignore[arg-type]
    for name, layer in model.named_modules():
        names = [f"{name}.{own}" if name else own for own, weight in layer._parameters.items() if weight is not None]
        if names:
            put(model, store.read(names))
        if id(layer) in narrow:
            quantize_(layer, how)
    return model.eval()
