"""Configurations: presets, validation, and reading by path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

import pytest

from sky4.config import PRESETS, TransformerConfig, config_from_dict, config_to_dict, nano, preset


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("nano", (64, 2, 1, 1)), ("tiny", (192, 3, 2, 4)), ("1b", (1536, 12, 8, 16)), ("full", (3072, 24, 20, 40))],
)
def test_presets_have_the_published_sizes(name: str, sizes: tuple[int, ...]) -> None:
    config = preset(name)
    assert (config.width, config.heads, config.dual_blocks, config.single_blocks) == sizes


def test_the_video_tower_reads_noise_condition_and_mask() -> None:
    config = preset("full")
    assert (config.video_in_channels, config.video_out_channels) == ((16 + 16 + 1) * 4, 16 * 4)


def test_an_unknown_preset_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match="nano, tiny, 1b, full"):
        preset("huge")


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_survives_json(name: str) -> None:
    config = preset(name)
    assert config_from_dict(TransformerConfig, json.loads(json.dumps(config_to_dict(config)))) == config


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        nano().width = 128  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "width must be a multiple of heads, got 64 and 3"),
        ({"rope_axes": (8, 12, 10)}, "sum to width / heads = 32"),
        ({"rope_axes": (9, 11, 12)}, "three even numbers"),
        ({"rope_axes": (16, 16)}, "three even numbers"),
        ({"modulation": "some"}, "per_block, shared"),
        ({"audio_clock": "ticks"}, "ratio, seconds"),
        ({"text_cross_attention": "none"}, "all, single"),
        ({"dual_blocks": 0, "single_blocks": 0}, "not both 0"),
        ({"patch": 0}, "patch must be at least 1"),
        ({"rope_theta": 0.0}, "rope_theta must be above 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(nano(), **changes)


@dataclass(frozen=True)
class Inner:
    rate: Fraction = Fraction(16)
    kinds: tuple[str, ...] = ()
    limit: float | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    version: Literal[1] = 1
    inner: Inner = Inner()
    notes: Mapping[str, float] = field(default_factory=dict)


def test_nested_settings_are_read_with_their_types() -> None:
    values = {"name": "a", "inner": {"rate": "30000/1001", "kinds": ["x", "y"], "limit": 2}, "notes": {"n": 1}}
    assert config_from_dict(Outer, values, "outer") == Outer(
        "a", 1, Inner(Fraction(30000, 1001), ("x", "y"), 2.0), {"n": 1.0}
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "missing setting outer.name"),
        ({"name": "a", "inner": {"speed": 1}}, "unknown setting outer.inner.speed; known here: rate, kinds, limit"),
        ({"name": 3}, "outer.name must be of type str, got 3"),
        ({"name": "a", "version": 2}, "outer.version must be one of 1, got 2"),
        ({"name": "a", "inner": 5}, "outer.inner must be a table"),
        ({"name": "a", "inner": {"rate": "fast"}}, "outer.inner.rate must be a number or a fraction"),
        ({"name": "a", "inner": {"kinds": "x"}}, "outer.inner.kinds must be a list"),
        ({"name": "a", "inner": {"kinds": [1]}}, r"outer.inner.kinds\[0\] must be of type str"),
        ({"name": "a", "inner": {"limit": True}}, "outer.inner.limit must be of type float"),
        ({"name": "a", "notes": {"n": "x"}}, "outer.notes.n must be of type float"),
    ],
)
def test_a_fault_is_named_by_its_path(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_dict(Outer, values, "outer")


def test_a_fault_found_by_the_configuration_itself_keeps_its_path() -> None:
    with pytest.raises(ValueError, match="^transformer: width must be a multiple of heads"):
        config_from_dict(TransformerConfig, config_to_dict(nano()) | {"heads": 3})
