"""Free prose into the structured form, by any local instruction model that `transformers` loads from a folder.

The model proposes; what it wrote is accepted only when it is clean and still names every reference of the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sky4.errors import RequestError, Sky4Failure
from sky4.prompting.lint import check_prompt, require_clean
from sky4.prompting.tags import parse

Message = dict[str, str]
Rewriter = Callable[[list[Message]], str]

INSTRUCTION = """\
Rewrite the user's description of a short film clip with sound. Answer with the rewritten description alone: one \
paragraph, in the user's language, without comments, headings or quotation marks around it.
First describe what is seen: camera, subjects, their look and motion, place and light, in the order of time. Then \
put what is heard or written into these tags, each closed, none inside another, only those that apply:
<sfx>sound effects and when they happen</sfx>
<dialogue>words that are spoken</dialogue>
<singing>words that are sung</singing>
<bgm>background music</bgm>
<text>writing that is seen in the picture</text>
Keep every fact of the user, add only what fits, and keep names such as @image_1 or @Actor-0 exactly as they are.\
"""

_THOUGHT = re.compile(r"^.*?</think>", re.DOTALL)
_FENCE = re.compile(r"^```[a-z]*\n(.*?)\n?```$", re.DOTALL)


@dataclass(frozen=True)
class Enhanced:
    """What was asked and what came of it, both to be shown and recorded."""

    original: str
    prompt: str


def enhance(prompt: str, rewrite: Rewriter, names: Collection[str] = ()) -> Enhanced:
    """Rewrite a prompt. Raises RequestError where the prompt itself has faults, Sky4Failure, showing what was
    written, where the rewriting has."""
    before = {mention.name for mention in require_clean(prompt, names).mentions()}
    written = _unwrapped(rewrite(instructions(prompt, names)))
    faults = [fault for fault in check_prompt(written, names) if fault.severity == "error"]
    if faults:
        raise Sky4Failure(f"the enhancer wrote a prompt with a fault at {faults[0]}: {written!r}")
    after = {mention.name for mention in parse(written, names)[0].mentions()}
    if lost := sorted(before - after):
        raise Sky4Failure(f"the enhancer dropped {', '.join('@' + name for name in lost)}: {written!r}")
    return Enhanced(prompt, written)


def instructions(prompt: str, names: Collection[str] = ()) -> list[Message]:
    """The conversation that asks for the rewriting."""
    known = f"\nReferences: {', '.join('@' + name for name in names)}." if names else ""
    return [{"role": "system", "content": INSTRUCTION + known}, {"role": "user", "content": prompt}]


class LocalRewriter:
    """An instruction model from a local folder (transformers format, safetensors), greedy, without remote code."""

    def __init__(self, folder: Path, device: str = "cpu", max_tokens: int = 512) -> None:
        """Load tokenizer and weights. Raises RequestError where the folder holds no such model."""
        _require_model(folder)
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer

        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        weights: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True}
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, **local)
            model, report = AutoModelForCausalLM.from_pretrained(folder, **local, **weights)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise RequestError(
                f"--enhance {folder}: transformers cannot load a language model from it: {reason}"
            ) from error
        if missing := sorted(report["missing_keys"]):
            raise RequestError(f"--enhance {folder}: its weights lack {', '.join(missing)}; the model is incomplete")
        self.model: Any = model.to(device).eval()
        self.max_tokens = max_tokens

    def __call__(self, messages: list[Message]) -> str:
        """The model's answer to a conversation, without special tokens. Raises Sky4Failure where it finds no end."""
        import torch

        inputs = self._encoded(messages).to(self.model.device)
        asked = int(inputs["input_ids"].shape[1])
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, do_sample=False, max_new_tokens=self.max_tokens)[0, asked:]
        answer: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        ends = self.model.generation_config.eos_token_id
        if int(tokens[-1]) not in (ends if isinstance(ends, list) else [ends]):
            raise Sky4Failure(f"the enhancer did not finish within {self.max_tokens} tokens: {answer!r}")
        return answer

    def _encoded(self, messages: list[Message]) -> Any:
        if not self.tokenizer.chat_template:
            plain = "\n\n".join(message["content"] for message in messages) + "\n\n"
            return self.tokenizer(plain, return_tensors="pt")
        return self.tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            enable_thinking=False,  # templates that know thinking leave it out; others do not read this
        )


def _require_model(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise RequestError(f"--enhance {folder}: not a folder with a transformers model (it has no config.json)")
    if not any(folder.glob("*.safetensors")):
        raise RequestError(f"--enhance {folder}: it has no *.safetensors, and other weight formats are not read")


def _unwrapped(answer: str) -> str:
    """The answer without what models like to put around one: thoughts, a code fence."""
    bare = _THOUGHT.sub("", answer).strip()
    fenced = _FENCE.match(bare)
    return fenced[1].strip() if fenced else bare
