"""Training of the small text encoder (a `transformers` Qwen3-VL of its own size) and its tokenizer on world captions.

The loss is next-token prediction, which teaches the language, plus the classification of every stated fact from the
last token, which puts the facts where the towers can read them. B captions, L tokens.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from sky4.world.captions import KINDS, Facts, caption, parse
from sky4.world.lexicon import Language
from sky4.world.scene import sample_scene
from sky4.world.vocabulary import BACKGROUNDS, COLOURS, DRIFTS, MATERIALS, MOTIONS, SHAPES, SIZES, TEMPI

SIGNS = (
    "<|pad|>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
)
FACT_VALUES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "motion": MOTIONS,
    "drift": DRIFTS,
    "tempo": tuple(TEMPI),
    "material": tuple(MATERIALS),
    "background": tuple(BACKGROUNDS),
    "place": ("left", "middle", "right"),
}


@dataclass(frozen=True)
class TextEncoderConfig:
    vocabulary: int = 1200
    tokenizer_captions: int = 12000
    width: int = 192
    inner: int = 384
    layers: int = 3
    heads: int = 3
    fact_weight: float = 1.0
    bf16: bool = True


def write_captions(seed: int, first: int, count: int) -> list[str]:
    """The captions number first .. first + count - 1: every kind, both languages, some silent, some of sound alone."""
    texts = []
    for index in range(first, first + count):
        random = np.random.Generator(np.random.Philox(key=[seed, index]))
        kind = KINDS[int(random.integers(len(KINDS)))]
        draw = random.random()
        language: Language = "en" if random.random() < 0.7 else "zh"
        scene = sample_scene(seed, index)
        texts.append(caption(scene, kind, language, random, silent=draw < 0.15, audio_only=0.15 <= draw < 0.3))
    return texts


def train_tokenizer(config: TextEncoderConfig, seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text can be written, the world's words are short."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = [f"@image_{n} @video_{n} @audio_{n} @Actor-{n} @Audio-{n}" for n in range(1, 5)]
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        special_tokens=list(SIGNS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(write_captions(seed, 0, config.tokenizer_captions) + names * 50, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|endoftext|>",
        padding_side="right",
        additional_special_tokens=list(SIGNS[2:4]),
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
    )


def build(config: TextEncoderConfig, vocabulary: int) -> Qwen3VLForConditionalGeneration:
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [12, 10, 10],
        "mrope_interleaved": True,
    }
    text = {
        "vocab_size": vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.inner,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "head_dim": 64,
        "max_position_embeddings": 1024,
        "rope_parameters": rope,
        "pad_token_id": 0,
    }
    vision = {
        "depth": 1,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "patch_size": 16,
        "out_hidden_size": config.width,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    ids = {name: SIGNS.index(sign) for name, sign in (("image_token_id", SIGNS[4]), ("video_token_id", SIGNS[5]))}
    ids |= {"vision_start_token_id": 6, "vision_end_token_id": 7}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    )


class _WithHeads(nn.Module):
    """The language model and, for training only, a classifier of each fact (the last class: not stated)."""

    def __init__(self, language_model: Qwen3VLForConditionalGeneration, width: int):
        super().__init__()
        self.language_model = language_model
        self.language_model.model.visual.requires_grad_(False)  # no picture is shown in this training
        self.facts = nn.ModuleDict({name: nn.Linear(width, len(v) + 1) for name, v in FACT_VALUES.items()})


class TextEncoderProblem:
    """Next token and stated facts of freshly written captions."""

    def __init__(self, config: TextEncoderConfig, seed: int = 0, device: str = "cpu"):
        self.config, self.device = config, device
        self.tokenizer = train_tokenizer(config, seed)
        torch.manual_seed(seed)
        self._module = _WithHeads(build(config, len(self.tokenizer)), config.width).to(device)

    @property
    def module(self) -> nn.Module:
        return self._module

    def loss(self, seed: int, first: int, batch: int) -> tuple[Tensor, dict[str, float]]:
        texts = write_captions(seed + 1, first, batch)
        tokens: Any = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.config.bf16):
            labels = ids.masked_fill(mask == 0, -100)
            out = self._module.language_model(
                input_ids=ids, attention_mask=mask, labels=labels, output_hidden_states=True, use_cache=False
            )
            last = out.hidden_states[-1][torch.arange(len(texts)), mask.sum(1) - 1]  # [B, D]
            logits = {name: head(last).float() for name, head in self._module.facts.items()}
        stated = [parse(text) for text in texts]
        losses, hits = [], []
        for name, values in FACT_VALUES.items():
            truth = torch.tensor([_class_of(facts, name, values) for facts in stated], device=ids.device)
            losses.append(F.cross_entropy(logits[name], truth))
            hits.append((logits[name].argmax(-1) == truth).float().mean())
        fact_loss = torch.stack(losses).mean()
        loss = out.loss + self.config.fact_weight * fact_loss
        return loss, {
            "next_token": float(out.loss.detach()),
            "facts": float(fact_loss.detach()),
            "facts_right": float(torch.stack(hits).mean()),
        }


def _class_of(facts: Facts, name: str, values: tuple[str, ...]) -> int:
    value = getattr(facts, name)
    return len(values) if value is None else values.index(value)


assert set(FACT_VALUES) == {field.name for field in fields(Facts)}


def export(problem: TextEncoderProblem, folder: Path) -> dict[str, float]:
    """Save model and tokenizer in transformers' format (bf16); returns their sizes."""
    model = problem._module.language_model.eval()
    model.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    problem.tokenizer.save_pretrained(folder)
    lengths = [len(ids) for ids in problem.tokenizer(write_captions(9, 0, 300))["input_ids"]]
    return {
        "weights_millions": sum(p.numel() for p in model.parameters()) / 1e6,
        "vocabulary": float(len(problem.tokenizer)),
        "mean_tokens": sum(lengths) / len(lengths),
    }
