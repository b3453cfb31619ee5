"""Compiles every CUDA file of csrc for all architectures and holds the outcome against the compiler gate; needs no GPU.

The compile commands are CMake's own, so that what passes here is what gets built. Objects are kept in build/cuda-gate
and made again only when the source, a header, a flag or the compiler changed, by content.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scripts.checks.compiler_gate import (
    Build,
    Log,
    Sass,
    demangled,
    expectation_of,
    judge,
    read_expectations,
    read_log,
    read_sass,
    unmatched,
)
from scripts.checks.toolchain import ROOT, ToolMissing, build_tool, find_cuobjdump, find_nvcc, installed

OUT = ROOT / "build" / "cuda-gate"


@dataclass(frozen=True)
class Job:
    """A CUDA file, or C++ that needs CUDA's headers. `command` compiles it in `folder`; `-o` says where to."""

    source: Path
    command: tuple[str, ...]
    folder: Path

    @property
    def object(self) -> Path:
        return OUT / "objects" / (str(self.source.relative_to(ROOT)).replace("/", ".") + ".o")

    @property
    def log(self) -> Path:
        return self.object.with_suffix(".log")

    @property
    def sass(self) -> Path:
        return self.object.with_suffix(".sass")

    @property
    def record(self) -> Path:
        return self.object.with_suffix(".json")


@dataclass(frozen=True)
class Outcome:
    job: Job
    seconds: float | None  # None: nothing had changed
    failed: bool = False


def configure(nvcc: Path) -> list[Job]:
    """CMake's compile commands of csrc/cuda and of its cases, for all architectures."""
    import pybind11

    folder = OUT / "cmake"
    folder.mkdir(parents=True, exist_ok=True)
    cutlass = installed(ROOT / "requirements-cuda.txt")
    path = os.pathsep.join([str(cutlass), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [
        *(build_tool("cmake"), "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "--fresh"),
        f"-DCMAKE_MAKE_PROGRAM={build_tool('ninja')}",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
        "-DSKY4_TESTS=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]
    environment = {**os.environ, "SKY4_CUDA_ARCHS": "all", "CUDACXX": str(nvcc), "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    (OUT / "configure.log").write_text(done.stdout + done.stderr, "utf-8")
    if done.returncode:
        raise ToolMissing(f"CMake could not configure the CUDA build: {done.stderr.strip()[-2000:]}")
    return jobs_of(json.loads((folder / "compile_commands.json").read_text("utf-8")))


def jobs_of(commands: list[dict[str, str]]) -> list[Job]:
    """The files of csrc/cuda and its cases among CMake's compile commands; those that take longest first."""
    jobs = [
        Job(Path(entry["file"]), tuple(shlex.split(entry["command"])), Path(entry["directory"]))
        for entry in commands
        if "csrc/cuda/" in entry["file"] or Path(entry["file"]).name == "cuda_cases.cpp"
    ]
    # CuTe's templates: a file for sm_90a alone takes longer than one of ours for four architectures.
    return sorted(jobs, key=lambda job: ("/sm90/" not in str(job.source), -job.source.stat().st_size))


@functools.cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stands(job: Job, compiler: str) -> bool:
    """Whether the object was made by this command and compiler from files with the present contents."""
    try:
        record = json.loads(job.record.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    if record["command"] != list(job.command) or record["compiler"] != compiler:
        return False
    try:
        return all(_digest(Path(path)) == digest for path, digest in record["files"].items())
    except OSError:
        return False


def compile_one(job: Job, compiler: str, cuobjdump: Path) -> Outcome:
    if stands(job, compiler):
        return Outcome(job, None)
    began = time.monotonic()
    job.record.unlink(missing_ok=True)
    depends = job.object.with_suffix(".d")
    command = [*with_output(job.command, job.object), "-MD", "-MF", str(depends)]
    done = subprocess.run(
        command, cwd=job.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    job.log.write_text(done.stdout, "utf-8")
    if done.returncode:
        return Outcome(job, time.monotonic() - began, failed=True)
    job.sass.write_text("", "utf-8")
    if job.source.suffix == ".cu":
        # Only Hopper's matrix instructions come in shapes that can go wrong.
        disassemble = [str(cuobjdump), "-sass", "-arch", "sm_90a", str(job.object)]
        sass = subprocess.run(disassemble, capture_output=True, text=True, check=False)
        if sass.returncode and "does not contain device code" not in sass.stderr:
            job.log.write_text(f"cuobjdump: {sass.stderr}", "utf-8")
            return Outcome(job, time.monotonic() - began, failed=True)
        job.sass.write_text(sass.stdout, "utf-8")
    files = {str(path): _digest(path) for path in read_depends(depends.read_text("utf-8"), job.folder)}
    record = {"command": job.command, "compiler": compiler, "files": files}
    job.record.write_text(json.dumps(record), "utf-8")
    return Outcome(job, time.monotonic() - began)


def with_output(command: tuple[str, ...], target: Path) -> list[str]:
    """The command with its object put elsewhere, and without the dependency options and launcher of CMake's Ninja."""
    words = list(command[1:] if Path(command[0]).name == "keep_log" else command)
    for option in ("-MF", "-MT"):
        while option in words:
            at = words.index(option)
            del words[at : at + 2]
    words = [word for word in words if word not in ("-MD", "-MMD")]
    words[words.index("-o") + 1] = str(target)
    return words


def read_depends(text: str, folder: Path) -> list[Path]:
    """The files that a make rule names after its colon."""
    _, _, after = text.replace("\\\n", " ").partition(": ")
    return sorted({folder / path for path in shlex.split(after)})


def table(log: Log, names: dict[str, str], sass: dict[tuple[str, str], Sass]) -> str:
    """One line per kernel and architecture."""
    lines = ["arch     regs  spill st/ld  stack    smem  kernel"]

    def shapes(build: Build) -> str:
        found = sass.get((build.name, build.arch))
        return "".join(f"  {count}x HGMMA.{shape}" for shape, count in sorted(found.hgmma.items())) if found else ""

    for build in sorted(log.builds, key=lambda build: (names[build.name], build.arch)):
        registers = "-" if build.registers is None else build.registers
        spills = f"{build.spill_stores}/{build.spill_loads}"
        lines.append(
            f"{build.arch:<8} {registers:>4}  {spills:>11}  {build.stack:>5}  {build.shared:>6}  "
            f"{names[build.name]}{shapes(build)}"
        )
    return "\n".join(lines) + "\n"


def gate(jobs: list[Job]) -> list[str]:
    """The faults of all that was compiled; leaves build/cuda-gate/ptxas.log and report.txt."""
    texts = [job.log.read_text("utf-8") for job in jobs]
    log = Log()
    for text in texts:
        part = read_log(text)
        log.builds += part.builds
        log.notes += part.notes
    sass = [kernel for job in jobs for kernel in read_sass(job.sass.read_text("utf-8"))]
    mangled = {build.name for build in log.builds} | {kernel.name for kernel in sass}
    names = demangled(mangled | {note.function for note in log.notes if note.function})
    expectations = read_expectations()
    heads = (f"# {job.source.relative_to(ROOT)}\n" for job in jobs)
    (OUT / "ptxas.log").write_text("".join(map(str.__add__, heads, texts)), "utf-8")
    (OUT / "report.txt").write_text(table(log, names, {(k.name, k.arch): k for k in sass}), "utf-8")
    kernels = [build for build in log.builds if build.registers is not None]
    hot = [build for build in kernels if expectation_of(names[build.name], build.arch, expectations).name]
    print(
        f"compile_cuda: {len(kernels)} kernels in {len(jobs)} files, {len(hot)} with their own expectations; "
        f"registers, spills and matrix shapes of each: {(OUT / 'report.txt').relative_to(ROOT)}"
    )
    return judge(log, sass, names, expectations) + unmatched(log, names, expectations)


def left_out(jobs: list[Job]) -> list[str]:
    compiled = {job.source for job in jobs}
    return [
        f"{path.relative_to(ROOT)} is compiled by no target of CMakeLists.txt"
        for path in sorted((ROOT / "csrc" / "cuda").rglob("*.c*"))
        if path not in compiled and path.suffix in (".cu", ".cpp")
    ]


def link(jobs: list[Job], nvcc: Path) -> list[str]:
    """Whether the kernels call nothing that is nowhere: a module that cannot be loaded would be found on a GPU only."""
    objects = [str(job.object) for job in jobs if "csrc/cuda/" in str(job.source)]
    command = [str(nvcc), "-shared", "-cudart", "static", "-Xlinker", "--no-undefined", "-o", str(OUT / "kernels.so")]
    done = subprocess.run([*command, *objects], capture_output=True, text=True, check=False)
    return [f"the CUDA kernels do not link: {done.stderr.strip()[-2000:]}"] if done.returncode else []


def main() -> int:
    began = time.monotonic()
    try:
        nvcc, cuobjdump = find_nvcc(), find_cuobjdump()
        jobs = configure(nvcc)
    except ToolMissing as error:
        print(f"compile_cuda: {error}", file=sys.stderr)
        return 1
    compiler = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=True).stdout
    print(f"compile_cuda: {nvcc}, {compiler.strip().splitlines()[-1]}", flush=True)
    (OUT / "objects").mkdir(parents=True, exist_ok=True)
    faults = left_out(jobs)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = []
        for outcome in pool.map(lambda job: compile_one(job, compiler, cuobjdump), jobs):
            outcomes.append(outcome)
            said = "unchanged" if outcome.seconds is None else f"{outcome.seconds:.0f} s"
            print(f"  {outcome.job.source.relative_to(ROOT)}: {'failed, ' if outcome.failed else ''}{said}", flush=True)
            if outcome.failed:
                sys.stderr.write(outcome.job.log.read_text("utf-8"))
                faults.append(f"{outcome.job.source.relative_to(ROOT)} does not compile")
    faults += gate([outcome.job for outcome in outcomes if not outcome.failed])
    if not any(outcome.failed for outcome in outcomes):
        faults += link(jobs, nvcc)
    for fault in faults:
        print(f"FAULT {fault}")
    print(f"compile_cuda: {len(faults)} faults, {time.monotonic() - began:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
