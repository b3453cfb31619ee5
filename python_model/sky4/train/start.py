"""Where a run starts: the model with its first weights, and the frozen networks that it needs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sky4.encoders import AudioCodec, VideoCodec, load_audio_codec, load_text_encoder, load_video_codec
from sky4.errors import Sky4Failure
from sky4.inputs import TextInput
from sky4.model.checkpoint import check_fit, read_weights
from sky4.model.hunyuan import init_video_from_hunyuan
from sky4.model.transformer import JointTransformer
from sky4.train.checkpoints import checkpoints, load_ema
from sky4.train.settings import JointSettings
from sky4.train.trainer import Encode, computes_in_bfloat16


def build_model(settings: JointSettings, device: torch.device) -> JointTransformer:
    """The joint model in float32 with the weights that the settings start from; fresh ones follow from the seed."""
    torch.manual_seed(settings.seed)
    model = JointTransformer(settings.transformer_config())
    if settings.init is not None:
        weights = starting_weights(Path(settings.init))
        weights = _with_data_gates(weights, model)
        check_fit(settings.init, {name: value.shape for name, value in model.state_dict().items()}, weights)
        model.load_state_dict(weights)
    if settings.init_video is not None:
        init_video_from_hunyuan(model, Path(settings.init_video))
    return model.to(device)


def starting_weights(folder: Path) -> dict[str, Tensor]:
    """Float32 weights of a model folder, or the moving average of a checkpoint or of a run's newest checkpoint.

    Raises Sky4Failure for a folder that is none of these.
    """
    if (folder / "transformer").is_dir():
        weights = read_weights(folder / "transformer")
    elif (folder / "ema.safetensors").is_file():
        weights = load_ema(folder)
    elif present := checkpoints(folder / "checkpoints"):
        weights = load_ema(present[-1])
    else:
        raise Sky4Failure(f"init: {folder} is no model folder, no run and no checkpoint; give one of these")
    return {name: value.float() for name, value in weights.items()}


def _with_data_gates(weights: dict[str, Tensor], model: JointTransformer) -> dict[str, Tensor]:
    """The weights of a model without data gates with fresh gates, and fresh heads, which mean something else there."""
    fresh = {name: value for name, value in model.state_dict().items() if ".data_gate." in name}
    if not fresh or fresh.keys() <= weights.keys():
        return weights
    heads = {name: value for name, value in model.state_dict().items() if name.split(".")[1] == "head"}
    return weights | fresh | heads


def load_encode(settings: JointSettings, device: torch.device) -> Encode:
    """The frozen text encoder as a function. Raises ValueError where its width is not the transformer's."""
    text, wanted = settings.codecs, settings.transformer_config().text_channels
    encoder = load_text_encoder(text.text, text.text_layer, text.text_max_tokens, str(device))
    if encoder.channels != wanted:
        raise ValueError(
            f"transformer.text_channels is {wanted}, but the text encoder {text.text} gives {encoder.channels}: "
            "change one of them"
        )

    def encode(prompts: list[str]) -> TextInput:
        return encoder.encode(prompts)

    return encode


def load_codecs(settings: JointSettings, device: torch.device) -> tuple[VideoCodec, AudioCodec]:
    """The frozen codecs; the video codec in bfloat16 where the device multiplies it natively, the audio codec never."""
    dtype = torch.bfloat16 if computes_in_bfloat16("auto", device) else torch.float32
    return load_video_codec(settings.codecs.video, str(device), dtype), load_audio_codec(
        settings.codecs.audio, str(device)
    )
