"""The stages of a request: sizes from its geometry, networks counted, costs that follow what is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from sky4.media import write_clip
from sky4.ops.backend import use_backend
from sky4.pipeline.components import Components
from sky4.pipeline.economy import Economy
from sky4.pipeline.model_folder import ModelFolder
from sky4.pipeline.refinement import Refinement
from sky4.pipeline.request import ClipRequest, Source
from sky4.pipeline.validate import validate
from sky4.planning.networks import Part
from sky4.planning.sketch import ModelSketch
from sky4.planning.stages import stages_of
from sky4.planning.work import Setting, Stage
from sky4.prompting.references import ReferenceFile
from tests.pipeline.plain import PLAIN

CPU = Setting("cpu", torch.float32)


def planned(request: ClipRequest, model: Path, setting: Setting = CPU) -> tuple[dict[str, Part], dict[str, Stage]]:
    folder = ModelFolder.read(model)
    parts, stages = stages_of(request, validate(request, folder), ModelSketch.read(folder), setting)
    return parts, {stage.name: stage for stage in stages}


def test_every_network_has_the_parameters_that_are_loaded(refining_model: Path) -> None:
    parts, _ = planned(replace(PLAIN, refinement=Refinement(64, 64, 2)), refining_model)
    components = Components.load(refining_model, "cpu", "float32")
    loaded = {
        "text_encoder": components.text_encoder.model,
        "video_codec": components.video_codec.codec.vae,
        "audio_codec": components.audio_codec.vae,
        "transformer": components.transformer,
        "refiner": components.refiner,
    }
    counts = {name: sum(weight.numel() for weight in network.parameters()) for name, network in loaded.items()}
    assert {name: part.parameters for name, part in parts.items()} == counts


def test_tokens_and_shapes_are_those_of_the_clip(nano_model: Path) -> None:
    _, stages = planned(PLAIN, nano_model)
    assert list(stages) == ["text", "conditions", "base", "decode sound", "decode picture", "mux"]
    geometry = validate(PLAIN, ModelFolder.read(nano_model))
    assert stages["base"].tokens["video"] == geometry.video_tokens
    assert stages["base"].tokens["audio"] == geometry.audio_tokens
    assert stages["base"].shapes["video latents"] == (1, 16, geometry.latent_frames, 4, 4)
    assert stages["decode picture"].shapes["pixels"] == (1, 3, 9, 32, 32)


def test_products_and_convolutions_are_those_that_torch_counts(nano_model: Path) -> None:
    """Its counter knows no attention on the CPU, so that this is left out."""
    from sky4.bench.stages import _base_step, _decode_video

    request = replace(PLAIN, guidance=1.0, audio_guidance=1.0)
    _, stages = planned(request, nano_model)
    components = Components.load(nano_model, "cpu", "float32")
    geometry = validate(request, components.folder)
    for name, build in (("base", _base_step), ("decode picture", _decode_video)):
        with torch.inference_mode(), use_backend("torch"):
            call = build(request, geometry, components)
            with FlopCounterMode(display=False) as counter:
                call()
        counted = stages[name].call
        assert counted.linear_flop + counted.convolution_flop == pytest.approx(counter.get_total_flops(), rel=1e-3), (
            name
        )


def test_what_is_asked_for_decides_the_calls(nano_model: Path) -> None:
    def calls(request: ClipRequest) -> int:
        return planned(request, nano_model)[1]["base"].calls

    once = calls(PLAIN)
    assert once == PLAIN.steps
    assert calls(replace(PLAIN, sampler="heun")) == 2 * once
    assert calls(replace(PLAIN, variations=3)) == 3 * once


def test_guidance_doubles_the_work_and_taken_apart_needs_less_memory(nano_model: Path) -> None:
    guided = planned(PLAIN, nano_model)[1]["base"]
    apart = planned(PLAIN, nano_model, replace(CPU, economy=Economy(apart=True)))[1]["base"]
    alone = planned(replace(PLAIN, guidance=1.0, audio_guidance=1.0), nano_model)[1]["base"]
    assert guided.call.flop == apart.call.flop == 2 * alone.call.flop
    assert apart.call.peak_bytes < 0.75 * guided.call.peak_bytes


@pytest.mark.parametrize("outputs, missing", [("video", "decode sound"), ("audio", "decode picture")])
def test_what_is_not_made_is_not_decoded(outputs, missing: str, nano_model: Path) -> None:
    assert missing not in planned(replace(PLAIN, outputs=outputs), nano_model)[1]


def test_references_and_sources_are_counted(nano_model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    write_clip(tmp_path / "a.mkv", [np.zeros((9, 32, 32, 3), np.uint8)], None, fps=PLAIN.fps, recipe={})
    files = (
        ReferenceFile("image_1", tmp_path / "a.png", "image"),
        ReferenceFile("video_1", tmp_path / "a.mkv", "video"),
    )
    prompt = f"{PLAIN.prompt} @image_1 @video_1"
    _, stages = planned(replace(PLAIN, prompt=prompt, references=files), nano_model)
    assert stages["base"].tokens["video references"] == (1 + 3) * 2 * 2
    _, plain = planned(PLAIN, nano_model)
    source = Source(tmp_path / "a.png", "--image")
    _, given = planned(replace(PLAIN, sources=(source,)), nano_model)
    assert given["conditions"].cost.flop > plain["conditions"].cost.flop


def test_a_refined_clip_has_a_stage_of_tiles_and_larger_frames(refining_model: Path) -> None:
    request = replace(PLAIN, refinement=Refinement(64, 64, 2, rate=2, keyframes=(0, 2)))
    _, stages = planned(request, refining_model)
    assert list(stages)[2:4] == ["base", "refiner"]
    assert stages["base"].tokens["keyframes"] == 2 * 4 * 4
    # latents 5 x 8 x 8 in tiles of 3 x 4 x 4 that share 1 x 2 x 2: 2 x 3 x 3 of them, in two steps
    assert stages["refiner"].calls == 2 * 3 * 3 * 2
    assert stages["decode picture"].shapes["pixels"] == (1, 3, 17, 64, 64)


def test_keyframes_of_a_given_clip_are_a_stage_of_the_base(refining_model: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    whole = (Source(tmp_path / "a.png", "a"),)
    still = replace(PLAIN, outputs="still", frames=1, sources=whole, refinement=Refinement(64, 64, 2))
    assert "base" not in planned(still, refining_model)[1]
    keyed = replace(still, refinement=Refinement(64, 64, 2, keyframes=(0,)))
    assert planned(keyed, refining_model)[1]["base"].tokens["keyframes"] == 4 * 4


def test_a_refiner_that_starts_from_pixels_has_a_stage_that_enlarges_them(refining_model: Path, tmp_path: Path) -> None:
    from tests.conftest import starting_from_pixels

    model = starting_from_pixels(refining_model, tmp_path / "pixels")
    _, stages = planned(replace(PLAIN, refinement=Refinement(64, 64, 2, rate=2)), model)
    assert list(stages)[2:5] == ["base", "enlarge", "refiner"]
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    still = replace(PLAIN, outputs="still", frames=1, refinement=Refinement(64, 64, 2))
    made = planned(still, model)[1]["enlarge"]
    given = planned(replace(still, sources=(Source(tmp_path / "a.png", "a"),)), model)[1]["enlarge"]
    assert made.cost.flop > given.cost.flop > 0


def test_a_long_clip_is_counted_as_all_of_it_would_be(nano_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sky4.planning import decoding as module

    request = replace(PLAIN, frames=65)
    short = planned(request, nano_model, replace(CPU, economy=Economy(chunk=2)))[1]["decode picture"].call
    monkeypatch.setattr(module, "by_length", lambda cost_of, latents, chunk: cost_of(latents))
    whole = planned(request, nano_model, replace(CPU, economy=Economy(chunk=2)))[1]["decode picture"].call
    assert short.flop == pytest.approx(whole.flop, rel=1e-6)
    assert short.peak_bytes == pytest.approx(whole.peak_bytes, rel=0.02)
