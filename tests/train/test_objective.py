"""The loss: what is in it, what is not, and that its optimum is the flow's."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from sky4.conditioning.tokens import patchify_video, unpatchify_video
from sky4.inputs import TextInput, TowerInput
from sky4.train.batches import BatchSource, LatentBatch, Position
from sky4.train.objective import condition_of, flow_loss, mean_square, pad_text, unchanged, video_input
from sky4.train.settings import JointSettings
from tests.train.nano import ALL_TASKS, CHANNELS, TRANSFORMER, encode, make_model

Make = Callable[..., JointSettings]


def batch_of(make_settings: Make, kind: str, **changes: object) -> tuple[JointSettings, LatentBatch]:
    settings = make_settings(tasks={kind: {**ALL_TASKS[kind], **changes}}, captions={"drop_references": 0.0})
    return settings, BatchSource(settings).make(Position())


def black(batch: LatentBatch) -> torch.Tensor:
    return torch.zeros(1, CHANNELS, 4, 4, 4)


@pytest.mark.parametrize("kind", list(ALL_TASKS))
def test_only_the_towers_of_a_task_get_gradients(make_settings: Make, kind: str) -> None:
    settings, batch = batch_of(make_settings, kind)
    model = make_model(settings)
    loss = flow_loss(model, model.config, batch, encode(list(batch.prompts)), black(batch))
    loss.total.backward()
    trained = {
        tower: any(w.grad is not None and bool(w.grad.any()) for w in getattr(model, tower).parameters())
        for tower in ("video", "audio", "exchanges")
    }
    both = batch.task.has_video and batch.task.has_audio
    # a given modality is still read: its tower learns through the exchange
    assert trained == {"video": batch.task.has_video, "audio": batch.task.has_audio, "exchanges": both}
    assert (loss.video is not None, loss.audio is not None) == (batch.task.trains_video, batch.task.trains_audio)


@pytest.mark.parametrize("kind", ["i2v", "extend", "backward", "ends", "mask"])
def test_kept_cells_have_no_gradient_and_made_ones_do(make_settings: Make, kind: str) -> None:
    _, batch = batch_of(make_settings, kind)
    assert batch.video is not None
    assert batch.keep_mask is not None
    made = torch.randn_like(batch.video).requires_grad_()
    mean, each = mean_square(made, batch.video, batch.keep_mask)
    mean.backward()
    assert made.grad is not None
    kept = batch.keep_mask.expand_as(made).bool()
    assert kept.any()
    assert (made.grad[kept] == 0).all()
    assert (made.grad[~kept] != 0).all()
    expected = (made.detach() - batch.video)[~kept].square().mean()
    torch.testing.assert_close(mean.detach(), expected)
    assert each.shape == (len(batch.numbers),)


@pytest.mark.parametrize("kind", ["i2v", "mask"])
def test_cells_that_stay_as_they_are_count_as_little_as_asked(make_settings: Make, kind: str) -> None:
    _, batch = batch_of(make_settings, kind)
    assert batch.video is not None and batch.keep_mask is not None
    data = torch.randn_like(batch.video)
    data[:, :, :, 0] = 0.05 * torch.randn_like(data[:, :, :, 0])  # rows of a difference that is next to nothing
    still = unchanged(data)
    assert still[..., 0, :].all() and not still[..., 1:, :].any()
    mean, each = mean_square(made := torch.randn_like(data), data, batch.keep_mask, torch.where(still, 0.25, 1.0))
    square = (made - data).square()
    made_anew = ~batch.keep_mask.expand_as(square).bool()
    few, all_else = (made_anew & part.expand_as(square) for part in (still, ~still))
    expected = (0.25 * square[few].sum() + square[all_else].sum()) / (0.25 * few.sum() + all_else.sum())
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(
        mean_square(made, data, batch.keep_mask, torch.ones_like(still, dtype=torch.float32)),
        mean_square(made, data, batch.keep_mask),
    )
    assert each.shape == (len(batch.numbers),)


def test_references_are_in_the_input_and_not_in_the_loss(make_settings: Make) -> None:
    settings, batch = batch_of(make_settings, "reference")
    seen: list[TowerInput] = []

    class Spy(nn.Module):
        def forward(self, video: TowerInput, audio: TowerInput, text: TextInput) -> tuple[torch.Tensor, torch.Tensor]:
            seen.extend((video, audio))
            # a model that is wildly wrong on its reference tokens and says nought elsewhere
            v, a = torch.zeros(*video.tokens.shape[:2], CHANNELS * 4), torch.zeros_like(audio.tokens)
            v[:, : video.reference_tokens], a[:, : audio.reference_tokens] = 1e6, 1e6
            return v, a

    loss = flow_loss(Spy(), settings.transformer_config(), batch, encode(list(batch.prompts)), black(batch))
    assert loss.total < 10
    assert (seen[0].reference_tokens, seen[1].reference_tokens) == (4, 3)
    assert (seen[0].positions[:4, 0] == -1).all()
    assert (seen[1].positions[:3, 0] < 0).all()


def test_kept_cells_lie_on_the_straight_path_and_are_shown_clean_in_the_condition(make_settings: Make) -> None:
    settings, batch = batch_of(make_settings, "i2v", batch=2)
    config = settings.transformer_config()
    tower = video_input(config, batch, condition_of(config, batch, black(batch)), black(batch))
    assert tower is not None
    assert batch.video is not None
    assert batch.video_noise is not None
    token = tower.tokens[:, 0].unflatten(-1, (2 * CHANNELS + 1, 2, 2))  # the first frame's first patch
    t = batch.video_time[:, None, None, None]
    corner = (slice(None), slice(None), 0, slice(0, 2), slice(0, 2))
    torch.testing.assert_close(token[:, :CHANNELS], t * batch.video[corner] + (1 - t) * batch.video_noise[corner])
    torch.testing.assert_close(token[:, CHANNELS : 2 * CHANNELS], batch.video[corner])
    assert (token[:, -1] == 1).all()


def test_weights_scale_each_modality(make_settings: Make) -> None:
    settings, batch = batch_of(make_settings, "t2av")
    model, text = make_model(settings), encode(list(batch.prompts))
    one = flow_loss(model, model.config, batch, text, black(batch))
    assert one.video is not None
    assert one.audio is not None
    weighted = flow_loss(model, model.config, batch, text, black(batch), video_weight=2.0, audio_weight=0.5)
    torch.testing.assert_close(one.total.detach(), one.video.mean() + one.audio.mean())
    torch.testing.assert_close(weighted.total.detach(), 2 * one.video.mean() + 0.5 * one.audio.mean())


def test_padding_the_text_changes_no_velocity(make_settings: Make) -> None:
    settings, batch = batch_of(make_settings, "t2av")
    model, text = make_model(settings).eval(), encode(list(batch.prompts))
    with torch.no_grad():
        plain = flow_loss(model, model.config, batch, text, black(batch)).total
        padded = flow_loss(model, model.config, batch, pad_text(text, 16), black(batch)).total
    torch.testing.assert_close(plain, padded)


def test_the_optimum_on_gaussian_data_is_the_analytic_velocity() -> None:
    """For z0 ~ N(m, s^2) the least loss is known: checks sign, direction of t and scale at once."""
    from sky4.diffusion.flow import noised, velocity_target

    random = torch.Generator().manual_seed(0)
    m, s, count = 0.7, 0.5, 200_000
    z0 = m + s * torch.randn(count, 1, generator=random)
    eps, t = torch.randn(count, 1, generator=random), torch.rand(count, generator=random)
    z_t = noised(z0, eps, t)
    # E[z0 - eps | z_t] of jointly normal variables
    at = t[:, None]
    variance = at**2 * s**2 + (1 - at) ** 2
    best = m + (at * s**2 - (1 - at)) / variance * (z_t - at * m)
    loss, _ = mean_square(best, velocity_target(z0, eps), None)
    analytic = ((s**2 + 1) - (at * s**2 - (1 - at)) ** 2 / variance).mean()
    torch.testing.assert_close(loss, analytic, rtol=0.02, atol=0.0)
    for wrong in (-best, m + (at * s**2 - (1 - at)) / variance * (z_t - (1 - at) * m)):
        assert mean_square(wrong, velocity_target(z0, eps), None)[0] > 1.1 * analytic


@pytest.mark.parametrize("kind", ["style", "same", "effect", "inpaint_subject", "take_extend", "image_audio", "t2av"])
def test_a_guided_model_makes_the_difference_from_what_is_known(make_settings: Make, kind: str) -> None:
    settings = make_settings(
        tasks={kind: {"weight": 1.0}}, captions={"drop_references": 0.0}, transformer={**TRANSFORMER, "guide": True}
    )
    batch = BatchSource(settings).make(Position())
    assert batch.video is not None and batch.keep_mask is not None and batch.video_noise is not None
    dark = torch.full((1, CHANNELS, 4, 4, 4), -3.0)
    condition = condition_of(settings.transformer_config(), batch, dark)
    assert condition is not None and condition.offset is not None
    shape, seen = batch.video.shape, batch.video_references
    starts = {  # what of the clip is known before it is made; None: nothing
        "style": seen and seen.latents[:, :, -shape[2] :],
        "same": batch.video,
        "effect": batch.video[:, :, :1].expand(shape),
        "inpaint_subject": batch.guide,
        "take_extend": batch.video[:, :, :1].expand(shape),
    }
    start = starts.get(kind)
    kept = batch.keep_mask.bool()
    filled = dark[:, :, : shape[2]].expand(shape) if start is None else start
    assert torch.equal(condition.latents, torch.where(kept, batch.video, filled))
    assert torch.equal(condition.offset, torch.zeros(shape) if start is None else condition.latents)
    wanted = {}

    class Spy(nn.Module):
        """Says the velocity that leads from its noisy input straight to the whole clip."""

        def forward(
            self, video: TowerInput, audio: TowerInput | None, text: TextInput
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            tokens = video.tokens[:, video.reference_tokens :]
            noisy = unpatchify_video(tokens, shape)[:, :CHANNELS]
            t = batch.video_time.view(-1, 1, 1, 1, 1)
            assert condition is not None and batch.video is not None
            wanted["velocity"] = (condition.differing(batch.video) - noisy) / (1 - t)
            made = patchify_video(wanted["velocity"])
            made = torch.cat([torch.zeros(len(made), video.reference_tokens, made.shape[2]), made], dim=1)
            return made, None if audio is None else torch.zeros_like(audio.tokens)

    loss = flow_loss(Spy(), settings.transformer_config(), batch, encode(list(batch.prompts)), dark)
    assert loss.video is not None
    assert loss.video.max() < 1e-4
