"""Every option of every command. Adding one is a decision: it is made here first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from sky4cli.main import app

SAMPLING = ["--steps", "--sampler", "--guidance", "--audio-guidance", "--shift", "--seed"]
ENGINE = ["--model", "--device", "--dtype", "--attention-backend"]
FOLLOWING = ["--resume-dir", "--resume", "--events", "--preview-every"]
PLANNING = ["--memory", "--dry-run"]
SAYING = ["--force", "--json", "--quiet"]
RECIPE = ["--no-metadata", "--sidecar", "--c2pa"]
BENCH = ["--threads", "--seed", "-o --out", "--force", "--json", "--baseline", "--fail-over", "--profile", "--quiet"]
WHERE = ["--device", "--dtype", "--attention-backend"]
REFINING = ["--refine", "--keyframes"]
RUN = ["config", "--set", "--max-minutes"]

OPTIONS = {
    "": ["--version", "--verbose -v", "--install-completion", "--show-completion"],
    "generate": [
        *("--prompt", "-o --out", "--format", "--negative-prompt"),
        *("--image", "--last-image", "--video", "--audio", "--drive"),
        *("--speaker", "--mask", "--box", "--anchors", "--ref"),
        *("--size", "--seconds", "--frames", "--fps"),
        *SAMPLING,
        *("-n --variations", "--only", "--enhance"),
        *REFINING,
        *("--model", "--preset", *WHERE),
        *PLANNING,
        *FOLLOWING,
        *RECIPE,
        *SAYING,
    ],
    "inpaint": [
        *("video", "--prompt", "-o --out", "--format", "--mask", "--box", "--retake", "--pad"),
        *("--mask-mode", "--mask-threshold", "--grow", "--feather", "--fit-mask", "--mask-preview"),
        *("--negative-prompt", "--ref", "--from", "--seconds", "--size", "--fps", "--keep-audio", "--mix"),
        *SAMPLING,
        *("-n --variations", "--only", "--enhance"),
        *REFINING,
        *ENGINE,
        *PLANNING,
        *FOLLOWING,
        *RECIPE,
        *SAYING,
    ],
    "extend": [
        *("video", "--prompt", "-o --out", "--format", "--seconds", "--to", "--backward", "--overlap", "--window"),
        *("--sound", "--encode-audio", "--transition"),
        *("--negative-prompt", "--ref", "--from", "--until", "--size", "--fps"),
        *SAMPLING,
        *("-n --variations", "--enhance"),
        *REFINING,
        *ENGINE,
        *PLANNING,
        *FOLLOWING,
        *RECIPE,
        *SAYING,
    ],
    "edit": [
        *("video", "--prompt", "-o --out", "--format", "--negative-prompt", "--image", "--ref"),
        *("--from", "--seconds", "--size", "--fps", "--keep-audio", "--mix"),
        *SAMPLING,
        *("-n --variations", "--only"),
        *REFINING,
        *ENGINE,
        *PLANNING,
        *FOLLOWING,
        *RECIPE,
        *SAYING,
    ],
    "refine": [
        *("video", "--prompt", "-o --out", "--format", "--size", "--fps", "--from", "--seconds", "--sound"),
        *("--steps", "--keyframes", "--seed"),
        *ENGINE,
        *PLANNING,
        *FOLLOWING,
        *RECIPE,
        *SAYING,
    ],
    "batch": [
        *("jobs", "-o --out", "--command", "--retry-failed", "--shard", "--dry-run", "--keep-going"),
        *("--allow-outside", "--ray", "--workers", "--check"),
        *SAYING,
    ],
    "check": [
        *("files", "--skip", "--max-black", "--max-frozen", "--max-repeated", "--max-tail", "--max-clipped"),
        *("--max-silent", "--min-loudness", "--max-loudness", "--max-true-peak", "--max-offset", "--json", "--quiet"),
    ],
    "film": ["shots", "-o --out", "--work", *ENGINE, *SAYING],
    "shots": ["video", "--detector", "--json", "--quiet"],
    "show": ["file", "--json"],
    "rerun": [
        "file",
        "-o --out",
        "--format",
        "--set",
        "--verify",
        "--model",
        "--device",
        "--dry-run",
        *FOLLOWING,
        *RECIPE,
        *SAYING,
    ],
    "diff": ["a", "b", "--json"],
    "config": ["--json"],
    "doctor": ["--model", "--json"],
    "train": [],
    "train joint": [*RUN, "--decay-minutes", "--resume"],
    "train video-codec": RUN,
    "train audio-codec": RUN,
    "train text-encoder": RUN,
    "train refiner": RUN,
    "train shot-detector": RUN,
    "train cache": [*RUN, "--part"],
    "train mix": ["first", "second", "target", "--share", "--only", "--force"],
    "train export": ["config", "target", "--set", "--checkpoint", "--name", "--default", "--raw", "--force"],
    "eval": [],
    "eval world": [
        *("--suite", "--prompts", "-n --count", "--cases", "--task"),
        *("-o --out", "--ceiling", "--codec", "--first-frames", "--save-clips"),
        *("--size", "--frames"),
        *SAMPLING,
        *ENGINE,
        *SAYING,
    ],
    "bench": [],
    "bench kernels": [
        *("--shape", "--kernel", "--backward", "--compile", "--plot", "--ptxas", "--budget"),
        *WHERE,
        *BENCH,
    ],
    "bench stages": ["--prompt", "--size", "--frames", "--model", "--budget", *WHERE, *BENCH],
    "bench e2e": [
        *("--prompt", "--size", "--frames", "--steps", "--sampler", "--against", "--rounds", "--model"),
        *WHERE,
        *BENCH,
    ],
    "bench quality": [
        *("--prompt", "--size", "--frames", "--steps", "--sampler", "--rounds", "--model", "--device"),
        *BENCH,
    ],
    "bench calibrate": ["--model", "--rounds", *WHERE, "--threads", "--json", "--quiet"],
    "bench tower": ["--budget", *WHERE, *BENCH],
}


def commands(command: Any, name: str = "") -> Iterator[tuple[str, list[Any]]]:
    yield name, list(command.params)
    for child, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {child}".strip())


def test_the_commands_have_these_options_and_no_others() -> None:
    found = {
        name: [" ".join(option.opts) for option in options] for name, options in commands(typer.main.get_command(app))
    }
    assert found == OPTIONS


def test_every_option_says_what_it_does() -> None:
    for name, options in commands(typer.main.get_command(app)):
        for option in options:
            assert getattr(option, "help", None), f"{name} {option.opts} has no help"
