"""What a model folder says of itself: its parts, its sizes and its defaults, read without torch and without weights."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from sky4.config import TransformerConfig, config_from_dict
from sky4.errors import RequestError
from sky4.geometry import ClipGeometry

BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "tiny"
REFINER_SUFFIX, REFINER_ENTRY = "_refiner", "refiner.json"


@dataclass(frozen=True)
class Defaults:
    """What a request leaves open, as the model was trained."""

    width: int
    height: int
    frames: int
    steps: int
    fps: Fraction = Fraction(16)
    guidance: float = 4.0
    audio_guidance: float = 4.0
    shift: float = 1.0
    sampler: Literal["euler", "heun", "unipc"] = "euler"


@dataclass(frozen=True)
class TextEncoderEntry:
    """Where the text encoder lies, which hidden layer is read and how many tokens of a prompt."""

    path: str
    layer: int = -1
    max_tokens: int = 256
    sees_references: bool = False  # whether it was shown them while the transformer was trained


@dataclass(frozen=True)
class RefinerEntry:
    """Where the refiner lies, its transformer, and how it is used: sampling steps, the share of the cubes that each
    cube reads, and the most latent cells (frames, rows, columns) at once, with those that two such tiles share.

    start: what it starts from: the interpolated latents, or the clip's pixels enlarged and encoded. residual: the
    deviation of what that lacks (conditioning/refiner.py). held: whether made clips keep what they show at their own
    size (pipeline/grounding.py), as given ones always do: for a refiner that knows less of it.
    """

    path: str
    transformer: TransformerConfig
    steps: int = 4
    density: float = 1 / 3
    tile: tuple[int, int, int] = (17, 16, 16)
    overlap: tuple[int, int, int] = (4, 4, 4)
    start: Literal["latents", "pixels"] = "latents"
    residual: float = 0.7
    held: bool = False

    @property
    def enlarges(self) -> bool:
        """Whether it starts from pixels."""
        return self.start == "pixels"


@dataclass(frozen=True)
class Manifest:
    """model.json, as it stands in the file."""

    format: Literal["sky4-model"]
    version: Literal[1]
    name: str
    transformer: TransformerConfig
    video_codec: str
    audio_codec: str
    text_encoder: TextEncoderEntry
    defaults: Defaults
    notes: Mapping[str, Any] = field(default_factory=dict)
    trained_references: int = 4  # so many of one clip; more are served, with a note
    refiner: RefinerEntry | None = None  # a model without one makes clips of its own size


@dataclass(frozen=True)
class ModelFolder:
    """A model folder: its manifest and the sizes of its codecs."""

    path: Path
    manifest: Manifest
    spatial_compression: int
    temporal_compression: int
    sample_rate: int
    hop: int

    @classmethod
    def read(cls, path: Path) -> ModelFolder:
        """Read model.json and the codecs' config.json. RequestError where this is no model folder."""
        manifest = _manifest(path)
        beside = refiner_beside(path)
        if manifest.refiner is None and beside is not None:
            manifest = replace(manifest, refiner=_entry_beside(beside))
        video = _part_config(path, manifest.video_codec, "a video codec")
        audio = _part_config(path, manifest.audio_codec, "an audio codec")
        _part_config(path, manifest.text_encoder.path, "a text encoder")
        try:
            spatial, temporal = _video_compression(video)
            rate, hop = _audio_clock(audio)
        except (KeyError, TypeError, ValueError) as error:
            raise RequestError(f"--model {path}: a codec's config.json cannot be read ({error!r})") from error
        return cls(path, manifest, spatial, temporal, rate, hop)

    @property
    def defaults(self) -> Defaults:
        return self.manifest.defaults

    def locate(self, part: str) -> str:
        """A part's folder; a name that is no folder of the model is left as it is, for the hub."""
        inside = self.path / part
        return str(inside) if inside.is_dir() else part

    @property
    def cell(self) -> int:
        """Width and height are multiples of so many pixels."""
        return self.spatial_compression * self.manifest.transformer.patch

    def size_like(self, width: int, height: int) -> tuple[int, int]:
        """The size (width, height) of about the model's own area and about these proportions, in whole cells.

        Of the four sizes around the exact one: proportions count twice as much as the area, as they cost picture.
        """
        area = self.defaults.width * self.defaults.height / self.cell**2
        sides = math.sqrt(area * width / height), math.sqrt(area * height / width)
        columns, rows = ({max(1, math.floor(side)), max(1, math.ceil(side))} for side in sides)

        def off(size: tuple[int, int]) -> float:
            proportions = math.log(size[0] / size[1] * height / width)
            return 2 * abs(proportions) + abs(math.log(size[0] * size[1] / area))

        best = min(sorted(itertools.product(columns, rows)), key=off)
        return best[0] * self.cell, best[1] * self.cell

    def refiner(self, flag: str = "--refine") -> RefinerEntry:
        """RequestError where the model has none."""
        if self.manifest.refiner is None:
            raise RequestError(
                f"{flag}: --model {self.path} holds no refiner; train one with `sky4 train refiner`, or name another"
            )
        return self.manifest.refiner

    def geometry(self, width: int, height: int, frames: int, fps: Fraction, flag: str = "--size") -> ClipGeometry:
        """The sizes of what the model makes for such a clip: frames rounded up to what the codec can make.

        RequestError for a width or height that it cannot make, with the nearest that it can; flag: what asked for it.
        """
        step = self.temporal_compression
        try:
            return ClipGeometry(
                width=width,
                height=height,
                frames=-(-(frames - 1) // step) * step + 1,
                fps=fps,
                sample_rate=self.sample_rate,
                hop=self.hop,
                spatial_compression=self.spatial_compression,
                temporal_compression=step,
                patch=self.manifest.transformer.patch,
            )
        except ValueError as error:
            raise RequestError(f"{flag} {width}x{height}: {error}") from error


def _manifest(path: Path) -> Manifest:
    file = path / "model.json"
    if not path.is_dir():
        raise RequestError(f"--model {path} is no folder; give a folder that holds a model.json")
    try:
        values = json.loads(file.read_text("utf-8"))
        return config_from_dict(Manifest, values, "model.json")
    except OSError as error:
        raise RequestError(f"--model {path} is not a model: it holds no readable model.json") from error
    except ValueError as error:  # of json, of UTF-8 and of our own reading
        raise RequestError(f"--model {path} is not a model that this sky4 reads: {error}") from error


def refiner_beside(path: Path) -> Path | None:
    """The folder of a refiner that lies beside the model folder `path` and belongs to it: NAME_refiner beside NAME.

    It needs the model's codec and text encoder, and not its towers, which may be trained anew without it. Its
    refiner.json is the entry that model.json would have.
    """
    whole = path.resolve()
    folder = whole.with_name(f"{whole.name}{REFINER_SUFFIX}")
    return folder if (folder / REFINER_ENTRY).is_file() else None


def _entry_beside(folder: Path) -> RefinerEntry:
    file = folder / REFINER_ENTRY
    try:
        values = json.loads(file.read_text("utf-8")) | {"path": str(folder)}
        return config_from_dict(RefinerEntry, values, REFINER_ENTRY)
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"{file} is no refiner that this sky4 reads: {error}") from error


def _part_config(model: Path, part: str, what: str) -> dict[str, Any]:
    """config.json of a part: a folder inside the model, or a name on the hub."""
    folder = model / part
    try:
        if not folder.is_dir():
            from sky4.encoders.folder import find_folder

            folder = find_folder(part, what)
        values = json.loads((folder / "config.json").read_text("utf-8"))
    except RequestError as error:
        raise RequestError(f"--model {model} is not a whole model: {error}") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"--model {model} is not a whole model: {part}/config.json cannot be read") from error
    if not isinstance(values, dict):
        raise RequestError(f"--model {model} is not a whole model: {part}/config.json holds no table of settings")
    return values


def _video_compression(config: Mapping[str, Any]) -> tuple[int, int]:
    """(spatial, temporal) of a video autoencoder, from the library's own configuration."""
    if "spatial_compression_ratio" in config:  # AutoencoderKLHunyuanVideo
        return int(config["spatial_compression_ratio"]), int(config["temporal_compression_ratio"])
    # AutoencoderKLWan halves height and width after every level but the last, on top of its patch
    levels = len(config.get("dim_mult", (1, 2, 4, 4))) - 1
    temporal = sum(bool(halves) for halves in config.get("temperal_downsample", (False, True, True)))
    return 2**levels * int(config.get("patch_size") or 1), 2**temporal


def _audio_clock(config: Mapping[str, Any]) -> tuple[int, int]:
    """(sample rate, hop) of an audio autoencoder."""
    if "downsampling_ratios" in config:  # AutoencoderOobleck
        return int(config["sampling_rate"]), math.prod(config["downsampling_ratios"])
    return int(config["sample_rate"]), 2 * int(config["hop_length"])  # MMAudioVAE halves its spectrogram once in time
