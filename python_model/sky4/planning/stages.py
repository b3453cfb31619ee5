"""The stages of a request, each a value: what it works on, which networks it needs, and what one call of it costs.

The costs are counted on the pipeline's own code, run without values. Another stage is another function that returns a
`Stage`, put into the list of `stages_of`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from sky4.geometry import ClipGeometry
from sky4.pipeline.request import ClipRequest
from sky4.pipeline.validate import refined_geometry
from sky4.planning.conditions import conditions_stage, enlarging_stage, reference_sizes
from sky4.planning.decoding import mux_stage, picture_stage, sound_stage
from sky4.planning.networks import Networks, Part, parts_of
from sky4.planning.sketch import ModelSketch, placed
from sky4.planning.towers import base_stage, refiner_stage, refiner_tiles
from sky4.planning.trace import traced, without_values
from sky4.planning.work import Setting, Stage, Work

SHARED = ("base", "refiner")  # that several processes share; in the others all do the same, or one works alone


def stages_of(
    request: ClipRequest, geometry: ClipGeometry, sketch: ModelSketch, setting: Setting
) -> tuple[dict[str, Part], list[Stage]]:
    """The networks, and the request's stages in their order. geometry: of what the model makes at once."""
    references = reference_sizes(request, geometry)
    high = None if request.refinement is None else refined_geometry(request.refinement, sketch.folder, geometry)
    networks = Networks(sketch)
    parts = parts_of(networks, setting.dtype, setting.economy.weights)
    if high is None:
        parts.pop("refiner", None)
    cut = None if high is None else refiner_tiles(high, sketch)
    with without_values("cpu"):  # the libraries' text models look at values, which meta tensors refuse
        stages = [text_stage(request, sketch, networks, setting.dtype)]
    work = Work(request, geometry, high, stages[0].tokens["text"], sketch, networks, setting)
    with without_values(setting.device) as device:
        networks.place(device, setting.dtype, setting.economy.chunk)
        if request.runs_video or request.driven or references.audio_tokens:
            stages.append(conditions_stage(work, references))
        if request.samples:
            stages.append(base_stage(work, references))
        if cut is not None:
            enlarging = enlarging_stage(work)
            stages += [] if enlarging is None else [enlarging]
            stages.append(refiner_stage(work, cut))
        if request.wants_audio or (request.soundtrack is not None and request.soundtrack.mix):
            stages.append(sound_stage(work))
        if request.wants_video and (request.video is None or high is not None):
            stages.append(picture_stage(work))
    return parts, [*(_own_share(stage, setting.processes) for stage in stages), mux_stage(work)]


def _own_share(stage: Stage, processes: int) -> Stage:
    """A stage as one of so many processes has it."""
    return replace(stage, call=stage.call.shared(processes)) if stage.name in SHARED else stage


def text_stage(request: ClipRequest, sketch: ModelSketch, networks: Networks, dtype: torch.dtype) -> Stage:
    """The prompt and the negative prompt, one row each; what references the encoder itself sees is not counted."""
    model: Any = placed(networks.text_model, "cpu", dtype)
    tokens = sketch.prompt_tokens(request.prompt), sketch.prompt_tokens(request.negative_prompt)

    def encode() -> None:
        for count in tokens:
            ids = torch.zeros(1, count, dtype=torch.int64)
            mask = torch.ones_like(ids)
            states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
            states.hidden_states[-1].float()

    width = sketch.transformer_config.text_channels
    named = {"text": max(tokens)}
    return Stage(
        "text", ("text_encoder",), 1, traced(encode, "cpu"), 0, named, {"hidden states": (1, max(tokens), width)}
    )
