"""One clip on several processes has the latents that one makes: prompts, references, inpainting, refining."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from sky4.diffusion.sampler import MODALITIES
from sky4.distributed import meeting
from sky4.distributed.ranks import ALONE, Ranks, joined
from sky4.errors import RequestError, Sky4Failure
from sky4.media import write_clip
from sky4.media.masks import EditRegion, parse_box
from sky4.pipeline.components import Components
from sky4.pipeline.economy import Economy
from sky4.pipeline.generate import generate_clip
from sky4.pipeline.refinement import Refinement
from sky4.pipeline.request import Canvas, ClipRequest, Source
from sky4.prompting import resolve_references
from tests.pipeline.plain import PLAIN
from tests.together import together

TOLERANCE = 1e-5  # relative, in float32: what the issue allows
SILENT = replace(PLAIN, outputs="video")


def film(folder: Path, side: int) -> Path:
    """Nine frames of noise, 16 a second."""
    pictures = np.random.default_rng(side).integers(0, 255, (9, side, side, 3), dtype=np.uint8)
    path = folder / f"film-{side}.mkv"
    if not path.exists():
        write_clip(path, [pictures], None, fps=Fraction(16), recipe={})
    return path


def generated(folder: Path) -> ClipRequest:
    return replace(PLAIN, width=48, height=32, frames=13)  # 24 tokens and 34: not alike on both


def referring(folder: Path) -> ClipRequest:
    if not (folder / "a.png").exists():  # the process alone has made it for the others, which may be reading it
        Image.fromarray(np.random.default_rng(1).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / "a.png")
    references = resolve_references([f"image_1={folder / 'a.png'}"])
    return replace(PLAIN, prompt="@image_1 moves", references=references, frames=5)


def inpainted(folder: Path) -> ClipRequest:
    region = EditRegion(boxes=(parse_box("50%,0,50%,100%"),))
    return replace(PLAIN, sources=(Source(film(folder, 32), "film", frames=9, region=region),), canvas=Canvas(32, 32))


def refined(folder: Path) -> ClipRequest:
    whole = (Source(film(folder, 32), "film", frames=9),)
    return replace(SILENT, prompt="", sources=whole, refinement=Refinement(64, 64, steps=2, rate=2))


def made_and_refined(folder: Path) -> ClipRequest:
    return replace(PLAIN, refinement=Refinement(80, 48, steps=2, rate=2, keyframes=(1,)))


CASES = (generated, referring, inpainted, refined, made_and_refined)


def latents(request: ClipRequest, components: Components) -> dict[str, Tensor]:
    made = generate_clip(request, components).latents
    return {name: part.contiguous() for name, part in zip(MODALITIES, made, strict=True) if part is not None}


@pytest.mark.slow
@pytest.mark.parametrize("economy", [Economy(), Economy(shard=True), Economy(stream=True, apart=True)])
def test_two_processes_make_what_one_makes(economy: Economy, refining_model: Path, tmp_path: Path) -> None:
    def all_made(ranks: Ranks) -> dict[str, Tensor]:
        components = Components.load(refining_model, "cpu", "float32", economy=economy, ranks=ranks)
        towers = components.transformer.video, components.transformer.audio, components.refiner
        assert [tower.sharing.world for tower in towers] == [ranks.world] * 3
        return {
            f"{case.__name__} {name}": part
            for case in CASES
            for name, part in latents(case(tmp_path), components).items()
        }

    def work(rank: int) -> None:
        with joined() as ranks:
            save_file(all_made(ranks), tmp_path / f"{rank}.safetensors")

    one = all_made(ALONE)
    lives = together(tmp_path, 2, work)
    assert [life.code for life in lives] == [0, 0], lives[0].err + lives[1].err
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    errors = {name: float((first[name] - part).norm() / part.norm()) for name, part in one.items()}
    assert set(errors) == set(first) and max(errors.values()) <= TOLERANCE
    assert all(torch.equal(first[name], second[name]) for name in first), "they share noise, and all that is kept"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ranks": Ranks(0, 3)}, r"3 processes cannot share the 2 attention heads of --model .*--nproc-per-node 2"),
        ({"ranks": Ranks(0, 2), "device": "cuda:0"}, r"--device cuda:0"),
    ],
)
def test_what_processes_cannot_share_is_refused(change: dict, words: str, refining_model: Path) -> None:
    with pytest.raises(RequestError, match=words):
        Components.load(refining_model, **{"device": "cpu", "dtype": "float32", **change})


def test_processes_that_were_given_different_things_stop(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        with joined() as ranks, pytest.raises(RequestError, match="process 1 of 2 has another clip than process 0"):
            ranks.require_same(bytes([rank]), "clip")

    assert [life.code for life in together(tmp_path, 2, work)] == [0, 0]


def test_a_process_that_is_gone_ends_the_others(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        with joined() as ranks:
            if rank == 1:
                os._exit(7)
            meeting.SPEAKING = timedelta(seconds=0.1)  # it will say nothing
            with pytest.raises(Sky4Failure, match="another process of this run has ended"):
                for _ in range(2):
                    ranks.agree(1.0)
            os._exit(0)

    assert [life.code for life in together(tmp_path, 2, work)] == [0, 7]
