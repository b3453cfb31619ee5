"""`sky4 inpaint` through the command line, on a nano model: what is kept, what is made, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from sky4.media import probe_video, read_image, read_video, write_clip
from sky4cli.main import main
from tests.clips import GOOD, KINDS, Clips

Run = Callable[..., tuple[int, str, str]]
WIDTH, HEIGHT, FRAMES = 80, 48, 11


def boxed(x: int, y: int, width: int, height: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    picture = np.zeros((size[1], size[0]), np.uint8)
    picture[y : y + height, x : x + width] = 255
    return picture


@pytest.fixture
def run(nano_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call a command in a folder with film.mp4 (11 frames of 80x48 at 10 a second, with sound), a.png and masks."""
    monkeypatch.chdir(tmp_path)
    frames = np.random.default_rng(0).integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    tone = np.tile(0.3 * np.sin(np.arange(round(1.1 * 44100)) / 30).astype(np.float32), (2, 1))
    write_clip(Path("film.mp4"), [frames], tone, fps=Fraction(10), recipe={})
    Image.fromarray(frames[0]).save("a.png")
    Image.fromarray(boxed(8, 8, 24, 20)).save("left.png")
    Image.fromarray(boxed(48, 8, 24, 20)).save("right.png")

    def call(*argv: str) -> tuple[int, str, str]:
        code = main([*argv, "--model", str(nano_model)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded for what needs none")

    monkeypatch.setattr("sky4.pipeline.components.Components.load", fail)


def packets(path: str) -> list[bytes]:
    with av.open(path) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_a_part_of_the_picture_is_made_anew_in_the_clips_own_size(run: Run) -> None:
    code, out, err = run("inpaint", "film.mp4", "--mask", "left.png", "--prompt", "a star", "-o", "o.mp4", "--json")
    assert code == 0, err
    assert err.count("--mask-mode white-edits: what is white in the mask is made anew, what is black is kept") == 1
    [made] = json.loads(out)["clips"]
    assert (made["width"], made["height"], made["frames"], made["fps"]) == (WIDTH, HEIGHT, FRAMES, "10")
    kept = made["kept"]
    assert kept["before_encoding"] == {"mean": 0.0, "largest": 0}
    assert kept["share"] == pytest.approx(1 - 24 * 20 / (WIDTH * HEIGHT))
    source, found = (read_video(Path(name)).astype(int) for name in ("film.mp4", "o.mp4"))
    outside = boxed(8, 8, 24, 20) == 0
    off = np.abs(found - source)[:, outside]
    assert kept["in_file"]["largest"] == off.max()
    assert kept["in_file"]["mean"] == pytest.approx(off.mean())
    assert np.abs(found - source)[:, ~outside].mean() > 2 * off.mean()
    with av.open("o.mp4") as container:
        assert len(container.streams.audio) == 1


def test_a_folder_of_pictures_keeps_what_is_outside_to_the_byte(run: Run) -> None:
    code, out, err = run(
        "inpaint", "film.mp4", "--box", "25%,10,24,20@0.3-0.6", "--prompt", "a star", "-o", "made", "--grow", "2",
        "--feather", "3", "--from", "0.2", "--seconds", "0.6",
    )  # fmt: skip
    assert code == 0, err
    assert "made  what is kept: unchanged before encoding, unchanged in the file" in out
    source = read_video(Path("film.mp4"))[2:8]
    made = np.stack([read_image(Path(f"made/{number:05d}.png")) for number in range(6)])
    assert np.array_equal(made[[0, 4, 5]], source[[0, 4, 5]])  # 0.3 to 0.6 s of the film are the frames 3, 4 and 5
    outside = boxed(18, 8, 28, 24) == 0
    assert np.array_equal(made[:, outside], source[:, outside])
    assert (made[1:4] != source[1:4]).any(axis=(1, 2, 3)).all()
    assert not (Path("made") / "00006.png").exists()


def test_named_masks_are_named_in_the_prompt_and_meet_references(run: Run) -> None:
    argv = (
        "inpaint", "film.mp4", "--mask", "left=left.png", "--mask", "right=right.png", "--ref", "image_1=a.png",
        "--ref", "image_2=left.png", "--steps", "1",
    )  # fmt: skip
    code, _, err = run(*argv, "--prompt", "@image_1 at @left and @image_2 at @right", "-o", "made")
    assert code == 0, err
    assert "is not mentioned" not in err
    made, source = read_image(Path("made/00000.png")), read_video(Path("film.mp4"))[0]
    for mask in (boxed(8, 8, 24, 20), boxed(48, 8, 24, 20)):
        assert (made != source)[mask > 0].mean() > 0.9
    assert np.array_equal(made[:8], source[:8])
    code, _, err = run(*argv, "--prompt", "@image_1 and @image_2 at @middle", "-o", "other")
    assert code == 2
    assert "no reference is named @middle; there are @image_1, @image_2, @left, @right" in err
    code, _, err = run(*argv, "--prompt", "@image_1 and @image_2 at @left", "-o", "other")
    assert code == 0
    assert "@right is not mentioned" in err


@pytest.mark.usefixtures("no_weights")
def test_the_preview_alone_needs_no_prompt_and_no_weights(run: Run) -> None:
    code, out, err = run("inpaint", "film.mp4", "--mask", "left.png", "--mask-preview", "p.png")
    assert code == 0, err
    assert out.startswith("p.png  80x48  the region as it is in every frame")
    shown, source = np.asarray(Image.open("p.png")), read_video(Path("film.mp4"))[0]
    outside = boxed(8, 8, 24, 20) == 0
    assert np.array_equal(shown[outside], source[outside])
    assert (np.abs(shown.astype(int) - source)[~outside].mean()) > 30
    assert sorted(path.name for path in Path().glob("film*")) == ["film.mp4"]
    code, out, _ = run("inpaint", "film.mp4", "--box", "0,0,9,9@0-0.5", "--mask-preview", "q.png", "--json")
    assert (code, json.loads(out)) == (0, {"mask_preview": "q.png"})
    assert Image.open("q.png").size == (3 * (WIDTH + 2), 3 * (HEIGHT + 2))


def test_the_preview_is_drawn_before_a_clip_is_made(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        assert Path("p.png").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("sky4.pipeline.components.Components.load", load)
    argv = ("inpaint", "film.mp4", "--mask", "left.png", "--mask-preview", "p.png", "--prompt", "x")
    assert run(*argv)[0] == 130
    assert run(*argv)[0] == 2  # it is there now


def test_a_picture_becomes_a_still_with_its_own_pixels_around(run: Run) -> None:
    code, out, err = run("inpaint", "a.png", "--mask", "left.png", "--prompt", "a star", "--json")
    assert code == 0, err
    [made] = json.loads(out)["clips"]
    assert (made["path"], made["frames"], made["kept"]["in_file"]["largest"]) == ("a-inpainted.png", 1, 0)
    found, source = (np.asarray(Image.open(name).convert("RGB")) for name in ("a-inpainted.png", "a.png"))
    outside = boxed(8, 8, 24, 20) == 0
    assert np.array_equal(found[outside], source[outside])
    assert (found != source)[~outside].mean() > 0.9


def test_padding_widens_the_canvas_and_odd_sizes_are_told(run: Run) -> None:
    code, out, err = run(
        "inpaint", "film.mp4", "--pad", "25%,0,5,3", "--prompt", "a wide place", "-o", "wide.mp4", "--steps", "1",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    [made] = json.loads(out)["clips"]
    assert (made["width"], made["height"]) == (104, 50)
    assert err.count("MP4 holds even sizes only: 105x51 is cut to 104x50") == 1
    code, _, err = run("inpaint", "film.mp4", "--pad", "25%,0,5,3", "--prompt", "x", "-o", "wide", "--steps", "1")
    assert code == 0, err
    assert "even" not in err
    made_first = read_image(Path("wide/00000.png"))
    assert made_first.shape == (51, 105, 3)
    assert np.array_equal(made_first[:48, 20:100], read_video(Path("film.mp4"))[0])
    code, _, err = run("rerun", "wide", "-o", "wide.mkv")
    assert code == 2
    assert "'wide.mkv' is MKV, which holds even sizes only, and the clip has 105x51" in err


def test_the_sources_sound_is_kept_byte_for_byte_or_mixed(run: Run) -> None:
    argv = ("inpaint", "film.mp4", "--mask", "left.png", "--prompt", "a star", "--steps", "1")
    code, out, err = run(*argv, "--keep-audio", "-o", "kept.mp4", "--json")
    assert code == 0, err
    assert set(json.loads(out)["clips"][0]["latents"]) == {"video"}
    assert packets("kept.mp4") == packets("film.mp4")
    code, out, err = run(*argv, "--mix", "0.5", "-o", "mixed.mp4", "--json")
    assert code == 0, err
    assert set(json.loads(out)["clips"][0]["latents"]) == {"video", "audio"}


@pytest.mark.parametrize(
    "region", [["--mask", "left=left.png", "--mask-mode", "white-keeps"], ["--retake", "0.3-0.6"], ["--pad", "8,0,8,0"]]
)
def test_a_clip_is_made_again_from_its_recipe(run: Run, region: list[str]) -> None:
    argv = ("inpaint", "film.mp4", *region, "--prompt", "a star", "--steps", "1", "--from", "0.1", "--seed", "3")
    code, _, err = run(*argv, "-o", "one.mkv")
    assert code == 0, err
    code, _, err = run("rerun", "one.mkv", "-o", "two.mkv")
    assert code == 0, err
    assert "the latents are the same, bit for bit" in err
    assert np.array_equal(read_video(Path("one.mkv")), read_video(Path("two.mkv")))


def test_a_size_of_other_proportions_is_told(run: Run) -> None:
    argv = ("inpaint", "film.mp4", "--mask", "left.png", "--prompt", "a star", "--steps", "1")
    code, out, err = run(*argv, "--size", "32x48", "-o", "o.mp4", "--json")
    assert code == 0, err
    assert err.count("the picture of 80x48 is stretched to the model's 32x48, and back") == 1
    assert json.loads(out)["clips"][0]["width"] == WIDTH


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_clips_of_other_programs_go_through(run: Run, clips: Clips, name: str) -> None:
    """Shown as players show them, at their own rate and length, and outside of the region unchanged."""
    path, kind = clips(name), KINDS[name]
    code, out, err = run(
        "inpaint", str(path), "--box", "25%,25%,50%,50%", "--seconds", "1", "--prompt", "a star", "--steps", "1",
        "-o", "made", "--json",
    )  # fmt: skip
    assert code == 0, err
    [made] = json.loads(out)["clips"]
    facts = probe_video(path)
    assert (made["width"], made["height"]) == kind.shown
    assert (made["fps"], made["frames"]) == (str(facts.fps), round(facts.fps))
    assert made["kept"]["in_file"] == {"mean": 0.0, "largest": 0}
    assert err.count("variable frame rate") == kind.variable
    source = read_video(path, facts.fps, frames=made["frames"])
    found = np.stack([read_image(Path(f"made/{number:05d}.png")) for number in range(made["frames"])])
    height, width = source.shape[1:3]
    for rows in (slice(0, height // 4 - 1), slice(3 * height // 4 + 1, None)):
        assert np.array_equal(found[:, rows], source[:, rows])
    inside = np.s_[:, height // 4 + 1 : height // 2, width // 4 + 1 : width // 2]
    assert (found[inside] != source[inside]).mean() > 0.5


def write_masks() -> None:
    """What the lines below speak of."""
    Image.new("L", (WIDTH, HEIGHT), 0).save("empty.png")
    Image.new("L", (WIDTH, HEIGHT), 255).save("full.png")
    Image.new("L", (64, 64), 255).save("small.png")
    Path("broken.png").write_bytes(b"no picture" * 99)
    Path("nothing").mkdir()
    Path("short").mkdir()
    for number in range(3):
        Image.fromarray(boxed(number, 0, 9, 9)).save(f"short/{number}.png")
    frames = np.repeat(boxed(4, 4, 20, 20)[None, ..., None], 3, axis=3)
    write_clip(Path("short.mp4"), [np.repeat(frames, 4, axis=0)], None, fps=Fraction(10), recipe={})
    write_clip(Path("silent.mp4"), [np.zeros((4, HEIGHT, WIDTH, 3), np.uint8)], None, fps=Fraction(10), recipe={})
    write_clip(Path("long.mp4"), [np.zeros((40, 16, 16, 3), np.uint8)], None, fps=Fraction(2), recipe={})


LEFT = ["film.mp4", "--mask", "left.png"]
REFUSED: list[tuple[list[str], str]] = [
    (["film.mp4"], "nothing says what is made anew; add --mask, --box, --retake or --pad"),
    (["gone.mp4", "--box", "0,0,9,9"], "'gone.mp4' does not exist"),
    (["broken.png", "--box", "0,0,9,9"], "cannot be decoded as a picture"),
    (["film.mp4", "--mask", "gone.png"], "--mask gone.png: 'gone.png' does not exist"),
    (["film.mp4", "--mask", "broken.png"], "--mask: 'broken.png' cannot be decoded as a picture"),
    (["film.mp4", "--mask", "nothing"], "--mask: 'nothing' holds no pictures"),
    (["film.mp4", "--mask", "1=left.png"], "--mask 1=left.png: 1 is no name for a mask"),
    (["film.mp4", "--mask", "small.png"], "small.png has 64x64 pixels and 'film.mp4' 80x48; give one of the same size"),
    (
        ["film.mp4", "--mask", "short"],
        "short has 3 frames and 'film.mp4' 11; give one of the same length, or --fit-mask",
    ),
    (["film.mp4", "--mask", "short.mp4"], "short.mp4 has 4 frames and 'film.mp4' 11"),
    (["film.mp4", "--mask", "empty.png"], "empty.png selects nothing to make anew with --mask-mode white-edits"),
    (["film.mp4", "--mask", "full.png"], "--mask full.png: all of 'film.mp4' is selected, so nothing of it is kept"),
    (["film.mp4", "--mask", "full.png", "--mask-mode", "white-keeps"], "selects nothing to make anew"),
    (["film.mp4", "--box", "70,0,20,9"], "--box 70,0,20,9 reaches outside of the 80x48 pixels of 'film.mp4'"),
    (["film.mp4", "--box", "1,2,3"], "--box 1,2,3: expected x,y,width,height"),
    (["film.mp4", "--box", "0,0,9,9@3-4"], "--box 3-4 reaches outside of 'film.mp4', which lasts 1.10 s"),
    (["film.mp4", "--retake", "0-9"], "--retake 0-9 reaches outside"),
    (["film.mp4", "--retake", "1-0"], "ends after it begins"),
    (["film.mp4", "--retake", "0-0.2", "--from", "0.5"], "lies outside of what is taken of 'film.mp4', 0.50 to 1.10 s"),
    (["film.mp4", "--retake", "0-1.1"], "all of 'film.mp4' is selected"),
    (["film.mp4", "--pad", "0,0,0,0"], "--pad 0,0,0,0: a canvas can only grow"),
    (["film.mp4", "--pad", "99999,0,0,0"], "more than 8192 on a side; pad less"),
    (["a.png", "--retake", "0-1"], "'a.png' is a picture, which has no time"),
    (["a.png", "--box", "0,0,9,9", "--seconds", "1"], "is a picture"),
    ([*LEFT, "--grow", "-1"], "--grow -1 is outside 0 to 512 pixels; nearest: 0"),
    ([*LEFT, "--feather", "9999"], "--feather 9999 is outside 0 to 512"),
    ([*LEFT, "--mask-threshold", "128"], "--mask-threshold 128 is outside 0 to 1; 0.5 is usual"),
    ([*LEFT, "--seconds", "0"], "--seconds 0: must be above 0"),
    ([*LEFT, "--from", "2"], "--from 2: 'film.mp4' lasts 1.10 s; begin earlier"),
    ([*LEFT, "--size", "40x40"], "--size 40x40: width must be a multiple of 16"),
    ([*LEFT, "-o", "film.mp4", "--force"], "'film.mp4' is the input 'film.mp4', which even --force does not replace"),
    ([*LEFT, "-o", "left.png"], "holds one frame and 'film.mp4' has 11"),
    ([*LEFT, "-o", "o.wav"], "a sound alone"),
    ([*LEFT, "--mask", "a=left.png", "--ref", "a=a.png"], "--mask a and --ref a have one name"),
    (
        [*LEFT, "--mask-preview", "p.jpg"],
        "--mask-preview p.jpg: the overlay is a picture; give a name that ends in .png",
    ),
    ([*LEFT, "--mask-preview", "left.png", "--force"], "is the input 'left.png'"),
    ([*LEFT, "--mask-preview", "p.png", "--size", "40x40"], "--size 40x40"),
    (["silent.mp4", "--box", "0,0,9,9", "--keep-audio"], "--keep-audio: 'silent.mp4' holds no sound"),
    (["silent.mp4", "--box", "0,0,9,9", "--mix", "0.5"], "--mix: 'silent.mp4' holds no sound"),
    (["long.mp4", "--box", "0,0,9,9"], "lasts 20.0 s, more than 15 s; take a part of it with --from and --seconds"),
]


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(("argv", "words"), REFUSED, ids=[" ".join(argv) for argv, _ in REFUSED])
def test_what_cannot_be_made_is_said_in_one_sentence_before_any_weight(
    run: Run, tmp_path: Path, argv: list[str], words: str
) -> None:
    write_masks()
    before = contents(tmp_path)
    code, out, err = run("inpaint", *argv, "--prompt", "a star", "--quiet")
    assert (code, out) == (2, ""), err
    assert err.startswith("sky4: ")
    assert err.count("\n") == 1
    assert words in err
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("no_weights")
def test_without_a_prompt_there_is_nothing_to_make(run: Run) -> None:
    code, _, err = run("inpaint", *LEFT)
    assert code == 2
    assert "--prompt is missing; describe the clip, or look at the mask alone with --mask-preview" in err


def test_fit_mask_scales_and_holds(run: Run) -> None:
    write_masks()
    for number, mask in enumerate(("short", "short.mp4")):
        code, _, err = run(
            "inpaint", "film.mp4", "--mask", mask, "--fit-mask", "--prompt", "x", "--steps", "1", "-o", f"{number}.mp4"
        )
        assert code == 0, err


def contents(folder: Path) -> dict[Path, Any]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
