"""The enhancer: any rewriting is checked, and a local model is asked for it."""

import json
import shutil
from pathlib import Path

import pytest

from sky4.errors import RequestError, Sky4Failure
from sky4.prompting.enhance import Enhanced, LocalRewriter, Message, enhance, instructions

ANSWER = "A grey cat like @image_1 walks. <sfx>soft steps</sfx>"


def test_the_prompt_and_the_names_go_in_and_the_structured_form_comes_out() -> None:
    asked: list[list[Message]] = []

    def rewrite(messages: list[Message]) -> str:
        asked.append(messages)
        return ANSWER

    assert enhance("a cat like @image_1", rewrite, ["image_1"]) == Enhanced("a cat like @image_1", ANSWER)
    (system, user), *_ = asked
    assert user == {"role": "user", "content": "a cat like @image_1"}
    assert system["role"] == "system"
    assert system["content"].endswith("References: @image_1.")
    assert all(f"<{tag}>" in system["content"] for tag in ("text", "sfx", "dialogue", "singing", "bgm"))


@pytest.mark.parametrize(
    "around", ["{}", "\n {}\n", "<think>a <sfx> b</think>\n\n{}", "```\n{}\n```", "```text\n{}```"]
)
def test_thoughts_and_fences_around_the_answer_are_taken_off(around: str) -> None:
    assert enhance("a cat @image_1", lambda _: around.format(ANSWER), ["image_1"]).prompt == ANSWER


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("a cat @image_1 <sfx>steps", "fault at column 16: <sfx> is never closed"),
        ("a cat @image_1 <sound>steps</sound>", "unknown tag <sound>"),
        ("a cat @image_1 and @image_2", "no reference is named @image_2"),
        ("a cat walks", "the enhancer dropped @image_1"),
        ("", "the prompt is empty"),
    ],
)
def test_a_faulty_rewriting_is_refused_and_shown(answer: str, reason: str) -> None:
    with pytest.raises(Sky4Failure) as caught:
        enhance("a cat @image_1", lambda _: answer, ["image_1"])
    assert reason in str(caught.value)
    assert repr(answer) in str(caught.value)


def test_a_faulty_prompt_is_refused_before_the_model_is_asked() -> None:
    with pytest.raises(RequestError, match="no reference is named @cat"):
        enhance("a @cat", lambda _: pytest.fail("asked"))


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Qwen2 with a byte tokenizer, in transformers' own format."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("enhancer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate(["<pad>", "<end>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    fast.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_local_model_is_asked_through_its_chat_template(tiny_model: Path) -> None:
    rewriter = LocalRewriter(tiny_model, max_tokens=4)
    seen = rewriter._encoded(instructions("a red ball"))["input_ids"][0]
    text = rewriter.tokenizer.decode(seen)
    assert text.startswith("[system]Rewrite the user's description of a")
    assert text.endswith("[user]a red ball[assistant]")


def test_a_local_model_answers_greedily_with_new_words_only(tiny_model: Path) -> None:
    import torch

    rewriter, messages = LocalRewriter(tiny_model, max_tokens=6), instructions("a red ball")
    inputs = rewriter._encoded(messages)["input_ids"]
    tokens: list[int] = []
    for _ in range(6):  # greedy decoding by hand
        extended = torch.cat((inputs, torch.tensor([tokens], dtype=torch.long)), 1)
        tokens.append(int(rewriter.model(extended).logits[0, -1].argmax()))
    rewriter.model.generation_config.eos_token_id = tokens[-1]
    until = tokens.index(tokens[-1]) + 1
    assert rewriter(messages) == rewriter.tokenizer.decode(tokens[:until], skip_special_tokens=True)


def test_an_answer_without_an_end_is_refused(tiny_model: Path) -> None:
    with pytest.raises(Sky4Failure, match="did not finish within 3 tokens"):
        LocalRewriter(tiny_model, max_tokens=3)(instructions("a red ball"))


def test_a_tokenizer_without_chat_template_gets_the_plain_words(tiny_model: Path) -> None:
    rewriter = LocalRewriter(tiny_model, max_tokens=2)
    rewriter.tokenizer.chat_template = None
    text = rewriter.tokenizer.decode(rewriter._encoded(instructions("a red ball"))["input_ids"][0])
    assert text.endswith("\n\na red ball\n\n")


def test_a_random_models_babble_is_judged_like_any_rewriting(tiny_model: Path) -> None:
    rewriter = LocalRewriter(tiny_model, max_tokens=4)
    rewriter.model.generation_config.eos_token_id = list(range(258))  # whatever it says first is its end
    with pytest.raises(Sky4Failure, match=r"the enhancer (dropped @image_1|wrote a prompt with a fault)"):
        enhance("a cat @image_1", rewriter, ["image_1"])


def test_a_model_with_weights_missing_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(RequestError, match=r"its weights lack model\.norm\.weight; the model is incomplete"):
        LocalRewriter(tmp_path)


def test_a_folder_without_a_model_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"it has no config\.json"):
        LocalRewriter(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(RequestError, match=r"no \*\.safetensors, and other weight formats are not read"):
        LocalRewriter(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(RequestError, match="cannot load a language model from it") as caught:
        LocalRewriter(tmp_path)
    assert "\n" not in str(caught.value)
