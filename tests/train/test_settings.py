"""The config file: faults are named by their path; the shipped configs are whole."""

from importlib.resources import files
from pathlib import Path

import pytest

from sky4.config import config_from_dict
from sky4.geometry import ClipGeometry
from sky4.train.audio_codec import AudioCodecConfig
from sky4.train.frozen_runs import read_frozen_settings
from sky4.train.refiner import RefinerConfig
from sky4.train.settings import BatchSettings, read_settings
from sky4.train.shot_detector import ShotDetectorConfig
from sky4.train.tasks import TaskMix
from sky4.train.text_encoder import TextEncoderConfig
from sky4.train.video_codec import VideoCodecConfig
from sky4.world.families import ROWS

CONFIG = """
codecs: {video: v, audio: a, text: t}
data: {cache: c}
tasks: {t2av: {weight: 1.0}}
schedule: {samples: 100}
run: {folder: r}
"""
CONFIGS = Path(str(files("sky4.train").joinpath("configs")))
SHIPPED = sorted(p.name for p in CONFIGS.iterdir() if "tasks:" in p.read_text(encoding="utf-8").splitlines())
FROZEN = sorted({p.name for p in CONFIGS.glob("*.yaml")} - set(SHIPPED))
NETWORKS: dict[str, type] = {
    "tiny_video_codec": VideoCodecConfig,
    "tiny_audio_codec": AudioCodecConfig,
    "tiny_text_encoder": TextEncoderConfig,
    "tiny_refiner": RefinerConfig,
    "shot_detector": ShotDetectorConfig,
}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_config_is_read_with_overrides(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path / "c.yaml", CONFIG), {"run.folder": "elsewhere", "optimizer.lr": 0.5})
    assert (settings.run.folder, settings.optimizer.lr, settings.schedule.samples) == ("elsewhere", 0.5, 100)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sede: 3", r"unknown setting config.sede; known here: .*seed"),
        ("time: {shfit: 2}", r"unknown setting config.time.shfit; known here: .*shift"),
        ("tasks: {t2av: {wieght: 1}}", r"unknown setting config.tasks.t2av.wieght; known here: .*weight"),
        ("seed: many", r"config.seed must be of type int, got 'many'"),
        ("optimizer: {kind: sgd}", r"config.optimizer.kind must be one of muon, adamw, got 'sgd'"),
        (
            "tasks: {keyframes: {weight: 1, whole: 1.5}}",
            r"config.tasks.keyframes: .*whole is a share",
        ),
        ("tasks: {}", r"tasks must name at least one task"),
        ("{init: a, init_video: b}", r"keep one of them"),
    ],
)
def test_faults_are_named_by_their_path(tmp_path: Path, line: str, message: str) -> None:
    name = line.partition(":")[0]
    kept = [row for row in CONFIG.strip().splitlines() if not row.startswith(f"{name}:")]
    text = "\n".join([*kept, *line.strip("{}").split(", ")] if line.startswith("{") else [*kept, line])
    with pytest.raises(ValueError, match=message):
        read_settings(write(tmp_path / "c.yaml", text))


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    text = CONFIG + "optimizer: {lr: 1e-3, muon_lr: 2.5e-2, spike: 1E1}"
    optimizer = read_settings(write(tmp_path / "c.yaml", text)).optimizer
    assert (optimizer.lr, optimizer.muon_lr, optimizer.spike) == (0.001, 0.025, 10.0)


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read the training config"):
        read_settings(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_are_whole(name: str) -> None:
    settings = read_settings(CONFIGS / name)
    clip = ClipGeometry(settings.clip.width, settings.clip.height, settings.clip.frames, settings.clip.fps)
    takes = ClipGeometry(settings.clip.width, settings.clip.height, settings.data.family_frames, settings.clip.fps)
    pairs = ClipGeometry(settings.clip.width, settings.clip.height, settings.data.pair_frames, settings.clip.fps)
    mix = TaskMix(settings.tasks, BatchSettings(), clip, takes.latent_frames, pairs.latent_frames)
    assert {task.kind for task in mix.tasks} == {name for name, task in settings.tasks.items() if task.weight > 0}
    pools = {task.pool: getattr(settings.data, task.pool) for task in mix.tasks}
    assert all(count > 0 for count in pools.values()), pools  # the cache is made of what the tasks draw from
    assert settings.transformer_config().width == 192


def test_the_stage_of_tasks_trains_every_row_of_the_table() -> None:
    tasks = read_settings(CONFIGS / "tiny_tasks.yaml").tasks
    assert all(tasks[name].weight > 0 for name in ROWS)


@pytest.mark.parametrize("name", FROZEN)
def test_shipped_configs_of_the_frozen_networks_are_whole(name: str) -> None:
    settings = read_frozen_settings(CONFIGS / name)
    assert settings.fit.samples > 1000
    [config] = {NETWORKS[network] for network in NETWORKS if name.startswith(network)}
    assert config_from_dict(config, settings.network, "config.network")
