"""The shot detector: figures on stories it was never shown, streaming, exact frames, and what does not fool it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sky4.errors import RequestError
from sky4.media import read_video, write_clip
from sky4.shots.auto import choose_transition
from sky4.shots.cutting import FilmShots
from sky4.shots.detector import BLOCK, MARGIN, detect, spans
from sky4.shots.features import SIDE, frame_features, pair_features, thumbnail
from sky4.shots.network import SEES, ShotNetwork, probabilities
from sky4.shots.scoring import Found, Score, Truth
from sky4.world.shot_truth import score_stories, story_frames, told
from sky4.world.stories import sample_story
from sky4cli.main import main


@pytest.fixture(scope="module")
def network() -> ShotNetwork:
    return ShotNetwork.load()


def texture(seed: int, side: int = 48) -> np.ndarray:
    """A still picture with structure: coarse noise, enlarged."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return coarse.repeat(side // 6, 0).repeat(side // 6, 1)


def film(*parts: tuple[int, int]) -> Iterator[np.ndarray]:
    """Stills (seed, frames) one after another, cut hard."""
    for seed, frames in parts:
        for _ in range(frames):
            yield texture(seed)


@pytest.mark.slow
def test_cuts_dissolves_and_fades_of_held_out_stories_are_found(network: ShotNetwork) -> None:
    """48 of the world's stories, as drawn at 64 pixels; measured: cuts 96, 96 %, dissolves and fades 86, 100 %."""
    score = score_stories(network, range(5000, 5048))
    assert score.precision("cut") >= 0.95
    assert score.recall("cut") >= 0.95
    assert score.precision("dissolve", "fade") >= 0.8
    assert score.recall("dissolve", "fade") >= 0.8


@pytest.mark.slow
def test_a_codec_does_not_hide_them(network: ShotNetwork, tmp_path: Path) -> None:
    def coded(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        path = tmp_path / "story.mp4"
        write_clip(path, [np.stack(list(frames))], None, fps=Fraction(16), recipe={}, force=True)
        yield from read_video(path)

    score = score_stories(network, range(1100, 1116), through=coded)
    assert score.recall("cut") >= 0.8
    assert score.precision("cut") >= 0.8


@pytest.mark.parametrize("fps", [Fraction(8), Fraction(16), Fraction(24), Fraction(30000, 1001), Fraction(60)])
def test_a_cut_is_told_at_its_very_frame_at_every_rate(network: ShotNetwork, fps: Fraction) -> None:
    lengths = [round(seconds * fps) + 1 for seconds in (2, Fraction(7, 5), 2)]
    found = list(detect(film(*zip((1, 2, 3), lengths, strict=True)), fps, network))
    assert [one.optical for one in found] == ["cut", "cut"]
    assert [one.frame for one in found] == [lengths[0], lengths[0] + lengths[1]]
    assert [one.begin for one in found] == [one.frame / fps for one in found]


def test_a_still_film_has_no_transition(network: ShotNetwork) -> None:
    assert list(detect(film((1, 80)), Fraction(16), network)) == []
    assert list(detect(film((1, 1)), Fraction(16), network)) == []
    assert list(detect(iter(()), Fraction(16), network)) == []


def test_a_long_film_is_told_as_it_streams_and_as_a_whole_alike(network: ShotNetwork) -> None:
    """Cuts about the places where blocks meet are told once, at their frames; little is read ahead."""
    edges = [100, BLOCK - 1, BLOCK + 40, 2 * BLOCK - 20, 2 * BLOCK + MARGIN, 1300]
    lengths = np.diff([0, *edges, 1400]).tolist()
    read = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal read
        for frame in film(*((seed, length) for seed, length in enumerate(lengths))):
            read += 1
            yield frame

    found, behind = [], []
    for one in detect(counted(), Fraction(16), network):
        found.append(one.frame)
        behind.append(read - one.frame)
    assert found == edges
    assert max(behind) <= BLOCK + MARGIN


def test_features_take_in_no_more_than_the_margin() -> None:
    random = np.random.default_rng(0)
    pictures = random.random((240, SIDE, SIDE, 3)).astype(np.float32)
    network = ShotNetwork(8, 8).eval()
    other = pictures.copy()
    other[:20], other[220:] = 0.5, 0.5
    one, two = (probabilities(network, torch.from_numpy(frame_features(p))) for p in (pictures, other))
    reach = MARGIN - 64  # LONGEST
    assert torch.allclose(one[20 + reach : 220 - reach], two[20 + reach : 220 - reach], atol=1e-5)
    assert reach > SEES


def test_spans_read_probabilities() -> None:
    chances = np.zeros((40, 6), np.float32)
    chances[:, 0] = 1.0

    def put(frames: range, kind: int) -> None:
        for frame in frames:
            chances[frame] = 0.1 / 5
            chances[frame, kind] = 0.9

    put(range(10, 11), 1)
    put(range(20, 25), 2)
    put(range(26, 28), 2)  # a gap of one thumbnail is none
    put(range(35, 36), 3)  # too short
    found = spans(chances)
    assert [one[:3] for one in found] == [(10, 10, "cut"), (20, 28, "dissolve")]


def test_thumbnails_are_means() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (72, 96, 3), dtype=np.uint8)
    expected = frame.reshape(24, 3, 24, 4, 3).mean((1, 3))
    assert np.abs(thumbnail(frame) - expected).max() <= 1
    assert thumbnail(np.zeros((1080, 1920, 3), np.uint8)).shape == (SIDE, SIDE, 3)


def test_pairs_tell_nearer_from_further() -> None:
    whole = texture(5, 96)
    near = whole[24:72, 24:72].repeat(2, 0).repeat(2, 1)
    a, b = (thumbnail(frame)[None].astype(np.float32) / 255 for frame in (whole, near))
    forward, back = pair_features(a, b), pair_features(b, a)
    assert forward[4] > 0.85  # the second inside the first, twice as near
    assert back[5] > 0.85
    assert forward[4] == pytest.approx(back[5], abs=1e-5)


def test_pairs_tell_the_same_from_behind_and_aslant() -> None:
    whole = Image.fromarray(texture(6, 96))
    turned, behind = whole.rotate(11), whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(11)
    a, plain, mirrored = (
        thumbnail(np.asarray(picture)[12:84, 12:84])[None].astype(np.float32) / 255
        for picture in (whole, turned, behind)
    )
    other = thumbnail(texture(7, 96)[12:84, 12:84])[None].astype(np.float32) / 255
    aslant, both = 12, 13  # among a pair's features
    assert pair_features(a, plain)[aslant] > 0.8
    assert pair_features(a, mirrored)[both] > 0.8
    for shown, at in ((mirrored, aslant), (plain, both), (other, aslant), (other, both)):
        assert pair_features(a, shown)[at] < 0.75


def test_scores_count_each_transition_once() -> None:
    truth = [Truth(1.0, 1.0, "cut", "cut-in"), Truth(2.0, 2.5, "dissolve", "cut-away")]
    found = [
        Found(1.03, 1.03, "cut", "cut-in"),
        Found(1.05, 1.05, "cut", "cut-out"),
        Found(2.1, 2.3, "fade", "cut-away"),
        Found(4.0, 4.0, "cut"),
    ]
    score = Score()
    score.add(found, truth, 1 / 16)
    assert score.precision("cut") == 1 / 3
    assert score.recall("cut") == 1.0
    assert score.recall("dissolve") == 0.0
    assert score.placed == 2
    assert score.content("cut-in") == 1.0
    assert score.content("cut-away") == 1.0
    assert score.to_dict()["optical"]["wipe"] == {"precision": None, "recall": None, "count": 0}


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call `sky4 shots` in a folder with film.mp4: two seconds, a cut, one second."""
    monkeypatch.chdir(tmp_path)
    frames = np.stack(list(film((1, 32), (2, 16))))
    write_clip(Path("film.mp4"), [frames], None, fps=Fraction(16), recipe={})

    def call(*argv: str) -> tuple[int, str, str]:
        code = main(["shots", *argv])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def test_the_command_tells_a_table_and_json(run: Run) -> None:
    code, out, err = run("film.mp4", "--quiet")
    assert (code, err) == (0, "")
    head, first, second = out.splitlines()
    assert head.split() == ["shot", "from", "to", "seconds", "then"]
    assert first.split()[:5] == ["1", "0:00.000", "0:02.000", "2.000", "cut,"] or first.split()[4] == "cut"
    assert second.split() == ["2", "0:02.000", "0:03.000", "1.000"]
    code, out, _ = run("film.mp4", "--json")
    assert code == 0
    told_ = json.loads(out)
    assert (told_["fps"], told_["frames"], told_["seconds"]) == ("16", 48, 3.0)
    assert [shot["frames"] for shot in told_["shots"]] == [[0, 32], [32, 48]]
    assert told_["shots"][0]["then"]["kind"] == "cut"
    assert told_["shots"][1]["then"] is None


def test_bad_input_is_one_sentence(run: Run) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save("a.png")
    Path("broken.mp4").write_bytes(b"no film" * 99)
    for argv, words in (
        (("a.png",), "'a.png' is a picture, which has no shots"),
        (("gone.mp4",), "'gone.mp4' does not exist"),
        (("broken.mp4",), "cannot be decoded as a video"),
        (("film.mp4", "--detector", "nowhere"), "'nowhere' holds no shot detector"),
    ):
        code, out, err = run(*argv, "--quiet")
        assert code == 2
        assert "shot  " not in out or not out.splitlines()[1:]
        assert err.startswith("sky4: ")
        assert err.count("\n") == 1
        assert words in err


def test_a_detector_of_another_form_is_refused(tmp_path: Path, network: ShotNetwork) -> None:
    network.save(tmp_path, {})
    assert ShotNetwork.load(tmp_path) is not None
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "version": 2}))
    with pytest.raises(RequestError, match="another version"):
        ShotNetwork.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "width": 8}))
    with pytest.raises(RequestError, match="holds no shot detector"):
        ShotNetwork.load(tmp_path)


def test_the_automatic_transition_follows_its_rule(tmp_path: Path, network: ShotNetwork) -> None:
    path = tmp_path / "long.mp4"
    write_clip(path, [np.stack(list(film((1, 24), (2, 80))))], None, fps=Fraction(16), recipe={})
    shots = FilmShots(path, network)
    whole, early = Fraction(104, 16), Fraction(40, 16)
    assert choose_transition("a wide shot of it", shots, whole).kind == "cut-out"
    assert choose_transition("a circle", shots, early).kind == "none"
    chosen = choose_transition("a circle", shots, whole)
    assert chosen.kind in ("cut-in", "cut-out")  # out again if the cut before came nearer
    assert chosen.why == "as the last shot has lasted 5.0 s"


def test_the_truth_scores_full_marks() -> None:
    from sky4.world.shot_truth import truths

    score = Score()
    for index in range(20):
        truth = truths(sample_story(3, index))
        score.add([Found(one.begin, one.end, one.optical, one.content) for one in truth], truth, 1 / 16)
    assert score.precision("cut") == score.recall("cut") == 1.0
    assert score.content("multi-angle") == 1.0
    assert told([]) == []
    assert len(list(story_frames(sample_story(3, 0), seconds=1.0))) == 16
