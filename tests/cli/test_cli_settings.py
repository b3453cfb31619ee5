"""Defaults that a user sets once, in the environment or in files: which wins, what is refused, what is shown."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from sky4.errors import RequestError
from sky4.media import read_recipe
from sky4cli.main import app, main
from sky4cli.settings import default_map, settings_in_force, unknown_names


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of settings; one stands in an empty working folder beside it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "xdg" / "sky4").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "sky4"


def in_force(environ: dict[str, str] | None = None) -> dict[str, object]:
    """{"generate steps": value ...}"""
    found = settings_in_force(typer.main.get_command(app), {**os.environ, **(environ or {})}, Path.cwd())
    return {f"{one.command} {one.option}": one.value for one in found}


def test_the_nearer_place_wins(home: Path) -> None:
    (home / "sky4.toml").write_text("steps = 1\nseed = 1\nshift = 1\n[generate]\nguidance = 1\n")
    assert in_force()["generate steps"] == "1"
    Path("sky4.toml").write_text("steps = 2\nseed = 2\n[generate]\nguidance = 2\n")
    found = in_force({"SKY4_STEPS": "3"})
    named = ("steps", "seed", "shift", "guidance")
    assert [found[f"generate {name}"] for name in named] == ["3", "2", "1", "2"]
    assert found["edit steps"] == "3"
    assert "edit guidance" not in found


def test_a_commands_own_setting_beats_the_one_of_all_commands(home: Path) -> None:
    Path("sky4.toml").write_text("steps = 2\n[generate]\nsteps = 5\n[bench.kernels]\nseed = 9\n")
    found = in_force()
    assert (found["generate steps"], found["edit steps"], found["bench kernels seed"]) == ("5", "2", "9")
    found = in_force({"SKY4_STEPS": "3", "SKY4_GENERATE_STEPS": "4"})
    assert (found["generate steps"], found["edit steps"]) == ("4", "3")


def test_a_flag_beats_them_all_and_the_rest_takes_effect(
    home: Path, nano_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("sky4.toml").write_text(f'steps = 1\nseed = 5\nquiet = true\nmodel = "{nano_model}"\n')
    monkeypatch.setenv("SKY4_GUIDANCE", "1.5")
    assert main(["generate", "--prompt", "a", "--seed", "6", "-o", "a.mp4"]) == 0
    request = read_recipe(Path("a.mp4"))["request"]
    assert (request["steps"], request["seed"], request["guidance"]) == (1, 6, 1.5)


def test_lists_flags_and_pairs_are_read_too(home: Path) -> None:
    Path("sky4.toml").write_text('ref = ["a=a.png", "b=b.png"]\nforce = true\nc2pa = ["cert.pem", "key.pem"]\n')
    found = in_force()
    assert found["generate ref"] == ["a=a.png", "b=b.png"]
    assert found["generate force"] is True
    assert found["generate c2pa"] == [str(Path.cwd() / "cert.pem"), str(Path.cwd() / "key.pem")]
    found = in_force({"SKY4_REF": "'a=a b.png' c=c.png", "SKY4_FORCE": "off"})
    assert found["generate ref"] == ["a=a b.png", "c=c.png"]
    assert found["generate force"] is False


def test_a_path_in_a_file_starts_where_the_file_lies(home: Path) -> None:
    (home / "sky4.toml").write_text('model = "models/mine"\n')
    assert in_force()["generate model"] == str(home / "models" / "mine")


def test_a_typed_flag_lets_go_of_what_was_set_for_its_rival(home: Path) -> None:
    Path("sky4.toml").write_text("seconds = 2\nsteps = 4\n")
    settings = settings_in_force(typer.main.get_command(app), {}, Path.cwd())
    assert default_map(settings, ["generate", "--frames", "9"])["generate"] == {"steps": "4"}
    assert default_map(settings, ["generate"])["generate"] == {"seconds": "2", "steps": "4"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("step = 4", "sky4.toml: unknown setting step; did you mean steps?"),
        ("[generate]\nguidence = 4", "unknown setting generate.guidence; did you mean guidance?"),
        ("[bench.kernels]\nsmell = 4", "unknown setting bench.kernels.smell"),
        ("[generat]\nsteps = 4", "there is no command generat; did you mean generate?"),
        ("steps = 'many'", "sky4.toml: steps: "),
        ("steps = [1]", "sky4.toml: steps: expected one value"),
        ("ref = 'a=b'", "sky4.toml: ref: expected a list"),
        ("force = 1", "sky4.toml: force: expected true or false"),
        ("sampler = 'magic'", "sky4.toml: sampler: "),
        ("steps = ", "is no TOML"),
        ("steps = 1979-05-27", "sky4.toml: steps: expected text or a number"),
        ("a" * 2**21, "is larger than 1 MiB"),
        ("a = " + "[" * 100_000, "is no TOML"),
    ],
)
def test_what_is_not_known_is_refused_by_its_path(
    home: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    Path("sky4.toml").write_text(text)
    assert main(["generate", "--prompt", "a"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert main(["--version"]) == 0


def test_the_environment_is_held_to_the_same(home: Path) -> None:
    for name, text, words in (
        ("SKY4_STEPS", "many", "SKY4_STEPS: "),
        ("SKY4_FORCE", "perhaps", "SKY4_FORCE=perhaps: expected 1 or 0"),
        ("SKY4_REF", "'a=b", "a quote is not closed"),
    ):
        with pytest.raises(RequestError, match=words):
            in_force({name: text})
    assert in_force({"SKY4_STEPS": "", "SKY4_DEBUG": "1", "SKY4_PYTHON": "python3"}) == {}


def test_a_name_that_nothing_reads_is_told_with_the_nearest_one(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SKY4_STPES", "SKY4_GENERATE_TO", "SKY4_XYLOPHONE", "SKY4_ISA", "SKY4_SEED"):
        monkeypatch.setenv(name, "avx2" if name == "SKY4_ISA" else "4")
    monkeypatch.setenv("SKY4_STPS", "")
    assert main(["check", "gone.mp4"]) == 2
    warning, _ = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: nothing of sky4 reads SKY4_GENERATE_TO (did you mean SKY4_GENERATE_")
    assert "SKY4_STPES (did you mean SKY4_STEPS?)" in warning and warning.endswith(", SKY4_XYLOPHONE")
    assert not {"SKY4_ISA", "SKY4_SEED", "SKY4_STPS"} & set(warning.replace(",", " ").split())
    assert main(["check", "gone.mp4", "--quiet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown"]["SKY4_STPES"] == "SKY4_STEPS"
    for word in ("--version", "--help"):
        main([word])
        assert not capsys.readouterr().err


def test_every_name_that_the_other_parts_read_is_known() -> None:
    """As their sources spell it: getenv in C++, ENV in CMake, ${...} in the scripts, os.environ in Python."""
    root = Path(__file__).parents[2]
    code = r"(?:getenv\(|ENV\{|environ\.get\(|environ\[|environ\.setdefault\()[\"']?(SKY4_[A-Z0-9_]+)"
    reads = {**dict.fromkeys((".py", ".cpp", ".cu", ".h", ".cmake"), code), "": r"\$\{?(SKY4_[A-Z0-9_]+)"}
    reads[".sh"] = reads[""]
    places = (root / name for name in ("cmake", "scripts", "csrc", "python_model", "sky4cli", "tests"))
    sources = [file for place in places for file in place.rglob("*") if file.suffix in reads and file.is_file()]
    found = {name for file in sources for name in re.findall(reads[file.suffix], file.read_text("utf-8", "replace"))}
    assert {"SKY4_ISA", "SKY4_CUDA_ARCHS", "SKY4_PYTHON", "SKY4_DEBUG", "SKY4_COMMIT"} <= found
    assert unknown_names(typer.main.get_command(app), dict.fromkeys(found, "1")) == {}


def test_config_shows_each_setting_with_its_place(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "sky4.toml").write_text("[generate]\nsteps = 2\n")
    monkeypatch.setenv("SKY4_GENERATE_SEED", "3")
    assert main(["config", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == [str(Path.cwd() / "sky4.toml"), str(home / "sky4.toml")]
    assert told["settings"] == [
        {"command": "generate", "option": "steps", "value": "2", "from": f"{home / 'sky4.toml'}: generate.steps"},
        {"command": "generate", "option": "seed", "value": "3", "from": "SKY4_GENERATE_SEED"},
    ]
    assert main(["config"]) == 0
    shown = capsys.readouterr().out
    assert "generate --steps" in shown
    assert "not there" in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_commands_and_options(shell: str) -> None:
    """As the shells call it: the words so far in the environment, the offers on stdout."""
    environ = {**os.environ, "_SKY4_COMPLETE": f"complete_{shell}", "PYTHONPATH": os.pathsep.join(sys.path)}

    def offered(line: str) -> str:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        words |= {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        run = subprocess.run(
            [sys.executable, "-m", "sky4cli"], env={**environ, **words}, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in run.stderr
        return run.stdout

    assert "inpaint" in offered("sky4 ")
    assert "--guidance" in offered("sky4 generate --g")
    assert "unipc" in offered("sky4 generate --sampler ")
