"""Whatever is handed in: one sentence and an exit code, no traceback, no 10 s of computing, no memory over 2 GB.

2,100 cases; `pytest tests/fuzz --fuzz-cases 20000` tries others and more. Up to the weights everything is real; what
would be computed with them is left out, so that a case takes milliseconds.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sky4.errors import Sky4Failure
from sky4.pipeline.model_folder import BUNDLED
from sky4cli.main import main
from tests.fuzz.media import Hostile, hostile, seeds

CASES = 2100
SECONDS, WAIT = 10, 60
MEMORY = 2 * 2**30
CODES = (0, 1, 2, 3)

pytestmark = pytest.mark.slow


class Arena:
    """An empty folder for each case, and the limits that it is held to."""

    def __init__(self, folder: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.model, self.capsys = folder, model, capsys
        (folder / "seeds").mkdir()
        self.good = seeds(folder / "seeds")
        self.hung = (folder / "hung.txt").open("w")

    def case(self) -> Path:
        path = self.folder / "case"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        os.chdir(path)
        return path

    def run(self, argv: list[str]) -> None:
        before = _peak(afresh=True)
        faulthandler.dump_traceback_later(3 * WAIT, exit=True, file=self.hung)  # where no signal gets through
        # the machine may be busy with others: time that is computed counts at once, time that passes only when long
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(WAIT)
        try:
            code = main(argv)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
        shown = self.capsys.readouterr()
        assert code in CODES, argv
        assert "Traceback" not in shown.err, shown.err
        if code:
            said = [line for line in shown.err.splitlines() if line.startswith("sky4: ")]
            assert said or "FAILED" in shown.out or argv[0] == "diff", (argv, shown.err)
            assert all(len(line) < 4000 for line in said), argv
        assert _peak() - before < MEMORY, argv


def _peak(afresh: bool = False) -> int:
    """The most bytes that this process has had in memory; afresh: from now on, what earlier tests took set aside."""
    if afresh:
        Path("/proc/self/clear_refs").write_text("5")
    [line] = [row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def _alarm(*_: Any) -> None:
    raise AssertionError(f"a command computed for {SECONDS} s, or waited {WAIT} s for nothing")


@pytest.fixture(scope="module")
def stopped() -> Iterator[None]:
    """Weights are not loaded: a request that gets so far was served."""

    def stop(*_: Any, **__: Any) -> None:
        raise Sky4Failure("far enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sky4.pipeline.components.Components.load", stop)
        patch.setattr("sky4.prompting.enhance.LocalRewriter", stop)
        before = {number: signal.signal(number, _alarm) for number in (signal.SIGALRM, signal.SIGPROF)}
        here = Path.cwd()
        yield
        os.chdir(here)
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def arena(stopped: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Arena]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * 2**30, before[1]))  # a fault must not take the machine along
    try:
        yield Arena(tmp_path, BUNDLED, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz(test: Any, share: float, request: pytest.FixtureRequest, **strategies: Any) -> None:
    """Always the same cases in CI, others with --fuzz-cases."""
    more = request.config.getoption("--fuzz-cases")
    tried = settings(
        max_examples=max(1, round(share * (more or CASES))),
        derandomize=not more,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    tried(given(**strategies)(test))()


MEDIA_FLAGS = {
    "generate": ("--image", "--last-image", "--video", "--audio", "--ref"),
    "inpaint": ("file", "--mask", "--ref"),
    "edit": ("file", "--image", "--ref"),
    "extend": ("file", "--ref"),
    "show": ("file",),
    "check": ("file",),
    "rerun": ("file",),
    "diff": ("file",),
}


def test_hostile_files_are_refused_in_a_sentence(arena: Arena, request: pytest.FixtureRequest) -> None:
    places = [(command, flag) for command, flags in MEDIA_FLAGS.items() for flag in flags]

    def case(place: tuple[str, str], first: Hostile, second: Hostile, whole: bool) -> None:
        command, flag = place
        folder = arena.case()
        path = first.write(folder, "file", arena.good)
        argv = [command]
        if command in ("generate", "inpaint", "edit", "extend"):
            argv += ["--prompt", "a red circle", "--model", str(arena.model), "--quiet", "-o", "out.mp4"]
            if flag != "file" and command != "generate":
                argv.append(str(second.write(folder, "source", arena.good)))
            argv += {"extend": ["--seconds", "1"], "inpaint": ["--retake", "0-0.2"]}.get(command, [])
        if command == "rerun":
            argv += ["--verify", "--quiet"]
        if command == "diff":
            argv.append(str(second.write(folder, "other", arena.good)))
        argv += [str(path)] if flag == "file" else [flag, f"x={path}" if flag == "--ref" else str(path)]
        argv += ["--drive"] if flag == "--audio" else []
        argv += ["--seconds", "0.25"] if whole and command in ("generate", "inpaint", "edit") else []
        arena.run(argv)
        left = {entry.name for entry in folder.iterdir()}
        assert left <= {path.name, f"source{second.suffix}", f"other{second.suffix}"}, argv

    fuzz(
        case,
        0.5,
        request,
        place=st.sampled_from(places),
        first=hostile,
        second=hostile,
        whole=st.booleans(),
    )


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.fractions().map(str),
    st.sampled_from(("", "0", "-0", "1e999", "nan", "inf", "1/0", "0x10", "٣", "1_000", " 5 ", "5s", "--", "16")),
)
# no byte of argv is 0, and bytes that are no UTF-8 arrive as lone surrogates
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=60)
PROMPTS = st.one_of(
    TEXT,
    st.lists(
        st.sampled_from(("<sfx>", "</sfx>", "<text>", "@a", "@", "<", ">", "a", " ", "@image_1", "\n")), max_size=9
    ).map("".join),
)
VALUES = {
    "--size": st.one_of(TEXT, st.builds("{}x{}".format, NUMBERS, NUMBERS)),
    "--seconds": NUMBERS,
    "--frames": NUMBERS,
    "--fps": NUMBERS,
    "--steps": NUMBERS,
    "--guidance": NUMBERS,
    "--audio-guidance": NUMBERS,
    "--shift": NUMBERS,
    "--seed": NUMBERS,
    "-n": NUMBERS,
    "--only": st.sampled_from(("video", "audio", "still", "smell")),
    "--negative-prompt": PROMPTS,
    "--ref": st.one_of(TEXT, st.builds("{}={}".format, TEXT, st.sampled_from(("a.png", "a.mp4", "gone", "")))),
    "--image": st.sampled_from(("a.png", "gone.png", ".", "", "-", "/dev/null")),
    "--device": TEXT,
    "--dtype": TEXT,
    "--attention-backend": TEXT,
    "--model": st.one_of(TEXT, st.just("."), st.just("/")),
    "--format": st.sampled_from(("mp4", "png", "exe")),
    "-o": st.one_of(TEXT, st.sampled_from(("a.mp4", "a", "-", ".", "..", "/", "a.png", "a.wav", "x/y.mp4", "-.mp4"))),
    "--box": st.one_of(TEXT, st.builds("{},{},{},{}".format, NUMBERS, NUMBERS, NUMBERS, NUMBERS)),
    "--retake": st.one_of(TEXT, st.builds("{}-{}".format, NUMBERS, NUMBERS)),
    "--pad": st.one_of(TEXT, st.builds("{},{},{},{}".format, NUMBERS, NUMBERS, NUMBERS, NUMBERS)),
    "--mask": st.one_of(TEXT, st.just("a.png"), st.just("b=a.png")),
    "--grow": NUMBERS,
    "--feather": NUMBERS,
    "--from": NUMBERS,
    "--to": NUMBERS,
    "--overlap": NUMBERS,
    "--window": NUMBERS,
    "--mix": NUMBERS,
    "--max-tail": NUMBERS,
    "--max-loudness": NUMBERS,
    "--skip": TEXT,
    "--set": st.one_of(TEXT, st.builds("{}={}".format, st.sampled_from(("seed", "fps", "prompt", "video")), NUMBERS)),
}
FLAGS = st.sampled_from(("--drive", "--keep-audio", "--backward", "--force", "--json", "--sidecar", "--no-metadata"))
PAIR = st.sampled_from(sorted(VALUES)).flatmap(lambda flag: st.tuples(st.just(flag), VALUES[flag]))
COMMANDS = ("generate", "inpaint", "edit", "extend", "check", "show", "rerun", "diff", "config", "doctorr", "")


def test_any_words_are_answered_in_a_sentence(arena: Arena, request: pytest.FixtureRequest) -> None:
    def case(command: str, prompt: str, pairs: list[tuple[str, str]], flags: list[str], stray: list[str]) -> None:
        folder = arena.case()
        for name, data in zip(("a.jpg", "a.png"), arena.good, strict=False):
            (folder / name).write_bytes(data)
        shutil.copy(arena.folder / "seeds" / "own.mp4", folder / "a.mp4")
        argv = [command, *stray]
        if command in ("generate", "inpaint", "edit", "extend"):
            argv += ["--prompt", prompt, "--model", str(arena.model), "-o", "out.mp4"]
            argv += ["a.mp4"] if command != "generate" else []
        argv += [word for pair in pairs for word in pair] + flags
        arena.run(argv)

    fuzz(
        case,
        0.35,
        request,
        command=st.sampled_from(COMMANDS),
        prompt=PROMPTS,
        pairs=st.lists(PAIR, max_size=4),
        flags=st.lists(FLAGS, max_size=2),
        stray=st.lists(TEXT, max_size=1),
    )


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
KEYS = ("request", "model", "computed", "latents", "inputs", "clip", "version")
INNER = (
    "version",
    "prompt",
    "width",
    "height",
    "frames",
    "fps",
    "steps",
    "guidance",
    "audio_guidance",
    "shift",
    "seed",
)
INNER += (
    "sources",
    "video",
    "references",
    "canvas",
    "segments",
    "soundtrack",
    "outputs",
    "variations",
    "path",
    "device",
)


def test_recipes_and_settings_that_are_mangled_are_told(arena: Arena, request: pytest.FixtureRequest) -> None:
    import json

    table = st.dictionaries(st.sampled_from(INNER), JSON, max_size=12)

    def case(recipe: dict[str, Any], settings_text: str, command: str) -> None:
        folder = arena.case()
        (folder / "a.json").write_text(json.dumps({"format": "sky4-recipe", **recipe}))
        (folder / "b.json").write_text(json.dumps({"format": "sky4-recipe"}))
        if settings_text:
            (folder / "sky4.toml").write_text(settings_text)
        argv = {"rerun": ["--model", str(arena.model), "--verify", "--quiet"], "diff": ["b.json"], "check": ["--quiet"]}
        arena.run([command, "a.json", *argv.get(command, [])])

    fuzz(
        case,
        0.15,
        request,
        recipe=st.dictionaries(st.sampled_from(KEYS), st.one_of(JSON, table), max_size=7),
        settings_text=st.one_of(
            st.just(""),
            st.text(st.characters(blacklist_categories=("Cs",)), max_size=40),
            st.builds(
                "{} = {}".format,
                st.sampled_from(("steps", "seed", "x", "json")),
                st.text("0123456789[]{}'\"=.-", max_size=9),
            ),
        ),
        command=st.sampled_from(("show", "rerun", "diff", "check")),
    )
