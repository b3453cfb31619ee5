"""`sky4 doctor`: what this machine, this installation and the model are, and what would not work."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any

from sky4.errors import RequestError, Sky4Failure
from sky4cli.options import Json, Model

ENCODERS = ("libx264", "aac", "libvpx-vp9", "libopus", "flac", "pcm_s16le")
DECODERS = ("h264", "hevc", "vp9", "aac", "opus", "mp3", "flac")


def doctor(model: Model = None, as_json: Json = False) -> None:
    """Tell device, torch, extension, attention backends, codecs, model and disk; exit 1 where something is broken."""
    from sky4.pipeline.model_folder import BUNDLED

    facts, faults = examine(model or BUNDLED)
    if as_json:
        print(json.dumps({**facts, "faults": faults}, separators=(",", ":")))
    else:
        for name, value in facts.items():
            print(f"{name:<18}{_words(value)}")
        for name, value in facts["model"].get("hashes", {}).items():
            print(f"{'':<18}{value}  {name}")
        for fault in faults:
            print(f"{'fault':<18}{fault}")
    if faults:
        raise Sky4Failure(f"{len(faults)} of what sky4 needs is broken; see the faults above")


def examine(model: Path) -> tuple[dict[str, Any], list[str]]:
    """(facts, faults): faults are sentences; without any, `sky4 generate` can run."""
    import torch

    from sky4 import __version__
    from sky4.ops.backend import available, cpu_multiplies_bf16
    from sky4.pipeline.devices import choose_device, choose_dtype, physical_cores, processor

    device = choose_device()
    extension = _extension()
    codecs = _codecs()
    faults = [
        f"this PyAV lacks {name}; install the av package that requirements.txt names"
        for name, has in codecs.items()
        if not has
    ]
    described, model_faults = _model(model)
    facts = {
        "sky4": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "dtype": str(choose_dtype("auto", device)).removeprefix("torch."),
        "cores": physical_cores(),
        "bf16 instructions": cpu_multiplies_bf16(),
        "extension": extension,
        "attention": {name: f"no: {reason}" if reason else "yes" for name, reason in available().items()},
        "codecs": codecs,
        "model": described,
        "disk": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free in {Path.cwd()}",
    }
    return facts, faults + model_faults


def _extension() -> str:
    try:
        from sky4 import _C
    except ImportError as error:
        return f"not there ({error}); plain torch computes instead"
    functions = sorted(name for name in dir(_C) if not name.startswith("_"))
    return f"sky4._C, on this CPU {_C.isa()}, with {', '.join(functions)}"


def _codecs() -> dict[str, bool]:
    """Whether PyAV has each encoder that an output needs, and each decoder of what is most often given."""
    import av
    from av.codec import Codec

    found = {}
    for mode, names in (("w", ENCODERS), ("r", DECODERS)):
        for name in names:
            try:
                Codec(name, mode)
                found[f"{name} {'encoder' if mode == 'w' else 'decoder'}"] = True
            except av.codec.codec.UnknownCodecError:
                found[f"{name} {'encoder' if mode == 'w' else 'decoder'}"] = False
    return found


def _model(path: Path) -> tuple[dict[str, Any], list[str]]:
    from sky4.model.checkpoint import weight_files
    from sky4.pipeline.components import weights_digest, weights_hashes
    from sky4.pipeline.model_folder import ModelFolder

    try:
        folder = ModelFolder.read(path)
        weight_files(path / "transformer")
        if folder.manifest.refiner is not None:
            weight_files(path / folder.manifest.refiner.path)
    except (RequestError, Sky4Failure) as error:
        return {"path": str(path)}, [str(error)]
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    manifest = folder.manifest
    described = {
        "name": manifest.name,
        "path": str(path),
        "size": f"{size / 2**20:.1f} MiB",
        "digest": weights_digest(path),
        "hashes": weights_hashes(path),
        "makes": f"{manifest.defaults.width}x{manifest.defaults.height}, {manifest.defaults.frames} frames "
        f"at {manifest.defaults.fps} a second",
        "refiner": "none" if manifest.refiner is None else f"{manifest.refiner.steps} steps",
    }
    return described, []


def _words(value: Any) -> str:
    if isinstance(value, dict):
        truths = all(isinstance(item, bool) for item in value.values())
        return ", ".join(
            (name if item else f"{name} MISSING") if truths else f"{name} {item}"
            for name, item in value.items()
            if not isinstance(item, dict)
        )
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
