"""Training of the small text encoder (a `transformers` Qwen3-VL of its own size) and its tokenizer on world captions.

The loss is next-token prediction, which teaches the language, plus the classification of every stated fact from the
last token, which puts the facts where the towers can read them. An encoder that goes on from another one (`base`) also
reads instructions and captions of takes, and then stories and their transitions, and is held to its hidden states on
the texts that it knew, so that towers trained on those still read them. B captions, L tokens.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from sky4.shots.kinds import CONTENTS
from sky4.shots.words import switched
from sky4.train.precision import multiplies_bfloat16
from sky4.world.captions import KINDS, Facts, caption, parse
from sky4.world.families import ROWS, TASK_ROWS, VIDEOS, sample_family
from sky4.world.instructions import instruction, take_caption
from sky4.world.lexicon import Language
from sky4.world.scene import sample_scene
from sky4.world.stories import sample_story
from sky4.world.story_captions import story_caption
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

ROW_NAMES: tuple[str, ...] = (*ROWS, "take")


@dataclass(frozen=True)
class TextEncoderConfig:
    vocabulary: int = 1200
    tokenizer_captions: int = 12000
    width: int = 192
    inner: int = 384
    layers: int = 3
    heads: int = 3
    fact_weight: float = 1.0
    bf16: bool | None = None  # None: where the device multiplies it natively
    base: str | None = None  # the folder of an encoder to go on from; its tokenizer and shape replace the fields above
    families: float = 0.0  # share of texts that are instructions and captions of takes
    stories: float = 0.0  # share that are two shots, or the second of them behind the words of its transition
    anchor_weight: float = 1.0  # of the distance to the base's hidden states on what it knew
    anchor_families: bool = False  # the base knew instructions and captions of takes too, beside those of level 1

    def __post_init__(self) -> None:
        if min(self.families, self.stories) < 0 or self.families + self.stories > 1:
            raise ValueError(
                f"network.families and network.stories are shares of the texts, together at most 1, "
                f"got {self.families} and {self.stories}"
            )


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


def write_instructions(seed: int, first: int, count: int) -> tuple[list[str], list[str]]:
    """(texts, the row of the tasks' table that each belongs to): instructions, and captions of takes ("take")."""
    texts, rows = [], []
    for index in range(first, first + count):
        random = np.random.Generator(np.random.Philox(key=[seed ^ 0x7E47, index]))
        family = sample_family(seed, index)
        language: Language = "en" if random.random() < 0.75 else "zh"
        if random.random() < 0.3:
            take = family.takes[VIDEOS[int(random.integers(len(VIDEOS)))]]
            texts.append(take_caption(take, language, random, silent=bool(random.random() < 0.5)))
            rows.append("take")
        else:
            row = TASK_ROWS[int(random.integers(len(TASK_ROWS)))]
            texts.append(instruction(family, row, language, random))
            rows.append(row.name)
    return texts, rows


def write_stories(seed: int, first: int, count: int) -> tuple[list[str], list[int]]:
    """(texts, the number of the transition that each tells of): of two shots both, or the second alone."""
    texts, kinds = [], []
    for index in range(first, first + count):
        random = np.random.Generator(np.random.Philox(key=[seed ^ 0x5707, index]))
        story = sample_story(seed, index, shots=2)
        language: Language = "en" if random.random() < 0.75 else "zh"
        silent, kind = bool(random.random() < 0.5), story.joins[0].content
        if random.random() < 0.3:
            texts.append(story_caption(story, language, random, silent=silent))
        else:
            texts.append(switched(take_caption(story.takes[1], language, random, silent=silent), kind, random))
        kinds.append(CONTENTS.index(kind))
    return texts, kinds


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
        self.row = nn.Linear(width, len(ROW_NAMES))
        self.switch = nn.Linear(width, len(CONTENTS))


def load(folder: str) -> tuple[PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration]:
    """An encoder in the library's format, in float32. Raises ValueError where the folder holds none."""
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"network.base is {folder}, which holds no text encoder: {error}") from error
    return tokenizer, model


class TextEncoderProblem:
    """Next token and stated facts of freshly written captions."""

    def __init__(self, config: TextEncoderConfig, seed: int = 0, device: str = "cpu"):
        self.config, self.device = config, device
        self._bf16 = multiplies_bfloat16(torch.device(device)) if config.bf16 is None else config.bf16
        torch.manual_seed(seed)
        self.anchor: Qwen3VLForConditionalGeneration | None = None
        if config.base is None:
            self.tokenizer = train_tokenizer(config, seed)
            model = build(config, len(self.tokenizer))
        else:
            self.tokenizer, model = load(config.base)
            self.anchor = load(config.base)[1].to(device).requires_grad_(False).eval()
        self._module = _WithHeads(model, model.config.text_config.hidden_size).to(device)

    @property
    def module(self) -> nn.Module:
        return self._module

    def loss(self, seed: int, first: int, batch: int) -> tuple[Tensor, dict[str, float]]:
        config = self.config
        asked, told = round(config.families * batch), round(config.stories * batch)
        texts = write_captions(seed + 1, first, batch - asked - told)
        orders, rows = write_instructions(seed + 1, first, asked)
        stories, kinds = write_stories(seed + 1, first, told)
        known, read = len(texts), len(texts) + len(orders)
        tokens: Any = self.tokenizer(texts + orders + stories, padding=True, return_tensors="pt").to(self.device)
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self._bf16):
            labels = ids.masked_fill(mask == 0, -100)
            out = self._module.language_model(
                input_ids=ids, attention_mask=mask, labels=labels, output_hidden_states=True, use_cache=False
            )
            last = out.hidden_states[-1][torch.arange(len(ids)), mask.sum(1) - 1]  # [B, D]
        loss = out.loss
        shown = {"next_token": float(out.loss.detach())}
        if texts:
            facts, shown["facts_right"] = self._facts(last[:known], texts)
            loss = loss + config.fact_weight * facts
            shown["facts"] = float(facts.detach())
        told_of: tuple[tuple[str, nn.Linear, Tensor, list[int]], ...] = (
            ("rows", self._module.row, last[known:read], [ROW_NAMES.index(row) for row in rows]),
            ("transitions", self._module.switch, last[read:], kinds),
        )
        for name, head, ends, wanted in told_of:
            if wanted:
                truth = torch.tensor(wanted, device=ids.device)
                logits = head(ends).float()
                loss = loss + config.fact_weight * F.cross_entropy(logits, truth)
                shown[f"{name}_right"] = float((logits.argmax(-1) == truth).float().mean())
        held = read if config.anchor_families else known
        if self.anchor is not None and held:
            drift = self._drift(out.hidden_states[-1][:held], ids[:held], mask[:held])
            loss = loss + config.anchor_weight * drift
            shown["drift"] = float(drift.detach())
        return loss, shown

    def _facts(self, last: Tensor, texts: list[str]) -> tuple[Tensor, float]:
        """(loss of the stated facts, share that is right)."""
        stated = [parse(text) for text in texts]
        losses, hits = [], []
        for name, values in FACT_VALUES.items():
            truth = torch.tensor([_class_of(facts, name, values) for facts in stated], device=last.device)
            logits = self._module.facts[name](last).float()
            losses.append(F.cross_entropy(logits, truth))
            hits.append((logits.argmax(-1) == truth).float().mean())
        return torch.stack(losses).mean(), float(torch.stack(hits).mean())

    def _drift(self, hidden: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Mean squared distance to the base's hidden states, as a share of their mean square."""
        assert self.anchor is not None
        with torch.no_grad(), torch.autocast(ids.device.type, torch.bfloat16, enabled=self._bf16):
            out = self.anchor(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        wanted, real = out.hidden_states[-1].float(), mask.bool()
        return (hidden.float() - wanted)[real].square().mean() / wanted[real].square().mean()


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
