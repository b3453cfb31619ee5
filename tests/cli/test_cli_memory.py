"""Long clips take no more memory than their beginning, and last exactly as long as asked for.

Each is made in a process of its own, which tells its high-water mark.
"""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sky4.media import probe_video, read_audio, write_clip

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys
from sky4cli.main import main

code = main(sys.argv[1:])
with open("/proc/self/status") as file:
    print(next(line.split()[1] for line in file if line.startswith("VmHWM")))
sys.exit(code)
"""
MORE = 1.1

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's high-water mark"),
]


def peak(folder: Path, *argv: str) -> int:
    """KiB that the command takes at most."""
    paths = os.pathsep.join([str(ROOT / "python_model"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", CHILD, *argv, "--quiet"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_a_talking_head_three_times_as_long(nano_model: Path, tmp_path: Path) -> None:
    time = np.arange(12 * 44100) / 44100
    voice = (0.3 * np.sin(2 * np.pi * 150 * time) * np.clip(np.sin(4 * np.pi * time), 0, 1)).astype(np.float32)
    write_clip(tmp_path / "a.wav", None, np.stack([voice, voice]), fps=Fraction(16), recipe={})
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "p.png")
    given = ["generate", "--prompt", "a face", "--image", "p.png", "--audio", "a.wav", "--drive", "--fps", "2"]
    takes = {}
    for seconds in (4, 12):
        asked = ["--seconds", str(seconds), "--steps", "1", "--model", str(nano_model), "-o", f"{seconds}.mkv"]
        takes[seconds] = peak(tmp_path, *given, *asked)
        assert probe_video(tmp_path / f"{seconds}.mkv").frames == 2 * seconds
        assert read_audio(tmp_path / f"{seconds}.mkv").shape[1] == 44100 * seconds
    assert takes[12] <= MORE * takes[4]


def test_a_film_of_five_shots(nano_model: Path, tmp_path: Path) -> None:
    """20 seconds in five shots beside its first 10 in two, of which one is the longest."""
    shots = [f"  - {{prompt: shot {number}, seconds: 4}}" for number in range(5)]
    shots[1] = "  - {prompt: the second, seconds: 6}"
    shots[3] = "  - {prompt: the fourth, seconds: 2, transition: dissolve}"
    takes = {}
    for count in (2, 5):
        (tmp_path / f"{count}.yaml").write_text(
            "\n".join(["size: 32x32", "fps: 4", "steps: 1", "shots:", *shots[:count]])
        )
        argv = ["film", f"{count}.yaml", "--work", f"work-{count}", "--model", str(nano_model), "-o", f"{count}.mkv"]
        takes[count] = peak(tmp_path, *argv)
    assert takes[5] <= MORE * takes[2]
    facts = probe_video(tmp_path / "5.mkv")
    assert read_audio(tmp_path / "5.mkv").shape[1] == round(facts.frames * Fraction(44100, 4))
