"""What tells files from others: SHA-256 of inputs and of a model's weights. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sky4.pipeline.model_folder import REFINER_ENTRY, refiner_beside

WHOLE_BYTES = 2**30  # weights up to here are hashed whole; of larger files the ends, or a start would take minutes
END_BYTES = 2**20


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or over the names and digests of all files of a folder of pictures."""
    if path.is_dir():
        inside = [f"{file.name} {file_digest(file)}" for file in sorted(path.iterdir()) if file.is_file()]
        return f"sha256:{hashlib.sha256(chr(10).join(inside).encode()).hexdigest()}"
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def weights_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every *.safetensors below and of a refiner that lies beside, by its name; of files over 1 GiB of their
    size, first and last MiB."""
    hashes = _hashes(folder)
    beside = refiner_beside(folder)
    if beside is not None:
        hashes |= {f"../{beside.name}/{name}": content for name, content in _hashes(beside).items()}
    return hashes


def weights_digest(folder: Path) -> str:
    """One SHA-256 over model.json, the entry of a refiner that lies beside, and the hashes of all weight files."""
    digest = hashlib.sha256((folder / "model.json").read_bytes())
    beside = refiner_beside(folder)
    if beside is not None:
        digest.update((beside / REFINER_ENTRY).read_bytes())
    for name, content in weights_hashes(folder).items():
        digest.update(f"{name} {content}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _hashes(folder: Path) -> dict[str, str]:
    return {file.relative_to(folder).as_posix(): _weights_hash(file) for file in sorted(folder.rglob("*.safetensors"))}


def _weights_hash(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= WHOLE_BYTES:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256(f"{size}\n".encode() + stream.read(END_BYTES))
        stream.seek(-END_BYTES, 2)
        digest.update(stream.read())
    return digest.hexdigest()
