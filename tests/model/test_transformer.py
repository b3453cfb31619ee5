"""The joint model: the order of its exchange, its limits, its masks, its size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sky4.config import TransformerConfig, full, nano
from sky4.inputs import TextInput, TowerInput
from sky4.model.blocks import DualBlock, SingleBlock
from sky4.model.transformer import JointTransformer
from sky4.ops.backend import use_backend

from .conftest import alive

Inputs = tuple[TowerInput, TowerInput, TextInput]


@torch.no_grad()
def test_audio_reads_video_first_and_video_reads_the_updated_audio(model: JointTransformer, inputs: Inputs) -> None:
    video, audio, text = inputs
    seen: list[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for between in model.exchanges:
        for name in ("audio_reads_video", "video_reads_audio"):
            method = getattr(between, name)

            def watched(x, source, *at, method=method, name=name):  # type: ignore[no-untyped-def]
                out = method(x, source, *at)
                seen.append((name, x, source, out))
                return out

            object.__setattr__(between, name, watched)
    model(video, audio, text)
    assert [name for name, *_ in seen] == ["audio_reads_video", "video_reads_audio"] * model.config.blocks
    for (_, a, v, updated), (_, v_again, source, _) in zip(seen[::2], seen[1::2], strict=True):
        assert source is updated and v_again is v
        assert not torch.equal(a, updated)


@torch.no_grad()
def test_a_fresh_joint_model_equals_its_towers_alone(inputs: Inputs) -> None:
    video, audio, text = inputs
    model, silent = alive(nano()), JointTransformer(nano())
    model.exchanges.load_state_dict(
        {
            name: silent.exchanges.state_dict()[name] if ".out." in name else weight  # outputs as they start: zero
            for name, weight in model.exchanges.state_dict().items()
        }
    )
    joint_video, joint_audio = model(video, audio, text)
    assert joint_video.abs().max() > 0
    assert torch.equal(joint_video, model.video(video, text))
    assert torch.equal(joint_audio, model.audio(audio, text))


def test_what_must_start_silent_starts_at_zero_and_nothing_else_does() -> None:
    for name, parameter in JointTransformer(replace(nano(), modulation="per_block")).named_parameters():
        gate = "modulation" in name or name.endswith(("keyframe", "head.weight"))
        cross = ".out.weight" in name and ("exchanges" in name or "text_reading" in name)
        silent = gate or cross or name.endswith(".bias")
        assert bool(parameter.any()) != silent, name


@torch.no_grad()
def test_either_tower_runs_alone(model: JointTransformer, inputs: Inputs) -> None:
    video, audio, text = inputs
    alone = model(video, None, text)
    assert alone[1] is None and torch.equal(alone[0], model.video(video, text))
    alone = model(None, audio, text)
    assert alone[0] is None and torch.equal(alone[1], model.audio(audio, text))
    apart = model(video, audio, text, exchange=False)
    assert torch.equal(apart[0], model.video(video, text)) and torch.equal(apart[1], model.audio(audio, text))
    assert not torch.allclose(model(video, audio, text)[0], apart[0])


@torch.no_grad()
def test_a_sample_is_the_same_alone_and_in_a_batch(model: JointTransformer, inputs: Inputs) -> None:
    video, audio, text = inputs
    together = model(video, audio, text)
    for i in range(2):
        one = [replace(x, tokens=x.tokens[i : i + 1], timestep=x.timestep[i : i + 1]) for x in (video, audio)]
        alone = model(*one, TextInput(text.hidden[i : i + 1], None))
        for whole, part in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[i : i + 1], part, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_padded_text_and_padded_references_change_nothing(model: JointTransformer, inputs: Inputs) -> None:
    video, audio, text = inputs
    expected = model(video, audio, text)
    padding = torch.full((2, 3, text.hidden.shape[-1]), 50.0)
    text_mask = torch.tensor([[True] * 5 + [False] * 3] * 2)
    padded_text = TextInput(torch.cat([text.hidden, padding], 1), text_mask)
    padded_video = replace(
        video,
        tokens=torch.cat([torch.full_like(video.tokens[:, :2], 50.0), video.tokens], 1),
        positions=torch.cat([torch.full((2, 3), -1.0), video.positions]),
        reference_tokens=2,
        mask=torch.tensor([[False] * 2 + [True] * 12] * 2),
    )
    padded = model(padded_video, audio, padded_text)
    torch.testing.assert_close(padded[0][:, 2:], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded[1], expected[1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_prompt_without_any_token_is_read_as_nothing(model: JointTransformer, inputs: Inputs) -> None:
    video, audio, text = inputs
    nothing = TextInput(text.hidden, torch.tensor([[True] * 5, [False] * 5]))
    other = TextInput(torch.cat([text.hidden[:1], torch.randn_like(text.hidden[1:])]), nothing.mask)
    for backend in ("reference", "torch"):
        with use_backend(backend):
            found, again = model(video, audio, nothing), model(video, audio, other)
        for a, b in zip(found, again, strict=True):
            assert a.isfinite().all()
            torch.testing.assert_close(a, b)


@torch.no_grad()
def test_references_are_modulated_as_data(model: JointTransformer, inputs: Inputs) -> None:
    video, _, text = inputs
    late = replace(video, timestep=torch.ones(2))
    with_references = model.video(replace(late, reference_tokens=4), text)
    torch.testing.assert_close(with_references, model.video(late, text))  # at t = 1 all tokens are as references

    block_inputs = []
    block = model.video.blocks[0]
    handle = block.attention.qkv.register_forward_pre_hook(lambda module, args: block_inputs.append(args[0]))
    for media in (replace(video, reference_tokens=4), video, late):
        model.video(media, text)
    handle.remove()
    mixed, at_own_time, at_data = block_inputs
    assert torch.allclose(mixed[:, :4], at_data[:, :4], atol=1e-6)
    assert torch.allclose(mixed[:, 4:], at_own_time[:, 4:], atol=1e-6)
    assert not torch.allclose(at_own_time[:, :4], at_data[:, :4], atol=1e-2)


@torch.no_grad()
def test_the_keyframe_segment_is_heard_by_its_tokens_alone(inputs: Inputs) -> None:
    video, _, text = inputs
    model = alive(nano())
    segment = torch.tensor([0] * 8 + [1] * 4)
    plain, _, _ = model.video.embed(video, text)
    marked, _, _ = model.video.embed(replace(video, segment=segment), text)
    assert torch.equal(plain[:, :8], marked[:, :8])
    torch.testing.assert_close(marked[:, 8:] - plain[:, 8:], model.video.keyframe.expand(2, 4, -1))
    ordinary = replace(video, segment=torch.zeros(12, dtype=torch.int64))
    assert torch.equal(model.video(ordinary, text), model.video(video, text))


@torch.no_grad()
def test_each_modality_hears_its_own_timestep(model: JointTransformer, inputs: Inputs) -> None:
    video, audio, text = inputs
    before = model(video, audio, text, exchange=False)
    after = model(video, replace(audio, timestep=torch.ones(2)), text, exchange=False)
    assert torch.equal(before[0], after[0]) and not torch.allclose(before[1], after[1])


@torch.no_grad()
def gated(model: JointTransformer, gate: float) -> JointTransformer:
    """A silent head, and gates of one logit everywhere."""
    for tower in (model.video, model.audio):
        assert tower.data_gate is not None
        torch.nn.init.zeros_(tower.head.weight)
        tower.data_gate.gate.bias.zero_()[: tower.data_gate.out_channels] = gate
    return model


@torch.no_grad()
@pytest.mark.parametrize("t", [0.0, 0.3, 0.9])
def test_open_data_gates_without_a_head_are_the_best_linear_guess_of_fresh_data(t: float, inputs: Inputs) -> None:
    model = gated(JointTransformer(replace(nano(), data_gate=True)), 40.0)
    data, noise = torch.randn(2, 400_000, dtype=torch.float64)
    noisy = t * data + (1 - t) * noise
    slope = float((noisy * (data - noise)).mean() / noisy.square().mean())  # the regression of v on V
    for tower, media in ((model.video, inputs[0]), (model.audio, inputs[1])):
        made = tower(replace(media, timestep=torch.full((2,), t)), inputs[2])
        torch.testing.assert_close(made, slope * media.tokens[..., : made.shape[-1]], rtol=0.02, atol=0.01)


@torch.no_grad()
@pytest.mark.parametrize("t", [0.0, 0.3, 0.9])
def test_closed_data_gates_without_a_head_leave_a_difference_at_zero(t: float, inputs: Inputs) -> None:
    model = gated(JointTransformer(replace(nano(), data_gate=True)), -40.0)
    for tower, media in ((model.video, inputs[0]), (model.audio, inputs[1])):
        made = tower(replace(media, timestep=torch.full((2,), t)), inputs[2])
        noisy = media.tokens[..., : made.shape[-1]]
        torch.testing.assert_close(noisy + (1 - t) * made, torch.zeros_like(made), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_data_gate_adds_i_by_its_own_factor_and_scales_the_head(inputs: Inputs) -> None:
    tower, (video, _, text) = JointTransformer(replace(nano(), data_gate=True)).video, inputs
    assert tower.data_gate is not None
    before = tower(video, text)
    nn.init.ones_(tower.head.bias)
    tower.data_gate.gate.bias[tower.data_gate.out_channels :] = 0.5
    _, known, _ = video.tokens.split(before.shape[-1], dim=-1)
    t = video.timestep[:, None, None]
    added = (1 + 0.5 * known) / (t**2 + (1 - t) ** 2).sqrt()
    torch.testing.assert_close(tower(video, text), before + added, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_positions_are_heard(model: JointTransformer, inputs: Inputs) -> None:
    video, audio, text = inputs
    unread = replace(text, mask=torch.zeros(2, 5, dtype=torch.bool))  # text stands at the origin, so keep it out
    expected = model(video, audio, unread)
    later = [replace(x, positions=x.positions + torch.tensor([7.0, 0, 0])) for x in (video, audio)]
    for a, b in zip(model(*later, unread), expected, strict=True):  # both shifted alike: only distances count
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    moved = model(video, later[1], unread)  # one shifted: only the exchange can tell
    assert not torch.allclose(moved[0], expected[0], atol=1e-4)


@pytest.mark.parametrize("choice", ["all", "single"])
def test_text_cross_attention_stands_in_the_video_tower_where_it_was_asked_for(choice: str) -> None:
    model = JointTransformer(replace(nano(), text_cross_attention=choice))
    reads = [block.text_reading is not None for block in model.video.blocks]
    assert [type(block) for block in model.video.blocks] == [DualBlock, SingleBlock]
    assert reads == [choice == "all", True]
    assert all(block.text_reading is None for block in model.audio.blocks)


@pytest.mark.parametrize("mode", ["autocast", "bfloat16"])
def test_training_in_bfloat16_follows_float32(mode: str, inputs: Inputs) -> None:
    video, audio, text = inputs
    model = alive(nano())
    with torch.no_grad():
        expected = model(video, audio, text)
    if mode == "bfloat16":
        model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        found = model(video, audio, text)
    for a, b in zip(found, expected, strict=True):
        assert (a.float() - b).norm() < 0.05 * b.norm()
    (found[0].float().square().mean() + found[1].float().square().mean()).backward()
    for name, parameter in model.named_parameters():
        if not name.endswith("keyframe"):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def parameters_by_hand(c: TransformerConfig) -> int:
    """The count from the description alone: weights and biases of every part."""
    d, head, mlp = c.width, c.width // c.heads, c.mlp_ratio * c.width

    def linear(inward: int, outward: int) -> int:
        return inward * outward + outward

    feed_forward = linear(d, mlp) + linear(mlp, d)
    stream = linear(d, 3 * d) + 2 * head + linear(d, d) + feed_forward + linear(d, 6 * d)  # qkv, norms, out, MLP, AdaLN
    single = linear(d, 3 * d + mlp) + 2 * head + linear(d + mlp, d) + linear(d, 3 * d)
    cross = linear(d, d) + linear(d, 2 * d) + 2 * head + linear(d, d)
    ends = linear(256, d) + linear(d, d) + linear(c.text_channels, d) + d + linear(d, 2 * d)  # time, text, segment, end
    tower = c.dual_blocks * 2 * stream + c.single_blocks * single + ends
    depth = c.dual_blocks + c.single_blocks
    video = linear((2 * c.video_channels + 1) * c.patch**2, d) + linear(d, c.video_channels * c.patch**2)
    audio = linear(c.audio_channels, d) + linear(d, c.audio_channels)
    return 2 * tower + video + audio + depth * cross + depth * 2 * cross  # text cross-attention, exchange


def test_the_full_model_builds_without_memory_and_has_the_size_described() -> None:
    with torch.device("meta"):
        model = JointTransformer(full())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == parameters_by_hand(full())
    assert 25e9 < count < 40e9
    assert all(parameter.is_meta for parameter in model.parameters())
    assert isinstance(model, nn.Module)


def test_it_computes_shapes_on_the_meta_device(inputs: Inputs) -> None:
    video, audio, text = inputs
    with torch.device("meta"):
        model = JointTransformer(nano())
    media = [
        TowerInput(x.tokens.to("meta"), x.positions.to("meta"), x.timestep.to("meta"), reference_tokens=2)
        for x in (video, audio)
    ]
    out = model(*media, TextInput(text.hidden.to("meta"), None))
    assert [tuple(x.shape) for x in out] == [(2, 12, 64), (2, 8, 64)]
