"""`sky4 bench tower`: our video tower beside diffusers' HunyuanVideo transformer with the same random weights.

Both are given the text that its context embedder would make, and our tower reads no text beside it: the two compute
the same function, block by block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sky4.bench import exact, ours
from sky4.bench.cases import OURS, Built, Candidate, Case, Setting
from sky4.bench.machine import dtype_name
from sky4.conditioning.tokens import patchify_video, unpatchify_video, video_positions
from sky4.config import TransformerConfig
from sky4.inputs import TextInput, TowerInput
from sky4.model.hunyuan import GUIDANCE, take_over
from sky4.model.transformer import Branch

DIFFUSERS = "diffusers HunyuanVideo"


@dataclass(frozen=True)
class TowerSize:
    """The sizes compared by default are small enough for a CPU and keep the published proportions of a head."""

    heads: int = 4
    channels: int = 64
    dual_blocks: int = 4
    single_blocks: int = 8
    grid: tuple[int, int, int] = (21, 16, 16)
    text: int = 64
    latent_channels: int = 16


def tower_case(size: TowerSize, setting: Setting, dtype: torch.dtype) -> Case:
    """One forward pass of each, in `dtype`."""
    grid = "x".join(map(str, size.grid))
    depth = f"{size.dual_blocks} dual + {size.single_blocks} single blocks"
    name = f"video tower {size.heads} x {size.channels}, {depth}, {grid} latents, {dtype_name(dtype)}"
    return Case(name, lambda: _build(size, setting, dtype), dtype=dtype_name(dtype))


def _build(size: TowerSize, setting: Setting, dtype: torch.dtype) -> Built:
    torch.manual_seed(setting.seed)
    theirs, branch = their_model(size), our_tower(size)
    pooled = torch.randn(theirs.config.pooled_projection_dim)
    weights = theirs.state_dict()
    take_over(branch, {k: tuple(w.shape) for k, w in weights.items()}, weights.__getitem__, "memory", pooled)
    channels = 2 * size.latent_channels + 1
    latents = torch.randn(1, channels, *size.grid)
    text = torch.randn(1, size.text, size.heads * size.channels)
    given = {"latents": latents, "text": text, "pooled": pooled[None], "t": torch.tensor([0.3])}

    wide = {name: x.to(setting.device, torch.float64) for name, x in given.items()}
    with torch.inference_mode():
        # nn.Module's own `to`: that of diffusers warns of parts that it would rather keep in float32
        truth = _run_theirs(nn.Module.to(theirs, setting.device, torch.float64), wide)
        theirs, branch = nn.Module.to(theirs, dtype), branch.to(setting.device, dtype)
        given = {name: x.to(setting.device, torch.float32 if name == "t" else dtype) for name, x in given.items()}
        media = TowerInput(patchify_video(given["latents"]), _positions(size, setting.device), given["t"])
        read = TextInput(given["text"], None)
        with FlopCounterMode(display=False) as counter:
            _run_theirs(theirs, given)

    def run_ours() -> Tensor:
        with torch.inference_mode(), ours.use_backend(setting.backend):
            return branch(media, read)  # type: ignore[no-any-return]

    def run_theirs() -> Tensor:
        with torch.inference_mode():
            return _run_theirs(theirs, given)

    told: dict[str, Any] = {"error_of": "velocity, all tokens", "flop": counter.get_total_flops()}
    return Built(
        {
            OURS: Candidate(
                run_ours,
                # ours points from noise to data, theirs the other way
                lambda found: exact.max_error(-unpatchify_video(found, size.grid), truth),
                backend=setting.backend,
                **told,
            ),
            DIFFUSERS: Candidate(run_theirs, lambda found: exact.max_error(found, truth), **told),
        }
    )


def _positions(size: TowerSize, device: torch.device) -> Tensor:
    return video_positions(size.grid[0], size.grid[1] // 2, size.grid[2] // 2, device=device)


def our_tower(size: TowerSize) -> Branch:
    """A tower of diffusers' form: no text cross-attention, an AdaLN projection per block."""
    d = size.channels
    config = TransformerConfig(
        width=size.heads * d,
        heads=size.heads,
        dual_blocks=size.dual_blocks,
        single_blocks=size.single_blocks,
        rope_axes=(d // 8, d * 7 // 16, d * 7 // 16),
        video_channels=size.latent_channels,
        text_channels=size.heads * d,
        modulation="per_block",
    )
    return Branch(config, config.video_in_channels, config.video_out_channels, reads_text=False).eval()


class _GivenText(nn.Module):
    """Stands where diffusers refines its text: both towers are given the result."""

    def forward(self, text: Tensor, *_: Any) -> Tensor:
        return text


def their_model(size: TowerSize) -> Any:
    """diffusers' model with random weights everywhere, its context embedder taken out."""
    from diffusers import HunyuanVideoTransformer3DModel

    d = size.channels
    model = HunyuanVideoTransformer3DModel(
        in_channels=2 * size.latent_channels + 1,
        out_channels=size.latent_channels,
        num_attention_heads=size.heads,
        attention_head_dim=d,
        num_layers=size.dual_blocks,
        num_single_layers=size.single_blocks,
        num_refiner_layers=1,
        text_embed_dim=size.heads * d,
        pooled_projection_dim=64,
        rope_axes_dim=(d // 8, d * 7 // 16, d * 7 // 16),
    )
    model.context_embedder = _GivenText()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()


def _run_theirs(model: Any, given: dict[str, Tensor]) -> Tensor:
    """Its velocity [1, C, T, H, W]; time runs the other way and in thousandths."""
    text = given["text"]
    mask = torch.ones(text.shape[:2], dtype=torch.long, device=text.device)
    guidance = torch.full((1,), GUIDANCE, dtype=text.dtype, device=text.device)
    velocity: Tensor = model(
        given["latents"], 1000 * (1 - given["t"]), text, mask, given["pooled"], guidance, return_dict=False
    )[0]
    return velocity
