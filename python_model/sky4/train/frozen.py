"""Training of the networks that the towers later see frozen: the two codecs and the text encoder.

A problem says what its module is and what the loss of the samples [first, first + batch) is; every draw is a function
of the seed and the sample's number, so that a run stopped at any step and resumed is the same run.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sky4.train.muon import Muon
from sky4.train.optimizer import is_hidden_matrix


@dataclass(frozen=True)
class FitConfig:
    """How long and how fast: the rate warms up, stays, and falls linearly to zero over the last `decay` share."""

    samples: int
    batch: int
    learning_rate: float
    warmup: int = 2000  # samples
    decay: float = 0.35
    weight_decay: float = 0.01
    muon_rate: float = 0.0  # of convolution kernels and of matrices inside blocks; 0: AdamW for them too
    clip: float = 1.0
    seed: int = 0
    log_seconds: float = 15.0
    save_minutes: float = 3.0

    def __post_init__(self) -> None:
        if self.samples < self.batch or self.batch < 1:
            raise ValueError(f"samples ({self.samples}) must be at least one batch ({self.batch})")

    def factor(self, sample: int) -> float:
        """What the rates are multiplied by at this sample."""
        rising = min(1.0, (sample + self.batch) / max(self.warmup, 1))
        falling = min(1.0, (self.samples - sample) / max(self.decay * self.samples, 1.0))
        return rising * falling


STATE = "state.safetensors"


class Problem(Protocol):
    """What is trained."""

    @property
    def module(self) -> nn.Module: ...

    def loss(self, seed: int, first: int, batch: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of the samples first .. first + batch - 1 of the stream `seed`, and what to log of it."""
        ...


class Optimizers:
    """AdamW, and where the config wants it Muon: for the convolution kernels seen as matrices [out, in * taps], and for
    the matrices inside a transformer's blocks."""

    def __init__(self, module: nn.Module, config: FitConfig):
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        trained = list(named.values())
        kernels = [p for name, p in named.items() if config.muon_rate > 0 and _is_matrix(name, p)]
        others = [p for p in trained if not any(p is kernel for kernel in kernels)]
        self.kernels = kernels
        self.matrices = [nn.Parameter(p.data.flatten(1)) for p in kernels]  # the same memory as the kernels
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, config.learning_rate, (0.9, 0.97), weight_decay=config.weight_decay)
        ]
        self.rates = [config.learning_rate, config.muon_rate]
        if kernels:
            self.parts.append(Muon(self.matrices, config.muon_rate, weight_decay=config.weight_decay))

    def step(self, factor: float) -> None:
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        for part, rate in zip(self.parts, self.rates, strict=False):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()


def _is_matrix(name: str, weight: Tensor) -> bool:
    return (weight.ndim >= 4 and min(weight.shape[:2]) >= 16) or is_hidden_matrix(name, weight)


@torch.no_grad()
def start_from(problem: Problem, folder: Path) -> None:
    """Take the weights of another run of the same shape; its optimizer and counter stay behind.

    Raises ValueError where `folder` holds no run, or one of other weights.
    """
    path = folder / STATE
    if not path.exists():
        raise ValueError(f"init is {folder}, which holds no {STATE}; name the folder of a finished run")
    _take_weights(problem.module, load_file(path), path)


def fit(
    problem: Problem, config: FitConfig, folder: Path, max_minutes: float, log: Callable[[str], None] = print
) -> bool:
    """Train until `config.samples` are consumed or `max_minutes` are over; continue what `folder` holds.

    Returns whether all samples are consumed. Writes checkpoints (`state.safetensors`, `state.json`) and `log.jsonl`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = problem.module.train()
    optimizers = Optimizers(module, config)
    sample = _resume(folder, module, optimizers)
    began = logged = saved = time.monotonic()
    since, running = sample, {}  # type: ignore[var-annotated]
    while sample < config.samples and time.monotonic() - began < 60 * max_minutes:
        loss, shown = problem.loss(config.seed, sample, config.batch)
        module.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), config.clip)
        if torch.isfinite(norm):
            optimizers.step(config.factor(sample))
        sample += config.batch
        for name, value in {**shown, "grad_norm": float(norm)}.items():
            running.setdefault(name, []).append(value)
        now = time.monotonic()
        if now - logged > config.log_seconds or sample >= config.samples:
            means = {name: sum(values) / len(values) for name, values in running.items()}
            speed = (sample - since) / (now - logged)
            row = {
                "sample": sample,
                "samples_per_second": round(speed, 2),
                "lr": config.learning_rate * config.factor(sample),
                **means,
            }
            with (folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            log(f"{sample}/{config.samples} {speed:.1f}/s " + " ".join(f"{k} {v:.4f}" for k, v in means.items()))
            logged, since, running = now, sample, {}
        if now - saved > 60 * config.save_minutes:
            _save(folder, module, optimizers, sample, config)
            saved = now
    _save(folder, module, optimizers, sample, config)
    return sample >= config.samples


def _save(folder: Path, module: nn.Module, optimizers: Optimizers, sample: int, config: FitConfig) -> None:
    state = {f"model.{name}": value.detach().contiguous() for name, value in module.named_parameters()}
    for part, optimizer in enumerate(optimizers.parts):
        for index, moments in optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{part}.{index}.{name}": value.contiguous() for name, value in moments.items()}
    temporary = folder / "state.tmp"
    save_file(state, temporary, metadata={"sample": str(sample)})  # one file, so that weights and counter cannot part
    temporary.replace(folder / STATE)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1))


def _resume(folder: Path, module: nn.Module, optimizers: Optimizers) -> int:
    path = folder / STATE
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        sample = int(file.metadata()["sample"])
    state = load_file(path)
    with torch.no_grad():
        _take_weights(module, state, path)
    for part, optimizer in enumerate(optimizers.parts):
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if name.startswith(f"optimizer.{part}."):
                _, _, index, key = name.split(".", 3)
                moments.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return sample


def _take_weights(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    weights = {name[len("model.") :]: value for name, value in state.items() if name.startswith("model.")}
    own = dict(module.named_parameters())
    if {n: p.shape for n, p in own.items()} != {n: w.shape for n, w in weights.items()}:
        raise ValueError(f"{path} holds a network of another shape; use the config it was trained with")
    for name, parameter in own.items():
        parameter.copy_(weights[name])
