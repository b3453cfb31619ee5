"""The transformer's configuration: frozen, validated, strict about unknown keys; presets are functions.

`config_from_dict` and `config_to_dict` serve any frozen dataclass of plain values, so that other rooms keep their
own configuration beside its owner and read it by the same rules.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sky4.geometry import AUDIO_CLOCKS

ConfigT = TypeVar("ConfigT")

MODULATIONS = ("per_block", "shared")
TEXT_CROSS_ATTENTIONS = ("all", "single")


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and choices of both towers (model.md, section 3).

    `rope_axes` are the channels of one head given to (time, y, x); `modulation` is one AdaLN projection per block or
    one per tower with a bias per block; `text_cross_attention` puts the video tower's text cross-attention into all
    blocks or into the single-stream blocks only; `audio_clock` places the audio tokens in time (geometry.py);
    `guide` lays what is known of the clip into I where nothing is kept, in place of black: a film among the references
    as long as the clip, the filled source under a mask, kept frames carried on; latents are then made as a difference
    from it (our choice: what an edit leaves alone is zero, and need not be copied through the tower);
    `data_gate` makes a tower's velocity of its input and its head's output at fixed scales of the timestep, with a gate
    between fresh data and an unchanged part of a difference (model/transformer.py `DataGate`; our choice).
    Raises ValueError where the sizes do not fit one another.
    """

    width: int
    heads: int
    dual_blocks: int
    single_blocks: int
    rope_axes: tuple[int, int, int]
    mlp_ratio: int = 4
    video_channels: int = 16
    audio_channels: int = 64
    text_channels: int = 192
    rope_theta: float = 256.0
    modulation: Literal["per_block", "shared"] = "per_block"
    text_cross_attention: Literal["all", "single"] = "all"
    audio_clock: Literal["ratio", "seconds"] = "ratio"
    patch: int = 2
    guide: bool = False
    data_gate: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "heads", "mlp_ratio", "video_channels", "audio_channels", "text_channels", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.dual_blocks, self.single_blocks) < 0 or self.dual_blocks + self.single_blocks == 0:
            raise ValueError(
                f"dual_blocks and single_blocks must be at least 0 and not both 0, "
                f"got {self.dual_blocks} and {self.single_blocks}"
            )
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {self.width} and {self.heads}")
        object.__setattr__(self, "rope_axes", tuple(self.rope_axes))
        if len(self.rope_axes) != 3 or any(axis < 0 or axis % 2 for axis in self.rope_axes):
            raise ValueError(f"rope_axes must be three even numbers for (time, y, x), got {self.rope_axes}")
        if sum(self.rope_axes) != self.head_dim:
            raise ValueError(
                f"rope_axes must sum to width / heads = {self.head_dim}, got {self.rope_axes} = {sum(self.rope_axes)}"
            )
        if self.rope_theta <= 0:
            raise ValueError(f"rope_theta must be above 0, got {self.rope_theta}")
        for name, choices in (
            ("modulation", MODULATIONS),
            ("text_cross_attention", TEXT_CROSS_ATTENTIONS),
            ("audio_clock", AUDIO_CLOCKS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def blocks(self) -> int:
        return self.dual_blocks + self.single_blocks

    @property
    def video_in_channels(self) -> int:
        """Channels of one input token: a patch of Concat(V, I, M)."""
        return (2 * self.video_channels + 1) * self.patch**2

    @property
    def video_out_channels(self) -> int:
        """Channels of one output token: a patch of the velocity."""
        return self.video_channels * self.patch**2


def nano() -> TransformerConfig:
    """For tests, with random weights."""
    return TransformerConfig(
        width=64, heads=2, dual_blocks=1, single_blocks=1, rope_axes=(8, 12, 12), modulation="shared", text_channels=64
    )


def tiny() -> TransformerConfig:
    """The bundled model, trained on the procedural world; its video codec shrinks 16 times, so no patch is needed."""
    return TransformerConfig(
        width=192,
        heads=3,
        dual_blocks=2,
        single_blocks=4,
        rope_axes=(16, 24, 24),
        video_channels=48,
        audio_channels=32,
        modulation="shared",
        patch=1,
    )


def one_b() -> TransformerConfig:
    """For measurements and fine-tuning on a single GPU."""
    return TransformerConfig(
        width=1536, heads=12, dual_blocks=8, single_blocks=16, rope_axes=(16, 56, 56), text_channels=2048
    )


def full() -> TransformerConfig:
    """The published scale."""
    return TransformerConfig(
        width=3072, heads=24, dual_blocks=20, single_blocks=40, rope_axes=(16, 56, 56), text_channels=4096
    )


PRESETS: Mapping[str, Callable[[], TransformerConfig]] = {"nano": nano, "tiny": tiny, "1b": one_b, "full": full}


def preset(name: str) -> TransformerConfig:
    """A fresh configuration by its preset's name. Raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]()


def config_to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as JSON-ready values: tuples become lists, fractions strings such as "16" or "30000/1001"."""
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def config_from_dict(cls: type[ConfigT], values: Mapping[str, Any], path: str = "transformer") -> ConfigT:
    """Build the dataclass `cls` from plain values read from JSON or YAML.

    Raises ValueError naming the dotted path of an unknown key, of a missing one, or of a value of the wrong type.
    """
    assert dataclasses.is_dataclass(cls)
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} must be a table of settings, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in values:
        if key not in fields:
            raise ValueError(f"unknown setting {path}.{key}; known here: {', '.join(fields)}")
    hints = get_type_hints(cls)
    settings: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            settings[name] = _typed(hints[name], values[name], f"{path}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"missing setting {path}.{name}")
    try:
        return cls(**settings)
    except ValueError as fault:
        raise ValueError(f"{path}: {fault}") from fault


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_to_dict(value)
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _typed(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        faults = []
        for argument in arguments:
            if argument is not type(None):
                try:
                    return _typed(argument, value, path)
                except ValueError as fault:
                    faults.append(str(fault))
        raise ValueError(faults[-1])
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{path} must be one of {', '.join(map(str, arguments))}, got {value!r}")
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else config_from_dict(hint, value, path)
    if origin in (list, tuple):
        return _typed_sequence(origin, arguments, value, path)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{path} must be a table of settings, got {value!r}")
        return {_typed(arguments[0], k, path): _typed(arguments[1], v, f"{path}.{k}") for k, v in value.items()}
    if hint is Fraction:
        try:
            return Fraction(value)
        except (TypeError, ValueError, ZeroDivisionError):
            raise ValueError(f"{path} must be a number or a fraction such as 30000/1001, got {value!r}") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{path} must be of type {hint.__name__}, got {value!r}")
    return value


def _typed_sequence(origin: Any, arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{path} must be a list, got {value!r}")
    if origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis):
        hints = (arguments[0],) * len(value)
    else:
        hints = arguments
    if len(hints) != len(value):
        raise ValueError(f"{path} must hold {len(hints)} values, got {len(value)}")
    return origin(_typed(hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True)))
