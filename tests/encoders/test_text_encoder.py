import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sky4.encoders import AudioReference, ImageReference, VideoReference, load_text_encoder
from sky4.encoders.processor import VIDEO_PICTURES, layout, pictures_of, sound_of
from sky4.encoders.text import LanguageModelEncoder
from sky4.errors import RequestError, Sky4Failure
from tests.encoders.tiny_models import save_qwen2_5_omni_thinker, save_qwen2_vl, save_qwen3_vl, save_text_only

PROMPTS = ["a red circle bounces", "rain", "一个红色的圆 <sfx>a low drum</sfx>"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> LanguageModelEncoder:
    return loaded(save_qwen3_vl(tmp_path_factory.mktemp("qwen3_vl")))


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> LanguageModelEncoder:
    return loaded(save_qwen2_5_omni_thinker(tmp_path_factory.mktemp("omni")))


def loaded(folder: Path, layer: int = -1, max_tokens: int = 160) -> LanguageModelEncoder:
    encoder = load_text_encoder(folder, layer, max_tokens)
    assert isinstance(encoder, LanguageModelEncoder)
    return encoder


def picture(seed: int = 0, height: int = 48, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_prompt_alone_and_in_a_batch_has_the_same_hidden_states(qwen: LanguageModelEncoder) -> None:
    batch = qwen.encode(PROMPTS)
    assert batch.mask is not None
    assert batch.hidden.shape == (3, int(batch.mask.sum(1).max()), qwen.channels)
    for row, prompt in enumerate(PROMPTS):
        alone = qwen.encode([prompt])
        length = alone.hidden.shape[1]
        torch.testing.assert_close(batch.hidden[row, :length], alone.hidden[0], rtol=1e-4, atol=1e-5)
        assert bool(batch.mask[row, :length].all())  # padding is on the right
        assert not batch.mask[row, length:].any()
        assert not batch.hidden[row, length:].any()


def test_hidden_states_are_the_chosen_layers(tmp_path: Path) -> None:
    folder = save_qwen3_vl(tmp_path)
    encoder = loaded(folder)
    ids = torch.tensor([encoder.tokenizer("rain").input_ids])
    states = encoder.model(input_ids=ids, output_hidden_states=True).hidden_states
    for layer in (0, 1, 2, -1, -2):
        torch.testing.assert_close(loaded(folder, layer).encode(["rain"]).hidden, states[layer])
    with pytest.raises(RequestError, match="has hidden states 0 to 2, not 3"):
        load_text_encoder(folder, layer=3)


def test_an_empty_prompt_has_no_real_token_and_harms_nobody(qwen: LanguageModelEncoder) -> None:
    empty = qwen.encode([""])
    assert empty.mask is not None
    assert empty.hidden.shape[1] == 1
    assert not empty.mask.any()
    batch = qwen.encode(["", "rain"])
    assert bool(batch.hidden.isfinite().all())
    torch.testing.assert_close(batch.hidden[1], qwen.encode(["rain"]).hidden[0], rtol=1e-4, atol=1e-5)


def test_a_picture_adds_its_tokens_and_changes_what_is_read(qwen: LanguageModelEncoder) -> None:
    def read(pixels: np.ndarray) -> torch.Tensor:
        return qwen.encode(["the dog of @image_1 runs", "rain"], [ImageReference("@image_1", pixels)]).hidden

    alone, seen, other = qwen.encode(["the dog of @image_1 runs"]), read(picture(0)), read(picture(1))
    named = len("@image_1: \n")
    tokens = named + 2 + (48 // 16) * (32 // 16)  # sides rounded to 16, patches of 8 merged 2 x 2, start and end
    assert seen.shape[1] == alone.hidden.shape[1] + tokens
    assert not torch.allclose(seen[0, -3:], other[0, -3:])  # the words after the picture read it
    again = qwen.encode(["rain"], [ImageReference("@image_1", picture(0))])
    torch.testing.assert_close(seen[1, : again.hidden.shape[1]], again.hidden[0], rtol=1e-4, atol=1e-5)


def test_a_clip_is_read_as_evenly_spaced_pictures(qwen: LanguageModelEncoder) -> None:
    frames = np.stack([picture(i) for i in range(15)])
    chosen = pictures_of(VideoReference("@video_1", frames))
    assert len(chosen) == VIDEO_PICTURES
    assert all(np.array_equal(chosen[i], frames[2 * i]) for i in range(VIDEO_PICTURES))
    assert len(pictures_of(VideoReference("@video_1", frames[:3]))) == 3
    text = layout(qwen.processor, qwen.tokenizer, "go", [VideoReference("@video_1", frames[:2])])
    assert text == "@video_1: " + 2 * "<|vision_start|><|image_pad|><|vision_end|>" + "\ngo"
    assert qwen.encode(["go"], [VideoReference("@video_1", frames[:2])]).hidden.isfinite().all()


def test_a_chat_model_reads_its_own_chat_template(tmp_path: Path) -> None:
    folder = save_qwen3_vl(tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": CHAT}))
    encoder = loaded(folder)
    assert layout(encoder.processor, encoder.tokenizer, "rain", []) == "<|im_start|>user\nrain<|im_end|>\n"
    reference = ImageReference("@image_1", picture())
    assert layout(encoder.processor, encoder.tokenizer, "rain", [reference]) == (
        "<|im_start|>user\n@image_1: <|vision_start|><|image_pad|><|vision_end|>\nrain<|im_end|>\n"
    )
    assert encoder.encode(["rain"], [reference]).hidden.isfinite().all()


def test_qwen2_vl_reads_pictures(tmp_path: Path) -> None:
    encoder = loaded(save_qwen2_vl(tmp_path))
    alone = encoder.encode(["rain"])
    seen = encoder.encode(["rain"], [ImageReference("@image_1", picture())])
    assert seen.hidden.shape[1] > alone.hidden.shape[1]


def test_an_omni_thinker_hears(omni: LanguageModelEncoder) -> None:
    wave = np.random.default_rng(0).standard_normal((2, 22050)).astype(np.float32) * 0.1
    heard = omni.encode(["@Audio-0 speaks"], [AudioReference("@Audio-0", wave)]).hidden
    other = omni.encode(["@Audio-0 speaks"], [AudioReference("@Audio-0", -0.5 * wave[:, ::-1].copy())]).hidden
    assert heard.shape[1] == len("@Audio-0: \n@Audio-0 speaks") + 2 + 12  # half a second: 50 mel frames, one of 4 kept
    assert not torch.allclose(heard[0, -3:], other[0, -3:])


def test_sound_reaches_the_model_in_mono_at_its_rate() -> None:
    seconds = np.arange(44100) / 44100
    wave = np.stack([np.sin(2 * np.pi * 440 * seconds), np.zeros(44100)]).astype(np.float32)
    heard = sound_of(AudioReference("@Audio-0", wave), 16000)
    assert heard.shape == (16000,)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(heard - expected)[100:-100].max() < 2e-3


def test_a_model_of_text_alone_works_without_references_and_says_so_with_one(tmp_path: Path) -> None:
    encoder = loaded(save_text_only(tmp_path))
    assert encoder.encode(PROMPTS).hidden.shape[2] == encoder.channels
    with pytest.raises(RequestError, match="cannot see pictures, so it cannot take the reference @image_1; leave"):
        encoder.encode(["rain"], [ImageReference("@image_1", picture())])


def test_a_seeing_model_that_does_not_hear_says_so(qwen: LanguageModelEncoder) -> None:
    with pytest.raises(RequestError, match="cannot hear sound, so it cannot take the reference @Audio-0"):
        qwen.encode(["rain"], [AudioReference("@Audio-0", np.zeros((2, 4410), np.float32))])


def test_a_prompt_that_is_too_long_or_holds_a_placeholder_is_refused(qwen: LanguageModelEncoder) -> None:
    with pytest.raises(RequestError, match="has 161 tokens and the model reads 160; shorten it"):
        qwen.encode(["a" * 161])
    with pytest.raises(RequestError, match="the prompt holds .*image_pad.*; take it out"):
        qwen.encode(["a <|image_pad|> here"])


def test_a_folder_without_its_tokenizer_is_a_failure(tmp_path: Path) -> None:
    folder = save_qwen3_vl(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(Sky4Failure, match="has no tokenizer that can be read"):
        load_text_encoder(folder)


def test_a_tokenizer_of_another_model_is_a_failure(tmp_path: Path) -> None:
    folder = save_qwen3_vl(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["zz"] = len(words)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(Sky4Failure, match="has 268 words and the model 267; save the model's own tokenizer"):
        load_text_encoder(folder)


def test_the_encoder_is_frozen(qwen: LanguageModelEncoder) -> None:
    assert not any(parameter.requires_grad for parameter in qwen.model.parameters())
    assert not qwen.model.training
    assert not qwen.encode(["rain"]).hidden.requires_grad
