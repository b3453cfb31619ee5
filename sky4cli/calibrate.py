"""`sky4 bench calibrate`: what `--dry-run` and `--memory` go by, measured once on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sky4.errors import RequestError, Sky4Failure
from sky4cli.options import Backend, Device, Dtype, Json, Model, Quiet

if TYPE_CHECKING:
    from sky4.pipeline.request import ClipRequest

RUN_SECONDS = 3600


def calibrate(
    model: Model = None,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", help="Runs of each size, in turns.")] = 2,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention_backend: Backend = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", help="CPU threads; one per core by default.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure seconds and memory of every stage on six sizes, for the plans of --dry-run and --memory."""
    if not 1 <= rounds <= 100:
        raise RequestError(f"--rounds {rounds} is outside 1 to 100; 2 is usual")
    from sky4.model.eight_bit import KINDS as EIGHT_BIT
    from sky4.pipeline.components import Components
    from sky4.pipeline.model_folder import BUNDLED, ModelFolder
    from sky4.planning import calibration, measuring
    from sky4.planning.sketch import ModelSketch
    from sky4.planning.work import Setting
    from sky4cli.bench import PROMPT, request_of_model
    from sky4cli.console import Reporter

    folder = ModelFolder.read(model or BUNDLED)
    if dtype in EIGHT_BIT:
        raise RequestError(f"--dtype {dtype}: plans of it go by what its wider dtype was measured with; drop it")
    sketch = ModelSketch.read(folder)
    settled = Components.load(folder.path, device, dtype, attention_backend, threads)
    engine = {
        "model": str(folder.path),
        "device": str(settled.device),
        "dtype": str(settled.dtype).removeprefix("torch."),
        "backend": attention_backend,
        "threads": settled.threads,
    }
    with Reporter(quiet=quiet, as_json=as_json) as reporter:
        made = measuring.calibrate(
            measuring.requests_for(request_of_model(folder, PROMPT), sketch),
            lambda request: folder.geometry(request.width, request.height, request.frames, request.fps),
            sketch,
            Setting(settled.device.type, settled.dtype),
            measuring.facts_of(settled.device, settled.dtype, settled.threads),
            lambda request: run_probe(request, engine),
            rounds,
            reporter.stage,
        )
        path = calibration.save(made)
        reporter.result(f"{path}  {made.facts.device}, {made.facts.dtype}, {len(made.sizes)} sizes, {rounds} rounds")
        reporter.result(f"runs of one size differ by up to {made.spread:.2f} times; on a quiet machine it is less")
        reporter.record({"path": str(path), "spread": made.spread, "sizes": list(made.sizes)})


def run_probe(request: ClipRequest, engine: dict[str, Any]) -> dict[str, Any]:
    """One run in a process of its own. Sky4Failure where it fails."""
    roots = [path or os.getcwd() for path in sys.path]  # the same code runs there
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sky4cli.probe"],
        input=json.dumps({"request": request.to_dict(), "engine": engine}),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise Sky4Failure(f"a run of {request.width}x{request.height}, {request.frames} frames failed: {reason}")
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told
