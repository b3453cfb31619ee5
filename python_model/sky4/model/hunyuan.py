"""The video tower from a HunyuanVideo checkpoint in diffusers' format (model.md, section 3, last paragraph).

Our dual and single blocks have that model's form, so its weights move over one by one. What differs folds exactly:
- its timestep runs the other way, 1000·(1 - t): cos(1000w - x) and sin(1000w - x) are a rotation of cos(x), sin(x),
  so each cosine-sine pair of columns in the timestep MLP's first layer is rotated;
- its pooled-text and guidance embeddings are constants here and join the timestep MLP's last bias;
- its velocity is eps - z0, ours z0 - eps: a sign on the output projection.
What it has not (I and M input channels where it was not trained for images, text cross-attention) contributes zero.
Its text refiner belongs to its text encoder and stays behind: our text projection is the identity where the widths
agree (the text then is that refiner's output) and stays as it is otherwise.

    D width   C latent channels   p patch
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sky4.config import TransformerConfig
from sky4.errors import Sky4Failure
from sky4.model.checkpoint import WeightsError, weight_files
from sky4.model.layers import TIME_SCALE, time_frequencies
from sky4.model.transformer import Branch, JointTransformer

GUIDANCE = 6000.0  # guidance 6 in that model's thousandfold unit: what its own pipeline embeds by default
LEFT_BEHIND = "context_embedder."

Read = Callable[[str], Tensor]


def init_video_from_hunyuan(model: JointTransformer, folder: Path) -> None:
    """Fill the video tower of `model` from a folder with config.json and diffusion_pytorch_model*.safetensors.

    Raises ValueError where the configurations do not fit, Sky4Failure where the folder cannot be read, WeightsError
    where weights are missing, extra or misshaped. Weights are read one at a time.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as fault:
        raise Sky4Failure(f"{folder} is not a HunyuanVideo transformer: config.json cannot be read") from fault
    check_config(config, model.config)
    try:
        with _Folder(weight_files(folder, "diffusion_pytorch_model")) as stored:
            take_over(model.video, stored.shapes, stored.read, str(folder))
    except (OSError, SafetensorError) as fault:
        raise Sky4Failure(f"cannot read the weights in {folder}: {fault}") from fault


def check_config(theirs: Mapping[str, Any], ours: TransformerConfig) -> None:
    """Raises ValueError naming the first setting in which the two models differ."""
    if ours.modulation != "per_block":
        raise ValueError(f"init_video needs transformer.modulation per_block, got {ours.modulation}")
    if theirs.get("image_condition_type") == "token_replace":
        raise ValueError("init_video cannot use a HunyuanVideo model with image_condition_type token_replace")
    pairs = {
        "heads": ("num_attention_heads", ours.heads),
        "head_dim": ("attention_head_dim", ours.head_dim),
        "dual_blocks": ("num_layers", ours.dual_blocks),
        "single_blocks": ("num_single_layers", ours.single_blocks),
        "mlp_ratio": ("mlp_ratio", ours.mlp_ratio),
        "patch": ("patch_size", ours.patch),
        "rope_theta": ("rope_theta", ours.rope_theta),
        "rope_axes": ("rope_axes_dim", list(ours.rope_axes)),
        "video_channels": ("out_channels", ours.video_channels),
    }
    for name, (key, value) in pairs.items():
        found = theirs.get(key)
        found = list(found) if isinstance(found, tuple) else found
        if found != value:
            raise ValueError(f"init_video needs transformer.{name} = {found} as in the checkpoint, got {value}")
    allowed = (ours.video_channels, 2 * ours.video_channels + 1)  # V alone, or V, I, M as in its image-to-video form
    if theirs.get("in_channels") not in allowed or theirs.get("patch_size_t", 1) != 1:
        raise ValueError(
            f"init_video needs in_channels {allowed[0]} or {allowed[1]} and patch_size_t 1, "
            f"got {theirs.get('in_channels')} and {theirs.get('patch_size_t')}"
        )


@torch.no_grad()
def take_over(
    branch: Branch,
    stored: Mapping[str, tuple[int, ...]],
    read: Read,
    source: str,
    pooled_text: Tensor | None = None,
    guidance: float = GUIDANCE,
) -> None:
    """Fill `branch` from weights of which `stored` gives the shapes and `read` the values.

    `pooled_text` [D_pooled] (None = zeros) and `guidance` are the constants that the timestep embedding takes up.
    Raises WeightsError, before anything is changed, where the weights do not fit.
    """
    direct = _direct_names(branch.config)
    guided = any(name.startswith("time_text_embed.guidance_embedder.") for name in stored)
    _check_names(branch, stored, direct, guided, source)
    targets = branch.state_dict()
    for name, sources in direct.items():
        targets[name].copy_(torch.cat([read(part) for part in sources]))

    patch_weight = read("x_embedder.proj.weight").flatten(1)  # [D, C·p²], channel slowest as in our tokens
    targets["token_in.weight"].zero_()
    targets["token_in.weight"][:, : patch_weight.shape[1]].copy_(patch_weight)

    time = "time_text_embed.timestep_embedder"
    targets["time_in.hidden.weight"].copy_(reverse_time(read(f"{time}.linear_1.weight")))
    bias = read(f"{time}.linear_2.bias").double()
    if pooled_text is None:
        pooled_text = torch.zeros(stored["time_text_embed.text_embedder.linear_1.weight"][1])
    bias = bias + _mlp(read, "time_text_embed.text_embedder", pooled_text.double())
    if guided:
        angle = guidance * time_frequencies(torch.device("cpu"))
        waves = torch.cat([angle.cos(), angle.sin()]).double()
        bias = bias + _mlp(read, "time_text_embed.guidance_embedder", waves)
    targets["time_in.out.bias"].copy_(bias)

    targets["head.weight"].copy_(-read("proj_out.weight"))
    targets["head.bias"].copy_(-read("proj_out.bias"))
    if branch.config.text_channels == branch.config.width:
        targets["text_in.weight"].copy_(torch.eye(branch.config.width))
        targets["text_in.bias"].zero_()
    targets["keyframe"].zero_()
    for name, target in targets.items():
        if ".text_reading.attention.out." in name:
            target.zero_()


def reverse_time(weight: Tensor) -> Tensor:
    """The timestep MLP's first layer [D, 256] for s = 1000·t instead of 1000 - s, in float64."""
    cosine, sine = weight.double().chunk(2, dim=-1)
    angle = TIME_SCALE * time_frequencies(weight.device).double()
    return torch.cat([cosine * angle.cos() + sine * angle.sin(), cosine * angle.sin() - sine * angle.cos()], dim=-1)


def _direct_names(config: TransformerConfig) -> dict[str, tuple[str, ...]]:
    """Our parameter -> theirs, one or several along the output channels."""
    names: dict[str, tuple[str, ...]] = {
        "token_in.bias": ("x_embedder.proj.bias",),
        "time_in.hidden.bias": ("time_text_embed.timestep_embedder.linear_1.bias",),
        "time_in.out.weight": ("time_text_embed.timestep_embedder.linear_2.weight",),
    }

    def linear(ours: str, *theirs: str) -> None:
        for kind in ("weight", "bias"):
            names[f"{ours}.{kind}"] = tuple(f"{name}.{kind}" for name in theirs)

    linear("head_modulation", "norm_out.linear")
    for i in range(config.dual_blocks):
        ours, theirs = f"blocks.{i}", f"transformer_blocks.{i}"
        linear(f"{ours}.modulation.linear", f"{theirs}.norm1.linear")
        linear(f"{ours}.text_modulation.linear", f"{theirs}.norm1_context.linear")
        linear(f"{ours}.attention.qkv", *(f"{theirs}.attn.to_{x}" for x in "qkv"))
        linear(f"{ours}.text_attention.qkv", *(f"{theirs}.attn.add_{x}_proj" for x in "qkv"))
        linear(f"{ours}.attention.out", f"{theirs}.attn.to_out.0")
        linear(f"{ours}.text_attention.out", f"{theirs}.attn.to_add_out")
        for x in "qk":
            names[f"{ours}.attention.norm_{x}.weight"] = (f"{theirs}.attn.norm_{x}.weight",)
            names[f"{ours}.text_attention.norm_{x}.weight"] = (f"{theirs}.attn.norm_added_{x}.weight",)
        for mlp, ff in (("mlp", "ff"), ("text_mlp", "ff_context")):
            linear(f"{ours}.{mlp}.hidden", f"{theirs}.{ff}.net.0.proj")
            linear(f"{ours}.{mlp}.out", f"{theirs}.{ff}.net.2")
    for i in range(config.single_blocks):
        ours, theirs = f"blocks.{config.dual_blocks + i}", f"single_transformer_blocks.{i}"
        linear(f"{ours}.modulation.linear", f"{theirs}.norm.linear")
        linear(f"{ours}.inward", *(f"{theirs}.attn.to_{x}" for x in "qkv"), f"{theirs}.proj_mlp")
        linear(f"{ours}.outward", f"{theirs}.proj_out")
        for x in "qk":
            names[f"{ours}.norm_{x}.weight"] = (f"{theirs}.attn.norm_{x}.weight",)
    return names


def _check_names(
    branch: Branch, stored: Mapping[str, tuple[int, ...]], direct: Mapping[str, tuple[str, ...]], guided: bool, src: str
) -> None:
    used = {name for sources in direct.values() for name in sources}
    used |= {"x_embedder.proj.weight", "proj_out.weight", "proj_out.bias"}
    used |= {f"time_text_embed.timestep_embedder.{name}" for name in ("linear_1.weight", "linear_2.bias")}
    for embedder in ["text_embedder"] + ["guidance_embedder"] * guided:
        used |= {f"time_text_embed.{embedder}.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
    missing = used - stored.keys()
    extra = {name for name in stored.keys() - used if not name.startswith(LEFT_BEHIND)}
    targets = branch.state_dict()
    misshaped = []
    if not missing:
        for name, sources in direct.items():
            rows = sum(stored[part][0] for part in sources)
            if (rows, *stored[sources[0]][1:]) != tuple(targets[name].shape):
                misshaped.append(f"{', '.join(sources)} {rows, *stored[sources[0]][1:]}")
        for theirs, ours in (("proj_out.weight", "head.weight"), ("proj_out.bias", "head.bias")):
            if stored[theirs] != tuple(targets[ours].shape):
                misshaped.append(f"{theirs} {stored[theirs]}")
    if missing or extra or misshaped:
        raise WeightsError(src, missing, extra, misshaped)


def _mlp(read: Read, name: str, x: Tensor) -> Tensor:
    hidden = F.silu(F.linear(x, read(f"{name}.linear_1.weight").double(), read(f"{name}.linear_1.bias").double()))
    return F.linear(hidden, read(f"{name}.linear_2.weight").double(), read(f"{name}.linear_2.bias").double())


class _Folder:
    """Tensors of several safetensors files, read one by one: the whole checkpoint never lies in memory."""

    def __init__(self, files: list[Path]) -> None:
        self.handles: list[Any] = [safe_open(file, framework="pt") for file in files]
        self.where = {name: handle for handle in self.handles for name in handle.keys()}  # noqa: SIM118
        self.shapes = {name: tuple(h.get_slice(name).get_shape()) for name, h in self.where.items()}

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self.where[name].get_tensor(name)
        return tensor

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *fault: object) -> None:
        for handle in self.handles:
            handle.__exit__(None, None, None)
