"""A plan on several GPUs, on paper: how a clip would be shared out, what each GPU then holds, how long it would take.

The sequence is shared over heads (all-to-all) by the processes of one torchrun, whose GPUs hold the weights in equal
shares and gather them a depth at a time (pipeline/components.py); further GPUs make other clips. Published peak figures
of the devices, and assumed shares of them: estimates, and called so wherever they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass

from sky4.planning.plan import Plan, PlannedStage, shard_bytes
from sky4.planning.stages import SHARED

COUNTS = (1, 8, 64)
NODE = 8  # GPUs that are joined by the fast links
# Shares of a device's peak that are assumed: large matrix products, attention, convolutions.
LINEAR_SHARE, ATTENTION_SHARE, CONVOLUTION_SHARE = 0.6, 0.5, 0.25
# Tensors of all tokens that change hands in a block: queries, keys, values and outputs of the self-attention, and of
# the towers' exchange as much again; the refiner's sparse attention has two gates instead.
EXCHANGED = {"base": 8, "refiner": 6}


@dataclass(frozen=True)
class Device:
    """Published figures: dense bfloat16 FLOP/s, bytes of memory, its bytes/s, and bytes/s to another GPU of the
    node, one way."""

    name: str
    flop_per_second: float
    memory: int
    bytes_per_second: float
    link: float


GB = 10**9
DEVICES = (
    Device("A100 80GB", 312e12, 80 * GB, 2.0e12, 300e9),
    Device("H100 80GB", 989e12, 80 * GB, 3.35e12, 450e9),
    Device("H200 141GB", 989e12, 141 * GB, 4.8e12, 450e9),
    Device("B200 180GB", 2250e12, 180 * GB, 8.0e12, 900e9),
)


@dataclass(frozen=True)
class Shares:
    """sequence: GPUs that share one evaluation; clips: at once, each on its own group of them."""

    sequence: int
    clips: int

    @property
    def gpus(self) -> int:
        return self.sequence * self.clips


@dataclass(frozen=True)
class Sharded:
    """weight_bytes, live_bytes: of one GPU in its fullest stage. seconds: of a clip; clips are made at once."""

    device: Device
    shares: Shares
    fullest: str
    weight_bytes: int
    live_bytes: int
    seconds: float

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.live_bytes

    @property
    def fits(self) -> bool:
        return self.bytes <= 0.95 * self.device.memory  # the driver's and the allocator's own


def shares_of(gpus: int, heads: int) -> Shares:
    """As many GPUs on one clip as its heads can be shared out evenly to and a node has, then several clips."""
    sequence = max(n for n in range(1, min(gpus, NODE) + 1) if gpus % n == 0 and heads % n == 0)
    return Shares(sequence, gpus // sequence)


def sharded(plan: Plan, device: Device, gpus: int, heads: int, width: int, blocks: int, guided: bool) -> Sharded:
    """The plan on so many GPUs of a kind; heads, width and blocks of the transformer."""
    shares = shares_of(gpus, heads)
    held = {planned.stage.name: _memory(plan, planned, shares) for planned in plan.stages}
    fullest = max(held, key=lambda name: sum(held[name]))
    seconds = sum(_seconds(plan, planned, device, shares, width, blocks, guided) for planned in plan.stages)
    return Sharded(device, shares, fullest, *held[fullest], seconds)


def _memory(plan: Plan, planned: PlannedStage, shares: Shares) -> tuple[int, int]:
    """What one GPU holds in a stage: its share of the weights and the depths at work, its share of the activations."""
    stage = planned.stage
    if stage.name not in SHARED or shares.sequence == 1:
        return sum(plan.parts[name].bytes for name in stage.parts), planned.live_bytes
    weights = sum(shard_bytes(plan.parts[name], shares.sequence) for name in stage.parts)
    return weights, stage.held_bytes + stage.call.shared(shares.sequence).peak_bytes


def _seconds(
    plan: Plan, planned: PlannedStage, device: Device, shares: Shares, width: int, blocks: int, guided: bool
) -> float:
    """Compute at the assumed shares of the peak, no faster than memory allows, and what goes between the GPUs."""
    stage, cost = planned.stage, planned.stage.cost
    compute = (
        cost.linear_flop / LINEAR_SHARE
        + cost.attention_flop / ATTENTION_SHARE
        + cost.convolution_flop / CONVOLUTION_SHARE
    ) / device.flop_per_second
    alone = max(compute, cost.moved_bytes / device.bytes_per_second)
    if stage.name == "mux":
        return 0.0  # on the host, beside the decoding
    n = shares.sequence
    if stage.name not in SHARED or n == 1:
        return alone
    tokens = sum(count for name, count in stage.tokens.items())
    evaluations = stage.calls * (2 if stage.name == "base" and guided else 1)
    # bfloat16 of every block changes hands, all but a GPU's own share of its share
    exchanged = evaluations * blocks * EXCHANGED[stage.name] * 2 * tokens * width * (n - 1) / n**2
    gathered = stage.calls * sum(plan.parts[name].bytes for name in stage.parts) * (1 - 1 / n)
    # weights are gathered while the depth before computes: they count where they take longer
    return max(alone / n + exchanged / device.link, gathered / device.link)
