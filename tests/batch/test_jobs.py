"""From rows to jobs: flags, paths inside their root, one writer for each output, order, circles, shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from sky4.batch.jobs import Command, Job, Layout, Option, jobs_of, shard
from sky4.batch.manifest import Misread, Place, Row, Value
from sky4.batch.order import in_order

GENERATE: Command = {
    "prompt": Option("--prompt"),
    "out": Option("--out", "path"),
    "o": Option("--out", "path"),
    "n": Option("--variations"),
    "variations": Option("--variations"),
    "image": Option("--image", "path"),
    "ref": Option("--ref", "named path", many=True),
    "drive": Option("--drive", "switch"),
    "sound": Option("--sound", "switch", off="--no-sound"),
    "only": Option("--only"),
}
EDIT: Command = {**GENERATE, "video": Option("", "path"), "mask": Option("--mask", "path, a name or not", many=True)}
COMMANDS = {"generate": GENERATE, "edit": EDIT}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "in").mkdir()
    return Layout(tmp_path / "in", tmp_path / "out")


def laid(layout: Layout, template: dict[str, Value] | None = None, **values: Value) -> list[Job]:
    row = Row(Place(Path("jobs.jsonl"), 7), 3, values)
    return jobs_of(row, COMMANDS, "generate", template or {}, layout)


def test_a_row_is_the_commands_own_flags_with_absolute_paths(layout: Layout) -> None:
    [job] = laid(
        layout,
        {"drive": True, "prompt": "of the template", "ref": ("image_3=/tmp/c.png",)},
        command="edit",
        video="a.mp4",
        prompt="--force",
        ref=("image_1=b.png", "image_2=sub/c.png"),
        mask=("left=m.png", "n.png"),
        drive="no",
        sound=False,
        out="x.mp4",
    )
    root = layout.root
    assert job.argv == (
        "--prompt=--force",
        f"--ref=image_1={root / 'b.png'}",
        f"--ref=image_2={root / 'sub/c.png'}",
        f"--mask=left={root / 'm.png'}",
        f"--mask={root / 'n.png'}",
        "--no-sound",
        "--",
        str(root / "a.mp4"),
    )
    assert (job.name, job.command, job.out) == ("x.mp4", "edit", layout.out / "x.mp4")
    assert set(job.inputs) == {root / name for name in ("a.mp4", "b.png", "sub/c.png", "m.png", "n.png")}


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "0003.mp4"),
        ({"only": "audio"}, "0003.wav"),
        ({"only": "still"}, "0003.png"),
        ({"command": "edit", "video": "a.jpg"}, "0003.png"),
        ({"command": "edit", "video": "a.mp4"}, "0003.mp4"),
        ({"out": "sub/../b/c.webm"}, "b/c.webm"),
    ],
)
def test_an_output_has_a_name_of_its_own(layout: Layout, values: dict[str, Value], name: str) -> None:
    assert [job.name for job in laid(layout, **values)] == [name]


def test_variations_are_jobs_of_their_own(layout: Layout) -> None:
    assert [(job.name, job.variation) for job in laid(layout, out="a.mp4", n="2")] == [("a-1.mp4", 0), ("a-2.mp4", 1)]
    assert len(laid(layout, out="a.mp4", n="99999999")) == 1  # the command refuses the number


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"command": "paint"}, "command 'paint' is unknown; use one of generate, edit"),
        ({"promt": "a"}, "'promt' is no flag of generate in a batch; do you mean 'prompt'?"),
        ({"zzz": "a"}, "'zzz' is no flag of generate in a batch; `sky4 generate --help` lists them"),
        ({"n": "2", "variations": "2"}, "'n' and 'variations' are one flag"),
        ({"drive": "perhaps"}, "'drive' is a switch; give it true or false"),
        ({"prompt": True}, "'prompt' wants a value, not true"),
        ({"prompt": ("a", "b")}, "'prompt' takes one value, got 2"),
        ({"image": "../secret.png"}, "leads out of .*; move it inside, or add --allow-outside"),
        ({"image": "/etc/passwd"}, "leads out of"),
        ({"ref": "image_1=../a.png"}, "leads out of"),
        ({"image": "link/a.png"}, "leads out of"),
        ({"out": "../a.mp4"}, "the output '../a.mp4' leads out of"),
        ({"out": "/tmp/a.mp4"}, "the output '/tmp/a.mp4' leads out of"),
        ({"out": ".locks/a.mp4"}, "is the batch's own"),
        ({"out": "."}, "is the batch's own"),
    ],
)
def test_what_no_command_takes_is_misread(layout: Layout, values: dict[str, Value], words: str) -> None:
    (layout.root / "link").symlink_to("/tmp")
    with pytest.raises(Misread, match=words):
        laid(layout, **values)


def test_outside_is_allowed_where_it_is_asked_for(layout: Layout) -> None:
    free = Layout(layout.root, layout.out, allow_outside=True)
    [job] = laid(free, image="../a.png", out="../b.mp4")
    assert job.out == layout.out / "../b.mp4"
    assert job.name == str((layout.out / "../b.mp4").resolve())


def test_outputs_of_the_batch_may_be_inputs(layout: Layout) -> None:
    [job] = laid(layout, image="../out/a.png")
    assert job.inputs == (layout.root / "../out/a.png",)


def graph(tmp_path: Path, *edges: str) -> list[Job]:
    """'b<a,c': b reads a and c."""
    jobs = []
    for number, edge in enumerate(edges, 1):
        name, _, needs = edge.partition("<")
        inputs = tuple(tmp_path / need for need in needs.split(",") if need)
        place = Place(Path("jobs.jsonl"), number)
        jobs.append(Job(name, place, number, "edit", (), tmp_path / name, tmp_path / name, 0, inputs))
    return jobs


def test_jobs_come_after_those_they_need_and_else_as_they_stand(tmp_path: Path) -> None:
    jobs, faults = in_order(graph(tmp_path, "d.mp4<c.mp4", "a.mp4", "c.mp4<a.mp4,b.mp4", "b.mp4", "e.mp4"))
    assert faults == []
    assert [job.name for job in jobs] == ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4"]
    assert [job.after for job in jobs if job.name == "c.mp4"] == [("a.mp4", "b.mp4")]


def test_a_picture_inside_a_folder_that_a_job_makes_is_its_output(tmp_path: Path) -> None:
    jobs, _ = in_order(graph(tmp_path, "b.mp4<star/00000.png", "star"))
    assert [(job.name, job.after) for job in jobs] == [("star", ()), ("b.mp4", ("star",))]


def test_circles_and_what_needs_them_are_refused_alone(tmp_path: Path) -> None:
    edges = ("a.mp4<c.mp4", "b.mp4<a.mp4", "c.mp4<b.mp4", "d.mp4<c.mp4", "e.mp4<d.mp4", "f.mp4", "g.mp4<g.mp4")
    jobs, faults = in_order(graph(tmp_path, *edges))
    assert [job.name for job in jobs] == ["f.mp4"]
    said = {fault.number: fault.message for fault in faults}
    assert set(said) == {1, 2, 3, 4, 5, 7}
    for number in (1, 2, 3):
        assert "it needs its own output: " in said[number]
        assert all(f"'{name}.mp4'" in said[number] for name in "abc")
    assert said[4] == "it needs 'c.mp4', which is refused"
    assert said[5] == "it needs 'd.mp4', which is refused"


def test_an_output_has_one_writer(tmp_path: Path) -> None:
    jobs, faults = in_order(graph(tmp_path, "a.mp4", "b.mp4", "A.MP4", "a.mp4", "star", "star/x.png"))
    assert [job.name for job in jobs] == ["a.mp4", "b.mp4", "star"]
    assert [(fault.number, fault.message.partition(";")[0]) for fault in faults] == [
        (3, "'A.MP4' is already the output of line 1"),
        (4, "'a.mp4' is already the output of line 1"),
        (6, "'star/x.png' lies inside the output 'star' of line 5"),
    ]


def test_shards_are_a_partition_that_keeps_together_what_needs_one_another(tmp_path: Path) -> None:
    jobs, _ = in_order(graph(tmp_path, "a", "b<a", "c", "d", "e<b", "f", "g<f,d"))
    parts = [{job.name for job in shard(jobs, index, 3)} for index in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == sorted(job.name for job in jobs)
    for job in jobs:
        assert all({job.name, *job.after} <= part or not {job.name, *job.after} & part for part in parts)
    assert all(parts)
