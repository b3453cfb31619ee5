"""What makes one job another, and what does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from sky4.batch.keys import Digests, is_clip_of, job_key
from sky4.media import Soundtrack
from sky4.media.masks import EditRegion, MaskFile
from sky4.pipeline.digest import file_digest, weights_digest
from sky4.pipeline.engine import Engine
from sky4.pipeline.request import Canvas, ClipRequest, Source
from sky4.prompting.references import ReferenceFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "a"
    (place / "model").mkdir(parents=True)
    (place / "model" / "model.json").write_text("{}")
    (place / "model" / "w.safetensors").write_bytes(b"weights")
    for name in ("film.mp4", "mask.png", "face.png"):
        (place / name).write_bytes(name.encode())
    return place


def request(folder: Path) -> ClipRequest:
    """One with every kind of file inside."""
    film = folder / "film.mp4"
    region = EditRegion(files=(MaskFile(folder / "mask.png", "image", ""),))
    return ClipRequest(
        prompt="@face in rain",
        width=32,
        height=32,
        frames=9,
        fps=Fraction(16),
        steps=2,
        guidance=2.0,
        audio_guidance=2.0,
        shift=1.0,
        outputs="video",
        sources=(Source(film, str(film), frames=9, region=region),),
        canvas=Canvas(32, 32),
        soundtrack=Soundtrack(film),
        references=(ReferenceFile("face", folder / "face.png", "image"),),
    )


def key(folder: Path, change: Callable[[ClipRequest], ClipRequest] = lambda same: same, **engine: str) -> str:
    return job_key(change(request(folder)), Engine(folder / "model", **engine), None, Digests())


def test_a_folder_elsewhere_and_another_device_make_no_other_job(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "b")
    assert key(folder) == key(tmp_path / "b") == key(folder, device="cuda:3")
    assert key(folder) == key(folder, lambda same: replace(same, variations=2).variation(0))


@pytest.mark.parametrize("name", ["film.mp4", "mask.png", "face.png", "model/w.safetensors", "model/model.json"])
def test_other_bytes_make_another_job(folder: Path, name: str) -> None:
    before = key(folder)
    (folder / name).write_bytes(b"other")
    assert key(folder) != before


@pytest.mark.parametrize(
    "change", [{"prompt": "@face"}, {"seed": 1}, {"steps": 3}, {"guidance": 3.0}, {"fps": Fraction(30000, 1001)}]
)
def test_another_recipe_makes_another_job(folder: Path, change: dict[str, object]) -> None:
    assert key(folder, lambda same: replace(same, **change)) != key(folder)


def test_another_precision_or_attention_makes_another_job(folder: Path) -> None:
    assert len({key(folder), key(folder, dtype="float32"), key(folder, attention_backend="torch")}) == 3
    assert key(folder, dtype="float32") == key(folder, dtype="fp32")


def test_digests_are_read_again_only_where_a_file_has_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return file_digest(path)

    monkeypatch.setattr("sky4.batch.keys.file_digest", counted)
    digests = Digests()
    for _ in range(2):
        job_key(request(folder), Engine(folder / "model"), None, digests)
    assert sorted(read) == ["face.png", "film.mp4", "mask.png"]
    (folder / "face.png").write_bytes(b"another face")
    job_key(request(folder), Engine(folder / "model"), None, digests)
    assert read[3:] == ["face.png"]


def test_a_recipe_is_known_as_the_jobs_own_or_not(folder: Path) -> None:
    mine, engine = request(folder), Engine(folder / "model")
    recipe = json.loads(
        json.dumps(
            {
                "request": mine.to_dict(),
                "model": {"digest": weights_digest(folder / "model")},
                "computed": {"dtype": "float32", "attention_backend": "cpu"},
                "inputs": {str(path): file_digest(path) for _, path in mine.files()},
            }
        )
    )
    assert is_clip_of(recipe, mine, engine, Digests())
    assert not is_clip_of(recipe, mine, replace(engine, dtype="bfloat16"), Digests())
    assert not is_clip_of(recipe, replace(mine, seed=5), engine, Digests())
    assert not is_clip_of({**recipe, "inputs": {}}, mine, engine, Digests())
    assert not is_clip_of({}, mine, engine, Digests())
    assert not is_clip_of({**recipe, "request": [1]}, mine, engine, Digests())
