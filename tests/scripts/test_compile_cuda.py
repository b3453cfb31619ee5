"""scripts/compile_cuda finds a compiler or says why not, and compiles again what changed, by content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from scripts.checks import compile_cuda, toolchain
from scripts.checks.compile_cuda import Job, jobs_of, left_out, read_depends, stands, with_output
from scripts.checks.toolchain import ToolMissing, find_nvcc


def fake_nvcc(folder: Path, release: str) -> Path:
    path = folder / "nvcc"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n", "utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(requirements: Path) -> Path:
        raise ToolMissing(f"{requirements.name} could not be installed: no network")

    monkeypatch.setattr(toolchain, "installed", refuse)
    monkeypatch.setattr(toolchain, "USUAL_PLACE", "/nowhere")


def test_an_nvcc_of_the_right_release_is_taken_from_the_machine(tmp_path: Path, no_wheels: None) -> None:
    old, right = fake_nvcc(tmp_path / "old", "12.4"), fake_nvcc(tmp_path / "home" / "bin", "13.0")
    assert find_nvcc({"PATH": str(old.parent), "CUDA_HOME": str(tmp_path / "home")}) == right


def test_an_nvcc_named_by_the_user_is_taken_whatever_its_release(tmp_path: Path, no_wheels: None) -> None:
    assert find_nvcc({"CUDACXX": str(fake_nvcc(tmp_path, "13.4"))}) == tmp_path / "nvcc"
    with pytest.raises(ToolMissing, match="CUDACXX is '/no/nvcc'"):
        find_nvcc({"CUDACXX": "/no/nvcc"})


def test_without_any_compiler_the_reason_is_said(tmp_path: Path, no_wheels: None) -> None:
    old = fake_nvcc(tmp_path, "12.4")
    with pytest.raises(ToolMissing, match=r"nvcc is of release 12\.4; requirements-nvcc.*no network"):
        find_nvcc({"PATH": str(old.parent)})


def test_no_compiler_at_all_fails_the_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> Path:
        raise ToolMissing("no nvcc 13.0: none found on this machine")

    monkeypatch.setattr(compile_cuda, "find_nvcc", missing)
    assert compile_cuda.main() == 1
    assert "no nvcc 13.0" in capsys.readouterr().err


def job(folder: Path, command: tuple[str, ...] = ("nvcc", "-c", "a.cu", "-o", "a.o")) -> Job:
    return Job(compile_cuda.ROOT / "csrc" / "cuda" / "a.cu", command, folder)


def test_an_object_stands_until_a_file_the_command_or_the_compiler_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_cuda, "OUT", tmp_path)
    header = tmp_path / "a.h"
    header.write_text("1", "utf-8")
    made = job(tmp_path)
    assert not stands(made, "nvcc 13.0")
    made.record.parent.mkdir()
    files = {str(header): hashlib.sha256(b"1").hexdigest()}
    made.record.write_text(json.dumps({"command": made.command, "compiler": "nvcc 13.0", "files": files}), "utf-8")
    assert stands(made, "nvcc 13.0")
    assert not stands(made, "nvcc 13.4")
    assert not stands(job(tmp_path, ("nvcc", "-O3", "-c", "a.cu", "-o", "a.o")), "nvcc 13.0")
    compile_cuda._digest.cache_clear()
    header.write_text("2", "utf-8")
    assert not stands(made, "nvcc 13.0")
    compile_cuda._digest.cache_clear()
    header.unlink()
    assert not stands(made, "nvcc 13.0")


def test_cmakes_command_writes_where_it_is_told() -> None:
    command = (
        "keep_log",
        "/usr/bin/nvcc",
        "-O3",
        "-MD",
        "-MT",
        "x.o",
        "-MF",
        "x.o.d",
        "-x",
        "cu",
        "-c",
        "x.cu",
        "-o",
        "x",
    )
    assert with_output(command, Path("/y.o")) == ["/usr/bin/nvcc", "-O3", "-x", "cu", "-c", "x.cu", "-o", "/y.o"]


def test_dependencies_are_read_from_a_make_rule() -> None:
    rule = "out/a.o : a.cu \\\n  /usr/include/b.h \\\n  with\\ space.h a.cu\n"
    assert read_depends(rule, Path("/f")) == [Path("/f/a.cu"), Path("/f/with space.h"), Path("/usr/include/b.h")]


def test_a_cuda_file_that_no_target_compiles_is_a_fault() -> None:
    files = sorted(compile_cuda.ROOT.glob("csrc/cuda/**/*.cu")) + sorted(compile_cuda.ROOT.glob("csrc/cuda/**/*.cpp"))
    entries = [{"file": str(path), "command": "nvcc -o x", "directory": "/"} for path in files]
    assert left_out(jobs_of(entries)) == []
    (fault,) = left_out(jobs_of(entries[1:]))
    assert str(files[0].relative_to(compile_cuda.ROOT)) in fault
