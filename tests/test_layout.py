"""The house stands as drawn: who may import whom, how long model files are, what csrc includes, what start-up loads."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "python_model" / "sky4"
CLI = ROOT / "sky4cli"

# Floors of the house, the lowest first. A room imports from its own floor or below; a new room is entered here.
FLOORS: list[set[str]] = [
    {"errors"},
    {"geometry", "config", "inputs", "files"},
    {"_C"},
    {"ops", "distributed"},
    {"conditioning", "diffusion", "encoders", "model", "prompting", "media", "shots", "world"},
    {"checking"},
    {"pipeline", "train"},
    {"evaluation", "bench", "batch", "planning", "film"},
    {"sky4cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Beyond the floors: (room, what it must not import, why).
CLOSED_DOORS = [
    ("pipeline", "train", "they never import one another"),
    ("train", "pipeline", "they never import one another"),
    ("diffusion", "model", "it receives functions, never a model"),
    ("diffusion", "encoders", "it receives functions, never a model"),
    ("conditioning", "model", "latents and masks in, latents and masks out"),
    ("conditioning", "encoders", "latents and masks in, latents and masks out"),
]
# Rooms that only some may enter: the kernels are called from ops, and ops from what computes. The rooms above choose
# a backend by its name, the doctor tells what there is, and the bench calls each operation by itself.
ONLY_FROM = {
    "_C": ("sky4.ops", "sky4cli.doctor"),
    "ops": (
        "sky4.model",
        "sky4.conditioning",
        "sky4.pipeline",
        "sky4.train",
        "sky4.bench",
        "sky4.planning",
        "sky4cli.doctor",
    ),
}

MODEL_FILE_LINES = 350


def room_of(module: str) -> str:
    """`sky4.model.rope` is in the room `model`, `sky4cli.main` in `sky4cli`, `sky4` itself in none ('')."""
    package, _, rest = module.partition(".")
    return package if package != "sky4" else rest.partition(".")[0]


def imports_of(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Every module of ours that the source names in an import, inside functions and type-checking blocks too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            # `from sky4 import X` names a room, unless X is sky4's own, such as __version__.
            rooms = [alias.name for alias in node.names if base == "sky4" and not alias.name.startswith("__")]
            names = [f"{base}.{room}" for room in rooms] or [base]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in ("sky4", "sky4cli"))


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in (("sky4", LIBRARY), ("sky4cli", CLI)):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")]), path


@functools.cache
def edges() -> list[tuple[str, str]]:
    """(module, module of ours that it imports), between different rooms."""
    pairs = [
        (module, imported)
        for module, path in modules()
        for imported in imports_of(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    ]
    return [(module, imported) for module, imported in pairs if room_of(imported) not in ("", room_of(module))]


def test_every_room_has_a_floor():
    unknown = {room_of(module) for module, _ in modules()} - {""} - set(FLOOR)
    assert not unknown, f"enter these rooms in FLOORS: {sorted(unknown)}"


def test_imports_go_down_or_stay_on_their_floor():
    wrong = [(a, b) for a, b in edges() if room_of(a) and FLOOR[room_of(b)] > FLOOR[room_of(a)]]
    assert not wrong


def test_the_package_root_imports_no_room():
    assert not [(a, b) for a, b in edges() if not room_of(a)]


def test_closed_doors_stay_closed():
    why = {(room, other): reason for room, other, reason in CLOSED_DOORS}
    wrong = [(a, b, why[room_of(a), room_of(b)]) for a, b in edges() if (room_of(a), room_of(b)) in why]
    assert not wrong


def test_kernels_are_reached_through_their_doors_only():
    def may(module: str, room: str) -> bool:
        return room not in ONLY_FROM or any(f"{module}.".startswith(f"{door}.") for door in ONLY_FROM[room])

    wrong = [(a, b) for a, b in edges() if not may(a, room_of(b))]
    assert not wrong


def test_no_two_rooms_import_each_other():
    graph: dict[str, set[str]] = {}
    for module, imported in edges():
        graph.setdefault(room_of(module), set()).add(room_of(imported))
    TopologicalSorter(graph).prepare()  # CycleError names the circle


@pytest.mark.parametrize("path", sorted((LIBRARY / "model").glob("**/*.py")), ids=lambda path: path.name)
def test_a_model_file_is_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MODEL_FILE_LINES


def test_csrc_knows_no_framework_and_only_the_bindings_know_python():
    framework = re.compile(r"#\s*include\s*[<\"](torch|ATen|c10|caffe2|numpy|cupy|jax)[/.]")
    python = re.compile(r"#\s*include\s*[<\"](Python\.h|pybind11/)")
    for path in (ROOT / "csrc").rglob("*"):
        if path.suffix in {".h", ".cpp", ".cu", ".cuh"}:
            source = path.read_text(encoding="utf-8")
            assert not framework.search(source), path
            assert path.name == "bindings.cpp" or path.parent.name == "bind" or not python.search(source), path


@pytest.mark.parametrize("module", ["sky4", "sky4cli.main"])
def test_importing_does_not_load_torch(module):
    code = f"import sys, {module}; print(*sorted({{'torch', 'diffusers', 'transformers', 'av'}} & set(sys.modules)))"
    paths = [str(ROOT / "python_model"), str(ROOT)]
    code = f"import sys; sys.path[:0] = {paths}; {code}"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_imports_are_read_from_every_form_of_the_statement():
    source = (
        "import sky4.model.rope\nfrom sky4 import _C\nfrom ..media import write\nfrom . import flow\n"
        "def f():\n    from sky4.world.scene import Scene\nimport torch\nfrom sky4 import __version__\n"
    )
    found = list(imports_of(source, "sky4.diffusion.sampler", is_package=False))
    assert sorted(found) == ["sky4", "sky4._C", "sky4.diffusion", "sky4.media", "sky4.model.rope", "sky4.world.scene"]
    assert list(imports_of("from .. import ops", "sky4.model", is_package=True)) == ["sky4.ops"]
