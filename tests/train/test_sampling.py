"""Sample clips while training, and the model folder at its end."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sky4.errors import Sky4Failure
from sky4.model.checkpoint import load_transformer
from sky4.train.batches import BatchSource
from sky4.train.checkpoints import load_checkpoint
from sky4.train.export import export_model
from sky4.train.sampling import Plan, contact_sheet, sample_latents, show_samples
from sky4.train.settings import JointSettings
from sky4.train.start import build_model, starting_weights
from sky4.train.trainer import train
from tests.train.nano import AUDIO_CHANNELS, CHANNELS, TRANSFORMER, encode, make_model

Make = Callable[..., JointSettings]
BLACK = torch.zeros(1, CHANNELS, 4, 4, 4)


class Grey:
    """A codec whose every picture is grey and every sound silent."""

    def decode(self, latents: Tensor, samples: int = 0) -> Any:
        return torch.zeros(len(latents), 2, samples) if samples else self._frames(latents)

    def _frames(self, latents: Tensor) -> Iterator[Tensor]:
        yield torch.zeros(len(latents), 3, 1, 32, 32)
        yield torch.zeros(len(latents), 3, 4 * (latents.shape[2] - 1), 32, 32)


CODECS: Any = (Grey(), Grey())


def test_a_prompt_s_sample_is_the_same_alone_and_among_others(make_settings: Make) -> None:
    settings = make_settings()
    model, clip = make_model(settings).eval(), BatchSource(settings).clip
    prompts = ("a red circle", "a blue star")
    both = sample_latents(model, encode, BLACK, Plan(prompts, clip, 3, 2.0))
    one = sample_latents(model, encode, BLACK, Plan(prompts[:1], clip, 3, 2.0))
    assert both[0].shape == (2, CHANNELS, 4, 4, 4)
    assert both[1] is not None
    assert one[1] is not None
    assert both[1].shape == (2, clip.audio_tokens, AUDIO_CHANNELS)
    torch.testing.assert_close(both[0][:1], one[0])
    torch.testing.assert_close(both[1][:1], one[1])


def test_samples_are_clips_and_a_sheet_of_the_average(make_settings: Make, tmp_path: Path) -> None:
    settings = make_settings(
        run__sample_minutes=1e-9, run__sample_steps=2, run__sample_prompts=["a red circle"], schedule={"samples": 4}
    )
    source = BatchSource(settings)
    show = show_samples(settings, source.clip, encode, BLACK, CODECS)
    train(settings, make_model(settings), source, encode, BLACK, say=lambda _: None, show=show)
    [folder] = sorted((tmp_path / "run" / "samples").iterdir())[-1:]
    assert (folder / "0.mp4").stat().st_size > 0
    assert Image.open(folder / "sheet.png").size == (8 * 32, 32)


def test_a_sheet_shows_a_clip_a_row() -> None:
    clips = np.arange(2 * 21, dtype=np.uint8).reshape(2, 21, 1, 1, 1).repeat(3, axis=4)
    sheet = contact_sheet(clips)
    assert sheet.shape == (2, 8, 3)
    assert sheet[0, 0, 0] == 0
    assert sheet[1, -1, 0] == 41


@pytest.fixture
def trained(make_settings: Make, tmp_path: Path) -> tuple[JointSettings, Path]:
    """A finished nano run and its checkpoint, with folders for the frozen networks."""
    codecs = {part: str(tmp_path / part) for part in ("video", "audio", "text")}
    for folder in codecs.values():
        Path(folder).mkdir()
        (Path(folder) / "config.json").write_text(json.dumps({"part": Path(folder).name}))
    settings = make_settings(codecs=codecs, schedule={"samples": 8})
    outcome = train(settings, make_model(settings), BatchSource(settings), encode, BLACK, say=lambda _: None)
    return settings, outcome.checkpoint


def test_an_exported_model_is_the_average_in_bfloat16_beside_the_frozen_networks(
    trained: tuple[JointSettings, Path], tmp_path: Path
) -> None:
    settings, checkpoint = trained
    target = tmp_path / "model"
    export_model(settings, checkpoint, target, "mine", defaults={"steps": 9, "guidance": 3.5})
    manifest = json.loads((target / "model.json").read_text())
    assert (manifest["format"], manifest["version"], manifest["name"]) == ("sky4-model", 1, "mine")
    assert manifest["defaults"] | {"steps": 9, "guidance": 3.5, "frames": 13, "fps": "16"} == manifest["defaults"]
    for part, source in (("video_vae", "video"), ("audio_vae", "audio"), ("text_encoder", "text")):
        assert json.loads((target / part / "config.json").read_text()) == {"part": source}
    weights = load_transformer(target / "transformer").state_dict()
    average = load_checkpoint(checkpoint).ema
    assert all(torch.equal(weights[name], value.bfloat16()) for name, value in average.items())
    assert weights.keys() == average.keys()


def test_an_exported_folder_is_read_by_the_pipeline(trained: tuple[JointSettings, Path], tmp_path: Path) -> None:
    from sky4.config import config_from_dict
    from sky4.pipeline.model_folder import Manifest

    export_model(*trained, tmp_path / "model", "mine")
    values = json.loads((tmp_path / "model" / "model.json").read_text())
    assert config_from_dict(Manifest, values, "model.json").defaults.frames == 13


def test_an_export_overwrites_only_by_force(trained: tuple[JointSettings, Path], tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(ValueError, match="already exists; choose another folder or give --force"):
        export_model(*trained, target, "mine")
    assert (target / "old").exists()
    export_model(*trained, target, "mine", force=True)
    assert not (target / "old").exists()
    assert [path.name for path in tmp_path.glob(".*partial")] == []


def test_a_stage_starts_from_the_average_of_the_one_before(
    trained: tuple[JointSettings, Path], make_settings: Make, tmp_path: Path
) -> None:
    settings, checkpoint = trained
    average = load_checkpoint(checkpoint).ema
    export_model(settings, checkpoint, tmp_path / "model", "mine")
    for place in (checkpoint, Path(settings.run.folder)):
        model = build_model(make_settings(init=str(place)), torch.device("cpu"))
        assert all(torch.equal(weight, average[name]) for name, weight in model.state_dict().items())
    gated = make_settings(init=str(checkpoint), transformer={**TRANSFORMER, "data_gate": True})
    model = build_model(gated, torch.device("cpu"))
    weights = model.state_dict()
    fresh = {name for name in weights if name.split(".")[1] in ("data_gate", "head")}
    assert all(torch.equal(weights[name], average[name]) for name in average.keys() - fresh)
    assert not model.video.head.weight.any()  # it means something else beside a gate
    rounded = starting_weights(tmp_path / "model")
    assert all(torch.equal(rounded[name], value.bfloat16().float()) for name, value in average.items())
    with pytest.raises(Sky4Failure, match="no model folder, no run and no checkpoint"):
        starting_weights(tmp_path)


def test_fresh_weights_follow_from_the_seed(make_settings: Make) -> None:
    one, same, other = (build_model(make_settings(seed=seed), torch.device("cpu")) for seed in (1, 1, 2))
    name = "video.blocks.0.attention.qkv.weight"
    assert torch.equal(one.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])
