"""The towers' inputs, and the way back from tokens to latents."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from sky4.conditioning import (
    AudioReferences,
    Keyframes,
    VideoReferences,
    assemble_audio,
    assemble_video,
    audio_velocity,
    join_audio_references,
    join_video_references,
    keyframe_velocity,
    video_velocity,
)
from sky4.conditioning.inpaint import condition_on, keep_first, unconditioned
from sky4.conditioning.references import real_tokens
from sky4.conditioning.tokens import patchify_video, reference_positions, video_positions

T = torch.tensor([0.25, 0.5])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clip() -> tuple[Tensor, object]:
    noisy = randn(2, 4, 3, 4, 6)
    return noisy, condition_on(randn(2, 4, 3, 4, 6, seed=1), keep_first((2, 3, 4, 6)), torch.zeros(1, 4, 3, 4, 6))


def test_without_references_the_tokens_are_the_patches_of_v_i_m() -> None:
    noisy, condition = clip()
    made = assemble_video(noisy, condition, None, T)
    joined = torch.cat((noisy, condition.latents, condition.keep_mask), 1)
    assert torch.equal(made.tokens, patchify_video(joined))
    assert torch.equal(made.positions, video_positions(3, 2, 3))
    assert torch.equal(made.timestep, T)
    assert (made.reference_tokens, made.segment, made.mask) == (0, None, None)


def test_references_come_first_clean_kept_and_at_negative_times() -> None:
    noisy, condition = clip()
    references = VideoReferences(randn(2, 4, 2, 4, 4, seed=2))
    made = assemble_video(noisy, condition, references, T)
    assert made.reference_tokens == 2 * 2 * 2
    head = video_velocity(made.tokens[:, :8], 0, (2, 4, 4))
    assert torch.equal(head[:, :4], references.latents)
    assert torch.equal(head[:, 4:8], references.latents)
    assert (head[:, 8] == 1).all()
    assert torch.equal(made.positions, torch.cat((reference_positions(2, 2, 2), video_positions(3, 2, 3))))
    assert torch.equal(made.tokens[:, 8:], assemble_video(noisy, condition, None, T).tokens)
    assert made.mask is None


def test_references_are_joined_in_prompt_order_and_padded_to_one_size() -> None:
    image, film = randn(4, 1, 4, 2, seed=1), randn(4, 3, 2, 6, seed=2)
    joined = join_video_references([[image, film]])
    assert joined.latents.shape == (1, 4, 4, 4, 6)
    assert torch.equal(joined.latents[0, :, :1, :, :2], image)
    assert torch.equal(joined.latents[0, :, 1:, :2], film)
    assert float(joined.latents.abs().sum()) == pytest.approx(float(image.abs().sum() + film.abs().sum()), rel=1e-6)
    assert real_tokens(joined).reshape(4, 2, 3)[0].tolist() == [[True, False, False]] * 2
    assert real_tokens(joined).reshape(4, 2, 3)[3].tolist() == [[True] * 3, [False] * 3]


def test_samples_with_fewer_references_are_padded_in_front() -> None:
    one, two = randn(4, 1, 4, 4, seed=1), randn(4, 2, 4, 4, seed=2)
    joined = join_video_references([[one], [one, two], []])
    assert torch.equal(joined.latents[0, :, 2:], one)
    assert torch.equal(joined.latents[1], torch.cat((one, two), 1))
    per_frame = real_tokens(joined).reshape(3, 3, 4)
    assert per_frame.all(2).tolist() == [[False, False, True], [True] * 3, [False] * 3]
    assert per_frame.any(2).tolist() == per_frame.all(2).tolist()


def test_padding_is_masked_and_the_clips_own_tokens_are_not() -> None:
    noisy, condition = clip()
    references = join_video_references([[randn(4, 1, 4, 4)], [randn(4, 2, 4, 4)]])
    made = assemble_video(noisy, condition, references, T)
    assert made.mask.shape == made.tokens.shape[:2]
    assert made.mask.sum(1).tolist() == [4 + 18, 8 + 18]
    assert made.mask[:, 8:].all()


def test_references_of_odd_latent_sizes_are_padded_to_the_patch() -> None:
    noisy, condition = clip()
    joined = join_video_references([[randn(4, 1, 3, 5)]] * 2)
    assert joined.latents.shape == (2, 4, 1, 4, 6)
    made = assemble_video(noisy, condition, joined, T)
    assert (made.reference_tokens, made.mask) == (6, None)  # every token holds some real cell


def test_no_references_join_to_none_and_mixed_codecs_are_refused() -> None:
    assert join_video_references([[], []]) is None
    assert join_audio_references([[]]) is None
    with pytest.raises(ValueError, match=r"one codec, got latents of \[4, 16\] channels"):
        join_video_references([[randn(4, 1, 2, 2)], [randn(16, 1, 2, 2)]])


def test_video_velocity_undoes_the_assembly() -> None:
    noisy, condition = clip()
    references = VideoReferences(randn(2, 4, 2, 4, 4, seed=2))
    keyframes = Keyframes(randn(2, 4, 2, 8, 12, seed=3), unconditioned(torch.zeros(1, 4, 2, 8, 12), 2), (0, 2))
    made = assemble_video(noisy, condition, references, T, keyframes=keyframes)
    out = made.tokens.reshape(2, -1, 9, 4)[:, :, :4].reshape(2, -1, 16)  # a model that answers with its V
    assert torch.equal(video_velocity(out, made.reference_tokens, noisy.shape), noisy)
    assert torch.equal(keyframe_velocity(out, (2, 8, 12)), keyframes.noisy)


def test_keyframes_come_last_in_a_segment_of_their_own_over_the_same_picture() -> None:
    noisy, condition = clip()
    keyframes = Keyframes(randn(2, 4, 2, 8, 12), unconditioned(torch.zeros(1, 4, 2, 8, 12), 2), (0, 2))
    made = assemble_video(noisy, condition, None, T, keyframes=keyframes, start=5.0)
    assert made.segment.tolist() == [0] * 18 + [1] * 48
    assert made.positions[18:, 0].unique().tolist() == [5.0, 7.0]
    assert made.positions[18:, 1].unique().tolist() == [0.0, 0.5, 1.0, 1.5]
    assert made.positions[:18, 0].unique().tolist() == [5.0, 6.0, 7.0]


def test_audio_tokens_are_the_latents_with_their_references_before_them() -> None:
    noisy, references = randn(2, 10, 8), AudioReferences(randn(2, 3, 8, seed=1))
    scale = Fraction(21, 218)
    made = assemble_audio(noisy, references, T, scale)
    assert torch.equal(made.tokens, torch.cat((references.latents, noisy), 1))
    assert made.positions[:, 0].tolist() == pytest.approx([(i - 3) * 21 / 218 for i in range(13)], abs=1e-7)
    assert (made.reference_tokens, made.mask) == (3, None)
    assert torch.equal(audio_velocity(made.tokens, made.reference_tokens), noisy)
    plain = assemble_audio(noisy, None, T, scale)
    assert plain.reference_tokens == 0
    assert torch.equal(plain.positions, made.positions[3:])


def test_audio_references_of_a_batch_end_together() -> None:
    short, long = randn(2, 8, seed=1), randn(5, 8, seed=2)
    joined = join_audio_references([[short], [short, long]])
    assert torch.equal(joined.latents[0, 5:], short)
    assert torch.equal(joined.latents[1], torch.cat((short, long)))
    made = assemble_audio(randn(2, 4, 8), joined, T, 0.1)
    assert made.mask.sum(1).tolist() == [2 + 4, 7 + 4]


def test_assembly_keeps_the_noisy_latents_dtype() -> None:
    noisy, condition = clip()
    references = VideoReferences(randn(2, 4, 1, 4, 4))
    assert assemble_video(noisy.bfloat16(), condition, references, T).tokens.dtype == torch.bfloat16
    audio = assemble_audio(randn(2, 4, 8).bfloat16(), AudioReferences(randn(2, 3, 8)), T, 0.1)
    assert audio.tokens.dtype == torch.bfloat16
    assert audio.positions.dtype == torch.float32


def test_repeated_references_stack_whole_batches() -> None:
    joined = join_video_references([[randn(4, 1, 4, 4)], [randn(4, 2, 4, 4)]])
    twice = joined.repeat(2)
    assert torch.equal(twice.latents[2:], joined.latents)
    assert torch.equal(twice.real[2:], joined.real)
    sound = join_audio_references([[randn(2, 8)], [randn(3, 8)]]).repeat(2)
    assert sound.latents.shape == (4, 3, 8)
    assert sound.real.tolist() == [[False, True, True], [True] * 3] * 2
