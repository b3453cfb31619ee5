"""Commands under torchrun: one file, one set of words, one sentence where something fails, whoever notices it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sky4.errors import Sky4Failure
from sky4.media import read_recipe
from sky4.pipeline import generate
from sky4cli.main import main
from tests.pipeline.lives import killed_after
from tests.together import Life, together

ROOT = Path(__file__).parents[2]
PROMPT = "a red circle"


def words(model: Path, out: Path, *more: str) -> list[str]:
    return ["generate", "--prompt", PROMPT, "--model", str(model), "--dtype", "float32", "-o", str(out), *more]


def run(folder: Path, *argv: str, given: str = "") -> list[Life]:
    return together(folder / "said", 2, lambda rank: main(argv), given)


def faults(lives: list[Life]) -> list[str]:
    assert not any("Traceback" in life.err for life in lives), [life.err for life in lives]
    return [line for life in lives for line in life.err.splitlines() if line.startswith("sky4:")]


@pytest.mark.slow
def test_one_process_writes_and_speaks_and_the_recipe_tells_how_many_made_it(nano_model: Path, tmp_path: Path) -> None:
    lives = run(tmp_path, *words(nano_model, tmp_path / "a.mp4", "-n", "2", "--events", str(tmp_path / "events")))
    assert [life.code for life in lives] == [0, 0], [life.err for life in lives]
    assert [len(life.out.splitlines()) for life in lives] == [2, 0] and lives[1].err == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1.mp4", "a-2.mp4", "events", "said"]
    together_made = read_recipe(tmp_path / "a-1.mp4")
    assert together_made["computed"]["processes"] == 2
    assert main(words(nano_model, tmp_path / "one.mp4")) == 0
    alone = read_recipe(tmp_path / "one.mp4")
    assert alone["computed"]["processes"] == 1 and alone["request"] == {**together_made["request"]}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["generate", "--prompt", PROMPT, "--size", "64x6a"], "--size 64x6a: expected WIDTHxHEIGHT"),
        (["generate", "--prompt", PROMPT, "--frmes", "3"], "No such option: --frmes"),
        (["film", "shots.yaml"], "`sky4 film` is the work of one process and torchrun starts 2"),
    ],
)
def test_a_bad_request_is_refused_once(argv: list[str], said: str, tmp_path: Path) -> None:
    lives = run(tmp_path, *argv)
    assert [life.code for life in lives] == [2, 2]
    assert len(faults(lives)) == 1 and said in faults(lives)[0]


def test_a_pipe_is_read_once_and_all_are_told(nano_model: Path, tmp_path: Path) -> None:
    argv = ["generate", "--prompt", "-", "--model", str(nano_model), "-o", str(tmp_path / "a.mp4")]
    lives = run(tmp_path, *argv, given="@image_1 moves")  # a prompt that is refused, by both for the same reason
    assert [life.code for life in lives] == [2, 2]
    assert len(faults(lives)) == 1 and "@image_1" in faults(lives)[0]
    lives = run(tmp_path, *argv, given="x" * 2**17)
    assert [life.code for life in lives] == [2, 2]
    assert len(faults(lives)) == 1 and "stdin holds more than" in faults(lives)[0]


@pytest.mark.slow
@pytest.mark.parametrize("faulty", [0, 1])
def test_a_fault_on_one_process_ends_all_with_one_sentence(faulty: int, nano_model: Path, tmp_path: Path) -> None:
    def work(rank: int) -> int:
        if rank == faulty:
            made = generate.model_velocity

            def model_velocity(*given: object) -> object:
                raise Sky4Failure("the disk of this machine is gone")

            assert made is not model_velocity
            generate.model_velocity = model_velocity  # type: ignore[assignment]
        return main(words(nano_model, tmp_path / "a.mp4"))

    lives = together(tmp_path / "said", 2, work)
    assert [life.code for life in lives] == [1, 1]
    assert faults(lives) == ["sky4: the disk of this machine is gone"] and not (tmp_path / "a.mp4").exists()


@pytest.mark.slow
def test_what_was_killed_goes_on_to_the_same_bits(nano_model: Path, tmp_path: Path) -> None:
    def killed(rank: int) -> int:
        killed_after(2, pytest.MonkeyPatch())
        return main(words(nano_model, tmp_path / "a.mp4", "--steps", "4", "--resume-dir", str(tmp_path / "state")))

    lives = together(tmp_path / "said", 2, killed)
    assert -signal.SIGKILL in [life.code for life in lives] and not (tmp_path / "a.mp4").exists()
    argv = words(nano_model, tmp_path / "a.mp4", "--steps", "4", "--resume-dir", str(tmp_path / "state"), "--resume")
    lives = run(tmp_path, *argv)
    assert [life.code for life in lives] == [0, 0], [life.err for life in lives]
    assert not (tmp_path / "state").exists()
    lives = run(tmp_path, *words(nano_model, tmp_path / "b.mp4", "--steps", "4"))
    assert [life.code for life in lives] == [0, 0], [life.err for life in lives]
    assert read_recipe(tmp_path / "a.mp4")["latents"] == read_recipe(tmp_path / "b.mp4")["latents"]


@pytest.mark.slow
def test_torchrun_starts_them(nano_model: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "sky4cli"]
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'python_model'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*argv, *words(nano_model, tmp_path / "a.mp4", "--frames", "1", "--quiet")],
        capture_output=True,
        text=True,
        env=env,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and (tmp_path / "a.mp4").exists()
