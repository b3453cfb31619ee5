"""A model without its weights: what its folder, or a preset, says of its parts, and these parts without values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sky4.config import TransformerConfig
from sky4.encoders.audio_vae import MMAudioCodec, OobleckCodec, vocoder_folder
from sky4.encoders.folder import find_folder, quiet_libraries, read_config, single_modules
from sky4.encoders.protocols import AudioCodec, VideoCodec
from sky4.encoders.video_vae import HunyuanCodec, WanCodec
from sky4.errors import RequestError
from sky4.model.refiner import refiner
from sky4.model.transformer import Branch, JointTransformer
from sky4.pipeline.model_folder import ModelFolder


@dataclass(frozen=True)
class ModelSketch:
    """config.json of every part. weights: whether there is a folder with weights behind it, or a preset only."""

    folder: ModelFolder
    configs: Mapping[str, Mapping[str, Any]]
    weights: bool = True

    @classmethod
    def read(cls, folder: ModelFolder) -> ModelSketch:
        """Of a model folder. RequestError, Sky4Failure where a part's config.json cannot be read."""
        manifest = folder.manifest
        places = {
            "video_codec": (manifest.video_codec, "a video codec"),
            "audio_codec": (manifest.audio_codec, "an audio codec"),
            "text_encoder": (manifest.text_encoder.path, "a text encoder"),
        }
        found = {name: find_folder(folder.locate(part), what) for name, (part, what) in places.items()}
        configs = {name: read_config(place, places[name][1]) for name, place in found.items()}
        if configs["audio_codec"].get("_class_name") == "MMAudioVAE":
            voice = vocoder_folder(folder.locate(manifest.audio_codec), found["audio_codec"], None)
            configs["vocoder"] = read_config(voice, "a vocoder")
        return cls(folder, configs)

    def part_folder(self, part: str) -> Path:
        """Where the weights of a part lie."""
        manifest = self.folder.manifest
        names = {"video_codec": manifest.video_codec, "audio_codec": manifest.audio_codec, "transformer": "transformer"}
        return Path(self.folder.locate(names.get(part, manifest.text_encoder.path)))

    @property
    def transformer_config(self) -> TransformerConfig:
        return self.folder.manifest.transformer

    def transformer(self) -> JointTransformer:
        """On the meta device; so are all of these."""
        with torch.device("meta"):
            return JointTransformer(self.transformer_config).requires_grad_(False).eval()

    def refiner(self) -> Branch | None:
        entry = self.folder.manifest.refiner
        if entry is None:
            return None
        with torch.device("meta"):
            return refiner(entry.transformer).requires_grad_(False).eval()

    def video_vae(self) -> nn.Module:
        name, values = self._of("video_codec")
        with quiet_libraries(), torch.device("meta"):
            if name == "AutoencoderKLWan":
                with single_modules():
                    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan as Codec
            elif name == "AutoencoderKLHunyuanVideo":
                with single_modules():
                    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import (
                        AutoencoderKLHunyuanVideo as Codec,
                    )
            else:
                raise RequestError(f"--model {self.folder.path}: no plan can be made of a video codec {name!r}")
            made: nn.Module = Codec.from_config(dict(values))
        return made.requires_grad_(False).eval()

    def audio_vae(self) -> nn.ModuleDict:
        """The autoencoder under "vae", a vocoder, if it has one, under "vocoder"."""
        name, values = self._of("audio_codec")
        with quiet_libraries(), torch.device("meta"):
            if name == "AutoencoderOobleck":
                with single_modules():
                    from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
                parts = {"vae": AutoencoderOobleck.from_config(dict(values))}
            elif name == "MMAudioVAE":
                with single_modules():
                    from diffusers.models.autoencoders.autoencoder_mmaudio import MMAudioVAE
                    from diffusers.models.autoencoders.mmaudio_vocoder import MMAudioVocoder
                parts = {"vae": MMAudioVAE.from_config(dict(values))}
                parts["vocoder"] = MMAudioVocoder.from_config(dict(self.configs.get("vocoder", {})))
            else:
                raise RequestError(f"--model {self.folder.path}: no plan can be made of an audio codec {name!r}")
        return nn.ModuleDict(parts).requires_grad_(False).eval()

    def text_model(self) -> nn.Module:
        from transformers import AutoConfig, AutoModel

        with quiet_libraries(), torch.device("meta"):
            config = AutoConfig.for_model(**self.configs["text_encoder"])
            config = getattr(config, "thinker_config", config)
            made: nn.Module = AutoModel.from_config(config)
        return made.requires_grad_(False).eval()

    def _of(self, part: str) -> tuple[Any, Mapping[str, Any]]:
        values = self.configs[part]
        return values.get("_class_name"), {key: value for key, value in values.items() if not key.startswith("_")}

    def prompt_tokens(self, prompt: str) -> int:
        """As many as its tokenizer makes of it; without one as many as the encoder reads at most."""
        entry = self.folder.manifest.text_encoder
        file = Path(self.folder.locate(entry.path)) / "tokenizer.json"
        if not file.is_file():
            return entry.max_tokens
        from tokenizers import Tokenizer

        return max(1, min(entry.max_tokens, len(Tokenizer.from_file(str(file)).encode(prompt).ids)))


def video_codec_of(vae: Any, chunk: int | None = None) -> VideoCodec:
    """The codec around an empty autoencoder."""
    if type(vae).__name__ == "AutoencoderKLHunyuanVideo":
        return HunyuanCodec(vae)
    return WanCodec(vae, chunk)


def audio_codec_of(parts: nn.ModuleDict, idle: frozenset[str] = frozenset()) -> AudioCodec:
    """The codec around an empty autoencoder. idle: the units that its weights switch off."""
    vae: Any = parts["vae"]
    zeros, ones = torch.zeros(1), torch.ones(1)
    if "vocoder" in parts:
        return MMAudioCodec(vae, parts["vocoder"], zeros, ones)
    for name in idle:
        block, unit = name.rsplit(".", 1)
        setattr(vae.get_submodule(block), unit, nn.Identity())
    return OobleckCodec(vae, zeros, ones, finished=True)


def idle_units(folder: Path) -> frozenset[str]:
    """The residual units of an Oobleck autoencoder that add nothing, by name; reads a few numbers of each."""
    from safetensors import safe_open

    idle = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            names = set(weights.keys())
            for name in names:
                unit = name.removesuffix(".conv2.weight_g")
                if unit != name and f"{unit}.conv2.bias" in names:
                    values = (weights.get_tensor(name), weights.get_tensor(f"{unit}.conv2.bias"))
                    if not any(bool(value.any()) for value in values):
                        idle.add(unit)
    return frozenset(idle)


def placed(module: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """An empty module's weights and buffers on the device of `without_values`, floating ones in dtype."""
    for part in module.modules():
        stores: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for store in stores:
            for name, tensor in store.items():
                if tensor is not None:
                    kind = dtype if tensor.is_floating_point() else tensor.dtype
                    empty = torch.empty(tensor.shape, dtype=kind, device=device)
                    store[name] = nn.Parameter(empty, requires_grad=False) if store is part._parameters else empty
    return module


def parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
