"""The networks of a model folder: each loaded when first needed, strictly, and let go of by name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from sky4.encoders import load_audio_codec, load_text_encoder, load_video_codec
from sky4.encoders.protocols import AudioCodec, TextEncoder
from sky4.encoders.tiling import SmallerTiles
from sky4.errors import RequestError, Sky4Failure
from sky4.model.checkpoint import load_transformer
from sky4.model.transformer import JointTransformer
from sky4.ops.backend import select, unavailable
from sky4.pipeline.devices import choose_device, choose_dtype, use_threads
from sky4.pipeline.model_folder import ModelFolder

WHOLE_BYTES = 2**30  # weights up to here are hashed whole; of larger files the ends, or a start would take minutes
END_BYTES = 2**20


@dataclass
class Components:
    """A model on a device. The transformer, the codecs and the text encoder load when they are first asked for."""

    folder: ModelFolder
    device: torch.device
    dtype: torch.dtype
    backend: str
    threads: int

    @classmethod
    def load(
        cls,
        path: Path,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "auto",
        threads: int | None = None,
    ) -> Components:
        """Read the folder and settle where to compute. RequestError for what is not there.

        threads: of the CPU; None takes one per physical core. Sums are cut into so many parts, hence it is recorded.
        """
        if fault := unavailable(backend):
            raise RequestError(f"--attention-backend {backend} is not available: {fault}")
        folder = ModelFolder.read(path)
        place = choose_device(device)
        precision = choose_dtype(dtype, place)
        if backend != "auto":
            try:
                head = torch.empty(0, folder.manifest.transformer.head_dim, dtype=precision, device=place)
                select("joint_attention", head, backend)
            except ValueError as error:
                raise RequestError(f"--attention-backend {backend} does not fit: {error}") from None
        return cls(folder, place, precision, backend, use_threads(threads))

    @cached_property
    def transformer(self) -> JointTransformer:
        """Sky4Failure listing the names of weights that are missing, unknown or of another shape."""
        manifest = self.folder.manifest
        model = load_transformer(self.folder.path / "transformer", self.device, self.dtype, manifest.transformer)
        return model.requires_grad_(False)

    @cached_property
    def video_codec(self) -> SmallerTiles:
        """Where decoding runs out of memory, it goes on in smaller pieces by itself."""
        codec = load_video_codec(self.folder.locate(self.folder.manifest.video_codec), str(self.device), self.dtype)
        told = self.folder.spatial_compression, self.folder.temporal_compression
        assert (codec.spatial_compression, codec.temporal_compression) == told, "config.json was read wrongly"
        self._check_channels("video codec", codec.channels, self.folder.manifest.transformer.video_channels)
        return SmallerTiles(codec)

    @cached_property
    def audio_codec(self) -> AudioCodec:
        # in float32: it is a small part of the time, and rounding in its snake activations is heard as noise
        codec = load_audio_codec(self.folder.locate(self.folder.manifest.audio_codec), str(self.device), torch.float32)
        assert (codec.sample_rate, codec.hop) == (self.folder.sample_rate, self.folder.hop), "config.json read wrongly"
        self._check_channels("audio codec", codec.channels, self.folder.manifest.transformer.audio_channels)
        return codec

    @cached_property
    def text_encoder(self) -> TextEncoder:
        entry = self.folder.manifest.text_encoder
        place = self.folder.locate(entry.path)
        encoder = load_text_encoder(place, entry.layer, entry.max_tokens, device=str(self.device), dtype=self.dtype)
        self._check_channels("text encoder", encoder.channels, self.folder.manifest.transformer.text_channels)
        return encoder

    def _check_channels(self, part: str, has: int, wants: int) -> None:
        if has != wants:
            raise Sky4Failure(
                f"the {part} of --model {self.folder.path} has {has} channels and its transformer wants {wants}; "
                "put the parts together that were trained together"
            )

    @cached_property
    def digest(self) -> str:
        """What tells these weights from others: SHA-256 over the names, sizes and contents of all weight files."""
        return weights_digest(self.folder.path)


def weights_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every *.safetensors below, by its name; of files over 1 GiB of their size, first and last MiB."""
    return {file.relative_to(folder).as_posix(): _file_hash(file) for file in sorted(folder.rglob("*.safetensors"))}


def weights_digest(folder: Path) -> str:
    """One SHA-256 over model.json and the hashes of all weight files."""
    digest = hashlib.sha256((folder / "model.json").read_bytes())
    for name, content in weights_hashes(folder).items():
        digest.update(f"{name} {content}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _file_hash(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= WHOLE_BYTES:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256(f"{size}\n".encode() + stream.read(END_BYTES))
        stream.seek(-END_BYTES, 2)
        digest.update(stream.read())
    return digest.hexdigest()
