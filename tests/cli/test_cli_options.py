"""Every option of every command. Adding one is a decision: it is made here first."""

from __future__ import annotations

import typer.main

from sky4cli.main import app

OPTIONS = {
    "generate": [
        "--prompt",
        "-o --out",
        "--negative-prompt",
        "--image",
        "--last-image",
        "--video",
        "--audio",
        "--drive",
        "--ref",
        "--size",
        "--seconds",
        "--frames",
        "--fps",
        "--steps",
        "--sampler",
        "--guidance",
        "--audio-guidance",
        "--shift",
        "--seed",
        "-n --variations",
        "--only",
        "--enhance",
        "--model",
        "--device",
        "--dtype",
        "--attention-backend",
        "--force",
        "--json",
        "--quiet",
    ],
    "show": ["file", "--json"],
    "rerun": ["file", "-o --out", "--model", "--device", "--force", "--json", "--quiet"],
    "doctor": ["--model", "--json"],
}


def test_the_commands_have_these_options_and_no_others() -> None:
    root = typer.main.get_command(app)
    found = {
        name: [" ".join(parameter.opts) for parameter in command.params] for name, command in root.commands.items()
    }
    assert {name: found[name] for name in OPTIONS} == OPTIONS


def test_every_option_says_what_it_does() -> None:
    root = typer.main.get_command(app)
    for name, command in root.commands.items():
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.opts} has no help"
