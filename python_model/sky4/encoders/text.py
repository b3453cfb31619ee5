"""The text encoder: hidden states of a frozen language model that may also see and hear what the prompt refers to.

Any folder in transformers' format will do: Qwen3-VL, Qwen2-VL, the thinker of Qwen2.5-Omni or Qwen3-Omni, or a model of
text alone. Prompts are padded on the right; what is padding is masked and zero.

    B prompts   N_t tokens of the longest, placeholders of references expanded   D_text width of the model
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sky4.encoders.folder import cannot_load, check_weights, find_folder, quiet_libraries, read_config
from sky4.encoders.processor import (
    check_senses,
    ear,
    layout,
    load_processor,
    media_tokens,
    pictures_of,
    sound_of,
)
from sky4.encoders.protocols import AudioReference, Reference, TextEncoder
from sky4.errors import RequestError, Sky4Failure
from sky4.inputs import TextInput

# Weights of a whole model that its hidden states do not need: the head over the vocabulary.
HEADS = ("lm_head.",)


def load_text_encoder(
    path: str | Path,
    layer: int = -1,
    max_tokens: int = 512,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TextEncoder:
    """The frozen encoder of a folder or hub name in transformers' format.

    layer: which hidden states; 0 is the embedding, n the n-th layer, -1 the last one after the final norm.
    max_tokens: the longest prompt in tokens, what references add not counted.
    Raises RequestError where that is no language model, Sky4Failure where its weights do not fit its config.
    """
    from safetensors import SafetensorError

    folder = find_folder(path, "a text encoder")
    strictly = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    model_type = read_config(folder, "a text encoder").get("model_type")
    with quiet_libraries():
        config, model_class = _model_class(folder, model_type)
        try:
            model, info = model_class.from_pretrained(folder, config=config, dtype=dtype, **strictly)
        except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
            raise Sky4Failure(cannot_load(folder, error)) from error
        check_weights(folder, info["missing_keys"], (k for k in info["unexpected_keys"] if not k.startswith(HEADS)))
        tokenizer = _load_tokenizer(folder, words=model.get_input_embeddings().weight.shape[0])
        try:
            processor = load_processor(folder, config.model_type, tokenizer)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            raise Sky4Failure(
                f"the processor in {folder} cannot be loaded ({' '.join(str(error).split())[:300]}); "
                "save the model's own processor files into it"
            ) from error
    model.to(device).eval().requires_grad_(False)
    return LanguageModelEncoder(model, tokenizer, processor, layer, max_tokens)


class LanguageModelEncoder:
    """A `transformers` language model, its tokenizer, and its processor where it sees or hears."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any | None, layer: int, max_tokens: int):
        config = model.config.get_text_config()
        if not -config.num_hidden_layers - 1 <= layer <= config.num_hidden_layers:
            raise RequestError(
                f"the text encoder has hidden states 0 to {config.num_hidden_layers}, not {layer}; choose one of them, "
                "or -1 for the last"
            )
        self.model, self.tokenizer, self.processor = model, tokenizer, processor
        self.channels = int(config.hidden_size)
        self.layer, self.max_tokens = layer, max_tokens

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], references: Sequence[Reference] = ()) -> TextInput:
        check_senses(self.processor, references)
        for prompt in prompts:
            self._check_prompt(prompt)
        texts = [layout(self.processor, self.tokenizer, prompt, references) for prompt in prompts]
        inputs = self._with_references(texts, references) if references else self._tokens(texts)
        inputs = {name: self._placed(value) for name, value in inputs.items()}
        states = self.model(**inputs, output_hidden_states=True, use_cache=False).hidden_states[self.layer]
        mask = inputs["attention_mask"].bool()
        return TextInput(states.float().masked_fill(~mask[..., None], 0.0), mask)

    def to(self, device: str) -> LanguageModelEncoder:
        self.model.to(device)
        return self

    def _check_prompt(self, prompt: str) -> None:
        for token in media_tokens(self.processor):
            if token in prompt:
                raise RequestError(f"the prompt holds {token}, a sign of the text encoder's own; take it out")
        count = len(self.tokenizer(layout(self.processor, self.tokenizer, prompt, ())).input_ids)
        if count > self.max_tokens:
            raise RequestError(
                f"the prompt {prompt[:40]!r}... has {count} tokens and the model reads {self.max_tokens}; shorten it"
            )

    def _tokens(self, texts: list[str]) -> dict[str, Tensor]:
        # A prompt of no tokens at all (an empty one, without a template) is read as the padding token, for the model
        # needs one; its mask stays false, so that nothing attends to it.
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt")
        if not tokens["input_ids"].shape[1]:
            empty = torch.full((len(texts), 1), self.tokenizer.pad_token_id)
            return {"input_ids": empty, "attention_mask": torch.zeros_like(empty)}
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def _with_references(self, texts: list[str], references: Sequence[Reference]) -> dict[str, Any]:
        """The processor's tensors for prompts that each come with all the references."""
        seen = [picture for r in references if not isinstance(r, AudioReference) for picture in pictures_of(r)]
        heard = [r for r in references if isinstance(r, AudioReference)]
        assert self.processor is not None  # check_senses has passed
        media: dict[str, Any] = {}
        if seen:
            media["images"] = seen * len(texts)
        if heard and (hearing := ear(self.processor)) is not None:
            rate = int(hearing.sampling_rate)
            media["audio"] = [sound_of(r, rate) for r in heard] * len(texts)
        batch = self.processor(text=texts, **media, padding=True, padding_side="right", return_tensors="pt")
        return dict(batch)

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)


def _model_class(folder: Path, model_type: str | None) -> tuple[Any, Any]:
    """The config and the automatic class that loads a folder's model without its head."""
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES, MODEL_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{folder} is not a text encoder: transformers knows no model type {model_type!r}; "
            "give the folder of a language model"
        ) from error
    config = getattr(config, "thinker_config", config)  # of an omni model only the part that reads, sees and hears
    if config.is_encoder_decoder and config.model_type in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES:
        return config, AutoModelForTextEncoding
    if config.model_type in MODEL_MAPPING_NAMES and hasattr(config.get_text_config(), "vocab_size"):
        return config, AutoModel
    raise RequestError(
        f"{folder} is not a text encoder: its model type {model_type!r} has no hidden states of text; "
        "give the folder of a language model"
    )


def _load_tokenizer(folder: Path, words: int) -> Any:
    from transformers import AutoTokenizer

    unreadable = f"{folder} has no tokenizer that can be read; save the model's own tokenizer into it"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Sky4Failure(unreadable) from error
    if not any((folder / name).is_file() for name in tokenizer.vocab_files_names.values()):
        raise Sky4Failure(unreadable)  # the library makes an empty tokenizer where there is none
    if len(tokenizer) > words:
        raise Sky4Failure(
            f"the tokenizer in {folder} has {len(tokenizer)} words and the model {words}; "
            "save the model's own tokenizer into it"
        )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise Sky4Failure(f"the tokenizer in {folder} has no padding token; name one in its tokenizer_config.json")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
