"""Which weights Muon takes, the learning rate's schedule, the spike guard, the moving average."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from sky4.train.ema import MovingAverage
from sky4.train.muon import Muon, orthogonalised
from sky4.train.optimizer import Optimizers, SpikeGuard, is_hidden_matrix, schedule_factor
from sky4.train.settings import JointSettings, OptimizerSettings, ScheduleSettings
from tests.train.nano import make_model

Make = Callable[..., JointSettings]


def test_muon_takes_the_matrices_inside_the_blocks_alone(make_settings: Make) -> None:
    model = make_model(make_settings())
    taken = {name for name, weight in model.named_parameters() if is_hidden_matrix(name, weight)}
    assert {"video.blocks.0.attention.qkv.weight", "audio.blocks.1.inward.weight"} <= taken
    assert any(name.startswith("exchanges.") for name in taken)
    for left in ("token_in", "text_in", "time_in", "head", "modulation", "norm_q", "bias"):
        assert not any(left in name for name in taken), left


def test_every_weight_has_one_optimizer(make_settings: Make) -> None:
    model = make_model(make_settings())
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizers = Optimizers(model, OptimizerSettings())
    optimizers.step(1.0)
    assert all(not torch.equal(before[name], weight) for name, weight in model.named_parameters())
    named = {key.rpartition("/")[0] for key in optimizers.state()}
    assert named == set(before)


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    schedule = ScheduleSettings(samples=1000, warmup=100, decay=0.2)
    factors = [schedule_factor(schedule, n) for n in (0, 49, 99, 500, 800, 900, 1000)]
    assert factors == pytest.approx([0.01, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])
    assert schedule_factor(schedule, 500, wall=0.3) == pytest.approx(0.3)
    assert schedule_factor(ScheduleSettings(samples=10, warmup=0, decay=0.0), 9) == 1.0


def test_spikes_are_told_from_lasting_rises() -> None:
    guard = SpikeGuard.fresh(10.0)
    assert all(guard.accepts(1.0) for _ in range(30))
    assert not guard.accepts(11.0)
    assert not guard.accepts(float("nan"))
    assert not guard.accepts(float("inf"))
    assert guard.accepts(9.0)
    for _ in range(120):  # a new level is learnt
        guard.accepts(50.0)
    assert guard.accepts(50.0)


def test_a_young_guard_accepts_whatever_is_finite() -> None:
    assert SpikeGuard.fresh(10.0).accepts(1e9)


def test_the_average_follows_fast_at_first_then_slowly() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = MovingAverage(model, decay=0.5)
    nn.init.ones_(model.weight)
    average.update(0)
    assert float(average.shadow["weight"]) == pytest.approx(0.9)  # 1 - (1 + 0)/(10 + 0)
    average.update(1000)
    assert float(average.shadow["weight"]) == pytest.approx(0.95)  # 0.9 + 0.5*0.1


def test_muon_takes_torch_s_steps_in_the_precision_of_the_device() -> None:
    torch.manual_seed(3)
    shapes = [(24, 40), (40, 24), (24, 40)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(weight.detach().clone()) for weight in ours]
    mine = Muon(ours, 0.02, momentum=0.9, weight_decay=0.1)
    torchs = torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        for weight, other in zip(ours, theirs, strict=True):
            weight.grad = torch.randn(weight.shape)
            other.grad = weight.grad.clone()
        mine.step()
        torchs.step()
    for weight, other in zip(ours, theirs, strict=True):
        assert (weight - other).abs().max() < 0.02 * 0.05  # torch's iterates are rounded to bfloat16


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(4)
    made = orthogonalised(torch.randn(2, 30, 12) @ torch.diag(torch.logspace(0, -2, 12)))
    values = torch.linalg.svdvals(made.double())
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
