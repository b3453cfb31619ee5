"""What a joint training run is told: frozen values, read from YAML, unknown keys refused by their path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import yaml

from sky4.config import TransformerConfig, config_from_dict, config_to_dict, preset


@dataclass(frozen=True)
class CodecSettings:
    """Folders of the frozen networks, in their libraries' own formats."""

    video: str
    audio: str
    text: str
    text_layer: int = -1
    text_max_tokens: int = 160


@dataclass(frozen=True)
class ClipSettings:
    """The whole clips that the cache holds; tasks train on their first latent frames or on all of them."""

    width: int = 64
    height: int = 64
    frames: int = 81
    fps: Fraction = Fraction(16)


@dataclass(frozen=True)
class DataSettings:
    """The cache of latents, and how much of it is used."""

    cache: str
    clips: int = 20_000
    images: int = 40_000
    scene_seed: int = 1
    level: int = 1
    shard: int = 256  # clips (or images) a file
    families: int = 0  # of takes, for the tasks' rows
    family_frames: int = 33
    family_level: int = 3
    family_shard: int = 32
    pairs: int = 0  # of one scene at two sizes and rates, for keyframes
    pair_frames: int = 17
    pair_scale: int = 2
    pair_shard: int = 32
    stories: int = 0  # of two shots, as long as the families' takes
    heads: int = 0  # that talk, as long as the clips


@dataclass(frozen=True)
class BatchSettings:
    """A batch holds one task and one length; its size follows from a budget of tokens."""

    tokens: int = 24_576
    text_tokens: int = 64  # how many text tokens a sample counts for, in each tower
    largest: int = 256
    parts: int = 1  # gradient accumulation: a batch is worked off in so many parts


@dataclass(frozen=True)
class TaskSettings:
    """One entry of the mix."""

    weight: float  # share of samples
    frames: tuple[int, ...] = ()  # latent frames to draw the length from; none: the whole clip
    keep: tuple[int, ...] = (1,)  # latent frames kept by extend and backward, of clips and of takes
    first: float = 0.0  # share of samples that also keep their first frame: drive, reference
    sound: float = 1.0  # share of batches of a row of the tasks' table, or of takes, that have their sound
    batch: int | None = None  # a size of its own in place of the token budget's
    keyframes: tuple[int, ...] = (1, 2)  # numbers of high-resolution frames beside the clip: keyframes
    whole: float = 0.0  # share of batches of keyframes whose clip itself is given, as `sky4 refine` has it

    def __post_init__(self) -> None:
        for name in ("first", "sound", "whole"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"a task's {name} is a share, 0 to 1, got {getattr(self, name):g}")


@dataclass(frozen=True)
class CaptionSettings:
    kinds: dict[str, float] = field(default_factory=lambda: {"short": 0.4, "long": 0.3, "structured": 0.3})
    languages: dict[str, float] = field(default_factory=lambda: {"en": 0.75, "zh": 0.25})
    drop: float = 0.1  # share of samples with an empty prompt, for classifier-free guidance
    drop_references: float = 0.1  # share of reference batches whose references are left out


@dataclass(frozen=True)
class TimeSettings:
    draw: Literal["uniform", "logit_normal"] = "uniform"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    separate: float = 0.1  # share of samples whose two modalities draw their own timesteps


@dataclass(frozen=True)
class OptimizerSettings:
    kind: Literal["muon", "adamw"] = "muon"
    lr: float = 1e-3  # AdamW: everything that Muon does not take
    muon_lr: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    momentum: float = 0.95
    clip: float = 1.0  # gradient norm
    spike: float = 10.0  # a step whose gradient norm is so many times the median is skipped
    ema: float = 0.999
    video_weight: float = 1.0
    audio_weight: float = 1.0
    unchanged_weight: float = 1.0  # of cells in which a guided clip is as what guides it


@dataclass(frozen=True)
class ScheduleSettings:
    samples: int
    warmup: int = 10_000  # samples
    decay: float = 0.2  # the last share of the samples, in which the learning rate falls to zero


@dataclass(frozen=True)
class RunSettings:
    folder: str
    device: str = "auto"
    autocast: Literal["auto", "bfloat16", "float32"] = "auto"
    compile: bool = False
    log_seconds: float = 10.0
    checkpoint_minutes: float = 10.0
    keep_checkpoints: int = 2
    sample_minutes: float = 0.0  # 0: no sample clips while training
    sample_prompts: tuple[str, ...] = ()
    sample_steps: int = 12
    sample_guidance: float = 3.0


@dataclass(frozen=True)
class JointSettings:
    """`sky4 train joint CONFIG`: everything that a run depends on."""

    codecs: CodecSettings
    data: DataSettings
    tasks: dict[str, TaskSettings]
    schedule: ScheduleSettings
    run: RunSettings
    seed: int = 1
    preset: str = "tiny"
    transformer: dict[str, Any] = field(default_factory=dict)  # fields of the preset to replace
    init: str | None = None  # a model folder whose weights this run starts from
    init_video: str | None = None  # a HunyuanVideo transformer in diffusers' format, for the video tower
    clip: ClipSettings = field(default_factory=ClipSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    captions: CaptionSettings = field(default_factory=CaptionSettings)
    time: TimeSettings = field(default_factory=TimeSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def __post_init__(self) -> None:
        if not self.tasks or sum(task.weight for task in self.tasks.values()) <= 0:
            raise ValueError("tasks must name at least one task with a weight above 0")
        if self.init is not None and self.init_video is not None:
            raise ValueError("init and init_video both set the video tower's weights: keep one of them")

    def transformer_config(self) -> TransformerConfig:
        """The preset with this run's replacements."""
        return config_from_dict(TransformerConfig, config_to_dict(preset(self.preset)) | self.transformer)


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as everybody expects; the standard wants 1.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def read_mapping(path: Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A YAML file's mapping; `overrides` replaces values by dotted path ("run.folder").

    Raises ValueError for a file that is missing or no YAML mapping.
    """
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read the training config {path}: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"the training config {path} must be a mapping of settings")
    for dotted, value in (overrides or {}).items():
        *parents, name = dotted.split(".")
        place = data
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f"{dotted!r} cannot be set: {parent!r} is no mapping in {path}")
        place[name] = value
    return data


def read_settings(path: Path, overrides: Mapping[str, Any] | None = None) -> JointSettings:
    """The settings of a joint training in a YAML file.

    Raises ValueError for a file that cannot be read and for unknown, missing or ill-typed keys.
    """
    return config_from_dict(JointSettings, read_mapping(path, overrides), "config")
