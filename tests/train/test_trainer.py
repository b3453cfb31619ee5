"""The loop: a stopped or killed run goes on as if nothing had happened; it learns; it stops cleanly."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sky4.errors import Sky4Failure
from sky4.train.batches import BatchSource, LatentBatch, Position
from sky4.train.checkpoints import PARTS, Checkpoint, checkpoints, load_checkpoint, save_checkpoint
from sky4.train.settings import JointSettings
from sky4.train.trainer import Limits, Outcome, TrainingState, TrainingStep, choose_device, interrupts, train
from tests.train.nano import ALL_TASKS, CHANNELS, encode, make_model

Make = Callable[..., JointSettings]
BLACK = torch.zeros(1, CHANNELS, 4, 4, 4)


def run(settings: JointSettings, resume: bool = False, limits: Limits = Limits(), **more: Any) -> Outcome:  # noqa: B008
    source = BatchSource(settings)
    return train(
        settings, make_model(settings), source, encode, BLACK, limits, resume=resume, say=lambda _: None, **more
    )


def assert_same_checkpoints(one: Path, other: Path) -> None:
    a, b = load_checkpoint(one), load_checkpoint(other)
    for part in PARTS:
        left, right = getattr(a, part), getattr(b, part)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left), part
    for key in ("position", "taken", "norms"):
        assert a.state[key] == b.state[key]


class StopAt:
    """Raises the interrupt's flag once the run stands at a sample number."""

    def __init__(self, sample: int) -> None:
        self.sample = sample

    def __call__(self, state: TrainingState, log: object) -> None:
        if state.position.sample >= self.sample:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_stopped_and_resumed_run_is_bit_exact(make_settings: Make, tmp_path: Path, kind: str) -> None:
    changes = {"optimizer": {"kind": kind}, "run__sample_minutes": 1e-9}
    whole = run(make_settings(**changes, run__folder=str(tmp_path / "whole")))
    parts = make_settings(**changes, run__folder=str(tmp_path / "parts"))
    stopped = run(parts, show=StopAt(15))
    assert stopped.reason == "interrupt"
    assert 15 <= stopped.samples < 40
    resumed = run(parts, resume=True)
    assert (whole.reason, resumed.reason) == ("done", "done")
    assert_same_checkpoints(whole.checkpoint, resumed.checkpoint)


KILLED = """
from pathlib import Path
from sky4.train.batches import BatchSource
from sky4.train.settings import read_settings
from sky4.train.trainer import train
from tests.train.nano import encode, make_model
from tests.train.test_trainer import BLACK
settings = read_settings(Path({config!r}))
train(settings, make_model(settings), BatchSource(settings), encode, BLACK)
"""


@pytest.mark.slow
def test_a_killed_run_resumes_bit_exactly(make_settings: Make, tmp_path: Path) -> None:
    from sky4.config import config_to_dict

    changes = {"schedule": {"samples": 120}, "run__checkpoint_minutes": 0.0}
    whole = run(make_settings(**changes, run__folder=str(tmp_path / "whole")))
    settings = make_settings(**changes, run__folder=str(tmp_path / "killed"))
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(config_to_dict(settings)))
    source = KILLED.format(config=str(config))
    process = subprocess.Popen([sys.executable, "-c", source], cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)
    while len(checkpoints(tmp_path / "killed" / "checkpoints")) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    resumed = run(settings, resume=True)
    assert_same_checkpoints(whole.checkpoint, resumed.checkpoint)


def test_time_s_up_is_a_clean_stop_and_the_rate_falls_by_the_clock(make_settings: Make) -> None:
    settings = make_settings(schedule={"samples": 10_000_000})
    outcome = run(settings, limits=Limits(max_minutes=0.5 / 60))
    assert outcome.reason == "time"
    assert load_checkpoint(outcome.checkpoint).state["position"]["sample"] == outcome.samples > 0
    limits = Limits(max_minutes=10, decay_minutes=4)
    assert [limits.wall_factor(m) for m in (0, 6, 8, 10, 11)] == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_a_decay_needs_an_end() -> None:
    with pytest.raises(ValueError, match="--decay-minutes 5 needs a --max-minutes"):
        Limits(decay_minutes=5.0)


def test_a_new_run_does_not_overwrite_an_old_one(make_settings: Make) -> None:
    settings = make_settings(schedule={"samples": 4})
    run(settings)
    with pytest.raises(ValueError, match="already holds checkpoints: go on with --resume"):
        run(settings)


def test_a_resume_with_another_shape_is_refused(make_settings: Make) -> None:
    from tests.train.nano import TRANSFORMER

    settings = make_settings(schedule={"samples": 4})
    run(settings)
    with pytest.raises(Sky4Failure, match="another shape"):
        run(make_settings(schedule={"samples": 8}, transformer={**TRANSFORMER, "single_blocks": 2}), resume=True)


def test_latents_of_another_width_are_refused(make_settings: Make) -> None:
    from tests.train.nano import TRANSFORMER

    with pytest.raises(ValueError, match="audio_channels is 5, but the cache's audio latents have 6"):
        run(make_settings(transformer={**TRANSFORMER, "audio_channels": 5}))


def stepper(settings: JointSettings) -> tuple[TrainingState, TrainingStep, LatentBatch]:
    source = BatchSource(settings)
    state = TrainingState(settings, make_model(settings), source.counts)
    return state, TrainingStep(settings, state, encode, BLACK, torch.device("cpu")), source.make(Position())


def test_parts_of_a_batch_add_up_to_its_gradient(make_settings: Make) -> None:
    tasks = {"t2av": {"weight": 1.0, "frames": [2], "batch": 4}}
    norms = []
    for parts in (1, 2, 4):
        settings = make_settings(tasks=tasks, batch={"parts": parts}, optimizer={"clip": 1e9})
        _, step, batch = stepper(settings)
        norms.append(step(batch, 1.0)[1])
    torch.testing.assert_close(torch.tensor(norms), torch.tensor(norms[:1] * 3), rtol=1e-4, atol=0.0)


def test_a_step_that_is_not_finite_is_not_taken(make_settings: Make) -> None:
    tasks = {"t2av": {"weight": 1.0, "frames": [2]}}
    state, step, batch = stepper(make_settings(tasks=tasks))
    assert batch.video is not None
    before = {name: weight.clone() for name, weight in state.model.state_dict().items()}
    batch.video[0, 0, 0, 0, 0] = float("nan")
    _, norm, taken = step(batch, 1.0)
    assert norm != norm
    assert not taken
    assert all(torch.equal(before[name], weight) for name, weight in state.model.state_dict().items())
    assert state.taken == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_one_batch_can_be_learnt_by_heart(make_settings: Make, kind: str) -> None:
    tasks = {"t2av": {"weight": 1.0, "frames": [2], "batch": 2}}
    settings = make_settings(
        tasks=tasks,
        optimizer={"kind": kind, "lr": 0.003, "muon_lr": 0.02},
        transformer={
            "video_channels": CHANNELS,
            "audio_channels": 6,
            "text_channels": 8,
        },
    )
    _, step, batch = stepper(settings)
    losses = [float(step(batch, min(1.0, (250 - i) / 100))[0].total.detach()) for i in range(250)]
    assert losses[-1] < 0.2 * losses[0]


def test_bfloat16_autocast_gives_nearly_the_same_loss(make_settings: Make) -> None:
    tasks = {"t2av": {"weight": 1.0, "frames": [2]}}
    losses = []
    for autocast in ("float32", "bfloat16"):
        _, step, batch = stepper(make_settings(tasks=tasks, run__autocast=autocast))
        losses.append(float(step(batch, 1.0)[0].total.detach()))
    assert losses[0] != losses[1]
    assert abs(losses[0] - losses[1]) < 0.03 * losses[0]


def test_the_averaged_model_is_put_back(make_settings: Make) -> None:
    state, step, batch = stepper(make_settings())
    step(batch, 1.0)
    before = {name: weight.clone() for name, weight in state.model.state_dict().items()}
    with state.averaged():
        inside = state.model.state_dict()
        assert all(torch.equal(inside[name], value) for name, value in state.ema.shadow.items())
        assert any(not torch.equal(inside[name], value) for name, value in before.items())
    assert all(torch.equal(before[name], weight) for name, weight in state.model.state_dict().items())


def test_the_log_has_losses_by_modality_and_timestep(make_settings: Make, tmp_path: Path) -> None:
    lines: list[str] = []
    tasks = {kind: ALL_TASKS[kind] for kind in ("t2i", "t2av")}
    settings = make_settings(run__log_seconds=0.0, tasks=tasks)
    train(settings, make_model(settings), BatchSource(settings), encode, BLACK, say=lines.append)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(rows) == len(lines) > 5
    keys = {key for row in rows for key in row}
    assert {"loss/video", "loss/audio", "loss/video/t0", "loss/video/t3", "grad_norm", "samples/t2i"} <= keys
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_the_first_interrupt_only_raises_a_flag() -> None:
    with interrupts() as received:
        signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    tensor = {"w": torch.ones(2)}
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, Checkpoint(tensor, tensor, tensor, {"at": step}), keep=2)
    (tmp_path / "00000009.partial").mkdir()  # a run killed while writing
    assert [path.name for path in checkpoints(tmp_path)] == ["00000002", "00000003"]
    assert load_checkpoint(checkpoints(tmp_path)[-1]).state == {"at": 3}
    (tmp_path / "00000003" / "ema.safetensors").write_bytes(b"torn")
    with pytest.raises(Sky4Failure, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path / "00000003")


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"run.device must be auto, cpu, cuda or cuda:N, got 'abacus'"):
        choose_device("abacus")


def test_a_batch_smaller_than_its_parts_has_a_finite_loss(make_settings: Make) -> None:
    settings = make_settings(
        tasks={"t2av": {**ALL_TASKS["t2av"], "batch": 1}}, batch={"tokens": 400, "largest": 4, "parts": 3}
    )
    batch = BatchSource(settings).make(Position())
    assert len(batch.numbers) == 1
    model = make_model(settings)
    step = TrainingStep(settings, TrainingState(settings, model, {}), encode, BLACK, torch.device("cpu"))
    loss, norm, taken = step(batch, 1.0)
    assert taken
    assert torch.isfinite(loss.total)
    assert norm > 0
