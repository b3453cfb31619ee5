"""From a checkpoint to a model folder: the moving average in bfloat16 beside the frozen networks."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from sky4.config import TransformerConfig, config_from_dict, config_to_dict
from sky4.errors import Sky4Failure
from sky4.model.checkpoint import check_fit, save_transformer
from sky4.model.transformer import JointTransformer
from sky4.train.checkpoints import load_checkpoint
from sky4.train.settings import JointSettings


def export_model(
    settings: JointSettings,
    checkpoint: Path,
    target: Path,
    name: str,
    *,
    defaults: dict[str, Any] | None = None,
    raw: bool = False,
    force: bool = False,
) -> None:
    """Write the model folder `target` from a checkpoint's moving average (`raw`: from its weights as they stand).

    defaults: replaces values of the manifest's "defaults". The folder is complete or absent. Raises ValueError for a
    target that exists without `force`, Sky4Failure where it cannot be written.
    """
    if target.exists() and not force:
        raise ValueError(f"{target} already exists; choose another folder or give --force")
    kept = load_checkpoint(checkpoint)
    config = config_from_dict(TransformerConfig, kept.state["transformer"])
    with torch.device("meta"):
        model = JointTransformer(config)
    weights = kept.model if raw else kept.ema
    check_fit(str(checkpoint), {key: value.shape for key, value in model.state_dict().items()}, weights)
    model.load_state_dict(weights, assign=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        try:
            save_transformer(model, partial / "transformer", torch.bfloat16)
            for part, source in (
                ("video_vae", settings.codecs.video),
                ("audio_vae", settings.codecs.audio),
                ("text_encoder", settings.codecs.text),
            ):
                shutil.copytree(source, partial / part)
            manifest = model_manifest(settings, config, name, kept.state["position"]["sample"], defaults or {})
            (partial / "model.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            if target.exists():
                shutil.rmtree(target)
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise Sky4Failure(f"cannot write the model folder {target}: {error}") from error


def model_manifest(
    settings: JointSettings, config: TransformerConfig, name: str, samples: int, defaults: dict[str, Any]
) -> dict[str, Any]:
    """What model.json says."""
    clip, text = settings.clip, settings.codecs
    usual = {"width": clip.width, "height": clip.height, "frames": clip.frames, "fps": str(clip.fps), "steps": 24}
    return {
        "format": "sky4-model",
        "version": 1,
        "name": name,
        "transformer": config_to_dict(config),
        "video_codec": "video_vae",
        "audio_codec": "audio_vae",
        "text_encoder": {"path": "text_encoder", "layer": text.text_layer, "max_tokens": text.text_max_tokens},
        "defaults": usual | defaults,
        "notes": {"trained_samples": samples},
    }
