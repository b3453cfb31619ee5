"""Joint training: the loop, and what it needs to begin, to stop cleanly and to go on exactly where it was."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from sky4.config import config_to_dict
from sky4.distributed.ranks import ALONE, Ranks
from sky4.errors import Sky4Failure
from sky4.inputs import TextInput
from sky4.model.transformer import JointTransformer
from sky4.train.batches import BatchSource, LatentBatch, Position, caption_settings_fault
from sky4.train.checkpoints import Checkpoint, checkpoint_path, checkpoints, load_checkpoint, save_checkpoint
from sky4.train.ema import MovingAverage
from sky4.train.logging import TrainingLog
from sky4.train.objective import FlowLoss, flow_loss, pad_text, to_device
from sky4.train.optimizer import Optimizers, SpikeGuard, schedule_factor
from sky4.train.precision import multiplies_bfloat16
from sky4.train.ranks import add_up, share_of
from sky4.train.settings import JointSettings

Encode = Callable[[list[str]], TextInput]  # prompts to hidden states, on the training device
Say = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """When a run stops before its samples are consumed."""

    max_minutes: float | None = None
    decay_minutes: float | None = None  # the last minutes of max_minutes, in which the learning rate falls to zero

    def __post_init__(self) -> None:
        if self.decay_minutes is not None and (self.max_minutes is None or self.decay_minutes > self.max_minutes):
            raise ValueError(f"--decay-minutes {self.decay_minutes:g} needs a --max-minutes at least as long")

    def wall_factor(self, minutes: float) -> float:
        """The learning rate's factor after `minutes` of this run."""
        if self.max_minutes is None or not self.decay_minutes:
            return 1.0
        return min(1.0, max(0.0, (self.max_minutes - minutes) / self.decay_minutes))


@dataclass(frozen=True)
class Outcome:
    step: int
    samples: int
    reason: str  # "done", "time" or "interrupt"
    checkpoint: Path


NO_LIMITS = Limits()


class TrainingState:
    """All that changes while training: weights, moving average, optimizer, counters."""

    def __init__(
        self, settings: JointSettings, model: JointTransformer, counts: dict[str, int], ranks: Ranks = ALONE
    ) -> None:
        self.settings = settings
        self.model = model
        self.ema = MovingAverage(model, settings.optimizer.ema)
        self.optimizers = Optimizers(model, settings.optimizer, ranks)
        self.spikes = SpikeGuard.fresh(settings.optimizer.spike)
        self.position = Position()
        self.taken = 0  # optimizer steps, without the skipped ones
        self._counts = counts

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model holds its moving average inside the `with` block, in eval mode."""
        weights = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
        self.model.load_state_dict(self.ema.shadow)
        self.model.eval()
        try:
            yield
        finally:
            self.model.load_state_dict(weights)
            self.model.train()

    def checkpoint(self) -> Checkpoint:
        state: dict[str, Any] = {
            "position": asdict(self.position),
            "taken": self.taken,
            "norms": list(self.spikes.norms),
            "seed": self.settings.seed,
            "data": self._counts,
            "transformer": config_to_dict(self.model.config),
            "settings": config_to_dict(self.settings),
        }
        return Checkpoint(dict(self.model.state_dict()), self.ema.shadow, self.optimizers.state(), state)

    def restore(self, checkpoint: Checkpoint, say: Say) -> None:
        """Go on from a checkpoint. Raises Sky4Failure where it is of another model."""
        state = checkpoint.state
        if state["transformer"] != config_to_dict(self.model.config):
            raise Sky4Failure("the checkpoint is of a transformer of another shape; resume with the config it had")
        if state["data"] != self._counts or state["seed"] != self.settings.seed:
            say(
                f"note: not an exact resume: data or seed differ from the checkpoint's "
                f"({state['data']}, seed {state['seed']}; now {self._counts}, seed {self.settings.seed})"
            )
        self.model.load_state_dict(checkpoint.model)
        self.ema.load(checkpoint.ema)
        self.optimizers.load(checkpoint.optimizer)
        self.spikes = SpikeGuard.fresh(self.settings.optimizer.spike, tuple(state["norms"]))
        self.position = Position(**state["position"])
        self.taken = state["taken"]


def train(
    settings: JointSettings,
    model: JointTransformer,
    source: BatchSource,
    encode: Encode,
    black: Tensor,
    limits: Limits = NO_LIMITS,
    *,
    ranks: Ranks = ALONE,
    resume: bool = False,
    say: Say = print,
    show: Callable[[TrainingState, TrainingLog], None] | None = None,
) -> Outcome:
    """Train `model` in place on its device until the samples are consumed, the time is over or Ctrl-C is pressed.

    source: where batches come from; encode: the frozen text encoder; black [1, C, T, H, W]: the latent of a black clip;
    show: makes sample clips, called every `run.sample_minutes`. A checkpoint is written at the end in every case.
    ranks: the processes that share each batch; the first alone writes, says and shows.
    Raises ValueError for settings that do not fit the data or the folder, Sky4Failure for a cache or a checkpoint that
    cannot be used and for files that cannot be written.
    """
    if fault := caption_settings_fault(settings.captions):
        raise ValueError(fault)
    run, device = settings.run, next(model.parameters()).device
    check_channels(model, source)
    state = TrainingState(settings, model, source.counts, ranks)
    folder = Path(run.folder) / "checkpoints"
    say = say if ranks.first else _quiet
    begin(state, folder, resume, say)
    step = TrainingStep(settings, state, encode, black.to(device), device, ranks)
    log = TrainingLog(Path(run.folder) if ranks.first else None, say)
    show = show if ranks.first else None
    began = saved = shown = time.monotonic()
    reason = "done"
    with interrupts() as interrupted:
        stream = source.ahead(state.position)
        while state.position.sample < settings.schedule.samples:
            minutes = ranks.agree(math.inf if interrupted else (time.monotonic() - began) / 60)
            if math.isinf(minutes):
                reason = "interrupt"
                break
            if limits.max_minutes is not None and minutes >= limits.max_minutes:
                reason = "time"
                break
            batch, following = next(stream)
            factor = schedule_factor(settings.schedule, state.position.sample, limits.wall_factor(minutes))
            loss, norm, taken = step(batch, factor)
            state.position = following
            log.step(batch, loss, norm, taken)
            if log.seconds >= run.log_seconds:
                log.line(following.batch, following.sample, settings.schedule.samples, factor)
            if ranks.first and time.monotonic() - saved >= 60 * run.checkpoint_minutes:
                save_checkpoint(folder, following.batch, state.checkpoint(), run.keep_checkpoints)
                saved = time.monotonic()
            if show is not None and run.sample_minutes > 0 and time.monotonic() - shown >= 60 * run.sample_minutes:
                show(state, log)
                shown = time.monotonic()
        stream.close()
        log.line(state.position.batch, state.position.sample, settings.schedule.samples, 0.0)
        path = checkpoint_path(folder, state.position.batch)
        if ranks.first:
            save_checkpoint(folder, state.position.batch, state.checkpoint(), run.keep_checkpoints)
        if show is not None and run.sample_minutes > 0 and reason != "interrupt":
            show(state, log)
    log.close()
    return Outcome(state.position.batch, state.position.sample, reason, path)


def check_channels(model: JointTransformer, source: BatchSource) -> None:
    """Raises ValueError where the cache's latents are not as wide as the towers expect."""
    for name, there, wanted in (
        ("video", source.channels["video"], model.config.video_channels),
        ("audio", source.channels.get("audio"), model.config.audio_channels),
    ):
        if there is not None and there != wanted:
            raise ValueError(
                f"transformer.{name}_channels is {wanted}, but the cache's {name} latents have {there} channels: "
                "change the setting"
            )


def begin(state: TrainingState, folder: Path, resume: bool, say: Say) -> None:
    """Resume from the newest checkpoint, or make sure that a new run overwrites no older one."""
    present = checkpoints(folder)
    if resume and present:
        state.restore(load_checkpoint(present[-1]), say)
        say(f"resumed {present[-1]} at sample {state.position.sample:,}")
    elif present:
        raise ValueError(f"{folder} already holds checkpoints: go on with --resume, or choose another run.folder")


class TrainingStep:
    """One optimizer step: loss of the batch's parts, backward, clip, step, average."""

    def __init__(
        self,
        settings: JointSettings,
        state: TrainingState,
        encode: Encode,
        black: Tensor,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self._settings, self._state, self._encode, self._black, self._device = settings, state, encode, black, device
        self._ranks = ranks
        self._autocast = computes_in_bfloat16(settings.run.autocast, device)
        self._run = compiled(state.model) if settings.run.compile else state.model

    def __call__(self, batch: LatentBatch, factor: float) -> tuple[FlowLoss, float, bool]:
        """(the batch's loss, gradient norm before clipping, whether the step was taken)."""
        state, optimizer = self._state, self._settings.optimizer
        total, seen, heard = (torch.zeros(size, device=self._device) for size in (1, *2 * [len(batch.numbers)]))
        for rows in share_of(self._ranks, self._parts(len(batch.numbers))):
            share = (rows.stop - rows.start) / len(batch.numbers)
            loss = self._part(batch.part(rows), share)
            total += loss.total.detach() * share
            for whole, part in ((seen, loss.video), (heard, loss.audio)):
                if part is not None:
                    whole[rows] = part
        weights = [weight for weight in state.model.parameters() if weight.grad is not None]
        add_up(self._ranks, [total, seen, heard, *(weight.grad for weight in weights if weight.grad is not None)])
        norm = float(torch.nn.utils.clip_grad_norm_(weights, optimizer.clip))
        taken = state.spikes.accepts(norm)
        if taken:
            state.optimizers.step(factor)
            state.ema.update(state.taken)
            state.taken += 1
        state.optimizers.zero_grad()
        task = batch.task
        losses = FlowLoss(total[0], seen if task.trains_video else None, heard if task.trains_audio else None)
        return losses, norm, taken

    def _part(self, batch: LatentBatch, share: float) -> FlowLoss:
        batch = to_device(batch, self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            with torch.no_grad():
                text = self._encode(list(batch.prompts))
                if self._settings.run.compile:
                    text = pad_text(text)
            loss = flow_loss(
                self._run,
                self._state.model.config,
                batch,
                text,
                self._black,
                video_weight=self._settings.optimizer.video_weight,
                audio_weight=self._settings.optimizer.audio_weight,
                unchanged_weight=self._settings.optimizer.unchanged_weight,
            )
        (loss.total * share).backward()
        return loss

    def _parts(self, size: int) -> Sequence[slice]:
        """Which samples each part of a batch of `size` has; a batch smaller than its parts has fewer of them."""
        parts = self._settings.batch.parts
        edges = [round(size * i / parts) for i in range(parts + 1)]
        return [slice(a, b) for a, b in pairwise(edges) if b > a]


def choose_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one. Raises ValueError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"run.device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"run.device is {name!r}, but this torch sees no CUDA device; use auto or cpu")
    return device


def computes_in_bfloat16(wanted: str, device: torch.device) -> bool:
    """Whether to autocast: "auto" does on CUDA and on processors that multiply bfloat16 matrices natively."""
    if wanted != "auto":
        return wanted == "bfloat16"
    return multiplies_bfloat16(device)


def compiled(model: JointTransformer) -> Any:
    """The model through torch.compile; each task and length compiles once."""
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(model)


def _quiet(line: str) -> None:
    pass


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """A list that SIGINT or SIGTERM fills; the step under way still ends. A second Ctrl-C interrupts at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever owns that handles signals
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
