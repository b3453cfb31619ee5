"""What makes one job another: the recipe it asks for, the bytes of its inputs, the model's weights.

Names of files do not count, so that a moved folder stays finished; neither does where it is computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sky4.errors import RequestError, Sky4Failure
from sky4.media import INSIDE, Provenance
from sky4.pipeline.digest import file_digest, weights_digest, weights_hashes
from sky4.pipeline.engine import SHORT, Engine
from sky4.pipeline.request import PATH_KEYS, ClipRequest

VERSION = 1
SAID_ONLY = ("flag", "variations")  # of a request: what messages call a file; how many siblings a clip had

Signature = tuple[tuple[str, int, int, int], ...]


class ModelChanged(Sky4Failure):
    """The weights are no longer those that the batch began with."""


@dataclass
class Digests:
    """Digests of files and model folders, each read again only where its size or times have changed."""

    _known: dict[Path, tuple[Signature, str]] = field(default_factory=dict)

    def of_input(self, path: Path) -> str:
        """RequestError where the file cannot be read."""
        try:
            return self._of(path, file_digest)
        except OSError as error:
            raise RequestError(f"'{path}' cannot be read ({error.strerror}); see to it and start again") from error

    def of_model(self, folder: Path) -> str:
        """RequestError where the weights cannot be read."""
        try:
            return self._of(folder, weights_digest)
        except OSError as error:
            raise RequestError(f"--model {folder} cannot be read ({error.strerror})") from error

    def of_enhancer(self, folder: Path) -> str:
        """RequestError where the weights cannot be read."""
        try:
            return self._of(folder, lambda path: _hash(weights_hashes(path)))
        except OSError as error:
            raise RequestError(f"--enhance {folder} cannot be read ({error.strerror})") from error

    def _of(self, path: Path, read: Callable[[Path], str]) -> str:
        signature = signature_of(path)
        known = self._known.get(path)
        if known is None or known[0] != signature:
            known = self._known[path] = signature, read(path)
        return known[1]


def signature_of(path: Path) -> Signature:
    """(name, bytes, time of change, number) of a file, or of all files below a folder. OSError for none."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files]
    return tuple((str(file.relative_to(path)), stat.st_size, stat.st_mtime_ns, stat.st_ino) for file, stat in stats)


def job_key(
    request: ClipRequest,
    engine: Engine,
    enhancer: Path | None,
    digests: Digests,
    provenance: Provenance = INSIDE,
) -> str:
    """The key of a clip. dtype, attention and memory count as asked for: they change bits, and one changed is meant."""
    inputs = {str(path.absolute()): digests.of_input(path) for _, path in request.files()}
    parts: dict[str, Any] = {
        "version": VERSION,
        "clip": essence(request.to_dict(), inputs),
        "model": digests.of_model(engine.model),
        "dtype": SHORT.get(engine.dtype, engine.dtype),
        "attention": engine.attention_backend,
        "enhancer": "" if enhancer is None else digests.of_enhancer(enhancer),
    }
    if engine.memory is not None:
        parts["memory"] = engine.memory
    if provenance != INSIDE:  # what is usual is not written down, so that a folder made without these stays finished
        signer = provenance.credentials
        signed = [] if signer is None else [digests.of_input(path) for path in (signer.certificate, signer.key)]
        parts["provenance"] = [provenance.inside, provenance.sidecar, *signed]
    return _hash(parts)


def essence(request: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """A hash of a request's values, each path replaced by its file's digest. KeyError for one that has none."""
    return _hash(_by_content(dict(request), inputs))


def is_clip_of(recipe: Mapping[str, Any], request: ClipRequest, engine: Engine, digests: Digests) -> bool:
    """Whether a file's recipe tells that it is this clip, made by these weights from these bytes."""
    inputs = {str(path.absolute()): digests.of_input(path) for _, path in request.files()}
    try:
        computed = recipe["computed"]
        narrow = computed.get("economy", {}).get("weights", "")
        return (
            essence(recipe["request"], recipe["inputs"]) == essence(request.to_dict(), inputs)
            and recipe["model"]["digest"] == digests.of_model(engine.model)
            and SHORT.get(engine.dtype, engine.dtype) in ("auto", narrow or computed["dtype"])
            and (not narrow or engine.dtype != "auto" or engine.memory is not None)
            and engine.attention_backend in ("auto", computed["attention_backend"])
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        return False  # a recipe of another version, or edited by hand


def _by_content(value: Any, inputs: Mapping[str, str], key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _by_content(item, inputs, name) for name, item in value.items() if name not in SAID_ONLY}
    if isinstance(value, list):
        return [_by_content(item, inputs) for item in value]
    return inputs[value] if key in PATH_KEYS and isinstance(value, str) else value


def _hash(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
