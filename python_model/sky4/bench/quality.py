"""`sky4 bench quality`: what each speed option gains, and beside it what it costs against the float32 reference run.

S samples, F bins of a spectrum, M mel bands, T windows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sky4.bench import ours
from sky4.bench.e2e import Each, describe, with_backend
from sky4.bench.generation import Generation, generate_once
from sky4.bench.record import NotRun, Row
from sky4.bench.timing import Timing
from sky4.pipeline.components import Components
from sky4.pipeline.request import ClipRequest

REFERENCE = "float32, backend reference"
WINDOW, HOP, BANDS = 2048, 512, 80
FLOOR_DB = -80.0  # below the reference's loudest band: what lies deeper is not heard
MOST_DB = 999.0  # stands for infinite: identical


@dataclass(frozen=True)
class Option:
    """One way to generate."""

    name: str
    components: Components
    request: ClipRequest


def options_for(request: ClipRequest, load: Callable[[str], Components], device: torch.device) -> list[Option]:
    """The reference run first, then each option by itself. `load` gives the components of a dtype, on any backend."""
    wide = load("float32")
    other = {"cpu"} if device.type == "cuda" else {"cuda"}
    backends = [name for name in ours.available_backends() if name not in ("reference", *other)]
    found = [Option(REFERENCE, with_backend(wide, "reference"), request)]
    found += [Option(f"float32, backend {name}", with_backend(wide, name), request) for name in backends]
    narrow = load("bfloat16")
    found += [Option(f"bfloat16, backend {name}", with_backend(narrow, name), request) for name in backends]
    if request.steps > 1:
        half = replace(request, steps=request.steps // 2)
        found.append(Option(f"float32, {half.steps} {half.sampler} steps", with_backend(wide, "torch"), half))
        if request.sampler != "unipc":
            quick = replace(half, sampler="unipc")
            found.append(Option(f"float32, {half.steps} unipc steps", with_backend(wide, "torch"), quick))
    return found


def measure_quality(
    options: list[Option], rounds: int, say: Callable[[str, int, int], None], each: Each
) -> tuple[list[Row], list[NotRun]]:
    """A row for every option, in the order given; the first is what the others are compared with."""
    runs: dict[str, list[Generation]] = {option.name: [] for option in options}
    case = describe(options[0].request, options[0].components)
    total = len(options) * (rounds + 1)
    for number, option in enumerate(options):
        say("warming up", number, total)
        generate_once(option.request, option.components)
    for done in range(rounds):
        for number, option in enumerate(options):
            say("generating", len(options) * (done + 1) + number, total)
            runs[option.name].append(generate_once(option.request, option.components))
    for option in options:
        each(case, option.name, lambda option=option: generate_once(option.request, option.components))  # type: ignore[misc]
    truth = runs[options[0].name]
    rate = options[0].components.folder.sample_rate
    rows = []
    for option in options:
        made = runs[option.name]
        rows.append(
            Row(
                case,
                option.name,
                True,
                Timing.of([run.total for run in made], 1),
                backend=option.components.backend,
                speedup=statistics.median(a.total / b.total for a, b in zip(truth, made, strict=True)),
                latent_psnr=latent_psnr(made[0].video, truth[0].video),
                log_mel_distance=log_mel_distance(made[0].wave, truth[0].wave, rate),
                peak_bytes=max(run.peak_bytes for run in made),
            )
        )
    sparse = NotRun(case, "Video Sparse Attention", "only a refiner reads sparsely, and this model has none")
    return rows, [sparse]


def latent_psnr(found: Tensor, truth: Tensor) -> float:
    """dB of the truth's whole range over the root mean square error; 999 where they are equal."""
    error = float((found.double() - truth.double()).square().mean())
    if error == 0:
        return MOST_DB
    peak = float(truth.max() - truth.min())
    return max(0.0, 10 * math.log10(peak**2 / error))


def log_mel_distance(found: Tensor, truth: Tensor, rate: int) -> float:
    """Root mean square over channels, bands and windows of the difference of two waves' [2, S] log-mel spectra, in dB.

    What lies 80 dB below the truth's loudest band counts as silence on both sides.
    """
    levels = [mel_power(wave, rate) for wave in (found, truth)]
    floor = float(levels[1].max()) * 10 ** (FLOOR_DB / 10)
    a, b = (10 * torch.log10(level.clamp_min(max(floor, 1e-20))) for level in levels)
    return float((a - b).square().mean().sqrt())


def mel_power(wave: Tensor, rate: int) -> Tensor:
    """Power [2, M, T] of a wave [2, S] in mel bands."""
    window = torch.hann_window(WINDOW, dtype=torch.float64)
    spectrum = torch.stft(wave.double(), WINDOW, HOP, window=window, return_complex=True, pad_mode="constant")
    return mel_filters(rate) @ spectrum.abs().square()


def mel_filters(rate: int) -> Tensor:
    """[M, F] triangles, equally wide on the mel scale 2595·log10(1 + f / 700) from 0 to rate / 2."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, BANDS + 2, dtype=torch.float64) / 2595) - 1)  # Hz
    frequencies = torch.linspace(0, rate / 2, WINDOW // 2 + 1, dtype=torch.float64)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0)
