"""What the compiler made of each CUDA kernel, held against what cuda_expectations.toml says it must make of it.

Two sources: what ptxas says with -v (registers, spills, notes) and the machine code that cuobjdump prints (SASS).
Neither needs a GPU. ptxas tells of a lost overlap of matrix products ("wgmma serialized", C7510 and its neighbours) in
an info line alone: exit code 0, no warning. Matrix shapes that fell apart it does not tell at all.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXPECTATIONS = Path(__file__).with_name("cuda_expectations.toml")

_NOTE = re.compile(r"\(?\bC75\d\d\b\)?")
_NOTE_FUNCTION = re.compile(r"in (?:the )?function '([^']+)'")
_ENTRY = re.compile(r"Compiling entry function '([^']+)' for '([^']+)'")
_PROPERTIES = re.compile(r"Function properties for '?([^'\s]+)'?")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")

_ARCH = re.compile(r"^arch = (\w+)")
_FUNCTION = re.compile(r"^\s*Function : (\S+)")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*)")
_SHAPE = re.compile(r"^HGMMA\.(\d+x\d+x\d+)")
_WAIT = re.compile(r"^WARPGROUP\.DEPBAR\.LE\s+gsb0,\s*0x([01])\b")
_IMMEDIATE = re.compile(r"\b0x([0-9a-f]+)\b")
_WORD = re.compile(r"\b_Z\w+")


@dataclass
class Build:
    """One function for one architecture, as ptxas reports it. Sizes in bytes."""

    name: str  # mangled
    arch: str
    registers: int | None = None  # None: a function that a kernel calls, not a kernel
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    shared: int = 0  # static only


@dataclass
class Note:
    """A ptxas line with a number C75xx: matrix products that wait where they should not."""

    function: str | None  # mangled
    line: str


@dataclass
class Log:
    builds: list[Build] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def read_log(text: str) -> Log:
    """What `nvcc -Xptxas -v` wrote, for one file and any number of architectures."""
    log = Log()
    arch, entry, current = "", "", None
    for line in text.splitlines():
        if _NOTE.search(line):
            function = _NOTE_FUNCTION.search(line)
            log.notes.append(Note(function[1] if function else None, line.strip()))
        elif found := _ENTRY.search(line):
            entry, arch = found[1], found[2]
        elif found := _PROPERTIES.search(line):
            current = Build(found[1], arch)
            log.builds.append(current)
        elif current is not None and (found := _SPILLS.search(line)):
            current.stack, current.spill_stores, current.spill_loads = map(int, found.groups())
        elif current is not None and current.name == entry and (found := _USED.search(line)):
            current.registers = int(found[1])
            shared = _SHARED.search(line)
            current.shared = int(shared[1]) if shared else 0
    return log


@dataclass
class Sass:
    """The machine code of one kernel: how often the instructions that matter occur."""

    name: str  # mangled
    arch: str
    hgmma: Counter[str] = field(default_factory=Counter)  # by shape, such as "64x128x16"
    setmaxnreg: set[int] = field(default_factory=set)  # registers per thread
    opcodes: Counter[str] = field(default_factory=Counter)  # by first word, and "MUFU.EX2"
    beside: list[int] = field(default_factory=list)  # exponentials while the last matrix products are under way


def read_sass(text: str) -> list[Sass]:
    """What `cuobjdump -sass` prints."""
    kernels: list[Sass] = []
    arch, since = "", None
    for line in text.splitlines():
        if found := _ARCH.match(line):
            arch = found[1]
        elif found := _FUNCTION.match(line):
            kernels.append(Sass(found[1], arch))
            since = None
        elif kernels and (found := _INSTRUCTION.match(line)):
            opcode, operands = found[1], found[2]
            kernel = kernels[-1]
            kernel.opcodes[opcode.partition(".")[0]] += 1
            if shape := _SHAPE.match(opcode):
                kernel.hgmma[shape[1]] += 1
            elif opcode.startswith("USETMAXREG"):
                kernel.setmaxnreg.update(int(value, 16) for value in _IMMEDIATE.findall(operands))
            elif opcode.startswith("MUFU.EX2"):
                kernel.opcodes["MUFU.EX2"] += 1
            elif waited := _WAIT.search(opcode + operands):
                # All products but the last group are done; then the last group too.
                if waited[1] == "1":
                    since = kernel.opcodes["MUFU.EX2"]
                elif since is not None:
                    kernel.beside.append(kernel.opcodes["MUFU.EX2"] - since)
                    since = None
    return kernels


def demangled(names: Iterable[str]) -> dict[str, str]:
    """Mangled name -> how it was written, by the c++filt that comes with every compiler on Linux."""
    listed = sorted(set(names))
    done = subprocess.run(["c++filt"], input="\n".join(listed), capture_output=True, text=True, check=True)
    return dict(zip(listed, done.stdout.splitlines(), strict=True))


@dataclass(frozen=True)
class Expectation:
    """One entry of cuda_expectations.toml; its head comment tells what the keys mean."""

    name: str
    archs: tuple[str, ...] = ()
    spill_bytes: int = 0
    stack_bytes: int | None = None
    registers: int | None = None
    notes_allowed: tuple[str, ...] = ()
    hgmma: tuple[str, ...] | None = None
    setmaxnreg: tuple[int, ...] | None = None
    contains: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    softmax_beside_products: int | None = None

    def fits(self, name: str, arch: str) -> bool:
        return (not self.archs or arch in self.archs) and re.search(self.name, name) is not None


def read_expectations(path: Path = EXPECTATIONS) -> list[Expectation]:
    """Raises ValueError for a key that there is not."""
    entries = []
    for table in tomllib.loads(path.read_text("utf-8")).get("kernel", []):
        unknown = set(table) - set(Expectation.__dataclass_fields__)
        if unknown:
            raise ValueError(f"{path.name}: unknown key {sorted(unknown)[0]!r} in the entry for {table.get('name')!r}")
        settings: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}
        entries.append(Expectation(**settings))
    return entries


DEFAULT = Expectation(name="")


def expectation_of(name: str, arch: str, expectations: list[Expectation]) -> Expectation:
    """The first entry that fits; for all other kernels: no spills."""
    return next((entry for entry in expectations if entry.fits(name, arch)), DEFAULT)


def judge(log: Log, sass: list[Sass], names: dict[str, str], expectations: list[Expectation]) -> list[str]:
    """One sentence per fault; none: the compiler did what was asked."""
    faults = []
    for build in log.builds:
        name = names[build.name]
        expected = expectation_of(name, build.arch, expectations)
        spilled = max(build.spill_stores, build.spill_loads)
        if spilled > expected.spill_bytes:
            faults.append(
                f"{build.arch} {name}: spills {build.spill_stores} B out and {build.spill_loads} B in, "
                f"at most {expected.spill_bytes} B allowed"
            )
        if expected.stack_bytes is not None and build.stack > expected.stack_bytes:
            faults.append(f"{build.arch} {name}: {build.stack} B of stack, at most {expected.stack_bytes} B allowed")
        if build.registers is not None and expected.registers is not None and build.registers > expected.registers:
            faults.append(f"{build.arch} {name}: {build.registers} registers, at most {expected.registers} allowed")
    for note in log.notes:
        allowed = (entry for entry in expectations if note.function and re.search(entry.name, names[note.function]))
        if not any(code in note.line for entry in allowed for code in entry.notes_allowed):
            faults.append("ptxas: " + _WORD.sub(lambda word: names.get(word[0], word[0]), note.line))
    for kernel in sass:
        faults.extend(
            f"{kernel.arch} {names[kernel.name]}: {fault}" for fault in _faults_of(kernel, names, expectations)
        )
    return faults


def _faults_of(kernel: Sass, names: dict[str, str], expectations: list[Expectation]) -> Iterable[str]:
    expected = expectation_of(names[kernel.name], kernel.arch, expectations)
    shapes = set(kernel.hgmma)
    if expected.hgmma is None:
        if shapes:
            yield f"has matrix instructions {sorted(shapes)} and no entry in {EXPECTATIONS.name} tells their shapes"
    elif shapes != set(expected.hgmma):
        found = ", ".join(f"{count} of {shape}" for shape, count in sorted(kernel.hgmma.items())) or "none"
        yield f"matrix instructions are {found}; expected shapes: {', '.join(expected.hgmma)}"
    if expected.setmaxnreg is not None and kernel.setmaxnreg != set(expected.setmaxnreg):
        yield f"setmaxnreg values are {sorted(kernel.setmaxnreg)}, expected {sorted(expected.setmaxnreg)}"
    least = expected.softmax_beside_products
    if least is not None and (not kernel.beside or min(kernel.beside) < least):
        yield f"{kernel.beside} exponentials beside matrix products under way, at least {least} expected each time"
    for opcode in expected.contains:
        if not kernel.opcodes[opcode]:
            yield f"has no {opcode}"
    for opcode in expected.lacks:
        if count := kernel.opcodes[opcode]:
            yield f"has {count} {opcode}, expected none"


def unmatched(log: Log, names: dict[str, str], expectations: list[Expectation]) -> list[str]:
    """Entries that fit no kernel: a renamed kernel must not slip out of its gate."""
    built = [(names[build.name], build.arch) for build in log.builds if build.registers is not None]
    return [
        f"{EXPECTATIONS.name}: no kernel fits the entry {entry.name!r}; rename or remove it"
        for entry in expectations
        if not any(entry.fits(name, arch) for name, arch in built)
    ]
