"""`sky4 refine` and --refine through the command line, on a nano model: sizes, frames, sound, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sky4.media import probe_video, read_recipe, write_clip
from sky4cli.main import main
from tests.clips import GOOD, Clips
from tests.media.test_soundtrack import packets_of

Run = Callable[..., tuple[int, str, str]]


def film(path: Path, frames: int = 9, size: tuple[int, int] = (48, 32), fps: int = 16, prompt: str = "") -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (frames, size[1], size[0], 3), dtype=np.uint8)
    tone = 0.3 * np.tile(np.sin(np.arange(round(frames / fps * 44100)) / 30), (2, 1)).astype(np.float32)
    recipe = {"request": {"prompt": prompt}} if prompt else {}
    write_clip(path, [pictures], tone, fps=Fraction(fps), recipe=recipe)


@pytest.fixture
def run(
    refining_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Call `sky4` in a folder with film.mp4: 9 frames of 48x32 at 16 a second, with sound."""
    monkeypatch.chdir(tmp_path)
    film(Path("film.mp4"), prompt="a red circle")

    def call(*argv: str) -> tuple[int, str, str]:
        code = main([*argv, "--model", str(refining_model)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def test_a_clip_is_twice_as_large_and_as_smooth_over_its_own_sound(run: Run):
    code, out, err = run("refine", "film.mp4", "-o", "out.mp4", "--json")
    assert code == 0, err
    [made] = json.loads(out)["clips"]
    assert (made["width"], made["height"], made["frames"], made["fps"]) == (96, 64, 18, "32")
    facts, own = probe_video(Path("out.mp4")), probe_video(Path("film.mp4"))
    assert (facts.width, facts.height, facts.frames, facts.seconds) == (96, 64, 18, own.seconds)
    assert packets_of(Path("out.mp4")) == packets_of(Path("film.mp4"))
    assert read_recipe(Path("out.mp4"))["request"]["prompt"] == "a red circle"


def test_it_is_made_again_from_its_recipe(run: Run, capsys: pytest.CaptureFixture[str]):
    assert run("refine", "film.mp4", "--size", "80x64", "--fps", "16", "--steps", "1", "-o", "out.mkv")[0] == 0
    code, _, err = run("rerun", "out.mkv", "-o", "again.mkv")
    assert code == 0 and "the same, bit for bit" in err


def test_a_picture_is_refined_too(run: Run):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)).save("photo.png")
    assert run("refine", "photo.png", "--size", "1.5x")[0] == 0
    assert Image.open("photo-refined.png").size == (80, 48)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_odd_real_clips_keep_their_sound_byte_for_byte(run: Run, clips: Clips, name: str):
    path = clips(name)
    out = f"out{'.mkv' if path.suffix == '.mov' else path.suffix}"
    code, shown, err = run("refine", str(path), "--seconds", "0.3", "--steps", "1", "-o", out, "--json")
    assert code == 0, err
    [made] = json.loads(shown)["clips"]
    kind, facts = GOOD[name], probe_video(path)
    assert made["width"] > kind.shown[0] and made["height"] > kind.shown[1]
    assert Fraction(made["fps"]) == 2 * facts.fps
    if facts.has_audio:
        kept, every = packets_of(Path(out)), packets_of(path)
        assert kept and any(every[at : at + len(kept)] == kept for at in range(len(every)))
    else:
        assert "has no sound, so the refined clip has none" in err


@pytest.mark.parametrize(
    "argv",
    [
        ("generate", "--prompt", "a circle", "--frames", "9"),
        ("edit", "film.mp4", "--prompt", "in rain"),
        ("inpaint", "film.mp4", "--box", "0,0,50%,100%", "--prompt", "in rain"),
        ("extend", "film.mp4", "--seconds", "0.25", "--prompt", "in rain"),
    ],
)
def test_every_command_refines_what_it_makes(run: Run, argv: tuple[str, ...]):
    code, out, err = run(*argv, "--steps", "1", "--refine", "2x", "--keyframes", "2", "-o", "out.mkv", "--json")
    assert code == 0, err
    [made] = json.loads(out)["clips"]
    request = read_recipe(Path("out.mkv"))["request"]
    laid = argv[0] in ("inpaint", "extend")  # into the source's own frames
    assert request["refinement"]["rate"] == (1 if laid else 2)
    assert request["refinement"]["keyframes"][0] == 0 and len(request["refinement"]["keyframes"]) == 2
    size = (48, 32) if laid else (2 * request["width"], 2 * request["height"])
    assert (made["width"], made["height"]) == size
    if laid:
        assert made["kept"]["before_encoding"]["largest"] == 0


@pytest.mark.parametrize(("text", "frames"), [("1", [0]), ("2", [0, 2]), ("3", [0, 1, 2]), ("0,0.25", [0, 1])])
def test_keyframes_are_counted_or_placed(run: Run, text: str, frames: list[int]):
    code, _, err = run(
        *("generate", "--prompt", "a circle", "--frames", "9", "--steps", "1", "--only", "video"),
        *("--refine", "2x@16", "--keyframes", text, "-o", "out.mp4"),
    )
    assert code == 0, err
    assert read_recipe(Path("out.mp4"))["request"]["refinement"]["keyframes"] == frames


def test_a_given_clip_has_keyframes_made_of_it(run: Run):
    for out, more in (("with.mp4", ("--keyframes", "0,0.25")), ("without.mp4", ())):
        code, _, err = run("refine", "film.mp4", "--seconds", "0.5625", "--steps", "1", "-o", out, *more)
        assert code == 0, err
    recipes = [read_recipe(Path(out)) for out in ("with.mp4", "without.mp4")]
    assert recipes[0]["request"]["refinement"]["keyframes"] == [0, 1]
    assert recipes[0]["latents"] != recipes[1]["latents"]
    sounds = [packets_of(Path(out)) for out in ("with.mp4", "without.mp4")]
    assert sounds[0] and sounds[0] == sounds[1]
    code, out, err = run("refine", "film.mp4", "--seconds", "0.5625", "--keyframes", "2", "--dry-run", "--json")
    assert code == 0, err
    assert "keyframes" in out


MAKE = ("generate", "--prompt", "a circle", "--frames", "9", "-o", "out.mp4")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("refine", "film.mp4", "--size", "48x32"), "--size 48x32 is no larger than the 48x32 of 'film.mp4'; ask for"),
        (("refine", "film.mp4", "--size", "32x32"), "no larger"),
        (("refine", "film.mp4", "--size", "0.5x"), "refining enlarges; ask for more than 1x"),
        (("refine", "film.mp4", "--size", "97x64"), "multiple of 16 pixels for this model, got 97; nearest: 96 or 112"),
        (("refine", "film.mp4", "--size", "big"), "expected WIDTHxHEIGHT in pixels, or a factor such as 2x"),
        (("refine", "film.mp4", "--size", "9000x9000"), "outside 1 to 8192"),
        (("refine", "film.mp4", "--fps", "24"), "keeps the rate of 16 or doubles it; ask for 16 or 32"),
        (("refine", "film.mp4", "--steps", "0"), "0 refining steps are outside 1 to 100"),
        (("refine", "film.mp4", "-o", "out.webm"), "WebM output does not hold its packets as they are"),
        (("refine", "film.mp4", "-o", "film.mp4", "--force"), "is the input 'film.mp4'"),
        (("refine", "film.mp4", "-o", "out.wav"), "would be a sound alone"),
        (
            (
                "refine",
                "none.mp4",
            ),
            "none.mp4",
        ),
        (("refine", "film.mp4", "--from", "5"), "begin earlier"),
        ((*MAKE, "--refine", "32x32"), "--refine 32x32 is no larger than the 32x32 of the picture that is refined"),
        ((*MAKE, "--refine", "2x@20"), "keeps the rate of 16 or doubles it"),
        ((*MAKE, "--refine", "100x64"), "--refine 100x64: width must be a multiple of 16 pixels"),
        ((*MAKE, "--keyframes", "2"), "--keyframes 2 are made at the refined size; say it with --refine 2x"),
        ((*MAKE, "--refine", "2x", "--keyframes", "9"), "the clip has 3 latent frames; ask for 1 to 3"),
        ((*MAKE, "--refine", "2x", "--keyframes", "0,9"), "name earlier moments"),
        (("refine", "film.mp4", "--keyframes", "99"), "--keyframes 99: the clip has "),
        (("refine", "film.mp4", "--keyframes", "0,99"), "name earlier moments"),
        ((*MAKE, "--refine", "2x", "--only", "audio"), "--refine needs a picture, and the output is a sound alone"),
        (("generate", "--prompt", "x", "--only", "still", "-o", "a.png", "--refine", "2x@32"), "no frames to put more"),
        (
            ("inpaint", "film.mp4", "--box", "0,0,9,9", "--prompt", "x", "--refine", "2x@32"),
            "kept frames have the source's own rate",
        ),
        (
            ("generate", "--video", "film.mp4", "--prompt", "x", "--refine", "2x", "--keyframes", "2"),
            "--keyframes: the picture is given as --video; make its sound first, then use `sky4 refine` on the result",
        ),
    ],
)
def test_bad_input_is_one_sentence_before_any_weights(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], words: str
):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded for a request that is refused")

    for name in ("load_transformer", "load_refiner", "load_video_codec", "load_text_encoder"):
        monkeypatch.setattr(f"sky4.pipeline.components.{name}", fail)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*argv, "--quiet")
    assert (code, out) == (2, ""), err
    assert err.startswith("sky4: ") and err.count("\n") == 1
    assert words in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_without_a_refiner_is_named(nano_model: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    film(Path("film.mp4"))
    assert main(["refine", "film.mp4", "--model", str(nano_model)]) == 2
    assert "holds no refiner; train one with `sky4 train refiner`" in capsys.readouterr().err
