"""The published scale on paper, against formulas by hand and against tensors found by the garbage collector."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from sky4.config import TransformerConfig, full
from sky4.pipeline.economy import Economy
from sky4.pipeline.refinement import Refinement
from sky4.pipeline.validate import validate
from sky4.planning import sharding
from sky4.planning.plan import Plan, plan_request
from sky4.planning.presets import preset_sketch
from sky4.planning.trace import traced, without_values
from sky4.planning.work import Setting
from sky4cli.bench import PROMPT, request_of_model

pytestmark = pytest.mark.slow  # thousands of operations are walked through

KEYFRAMES = (0, 15, 30, 45, 60)


@pytest.fixture(scope="module")
def plan() -> Plan:
    sketch = preset_sketch("full")
    request = request_of_model(sketch.folder, PROMPT)
    request = replace(request, refinement=Refinement(1920, 1088, 4, rate=2, keyframes=KEYFRAMES))
    setting = Setting("cuda", torch.bfloat16, Economy(release=True))
    return plan_request(request, validate(request, sketch.folder), sketch, setting)


def stage(plan: Plan, name: str):
    return next(planned.stage for planned in plan.stages if planned.stage.name == name)


def tower_parameters(c: TransformerConfig, inward: int, outward: int, reads: bool, sparse: bool = False) -> int:
    """By hand, from the report's equations; weights and biases."""
    d, r = c.width, c.mlp_ratio

    def linear(a: int, b: int) -> int:
        return a * b + b

    norms = 2 * c.head_dim
    cross = linear(d, d) + linear(d, 2 * d) + linear(d, d) + norms if reads else 0
    mlp = linear(d, r * d) + linear(r * d, d)
    gates = linear(d, 2 * d) if sparse else 0
    attention = linear(d, 3 * d) + norms + linear(d, d)
    dual = 2 * (linear(d, 6 * d) + attention + mlp) + cross + gates
    single = linear(d, 3 * d) + linear(d, (3 + r) * d) + norms + linear((1 + r) * d, d) + cross + gates
    ends = linear(inward, d) + d + linear(c.text_channels, d) + linear(256, d) + linear(d, d)
    ends += linear(d, 2 * d) + linear(d, outward)
    return ends + c.dual_blocks * dual + c.single_blocks * single


def test_parameters_are_exactly_those_of_the_formula(plan: Plan) -> None:
    c = full()
    video = tower_parameters(c, 33 * 4, 16 * 4, reads=True)
    audio = tower_parameters(c, 64, 64, reads=False)
    exchange = 2 * (4 * c.width**2 + 4 * c.width + 2 * c.head_dim)
    assert plan.parts["transformer"].parameters == video + audio + c.blocks * exchange
    assert plan.parts["refiner"].parameters == tower_parameters(c, 33 * 4, 16 * 4, reads=True, sparse=True)


def test_tokens_are_those_of_1088_x_1920_and_481_frames(plan: Plan) -> None:
    assert stage(plan, "base").tokens == {"text": 512, "video": 61 * 30 * 52, "keyframes": 5 * 68 * 120, "audio": 648}
    assert stage(plan, "refiner").tokens["video"] == 121 * 68 * 120
    assert stage(plan, "decode picture").shapes["pixels"] == (1, 3, 481, 1088, 1920)


def test_flops_of_a_step_are_those_of_the_formula(plan: Plan) -> None:
    c, tokens, d = full(), stage(plan, "base").tokens, full().width
    video, audio, text = tokens["video"] + tokens["keyframes"], tokens["audio"], tokens["text"]
    attention = 0
    linear = 0
    for media, reads in ((video, True), (audio, False)):
        both = media + text
        attention += c.blocks * 4 * both**2 * d + (c.blocks * 4 * media * text * d if reads else 0)
        per_token = 4 * d * d + 8 * d * d  # attention and MLP; a single block has the same products, fused
        linear += c.blocks * 2 * both * per_token
        linear += c.blocks * 2 * (2 * media + 2 * text) * d * d if reads else 0
    attention += c.blocks * 2 * 4 * video * audio * d
    linear += c.blocks * 2 * 2 * (2 * video + 2 * audio) * d * d
    call = stage(plan, "base").call
    assert call.attention_flop == 2 * attention  # both prompts
    assert call.linear_flop == pytest.approx(2 * linear, rel=0.01)  # the ends of the towers come on top


def test_activations_agree_with_the_tensors_that_are_alive_on_the_meta_device(plan: Plan, monkeypatch) -> None:
    """In the middle of the widest block, after its hidden layer: found by the garbage collector, not by our counter."""
    import sky4.model.blocks as blocks
    from sky4.inputs import TextInput, TowerInput
    from sky4.model.transformer import JointTransformer

    c, tokens = full(), stage(plan, "base").tokens
    count = tokens["video"] + tokens["keyframes"]
    with torch.device("meta"):
        model = JointTransformer(replace(c, dual_blocks=1, single_blocks=2)).to(torch.bfloat16).requires_grad_(False)
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    found: list[int] = []

    def watched(attention, out):
        hidden_alive = {}
        for thing in gc.get_objects():
            if type(thing) is torch.Tensor and thing.is_meta:
                storage = thing.untyped_storage()
                hidden_alive[storage._cdata] = storage.nbytes()
        found.append(sum(size for key, size in hidden_alive.items() if key not in weights))
        return torch.nn.functional.linear(attention, *out)

    real = blocks.linear
    monkeypatch.setattr(blocks, "linear", lambda x, weight, bias=None: watched(x, (weight, bias)))

    def tower(n: int, channels: int) -> TowerInput:
        x = torch.empty(2, n, channels, device="meta")
        return TowerInput(x, torch.empty(n, 3, device="meta"), torch.empty(2, device="meta"))

    with without_values("cuda"):
        text = TextInput(torch.empty(2, 512, c.text_channels, device="meta"), None)
        video, audio = tower(count, c.video_in_channels), tower(648, c.audio_channels)
        traced(lambda: model(video, audio, text), "cuda")
    assert real is not blocks.linear
    made = 2 * (count + 512) * c.width * 2  # the product's own result and the sum with the attention's follow
    call = stage(plan, "base").call
    inputs = video.tokens.numel() * 4 + audio.tokens.numel() * 4
    assert call.peak_bytes == pytest.approx(max(found) + 2 * made - inputs, rel=0.1)


def test_all_gpus_are_shared_out_and_each_then_holds_less(plan: Plan) -> None:
    c = full()
    for gpus in sharding.COUNTS:
        assert sharding.shares_of(gpus, c.heads).gpus == gpus
    device = sharding.DEVICES[1]
    one, eight, many = (
        sharding.sharded(plan, device, gpus, c.heads, c.width, c.blocks, guided=True) for gpus in sharding.COUNTS
    )
    assert not one.fits and eight.fits and many.fits
    assert one.bytes > eight.bytes >= many.bytes
    assert one.seconds > 4 * eight.seconds
    assert many.shares.clips / many.seconds > 4 / eight.seconds
