"""Lists of jobs: what is read, as it was typed; and each broken line by itself, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sky4.batch.folder import rows_of_folder
from sky4.batch.manifest import Fault, Row, read_manifest
from sky4.errors import RequestError


def read(folder: Path, name: str, text: str | bytes) -> list[Row | Fault]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(path)


def told(rows: list[Row | Fault]) -> list[object]:
    """Values of rows; (line, column) of faults."""
    return [row.values if isinstance(row, Row) else (row.place.line, row.place.column) for row in rows]


SAME = {
    "a.jsonl": '{"prompt": "a, b", "fps": "30000/1001", "seed": 7}\n'
    '\n{"--negative_prompt": "c", "drive": true, "ref": ["image_1=a.png", "image_2=b.png"], "size": null}\n',
    "a.csv": 'prompt,fps,seed,negative-prompt,drive,ref,ref\n"a, b",30000/1001,7,,,,\n'
    ",,,c,true,image_1=a.png,image_2=b.png\n",
    "a.yaml": (
        "- prompt: a, b\n  fps: 30000/1001\n  seed: 7\n"
        "- negative_prompt: c\n  drive: yes\n  ref: [image_1=a.png, image_2=b.png]\n  size:\n"
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_three_ways_to_write_the_same_jobs(tmp_path: Path, name: str) -> None:
    first, second = told(read(tmp_path, name, SAME[name]))
    assert first == {"prompt": "a, b", "fps": "30000/1001", "seed": "7"}
    switch = "true" if name == "a.csv" else True
    assert second == {"negative-prompt": "c", "drive": switch, "ref": ("image_1=a.png", "image_2=b.png")}


def test_values_stay_the_text_that_was_typed(tmp_path: Path) -> None:
    [row] = read(tmp_path, "a.jsonl", '{"guidance": 1e1, "seed": 123456789012345678901234567890}')
    assert told([row]) == [{"guidance": "1e1", "seed": "123456789012345678901234567890"}]
    [row] = read(tmp_path, "a.yaml", "- prompt: 2024-01-01\n  seed: 010\n  out: 'no'\n")
    assert told([row]) == [{"prompt": "2024-01-01", "seed": "010", "out": "no"}]


BROKEN_JSON = [
    ('{"prompt": "a",', (2, 16)),
    ('{"prompt": NaN}', (2, 12)),
    ('  ["a"]', (2, 3)),
    ('{"prompt": "a", "prompt": "b"}', (2, 1)),
    ('{"prompt": {"a": "b"}}', (2, 1)),
    ('{"ref": [["a"]]}', (2, 1)),
    ('{"": "a"}', (2, 1)),
    ("{}", (2, 1)),
    ('{"prompt": "\\u0000"}', (2, 1)),
    ('{"prompt": "\\ud800"}', (2, 1)),
    ("[" * 100_000, (2, 1)),
]


@pytest.mark.parametrize(("line", "place"), BROKEN_JSON)
def test_a_broken_line_is_a_fault_and_the_others_go_on(tmp_path: Path, line: str, place: tuple[int, int]) -> None:
    rows = read(tmp_path, "a.jsonl", f'{{"prompt": "a"}}\n{line}\n{{"prompt": "c"}}\n')
    assert told(rows) == [{"prompt": "a"}, place, {"prompt": "c"}]
    assert str(rows[1]).startswith(f"{tmp_path / 'a.jsonl'}:{place[0]}:{place[1]}: ")


def test_a_csv_row_that_is_broken_spares_the_next(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.csv", 'prompt,out\na,1.mp4\nb,2.mp4,extra\n"c,3.mp4\nd,4.mp4\n"e\nf",5.mp4\n\n')
    assert told(rows) == [
        {"prompt": "a", "out": "1.mp4"},
        (3, 9),
        (4, 1),
        {"prompt": "d", "out": "4.mp4"},
        {"prompt": "e\nf", "out": "5.mp4"},
    ]


def test_a_yaml_item_that_is_broken_spares_the_others(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.yaml", "- prompt: a\n- prompt: 'b\n  out: [\n- prompt: c\n- d\n- out: {a: b}\n")
    assert told(rows) == [{"prompt": "a"}, (2, 1), {"prompt": "c"}, (5, 3), (6, 3)]


def test_yaml_takes_over_what_another_job_says(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.yaml", "- &first {prompt: a, steps: 2}\n- {<<: *first, steps: 3}\n")
    assert told(rows) == [{"prompt": "a", "steps": "2"}, {"steps": "3", "prompt": "a"}]


def test_aliases_that_unfold_without_end_are_refused_at_once(tmp_path: Path) -> None:
    levels = "".join(f"  x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 30))
    [row] = read(tmp_path, "a.yaml", f"- x0: &x0 [a]\n{levels}")
    assert isinstance(row, Fault)
    assert row.place.line == 2


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "a", "is no list of jobs; give a .jsonl, .csv or .yaml"),
        ("a.jsonl", "", "holds no job"),
        ("a.csv", "prompt,out\n", "holds no job"),
        ("a.csv", "prompt,,out\na,b,c\n", "column 2 has no name"),
        ("a.yaml", "prompt: a\n", "a list of jobs is expected"),
        ("a.yaml", "{", "is not YAML"),
        ("a.jsonl", b"\xff\xfe", "is not UTF-8 .byte 0."),
    ],
)
def test_a_file_that_is_no_list_is_refused_as_a_whole(tmp_path: Path, name: str, text: str | bytes, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read(tmp_path, name, text)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read .No such file"):
        read_manifest(tmp_path / "a.jsonl")


def test_a_folder_becomes_a_row_for_each_file_that_the_command_takes(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.jpg", "a.png", ".hidden.png", "notes.txt", "c.wav"):
        (tmp_path / name).touch()
    rows, left = rows_of_folder(tmp_path, {"image": ("video",), "video": ("video",)}, still=True)
    assert [row.values for row in rows] == [
        {"video": "a.jpg", "out": "a.jpg.png"},
        {"video": "a.png", "out": "a.png.png"},
        {"video": "b.mp4", "out": "b.mp4"},
    ]
    assert [path.name for path in left] == ["c.wav", "notes.txt"]
    rows, _ = rows_of_folder(tmp_path, {"audio": ("audio", "drive")}, still=False)
    assert [row.values for row in rows] == [{"audio": "c.wav", "out": "c.mp4", "drive": True}]
    with pytest.raises(RequestError, match="holds no audio that the command takes"):
        rows_of_folder(tmp_path.parent, {"audio": ("audio",)}, still=False)


SOUP = st.lists(
    st.sampled_from([*"{}[]\",:-&*<!|>'\\ \n\r\t#%@`", "prompt", "out", "a", "\n- ", "<<: *a", "é", "\0", "1e5"])
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=SOUP.map("".join) | st.text(), suffix=st.sampled_from([".jsonl", ".csv", ".yaml"]))
def test_whatever_a_list_holds_it_is_rows_and_faults_or_refused_in_a_sentence(
    tmp_path: Path, text: str, suffix: str
) -> None:
    try:
        rows = read(tmp_path, f"a{suffix}", text.encode("utf-8", "surrogatepass"))
    except RequestError as error:
        assert str(error)
        return
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        assert 1 <= row.place.line <= text.count("\n") + text.count("\r") + 1
        assert row.place.column >= 1
        assert isinstance(row, Fault) or row.values
