"""What a run tells: a line every few seconds, the same numbers as JSON lines and for TensorBoard.

Losses are means over samples since the last line, per modality and per quarter of the timestep (bin 0 next to noise).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sky4.train.batches import LatentBatch
from sky4.train.objective import FlowLoss

BINS = 4


class TrainingLog:
    """Gathers the steps' numbers; `line` prints and stores them, in `folder` where there is one."""

    def __init__(self, folder: Path | None, say: Callable[[str], None]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second to import: only where a run logs

        self._board: SummaryWriter | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._board = SummaryWriter(str(folder / "tensorboard"))
            self._file = (folder / "log.jsonl").open("a", encoding="utf-8")
        self.say = say
        self._forget()

    def _forget(self) -> None:
        self._since = time.monotonic()
        self._samples = self._skipped = self._steps = 0
        self._norms: list[float] = []
        self._tasks: Counter[str] = Counter()
        self._losses = {name: (torch.zeros(BINS), torch.zeros(BINS)) for name in ("video", "audio")}

    def step(self, batch: LatentBatch, loss: FlowLoss, norm: float, taken: bool) -> None:
        """Note one optimizer step."""
        self._steps += 1
        self._samples += len(batch.numbers)
        self._skipped += not taken
        self._norms.append(norm)
        self._tasks[batch.task.kind] += len(batch.numbers)
        for name, values, t in (
            ("video", loss.video, batch.video_time),
            ("audio", loss.audio, batch.audio_time),
        ):
            if values is not None:
                self._note(name, values.cpu(), t.cpu())

    def _note(self, name: str, losses: Tensor, t: Tensor) -> None:
        bins = (t * BINS).long().clamp(0, BINS - 1)
        sums, counts = self._losses[name]
        sums.index_add_(0, bins, losses.float())
        counts.index_add_(0, bins, torch.ones_like(losses, dtype=torch.float32))

    @property
    def seconds(self) -> float:
        """Since the last line."""
        return time.monotonic() - self._since

    def line(self, step: int, samples: int, total: int, factor: float) -> None:
        """Print and store what was gathered, then begin anew."""
        if not self._steps:
            return
        values: dict[str, float] = {
            "samples_per_second": self._samples / max(self.seconds, 1e-9),
            "lr_factor": factor,
            "grad_norm": sum(self._norms) / len(self._norms),
            "skipped_steps": self._skipped,
        }
        words = [f"{samples:>9,}/{total:,}", f"{values['samples_per_second']:6.1f}/s"]
        for name, (sums, counts) in self._losses.items():
            if counts.sum() > 0:
                values[f"loss/{name}"] = float(sums.sum() / counts.sum())
                means = [float(s / c) if c else float("nan") for s, c in zip(sums, counts, strict=True)]
                values |= {f"loss/{name}/t{i}": mean for i, mean in enumerate(means) if mean == mean}
                words.append(f"{name} {values[f'loss/{name}']:.4f} [{' '.join(f'{mean:.3f}' for mean in means)}]")
        words.append(f"lr x{factor:.3f}  norm {values['grad_norm']:.2f}")
        if self._skipped:
            words.append(f"{self._skipped} of {self._steps} steps skipped")
        values |= {f"samples/{kind}": count for kind, count in self._tasks.items()}
        self.say("  ".join(words))
        self._store(step, samples, values)
        self._forget()

    def _store(self, step: int, samples: int, values: dict[str, float]) -> None:
        if self._board is None:
            return
        self._file.write(json.dumps({"step": step, "samples": samples, "time": time.time()} | values) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, samples)

    def picture(self, name: str, pixels: Tensor, samples: int) -> None:
        """A picture uint8 [3, H, W] for TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, pixels, samples)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._file.close()
