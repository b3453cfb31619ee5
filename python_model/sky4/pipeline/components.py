"""The networks of a model folder: each loaded when first needed, strictly, and let go of by name."""

from __future__ import annotations

import ctypes
import gc
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch.distributed.device_mesh import DeviceMesh

from sky4.distributed.ranks import ALONE, Ranks
from sky4.distributed.sequence import Sharing
from sky4.encoders import load_audio_codec, load_text_encoder, load_video_codec
from sky4.encoders.protocols import AudioCodec, TextEncoder
from sky4.encoders.tiling import SmallerTiles
from sky4.errors import RequestError, Sky4Failure
from sky4.model import eight_bit
from sky4.model.checkpoint import load_refiner, load_transformer
from sky4.model.sharding import shard_refiner, shard_transformer, share_sequences
from sky4.model.streaming import stream_refiner, stream_transformer
from sky4.model.transformer import Branch, JointTransformer
from sky4.ops.backend import select, unavailable
from sky4.pipeline.devices import choose_device, choose_precision, use_threads
from sky4.pipeline.digest import weights_digest
from sky4.pipeline.economy import NO_ECONOMY, Economy
from sky4.pipeline.model_folder import ModelFolder

NETWORKS = ("text_encoder", "video_codec", "audio_codec", "transformer", "refiner")


@dataclass
class Components:
    """A model on a device. The transformer, the codecs and the text encoder load when they are first asked for.

    ranks: the processes that share the transformer's and the refiner's work; the other networks run alike on each.
    """

    folder: ModelFolder
    device: torch.device
    dtype: torch.dtype
    backend: str
    threads: int
    economy: Economy = NO_ECONOMY
    ranks: Ranks = ALONE

    @classmethod
    def load(
        cls,
        path: Path,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "auto",
        threads: int | None = None,
        economy: Economy | None = None,
        ranks: Ranks = ALONE,
    ) -> Components:
        """Read the folder and settle where to compute. RequestError for what is not there.

        threads: of the CPU; None takes one per physical core. Sums are cut into so many parts, hence it is recorded.
        """
        if fault := unavailable(backend):
            raise RequestError(f"--attention-backend {backend} is not available: {fault}")
        folder = ModelFolder.read(path)
        place = choose_device(device)
        if ranks.world > 1:
            _check_shared(folder, device, ranks.world)
        precision, weights = choose_precision(dtype, place)
        saving = economy or NO_ECONOMY
        if weights:
            saving = replace(saving, weights=weights)
        if saving.weights:
            eight_bit.require_torchao(saving.weights)
        if backend != "auto":
            try:
                head = torch.empty(0, folder.manifest.transformer.head_dim, dtype=precision, device=place)
                select("joint_attention", head, backend)
            except ValueError as error:
                raise RequestError(f"--attention-backend {backend} does not fit: {error}") from None
        return cls(folder, place, precision, backend, use_threads(threads), saving, ranks)

    def only(self, *names: str) -> None:
        """What comes needs no network but these: the economy may let go of the others, until they are asked for again.

        names: of NETWORKS.
        """
        if not self.economy.release:
            return
        left = [self.__dict__.pop(name, None) for name in NETWORKS if name not in names]
        if any(network is not None for network in left):
            del left
            give_back(self.device)

    @cached_property
    def mesh(self) -> DeviceMesh | None:
        """The processes that share the work; None of one alone."""
        return None if self.ranks.world == 1 else self.ranks.mesh(self.device)

    @property
    def _sharing(self) -> Sharing:
        return Sharing() if self.mesh is None else Sharing.over(self.mesh)

    @cached_property
    def transformer(self) -> JointTransformer:
        """Sky4Failure listing the names of weights that are missing, unknown or of another shape."""
        manifest, place = self.folder.manifest, self.folder.path / "transformer"
        if self.economy.stream:
            model = stream_transformer(place, self.device, self.dtype)
        elif kind := self.economy.weights:
            model = eight_bit.load_transformer(place, self.device, self.dtype, manifest.transformer, kind)
        elif self.economy.shard and self.mesh is not None:
            model = shard_transformer(place, self.device, self.mesh, self.dtype)
        else:
            model = load_transformer(place, self.device, self.dtype, manifest.transformer)
        return share_sequences(model, self._sharing).requires_grad_(False)

    @cached_property
    def refiner(self) -> Branch:
        """RequestError where the model has none; Sky4Failure as of `transformer`."""
        entry = self.folder.refiner()
        place = self.folder.path / entry.path
        if self.economy.stream:
            model = stream_refiner(place, self.device, self.dtype)
        elif kind := self.economy.weights:
            model = eight_bit.load_refiner(place, self.device, self.dtype, entry.transformer, kind)
        elif self.economy.shard and self.mesh is not None:
            model = shard_refiner(place, self.device, self.mesh, self.dtype)
        else:
            model = load_refiner(place, self.device, self.dtype, entry.transformer)
        self._check_channels("refiner", model.config.video_channels, self.folder.manifest.transformer.video_channels)
        return share_sequences(model, self._sharing).requires_grad_(False)

    @cached_property
    def video_codec(self) -> SmallerTiles:
        """Where decoding runs out of memory, it goes on in smaller pieces by itself."""
        place = self.folder.locate(self.folder.manifest.video_codec)
        codec = load_video_codec(place, str(self.device), self.dtype, self.economy.chunk)
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


def _check_shared(folder: ModelFolder, device: str, processes: int) -> None:
    """RequestError for what so many processes cannot share."""
    if ":" in device:
        raise RequestError(f"--device {device} names one device for {processes} processes; leave it out, or use cuda")
    entry, heads = folder.manifest.refiner, folder.manifest.transformer.heads
    heads = heads if entry is None else min(heads, entry.transformer.heads)
    if processes > heads:
        raise RequestError(
            f"{processes} processes cannot share the {heads} attention heads of --model {folder.path}; start at most "
            f"{heads} (torchrun --nproc-per-node {heads})"
        )


def give_back(device: torch.device) -> None:
    """Memory that is free but held for later goes back to the device, or to the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; others give back by themselves
    if trim is not None:
        trim(0)
