"""What is counted without values: FLOPs by formula, bytes alive as torch's own profiler reports them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sky4.ops.cubes import on_device, video_tiling
from sky4.ops.joint_attention import joint_attention
from sky4.ops.vsa import video_sparse_attention
from sky4.planning.trace import Cost, traced, without_values

DEVICES = ("cpu", "cuda")  # the latter stands on torch's meta device


def counted(function, *shapes: tuple[int, ...], device: str = "cpu") -> Cost:
    with without_values(device) as place:
        given = [torch.empty(shape, device=place) for shape in shapes]
        return traced(lambda: function(*given), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "function, shapes, kind, flop",
    [
        (functional.linear, [(5, 7, 11), (13, 11)], "linear", 2 * 5 * 7 * 11 * 13),
        (torch.matmul, [(3, 5, 7), (3, 7, 11)], "linear", 2 * 3 * 5 * 7 * 11),
        (functional.conv3d, [(1, 2, 5, 6, 7), (4, 2, 3, 3, 3)], "convolution", 2 * 4 * 3 * 4 * 5 * 2 * 27),
        (functional.conv_transpose1d, [(1, 3, 10), (3, 5, 4)], "convolution", 2 * 3 * 10 * 5 * 4),
        (
            functional.scaled_dot_product_attention,
            [(2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)],
            "attention",
            6 * 5 * 7 * 32,
        ),
    ],
)
def test_flops_are_those_of_the_formula(function, shapes, kind: str, flop: int, device: str) -> None:
    cost = counted(function, *shapes, device=device)
    assert getattr(cost, f"{kind}_flop") == flop == cost.flop


@pytest.mark.parametrize("device", DEVICES)
def test_attention_over_segments_counts_every_query_with_every_key(device: str) -> None:
    def attend(q, text_q, k, text_k):
        return joint_attention([q, text_q], [k, text_k], [k, text_k], [None, None])

    cost = counted(attend, (2, 9, 2, 32), (2, 3, 2, 32), (2, 9, 2, 32), (2, 3, 2, 32), device=device)
    assert cost.attention_flop == 4 * 2 * 2 * 32 * 12 * 12


def test_sparse_attention_counts_the_cubes_that_are_read() -> None:
    pytest.importorskip("sky4._C")
    tiling = video_tiling((8, 8, 8))  # eight cubes of 64 tokens
    on_device(tiling, torch.device("cpu"))

    def attend(q, k, v):
        return video_sparse_attention((q, k, v), None, tiling, 0.25)

    cost = counted(attend, *[(1, 512, 2, 32)] * 3)
    fine = 4 * 2 * 32 * 512 * 128
    assert fine <= cost.attention_flop <= 1.01 * fine


def test_bytes_alive_at_once_are_counted_and_freed_ones_are_not() -> None:
    def chain(x):
        for _ in range(10):
            x = x + 1.0  # the one before is let go of
        return x

    cost = counted(chain, (1000,))
    assert cost.peak_bytes == 2 * 4000 and cost.made_bytes == 4000
    assert cost.operations == 10 and cost.moved_bytes == 10 * 2 * 4000


def test_views_cost_nothing() -> None:
    assert counted(lambda x: x.view(2, -1).transpose(0, 1)[:3], (100,)) == Cost()


def test_large_blocks_are_told_from_those_of_the_heap() -> None:
    cost = counted(lambda x: (x + 1, torch.empty(9 * 2**20) + 1), (1000,))
    assert cost.heap_bytes == 4000 and cost.mapped_bytes == 2 * 36 * 2**20


def test_calls_add_up_and_do_not_pile_up() -> None:
    once = Cost(linear_flop=3, operations=2, peak_bytes=10, made_bytes=4)
    assert once.times(5) == Cost(linear_flop=15, operations=10, peak_bytes=10, made_bytes=4)
    assert once.then(Cost(peak_bytes=8)).peak_bytes == 12


def profiled_peak(function) -> int:
    """Of what the call allocates, by the reports of torch's allocator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = function()
    del result
    alive = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak


def test_the_peak_of_a_joint_model_is_the_allocators(nano_model) -> None:
    from sky4.config import nano
    from sky4.inputs import TextInput, TowerInput
    from sky4.model.transformer import JointTransformer
    from sky4.planning.sketch import placed

    config = nano()

    def evaluation(model, device: str):
        def tower(tokens: int, channels: int) -> TowerInput:
            given = (tokens, channels), (tokens, 3)
            x, positions = (torch.zeros(*shape, device=device) for shape in given)
            return TowerInput(x[None], positions, torch.zeros(1, device=device))

        video, audio = tower(1200, config.video_in_channels), tower(40, config.audio_channels)
        text = TextInput(torch.zeros(1, 30, config.text_channels, device=device), None)
        return lambda: model(video, audio, text)

    with torch.inference_mode():
        model = JointTransformer(config)
        call = evaluation(model, "cpu")
        call()
        real = profiled_peak(call)
    with torch.device("meta"):
        empty = JointTransformer(config)
    with without_values("cpu") as device:
        cost = traced(evaluation(placed(empty, device, torch.float32), device), "cpu")
    assert cost.peak_bytes == pytest.approx(real, rel=0.1)
