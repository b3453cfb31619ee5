"""How the command line starts: at once, without torch, with one line for every fault."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from sky4 import __version__
from sky4cli.main import main


def test_help_answers_without_torch_within_half_a_second() -> None:
    watch = (
        "import sys, runpy\n"
        "sys.argv = ['sky4', '--help']\n"
        "try:\n    runpy.run_module('sky4cli', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'av', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    spent = []
    for _ in range(3):  # the best of three, in the process's own time: the machine may be busy
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run.returncode == 0, run.stderr
        assert "generate" in run.stdout
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.5, spent


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sky4 {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["generate"], "--prompt"),
        (["generate", "--prompt", "a", "--colour", "red"], "--colour"),
        (["paint"], "paint"),
        (["generate", "--prompt", "a", "--steps", "many"], "--steps"),
        (["generate", "--prompt", "a", "--sampler", "magic"], "--sampler"),
        (["generate", "--prompt", "a", "--only", "smell"], "--only"),
        (["show"], "FILE"),
    ],
)
def test_argv_that_cannot_be_read_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    assert main(argv) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
