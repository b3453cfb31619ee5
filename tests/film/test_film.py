"""Films from shot lists: what is refused, what tells shots apart, and how they are joined, frame by frame."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sky4.errors import RequestError
from sky4.film.exports import ContactSheet, edl, subtitles, timecode
from sky4.film.join import FilmReel
from sky4.film.plan import FilmPlan, plan_film, shot_keys
from sky4.film.shot_list import read_shot_list
from sky4.film.shots import ShotFiles, unused
from sky4.media import iterate_video, read_audio
from sky4.media.lossless import write_lossless
from sky4.pipeline.model_folder import ModelFolder

RATE = 44100
Plan = Callable[[str], FilmPlan]


@pytest.fixture
def plan(nano_model: Path, tmp_path: Path) -> Plan:
    """The plan of a list, whose text is given."""
    folder = ModelFolder.read(nano_model)

    def call(text: str) -> FilmPlan:
        (tmp_path / "shots.yaml").write_text(text, "utf-8")
        return plan_film(tmp_path / "shots.yaml", folder)

    return call


def listed(path: Path, text: str) -> str:
    """What is said of a list that is refused."""
    (path / "shots.yaml").write_text(text, "utf-8")
    with pytest.raises(RequestError) as refused:
        read_shot_list(path / "shots.yaml")
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shots: []", "film.shots is empty"),
        ("shots: [{promt: a}]", "unknown setting film.shots[0].promt; known here: prompt, name"),
        ("shots: [{prompt: a}]\nsteps: many", "film.steps must be of type int"),
        ("shots: [{prompt: ' '}]", "film.shots[0].prompt is empty"),
        ("shots: [{name: a}]", "missing setting film.shots[0].prompt"),
        ("shots: [{prompt: a, transition: jump}]", "film.shots[0].transition must be one of none, cut, dissolve"),
        ("shots: [{prompt: a, transition: dissolve}]", "film.shots[0].transition dissolve needs a shot before it"),
        ("shots: [{prompt: a}, {prompt: b, transition: none}]", "film.shots[1].transition none goes on from another"),
        ("shots: [{prompt: a, name: x}, {prompt: b, name: x}]", "film.shots[1].name x is taken by film.shots[0]"),
        ("shots: [{prompt: a, name: ../x}]", "film.shots[0].name '../x' is no name"),
        ("shots: [{prompt: a, continues: z}]", "film.shots[0].continues: there is no shot 'z'; there are shot-1"),
        ("shots: [{prompt: a, match: z}]", "film.shots[0].match: there is no shot 'z'"),
        ("shots: [{prompt: a, seconds: 0}]", "film.shots[0].seconds 0 is outside 0 to 600 seconds"),
        ("shots: [{prompt: a, seconds: soon}]", "film.shots[0].seconds must be a number"),
        ("shots: [{prompt: a, continues: shot-1}]", "continue one another in a circle: shot-1 -> shot-1"),
        (
            "shots: [{prompt: a, continues: shot-2}, {prompt: b, continues: shot-1}]",
            "continue one another in a circle: shot-",
        ),
        ("shots: [{prompt: a}, {prompt: b, continues: shot-1, image: a.png}]", "has an image and continues shot-1"),
        ("- a", "holds no table of settings"),
        ("shots: [", "is no YAML (line 1, column 9)"),
        ("!!python/object/apply:os.system ['true']", "is no YAML"),
    ],
)
def test_a_list_that_makes_no_film_is_refused_with_the_path_of_the_key(tmp_path: Path, text: str, words: str) -> None:
    assert words in listed(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shots: [{prompt: '@hero runs', references: {hero: gone.png}}]", "film.shots[0]: --ref hero="),
        ("shots: [{prompt: a, image: gone.png}]", "film.shots[0]: image: '"),
        ("shots: [{prompt: '<sfx> a'}]", "film.shots[0]: "),
        ("shots: [{prompt: a}]\nsize: large", "film.size 'large': expected WIDTHxHEIGHT"),
        ("shots: [{prompt: a}]\nsize: 33x32", "film.size 33x32: a film has even sides"),
        ("shots: [{prompt: a}]\nfps: 0", "film.fps 0 is outside 0 to 240"),
        ("shots: [{prompt: a, seconds: 500}, {prompt: a, seconds: 500}]", "the film lasts 1000 s, more than 600 s"),
        (
            "shots: [{prompt: a, seconds: 1}, {prompt: a, seconds: 0.25, transition: wipe}]",
            "film.shots[1].transition_seconds: the wipe takes 8 frames and the shorter of its shots has 4; use 0.25 s",
        ),
    ],
)
def test_a_shot_that_cannot_be_made_is_refused_before_any_is(plan: Plan, text: str, words: str) -> None:
    with pytest.raises(RequestError) as refused:
        plan(text)
    assert words in str(refused.value)


FILM = """
seconds: 1
fps: 10
size: 32x32
transition_seconds: 0.4
shots:
  - {prompt: a, name: one, transition: fade}
  - {prompt: b, transition: dissolve}
  - {prompt: c, transition: wipe}
  - {prompt: 'd <dialogue>Yes.</dialogue> and <dialogue>No, never!</dialogue>', transition: push, seconds: 1.3}
  - {prompt: e, transition: fade, seconds: 0.7}
  - {prompt: f, transition: cut}
"""


def files_of(plan: FilmPlan, folder: Path) -> ShotFiles:
    """Shots of one grey each, with one number as their sound."""
    keys = {shot.number: hashlib.sha256(shot.name.encode()).hexdigest() for shot in plan.shots}
    files = ShotFiles(folder, plan, keys)
    folder.mkdir(exist_ok=True)
    for shot in plan.shots:
        frames = np.full((shot.made, 32, 32, 3), 40 * (shot.number + 1), np.uint8)
        wave = np.full((2, round(shot.made / plan.fps * RATE)), 0.1 * (shot.number + 1), np.float32)
        write_lossless(files.path(shot.number), [frames], wave, fps=plan.fps, sample_rate=RATE)
    return files


def test_frames_are_joined_as_the_list_says(plan: Plan, tmp_path: Path) -> None:
    film = plan(FILM)
    reel = FilmReel(film, files_of(film, tmp_path), RATE)
    frames = np.stack([chunk[0] for chunk in reel.frames()])
    assert len(frames) == film.frames == 60
    grey = frames[..., 0].astype(int)
    # 1: from black in four frames. 2: a dissolve over its first four.
    assert grey[:5, 0, 0].tolist() == [5, 15, 25, 35, 40]
    assert grey[9:15, 0, 0].tolist() == [40, 45, 55, 65, 75, 80]
    # 3, 4: the right columns first; of the push the left ones move, which in one grey is not seen
    for first, low, high in ((20, 80, 120), (30, 120, 160)):
        for index in range(4):
            edge = round((index + 0.5) / 4 * 32)
            assert grey[first + index, 0].tolist() == [low] * (32 - edge) + [high] * edge
        assert grey[first + 4, 0].tolist() == [high] * 32
    # 5 begins at 43: two frames to black and two from it; 6 is cut to
    assert grey[40:46, 0, 0].tolist() == [160, 120, 40, 50, 150, 200]
    assert grey[49:51, 0, 0].tolist() == [200, 240]


def test_sound_is_as_long_as_the_picture_and_fades_with_equal_power(plan: Plan, tmp_path: Path) -> None:
    film = plan(FILM)
    wave = FilmReel(film, files_of(film, tmp_path), RATE).wave()
    assert wave is not None
    assert wave.shape == (2, 60 * RATE // 10)
    assert wave[0, RATE // 2] == pytest.approx(0.1)
    middle = RATE + 2 * RATE // 10  # of the dissolve from 1 to 1.4 s
    assert wave[0, middle] == pytest.approx((0.1 + 0.2) * np.sqrt(0.5), abs=1e-4)
    cut = 5 * RATE  # the sound of the shot before goes on over it
    fade = round(0.05 * RATE)
    assert wave[0, cut - 1] == pytest.approx(0.5, abs=1e-3)
    assert wave[0, cut + fade // 2] == pytest.approx((0.5 + 0.6) * np.sqrt(0.5), abs=1e-3)
    assert wave[0, cut + fade + 1] == pytest.approx(0.6)
    black = round(4.3 * RATE)
    assert abs(wave[:, black - 3 : black + 3]).max() < 1e-3


@pytest.mark.parametrize("fps", ["16", "30000/1001", "24"])
def test_frames_and_samples_are_exact_at_every_rate(plan: Plan, tmp_path: Path, fps: str) -> None:
    film = plan(FILM.replace("fps: 10", f"fps: {fps}"))
    rate = Fraction(fps)
    lengths = [round(seconds * rate) for seconds in (1, 1, 1, Fraction(13, 10), Fraction(7, 10), 1)]
    assert [shot.frames for shot in film.shots] == lengths
    reel = FilmReel(film, files_of(film, tmp_path), RATE)
    assert sum(len(chunk) for chunk in reel.frames()) == sum(lengths)
    wave = reel.wave()
    assert wave is not None
    assert wave.shape[1] == round(sum(lengths) / rate * RATE)


def test_a_shot_takes_on_anothers_colours(plan: Plan, tmp_path: Path) -> None:
    film = plan("{size: 32x32, shots: [{prompt: a, seconds: 1}, {prompt: b, seconds: 1, match: shot-1}]}")
    files, random = files_of(film, tmp_path), np.random.default_rng(0)
    for number, (mean, spread) in enumerate([(90, 20), (130, 26)]):
        frames = random.normal(mean, spread, (film.shots[number].made, 32, 32, 3)).clip(0, 255).astype(np.uint8)
        files.path(number).unlink()
        write_lossless(files.path(number), [frames], np.zeros((2, 9), np.float32), fps=film.fps, sample_rate=RATE)
    shown = np.concatenate(list(FilmReel(film, files, RATE).frames())).astype(float)
    one, two = shown[: film.shots[0].frames], shown[film.shots[0].frames :]
    assert abs(one.mean() - two.mean()) < 1
    assert abs(one.std() - two.std()) < 1


def test_what_is_written_between_two_steps_loses_nothing(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 34, 50, 3), dtype=np.uint8)
    wave = np.random.default_rng(1).normal(0, 0.3, (2, 100_001)).astype(np.float32)
    fps = Fraction(30000, 1001)
    path = tmp_path / "a.mkv"
    assert write_lossless(path, [frames[:2], frames[2:]], wave, fps=fps, sample_rate=RATE) == 5
    assert np.array_equal(np.stack(list(iterate_video(path, fps))), frames)
    assert np.array_equal(read_audio(path), wave)


def keys_of(film: FilmPlan, model: str = "m") -> dict[int, str]:
    return shot_keys(film, model, lambda path: f"bytes of {path.name}")


def test_a_key_tells_what_a_shot_is_made_from_and_nothing_else(plan: Plan) -> None:
    text = "{{seconds: 1, shots: [{{prompt: {0}}}, {{prompt: b, continues: shot-1}}, {{prompt: c, seed: {1}}}]}}"
    film = plan(text.format("a", 3))
    before = keys_of(film)
    assert len(set(before.values())) == 3
    assert keys_of(plan(text.format("a", 3))) == before
    other = keys_of(plan(text.format("x", 3)))
    assert [other[n] == before[n] for n in range(3)] == [False, False, True]  # and what goes on from it
    other = keys_of(plan(text.format("a", 4)))
    assert [other[n] == before[n] for n in range(3)] == [True, True, False]
    assert not set(keys_of(film, "another model").values()) & set(before.values())


def test_a_key_follows_the_bytes_of_an_input_not_its_place(plan: Plan, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "b.png")
    one, two = (plan(f"shots: [{{prompt: x, image: {name}.png}}]") for name in "ab")
    same = shot_keys(one, "m", lambda path: hashlib.sha256(path.read_bytes()).hexdigest())
    assert shot_keys(two, "m", lambda path: hashlib.sha256(path.read_bytes()).hexdigest()) == same
    assert shot_keys(two, "m", lambda path: "other bytes") != same


def test_a_transition_by_content_is_a_cut_whose_words_are_in_the_prompt(plan: Plan) -> None:
    film = plan(
        "shots: [{prompt: a red circle, seconds: 1}, {prompt: it, seconds: 1, transition: cut-in, continues: shot-1}]"
    )
    second = film.shots[1]
    assert (second.joined, second.joined_frames) == ("cut", 0)
    assert second.request.prompt == "Cut in to a close-up: it"
    assert second.request.segments is not None
    assert second.request.segments.transition == "cut-in"
    assert second.request.frames == second.kept + second.made
    assert second.request.sources[0].skip == film.shots[0].frames - second.kept


def test_changed_shots_are_missing_and_old_ones_stay(plan: Plan, tmp_path: Path) -> None:
    film = plan(FILM)
    files = files_of(film, tmp_path / "work")
    assert files.missing() == []
    changed = replace(files, keys=files.keys | {2: "0" * 64})
    assert changed.missing() == [2]
    assert unused(changed) == [files.path(2)]


LINE = re.compile(r"(\d{3})  (\S+) +(\S+) +(C|D|W001) +(\d{3})? +(\S+) (\S+) (\S+) (\S+)")


def test_the_edit_list_tells_every_frame_of_the_film(plan: Plan) -> None:
    film = plan(FILM)
    text = edl(film)

    def frames(code: str) -> int:
        hours, minutes, seconds, rest = map(int, code.split(":"))
        return (hours * 3600 + minutes * 60 + seconds) * 10 + rest

    events = [match.groups() for match in map(LINE.fullmatch, text.splitlines()) if match]
    assert text.startswith("TITLE: shots\nFCM: NON-DROP FRAME\n")
    at = 0
    for _, _, _, _, _, *codes in events:
        source_in, source_out, record_in, record_out = map(frames, codes)
        assert record_in == at
        assert source_out - source_in == record_out - record_in
        at = record_out
    assert at == film.frames
    long = [(reel, kind, length, frames(b) - frames(a)) for _, reel, _, kind, length, a, b, _, _ in events if a != b]
    assert long == [
        ("S001", "D", "004", 10),
        ("S002", "D", "004", 10),
        ("S003", "W001", "004", 10),
        ("S004", "W001", "004", 11),
        ("BL", "D", "002", 2),
        ("S005", "D", "002", 7),
        ("S006", "C", None, 10),
    ]
    assert "* EFFECT NAME: PUSH" in text
    # of a dissolve, both lines bear one number
    assert [event[0] for event in events][:6] == ["001", "001", "002", "002", "003", "003"]
    assert timecode(3600 * 24 + 25, 24) == "01:00:01:01"


def test_subtitles_share_their_shot_by_length(plan: Plan) -> None:
    said = subtitles(plan(FILM))
    assert said.split("\n\n") == [
        "1\n00:00:03,000 --> 00:00:03,371\nYes.",
        "2\n00:00:03,371 --> 00:00:04,300\nNo, never!\n",
    ]
    assert subtitles(plan("shots: [{prompt: a}]")) == ""


def test_the_contact_sheet_has_a_row_a_shot(plan: Plan, tmp_path: Path) -> None:
    film = plan(FILM)
    sheet = ContactSheet(film)
    chunks = list(sheet.frames(FilmReel(film, files_of(film, tmp_path), RATE).frames()))
    assert len(chunks) == film.frames
    picture = np.asarray(sheet.picture())
    height = picture.shape[0] // len(film.shots)
    assert picture.shape[0] == height * 6
    assert picture[height + 20, 2 * 98 + 5].tolist() in ([80] * 3, [75] * 3)
