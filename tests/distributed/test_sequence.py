"""A model whose tokens and heads several processes share says what one process says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sky4.config import TransformerConfig, nano
from sky4.distributed.ranks import joined
from sky4.distributed.sequence import Share, Sharing, parts
from sky4.inputs import Cubes, TextInput, TowerInput
from sky4.model.checkpoint import save_transformer
from sky4.model.refiner import refiner
from sky4.model.sharding import ShardedDepths, shard_transformer, share_sequences
from sky4.model.transformer import Branch, JointTransformer
from tests.together import together

THREE_HEADS = replace(nano(), width=72, heads=3, rope_axes=(8, 8, 8))
TOLERANCE = 1e-6  # relative; only sums in products of other heights round differently

Inputs = tuple[TowerInput | None, TowerInput | None, TextInput]


def random_(model: torch.nn.Module) -> None:
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.05)


class Drawn:
    """Inputs, the same each time they are drawn."""

    def __init__(self, config: TransformerConfig) -> None:
        self.config, self._source = config, torch.Generator().manual_seed(1)

    def tower(self, tokens: int, channels: int, references: int = 0, masked: bool = False) -> TowerInput:
        draw, batch = self._source, 2
        return TowerInput(
            torch.randn(batch, tokens, channels, generator=draw),
            10 * torch.rand(tokens, 3, generator=draw),
            torch.rand(batch, generator=draw),
            references,
            mask=torch.rand(batch, tokens, generator=draw) > 0.3 if masked else None,
        )

    def video(self, tokens: int, references: int = 0, masked: bool = False) -> TowerInput:
        return self.tower(tokens, self.config.video_in_channels, references, masked)

    def audio(self, tokens: int, references: int = 0, masked: bool = False) -> TowerInput:
        return self.tower(tokens, self.config.audio_channels, references, masked)

    def text(self) -> TextInput:
        mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
        return TextInput(torch.randn(2, 5, self.config.text_channels, generator=self._source), mask)


def joint_cases(config: TransformerConfig) -> dict[str, Inputs]:
    draw = Drawn(config)
    keyframes = replace(draw.video(23), segment=(torch.arange(23) > 14).long())
    return {
        "uneven": (draw.video(23), draw.audio(7), draw.text()),
        "references first": (draw.video(23, references=3), draw.audio(7, references=2), draw.text()),
        "all of the first process's tokens are references": (draw.video(23, references=14), draw.audio(7), draw.text()),
        "masked": (draw.video(23, masked=True), draw.audio(7, masked=True), draw.text()),
        "keyframes": (keyframes, draw.audio(7), draw.text()),
        "fewer tokens than processes": (draw.video(1), draw.audio(2), draw.text()),
        "video alone": (draw.video(9), None, draw.text()),
    }


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


def named(case: str, outputs: tuple[Tensor | None, ...]) -> dict[str, Tensor]:
    return {f"{case}, tower {number}": x for number, x in enumerate(outputs) if x is not None}


@pytest.mark.parametrize(("config", "processes"), [(THREE_HEADS, 2), (THREE_HEADS, 3), (nano(), 2)])
def test_both_towers_say_what_one_process_says(config: TransformerConfig, processes: int, tmp_path: Path) -> None:
    model, cases = JointTransformer(config), joint_cases(config)
    random_(model)

    def everything() -> dict[str, Tensor]:
        with torch.inference_mode():
            said = [named(case, model(*inputs)) for case, inputs in cases.items()]
        return {name: x for one in said for name, x in one.items()}

    def work(rank: int) -> None:
        with joined() as ranks:
            share_sequences(model, Sharing.over(ranks.mesh(torch.device("cpu"))))
            save_file(everything(), tmp_path / f"{rank}.safetensors")

    lives = together(tmp_path, processes, work)
    assert [life.code for life in lives] == [0] * processes, lives[0].err
    wanted = everything()
    for rank in range(processes):
        got = load_file(tmp_path / f"{rank}.safetensors")
        assert set(got) == set(wanted)
        assert max(error(got[name], wanted[name]) for name in wanted) < TOLERANCE
        assert all(torch.equal(x, load_file(tmp_path / "0.safetensors")[name]) for name, x in got.items())


@pytest.mark.parametrize(("processes", "density"), [(2, 0.4), (3, 1.0)])
def test_cubes_are_chosen_and_read_by_each_head_where_it_is(processes: int, density: float, tmp_path: Path) -> None:
    model, draw = refiner(THREE_HEADS), Drawn(THREE_HEADS)
    random_(model)
    video, text = replace(draw.video(5 * 6 * 7), cubes=Cubes((5, 6, 7), density)), draw.text()

    def work(rank: int) -> None:
        with joined() as ranks, torch.inference_mode():
            share_sequences(model, Sharing.over(ranks.mesh(torch.device("cpu"))))
            save_file({"said": model(video, text)}, tmp_path / f"{rank}.safetensors")

    lives = together(tmp_path, processes, work)
    assert [life.code for life in lives] == [0] * processes, lives[0].err
    with torch.inference_mode():
        assert error(load_file(tmp_path / "1.safetensors")["said"], model(video, text)) < TOLERANCE


def test_weights_in_shares_say_what_whole_ones_say(tmp_path: Path) -> None:
    model = JointTransformer(THREE_HEADS)
    random_(model)
    save_transformer(model, tmp_path / "model")
    inputs = joint_cases(THREE_HEADS)["uneven"]

    def work(rank: int) -> None:
        with joined() as ranks, torch.inference_mode():
            mesh = ranks.mesh(torch.device("cpu"))
            sharded = shard_transformer(tmp_path / "model", torch.device("cpu"), mesh)
            assert isinstance(sharded.video.blocks, ShardedDepths)
            held = sum(weight.to_local().numel() for weight in sharded.exchanges.parameters())
            whole = sum(weight.numel() for weight in model.exchanges.parameters())
            assert held <= 0.51 * whole
            for sharing in (Sharing(), Sharing.over(mesh)):
                for one in (model, sharded):
                    share_sequences(one, sharing)
                for _ in range(2):  # what was gathered was let go of, and is gathered again
                    got, wanted = named("", sharded(*inputs)), named("", model(*inputs))
                    assert max(error(got[name], wanted[name]) for name in wanted) < TOLERANCE

    lives = together(tmp_path, 2, work)
    assert [life.code for life in lives] == [0, 0], lives[0].err


def test_parts_are_equal_but_for_what_is_left_over() -> None:
    assert parts(8, 2) == (4, 4) and parts(3, 2) == (2, 1) and parts(10, 4) == (3, 3, 2, 2) and parts(1, 3) == (1, 0, 0)


def test_alone_nothing_is_copied() -> None:
    x = torch.randn(1, 4, 2, 3)
    share: Share = Sharing().of(4, 2)
    assert share.by_head(x)[0] is x and share.by_token(x) is x and share.whole(x) is x and share.own_heads(x)[0] is x
    assert not [
        tower for tower in JointTransformer(nano()).modules() if isinstance(tower, Branch) and tower.sharing.group
    ]
