"""`sky4 generate --preset full --dry-run`: a model that has no weights yet, on paper, and on how many GPUs it runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sky4.geometry import ClipGeometry
    from sky4.pipeline.request import ClipRequest
    from sky4.planning.sharding import Sharded
    from sky4.planning.sketch import ModelSketch
    from sky4cli.console import Reporter

GB = 1e9
ASSUMED = (
    "seconds and memory of GPUs are estimates: published peak figures; {linear:.0%} of them assumed for matrix "
    "products, {attention:.0%} for attention, {convolution:.0%} for convolutions; nothing here was measured"
)


def tell_preset(request: ClipRequest, geometry: ClipGeometry, sketch: ModelSketch, reporter: Reporter) -> None:
    """The plan in bfloat16 on GPUs, networks one after the other, and its shares of 1, 8 and 64 of them."""
    import torch

    from sky4.pipeline.economy import Economy
    from sky4.planning import sharding
    from sky4.planning.plan import plan_request
    from sky4.planning.work import Setting
    from sky4cli.dry_run import aligned, table

    plan = plan_request(request, geometry, sketch, Setting("cuda", torch.bfloat16, Economy(release=True)))
    config = sketch.transformer_config
    guided = request.guidance != 1 or request.audio_guidance != 1
    found = [
        sharding.sharded(plan, device, gpus, config.heads, config.width, config.blocks, guided)
        for device in sharding.DEVICES
        for gpus in sharding.COUNTS
    ]
    plan = replace(plan, calibrated="none: there are no weights to measure; memory is what one GPU would need alone")
    assumed = ASSUMED.format(
        linear=sharding.LINEAR_SHARE, attention=sharding.ATTENTION_SHARE, convolution=sharding.CONVOLUTION_SHARE
    )
    rows: list[tuple[str, ...]] = [
        ("GPUs", "shared out as", "fullest in", "weights", "activations", "fits", "seconds of a clip", "clips an hour")
    ]
    rows += [_row(one) for one in found]
    for line in (*table(plan), "", *aligned(rows, right=(3, 4, 6, 7)), "", assumed):
        reporter.result(line)
    reporter.record({"plan": plan.to_dict(), "sharding": [_values(one) for one in found], "assumed": assumed})


def _row(one: Sharded) -> tuple[str, ...]:
    shares = one.shares
    how = [f"sequence over {shares.sequence}"] if shares.sequence > 1 else ["one alone"]
    how += [f"{shares.clips} clips at once"] if shares.clips > 1 else []
    return (
        f"{shares.gpus} x {one.device.name}",
        ", ".join(how),
        one.fullest,
        f"{one.weight_bytes / GB:.1f} GB",
        f"{one.live_bytes / GB:.1f} GB",
        "yes" if one.fits else "no",
        f"{one.seconds:.0f}",
        f"{3600 / one.seconds * shares.clips:.1f}",
    )


def _values(one: Sharded) -> dict[str, Any]:
    return {
        "device": one.device.name,
        "gpus": one.shares.gpus,
        "sequence": one.shares.sequence,
        "clips": one.shares.clips,
        "fullest": one.fullest,
        "weight_bytes": one.weight_bytes,
        "live_bytes": one.live_bytes,
        "fits": one.fits,
        "seconds": one.seconds,
    }
