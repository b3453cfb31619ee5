"""Random models of a few thousand weights, saved in the libraries' own formats."""

import json
from pathlib import Path

import torch

MEAN = [0.1 * i - 0.2 for i in range(4)]
STD = [0.5 + 0.25 * i for i in range(4)]

SIGNS = [
    "<|pad|>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|audio_pad|>",
    "<|audio_start|>",
    "<|audio_end|>",
]


def save_wan(folder: Path, **changes: object) -> Path:
    """8 x 8 x 4 by patches of 2, like the bundled codec, 4 channels."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    config: dict[str, object] = {
        "base_dim": 4,
        "z_dim": 4,
        "dim_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "latents_mean": MEAN,
        "latents_std": STD,
    }
    AutoencoderKLWan(**{**config, **changes}).save_pretrained(folder)
    return folder


def save_hunyuan(folder: Path) -> Path:
    from diffusers import AutoencoderKLHunyuanVideo

    torch.manual_seed(0)
    AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2
    ).save_pretrained(folder)
    return folder


def save_oobleck(folder: Path, statistics: bool = True, ratios: tuple[int, ...] = (16, 64)) -> Path:
    from diffusers import AutoencoderOobleck

    torch.manual_seed(0)
    AutoencoderOobleck(
        encoder_hidden_size=8,
        downsampling_ratios=list(ratios),
        channel_multiples=[1] * len(ratios),
        decoder_channels=4,
        decoder_input_channels=4,
    ).save_pretrained(folder)
    if statistics:
        (folder / "sky4.json").write_text(json.dumps({"latents_mean": MEAN, "latents_std": STD}))
    return folder


def save_mmaudio(folder: Path) -> Path:
    from diffusers import MMAudioVAE, MMAudioVocoder

    torch.manual_seed(0)
    MMAudioVAE(mel_bins=16, latent_channels=4, hidden_channels=8, layers_per_block=1).save_pretrained(folder)
    MMAudioVocoder(
        num_mels=16,
        upsample_initial_channel=16,
        upsample_rates=(16, 16, 2),
        upsample_kernel_sizes=(32, 32, 4),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1,),),
    ).save_pretrained(folder.parent / "vocoder")
    return folder


def save_tokenizer(folder: Path) -> int:
    """Bytes and the signs of a Qwen model; returns the vocabulary's size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SIGNS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "audio_token": "<|audio_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
        "audio_bos_token": "<|audio_start|>",
        "audio_eos_token": "<|audio_end|>",
    }
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|endoftext|>",
        additional_special_tokens=SIGNS[2:4],
        extra_special_tokens=named,
    ).save_pretrained(folder)
    return len(words)


def save_image_processor(folder: Path) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    Qwen2VLImageProcessorPil(
        patch_size=8, temporal_patch_size=2, merge_size=2, size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    ).save_pretrained(folder)


def text_config(vocabulary: int, **more: object) -> dict[str, object]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        **more,
    }


VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "patch_size": 8,
    "out_hidden_size": 32,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
IDS = {"image_token_id": 4, "video_token_id": 5, "vision_start_token_id": 6, "vision_end_token_id": 7}


def save_qwen3_vl(folder: Path, sees: bool = True) -> Path:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    torch.manual_seed(0)
    text = text_config(save_tokenizer(folder), head_dim=16, rope_parameters={**ROPE, "mrope_interleaved": True})
    vision = {**VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **IDS)
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    if sees:
        save_image_processor(folder)
    return folder


def save_qwen2_vl(folder: Path) -> Path:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    torch.manual_seed(0)
    text = text_config(save_tokenizer(folder), rope_parameters=ROPE)
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1, "patch_size": 8}
    Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **IDS)).save_pretrained(
        folder
    )
    save_image_processor(folder)
    return folder


def save_qwen2_5_omni_thinker(folder: Path) -> Path:
    from transformers import (
        Qwen2_5OmniThinkerConfig,
        Qwen2_5OmniThinkerForConditionalGeneration,
        WhisperFeatureExtractor,
    )

    torch.manual_seed(0)
    text = text_config(save_tokenizer(folder), rope_parameters=ROPE)
    audio = {"num_mel_bins": 8, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
    config = Qwen2_5OmniThinkerConfig(
        text_config=text,
        vision_config={**VISION, "window_size": 32, "fullatt_block_indexes": [0]},
        audio_config={**audio, "d_model": 16, "output_dim": 32, "max_source_positions": 200},
        audio_token_index=8,
        image_token_index=4,
        video_token_index=5,
        audio_start_token_id=9,
        audio_end_token_id=10,
        vision_start_token_id=6,  # the published folders have these two, the class only reads them
        vision_end_token_id=7,
    )
    Qwen2_5OmniThinkerForConditionalGeneration(config).save_pretrained(folder)
    save_image_processor(folder)
    seen = json.loads((folder / "preprocessor_config.json").read_text())
    WhisperFeatureExtractor(feature_size=8, chunk_length=4, return_attention_mask=True).save_pretrained(folder)
    heard = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**seen, **heard}))
    return folder


def save_text_only(folder: Path) -> Path:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(**text_config(save_tokenizer(folder), head_dim=16))
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder
