"""One measured generation in a process of its own: seconds and peak memory of each stage, as JSON on stdout.

`python -m sky4cli.probe` reads {"request": ..., "engine": ...} from stdin. What it does is what the commands do, taken
apart: the libraries, the networks one by one, text, conditions, sampling, sound, and the picture with its muxing.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sky4cli.startup import collect_garbage_rarely, leave, load_libraries


class Laps:
    """Seconds, seconds of the processor, and the process's peak memory of each stage, in the order of their ends."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        forget_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.add(name, time.perf_counter() - wall, time.process_time() - cpu)

    def add(self, name: str, seconds: float, cpu_seconds: float) -> None:
        self.stages[name] = {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "peak_bytes": memory_line("VmHWM"),
            "bytes_after": memory_line("VmRSS"),
        }


def forget_peak() -> None:
    """Let the kernel forget the process's earlier peak."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_line(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> int:
    asked: dict[str, Any] = json.loads(sys.stdin.read())
    print(json.dumps(probe(asked["request"], asked["engine"])))
    return 0


def probe(request_values: dict[str, Any], engine: dict[str, Any]) -> dict[str, Any]:
    """Make the clip once; {"stages": ..., "threads": ...}."""
    laps = Laps()
    with laps.lap("libraries"):
        load_libraries()
        from sky4.config import config_from_dict
        from sky4.pipeline.components import NETWORKS, Components
        from sky4.pipeline.economy import Economy
        from sky4.pipeline.generate import generate_clips
        from sky4.pipeline.request import ClipRequest

        request = ClipRequest.from_dict(request_values)
        economy = config_from_dict(Economy, engine.pop("economy", {}), "economy")
        components = Components.load(Path(engine.pop("model")), **engine, economy=economy)
    if not economy.release:
        for part in NETWORKS:
            if part == "refiner" and request.refinement is None:
                continue
            with laps.lap(f"load {part}"):
                getattr(components, part)
    began: dict[str, tuple[float, float]] = {}

    def say(stage: str, done: int, total: int) -> None:
        if stage not in began:
            forget_peak()
            began[stage] = time.perf_counter(), time.process_time()
        if done == total:
            laps.add(stage, time.perf_counter() - began[stage][0], time.process_time() - began[stage][1])

    clip = next(generate_clips(request, components, say))
    writing = _Writing(laps)
    with tempfile.TemporaryDirectory() as folder:
        clip.save(Path(folder) / "clip.mp4", watch=writing.frames)
        writing.end()
    return {"stages": laps.stages, "threads": components.threads, "copy": _copy_rate()}


class _Writing:
    """Takes a clip's writing apart: its sound comes first, then the picture, decoded while it is written."""

    def __init__(self, laps: Laps) -> None:
        self._laps = laps
        self._began = time.perf_counter(), time.process_time()
        self._decoding = [0.0, 0.0]
        forget_peak()

    def frames(self, chunks: Iterator[Any]) -> Iterator[Any]:
        self._laps.add("decode sound", time.perf_counter() - self._began[0], time.process_time() - self._began[1])
        self._began = time.perf_counter(), time.process_time()
        forget_peak()
        return self._timed(chunks)

    def _timed(self, chunks: Iterator[Any]) -> Iterator[Any]:
        while True:
            wall, cpu = time.perf_counter(), time.process_time()
            chunk = next(chunks, None)
            self._decoding[0] += time.perf_counter() - wall
            self._decoding[1] += time.process_time() - cpu
            if chunk is None:
                return
            yield chunk

    def end(self) -> None:
        wall, cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        self._laps.add("decode picture", *self._decoding)
        self._laps.add("mux", wall - self._decoding[0], cpu - self._decoding[1])


def _copy_rate() -> float:
    """Bytes a second that one thread copies in memory."""
    block = bytes(2**26)
    began = time.perf_counter()
    for _ in range(4):
        bytearray(block)
    return 4 * len(block) / (time.perf_counter() - began)


if __name__ == "__main__":
    collect_garbage_rarely()
    leave(main())
