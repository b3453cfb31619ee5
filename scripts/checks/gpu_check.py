"""One command for a machine with a GPU: build, tests, compute-sanitizer, benchmark, and one folder that tells of it.

It changes nothing on the machine: it builds with the Python, torch and CUDA that are there, and wheels that are missing
there (SKY4_WHEELS names a folder of them) go to a folder of their own. Exit codes: 0 all steps passed, 1 some did not,
2 the machine lacks what the check needs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.checks.steps import Report, Step, Verdict, run_steps

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "benchmarks"

# Seconds for everything, which leaves a minute of the ten that a lent machine gives one command.
BUDGET = 530.0

SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")


@dataclass
class Machine:
    """What is here; `missing` in one sentence each."""

    missing: list[str] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)
    sanitizer: str | None = None


def look(python: str, environment: dict[str, str]) -> Machine:
    """Looks for the GPU, torch for CUDA, nvcc, and what builds the extension."""
    machine = Machine()
    gpus = _output(["nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"])
    if not gpus:
        machine.missing.append("no GPU: nvidia-smi is not there or lists none")
    machine.told["gpus"] = gpus.splitlines()
    ask = (
        "import json, torch; c = torch.cuda; print(json.dumps({'torch': torch.__version__, 'cuda': torch.version.cuda,"
    )
    ask += "'device': c.get_device_name() if c.is_available() else None,"
    ask += "'capability': c.get_device_capability() if c.is_available() else None}))"
    answer = _output([python, "-c", ask], environment)
    found = json.loads(answer.splitlines()[-1]) if answer else {}
    machine.told |= {"python": platform.python_version(), **found}
    if not found:
        machine.missing.append(f"no torch: {python} cannot import it; name the Python that can in SKY4_PYTHON")
    elif found["device"] is None:
        machine.missing.append(f"torch {found['torch']} sees no CUDA device")
    for module in ("pybind11", "setuptools", "pytest"):
        if not _output([python, "-c", f"import {module}; print(True)"], environment):
            machine.missing.append(f"no {module}: {python} cannot import it; put its wheel into SKY4_WHEELS")
    cutlass = "import pathlib, cutlass_library as c; print(pathlib.Path(c.__path__[0], 'source/include/cute').is_dir())"
    if found.get("capability") == [9, 0] and _output([python, "-c", cutlass], environment) != "True":
        machine.missing.append("no CUTLASS headers; put the wheel of requirements-cuda.txt into SKY4_WHEELS")
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    machine.told["nvcc"] = (_output([nvcc, "--version"]).splitlines() or [""])[-1]
    if not machine.told["nvcc"]:
        machine.missing.append("no nvcc: it is neither on the path nor in /usr/local/cuda; name it in CUDACXX")
    machine.missing += [f"no {tool} on the path" for tool in ("cmake", "ninja", "c++") if not shutil.which(tool)]
    machine.sanitizer = find_sanitizer(environment)
    return machine


def find_sanitizer(environment: dict[str, str]) -> str | None:
    """compute-sanitizer on the path, of the CUDA toolkit, or of the wheel nvidia-cuda-sanitizer-api."""
    wheels = [f"{part}/nvidia/cu13/bin" for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    places = ["/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", *wheels]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def _output(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What a command printed; "" if it does not run or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=90, check=True, env=environment, cwd=ROOT
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


# The cases in C++ (csrc/tests/cuda_cases.cpp), from the objects that the extension was just built of.
BUILD_CASES = """
set -e
objects=$(ls -td build/temp*/sky4._C | head -1)
cmake -DSKY4_TESTS=ON "$objects"
cmake --build "$objects" --target sky4_cuda_cases
cp "$objects/sky4_cuda_cases" "$1"
"""

# The project's own settings ask for a newer pytest than may be here.
PYTEST_INI = """\
[pytest]
markers = slow: takes more than two seconds
addopts = --import-mode=importlib -v
"""


def steps_of(python: str, machine: Machine, folder: Path, scratch: Path) -> list[Step]:
    """The commands, in order. The sanitizers run side by side; the benchmark has the machine for itself."""
    cases, settings = scratch / "cases", scratch / "pytest.ini"
    settings.write_text(PYTEST_INI, "utf-8")
    pytest = [python, "-m", "pytest", "-c", str(settings), f"--rootdir={ROOT}", "-p", "no:cacheprovider"]
    pytest += ["-k", "not emulated", "tests/gpu"]  # what an emulation can tell needs no GPU
    bench = [python, "-m", "sky4cli", "bench", "kernels", "--json", "--force", "--out", str(folder / "bench.json")]
    sanitizer = machine.sanitizer or "compute-sanitizer"

    def watched(tool: str, number: int) -> Step:
        options = ["--tool", tool, "--error-exitcode", "98", "--port", str(49152 + 64 * number)]
        options += ["--padding", "64"] if tool == "memcheck" else []
        command = [sanitizer, *options, str(cases)]
        return Step(tool, command, "sanitizer.log", limit=120, reserve=15, group="sanitizer")

    return [
        Step("build", [python, "setup.py", "build_ext", "--inplace"], "build.log", limit=300),
        Step("build-cases", ["bash", "-c", BUILD_CASES, "bash", str(cases)], "build.log", limit=90),
        Step("cases", [str(cases)], "tests.log", limit=45),
        Step("tests", pytest, "tests.log", limit=150, reserve=30),
        *(watched(tool, number) for number, tool in enumerate(SANITIZERS)),
        Step("bench", bench, "bench.log", limit=210, reserve=120),
    ]


class Summary(Report):
    """summary.json, written anew after every step, so that it is there whatever happens next."""

    def __init__(self, path: Path, told: dict[str, Any]) -> None:
        super().__init__()
        self.path, self.told = path, told

    def add(self, verdict: Verdict) -> None:
        super().add(verdict)
        print(f"gpu_check: {verdict.name:<12} {verdict.seconds:6.1f} s  {verdict.said}", flush=True)
        self.write()

    def write(self) -> None:
        steps = [
            {
                "name": verdict.name,
                "command": " ".join(verdict.command),
                "exit_code": verdict.exit_code,
                "seconds": verdict.seconds,
                "said": verdict.said,
            }
            for verdict in self.verdicts
        ]
        self.path.write_text(json.dumps({**self.told, "steps": steps}, indent=1) + "\n", "utf-8")


def commit() -> str:
    """Of the checkout; a copy without its history is told by SKY4_COMMIT."""
    return _output(["git", "rev-parse", "HEAD"]) or os.environ.get("SKY4_COMMIT") or "unknown"


def install_wheels(python: str, wheels: Path, target: Path) -> str | None:
    """None, or why the wheels could not be installed."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        return f"SKY4_WHEELS is {str(wheels)!r}, which holds no .whl file"
    pip = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
    done = subprocess.run([*pip, "--target", str(target), *files], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"the wheels of {wheels} cannot be installed: {done.stderr.strip()[-500:]}"


def check(folder: Path, budget: float) -> int:
    python = sys.executable
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        print(f"gpu_check: {folder} is not empty; name another folder", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="sky4-gpu-check-") as made:
        scratch, site = Path(made), Path(made) / "site"
        path = [str(site), str(ROOT / "python_model"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        os.environ["PATH"] = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")])
        if wheels := os.environ.get("SKY4_WHEELS"):
            fault = install_wheels(python, Path(wheels).resolve(), site)
            if fault:
                print(f"gpu_check: {fault}", file=sys.stderr)
                return 2
        os.chdir(ROOT)
        machine = look(python, dict(os.environ))
        if machine.missing:
            print("gpu_check: this machine cannot run it:", file=sys.stderr)
            for sentence in machine.missing:
                print(f"  {sentence}", file=sys.stderr)
            return 2
        major, minor = machine.told["capability"]
        arch = "90a" if (major, minor) == (9, 0) else f"{major}{minor}"
        os.environ.setdefault("SKY4_CUDA_ARCHS", arch)
        told = {
            "format": "sky4-gpu-check",
            "version": 1,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "command": "scripts/gpu_check",
            "archs": os.environ["SKY4_CUDA_ARCHS"],
            **machine.told,
        }
        summary = Summary(folder / "summary.json", told)
        summary.write()
        run_steps(steps_of(python, machine, folder, scratch), folder, budget, summary)
        if (ROOT / "build" / "ptxas.log").exists():
            shutil.copy2(ROOT / "build" / "ptxas.log", folder / "ptxas.log")
    failed = [verdict.name for verdict in summary.verdicts if not verdict.ok]
    print(f"gpu_check: {'failed: ' + ', '.join(failed) if failed else 'all green'}; results in {folder}")
    return 1 if failed else 0


def record(folder: Path) -> int:
    """Keeps a results folder's figures in benchmarks/ and enters them in its table."""
    try:
        summary = json.loads((folder / "summary.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        print(f"gpu_check: {folder} is no results folder: {error}", file=sys.stderr)
        return 2
    device = summary["device"]
    day, short = summary["date"][:10], summary["commit"][:10]
    target = RECORDS / f"{day}-{'-'.join(device.lower().split())}-{short}"
    if target.exists():
        print(f"gpu_check: {target.relative_to(RECORDS.parent)} is there already", file=sys.stderr)
        return 2
    target.mkdir()
    for name in ("summary.json", "bench.json"):
        if (folder / name).exists():
            shutil.copy2(folder / name, target / name)
    failed = [step["name"] for step in summary["steps"] if step["said"] != "ok"]
    outcome = f"failed: {', '.join(failed)}" if failed else "all steps passed"
    row = f"| {day} | {device} | `{short}` | `{summary['command']}` | {outcome} | [{target.name}]({target.name}/) |\n"
    with (RECORDS / "README.md").open("a", encoding="utf-8") as table:
        table.write(row)
    print(f"gpu_check: recorded in {target.relative_to(RECORDS.parent)}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/gpu_check", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the results go (or, with --record, are); new or empty")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help="for all steps together")
    parser.add_argument("--record", action="store_true", help="keep the figures of FOLDER in benchmarks/; runs nothing")
    given = parser.parse_args(arguments)
    folder = given.folder.resolve()
    return record(folder) if given.record else check(folder, given.budget)


if __name__ == "__main__":
    sys.exit(main())
