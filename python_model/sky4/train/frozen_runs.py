"""`sky4 train video-codec CONFIG` and its like: from a YAML file to a trained, exported network."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sky4.config import config_from_dict
from sky4.train.frozen import FitConfig, Problem, fit, start_from
from sky4.train.settings import read_mapping

Network = Literal["video-codec", "audio-codec", "text-encoder", "refiner", "shot-detector"]


@dataclass(frozen=True)
class FrozenSettings:
    """One training of one network; `network` holds the fields of its own config class."""

    folder: str
    fit: FitConfig
    network: dict[str, Any] = field(default_factory=dict)
    init: str | None = None  # the folder of another run, whose weights this one starts from
    device: str = "cpu"


def read_frozen_settings(path: Path, overrides: dict[str, Any] | None = None) -> FrozenSettings:
    """Raises ValueError for a file that cannot be read and for unknown, missing or ill-typed keys."""
    return config_from_dict(FrozenSettings, read_mapping(path, overrides), "config")


def train_frozen(
    network: Network, settings: FrozenSettings, max_minutes: float | None, say: Callable[[str], None] = print
) -> bool:
    """Train (or go on), and export where all samples are consumed; returns whether they are."""
    problem, export = _problem(network, settings, say)
    folder = Path(settings.folder)
    if settings.init is not None:
        start_from(problem, Path(settings.init))  # a checkpoint of this run, if there is one, replaces it
    done = fit(problem, settings.fit, folder, float("inf") if max_minutes is None else max_minutes, say)
    if done:
        measured = export(folder / "export")
        say(f"{folder / 'export'}: " + ", ".join(f"{name} {value:.2f}" for name, value in measured.items()))
    return done


def _problem(
    network: Network, settings: FrozenSettings, say: Callable[[str], None]
) -> tuple[Problem, Callable[[Path], dict[str, float]]]:
    # Each network's libraries take seconds to import: only the one that is trained is.
    if network == "video-codec":
        from sky4.train import video_codec as video

        seen = video.VideoCodecProblem(
            config_from_dict(video.VideoCodecConfig, settings.network, "config.network"), settings.device
        )
        return seen, lambda folder: video.export(seen, folder)
    if network == "audio-codec":
        from sky4.train import audio_codec as audio

        heard = audio.AudioCodecProblem(
            config_from_dict(audio.AudioCodecConfig, settings.network, "config.network"), settings.device
        )
        return heard, lambda folder: audio.export(heard, folder)
    if network == "refiner":
        from sky4.train import refiner

        refines = refiner.RefinerProblem(
            config_from_dict(refiner.RefinerConfig, settings.network, "config.network"), settings.device, say
        )
        return refines, lambda folder: refiner.export(refines, folder)
    if network == "shot-detector":
        from sky4.train import shot_detector as shots

        watching = shots.ShotDetectorProblem(
            config_from_dict(shots.ShotDetectorConfig, settings.network, "config.network"), settings.device
        )
        return watching, lambda folder: shots.export(watching, folder)
    from sky4.train import text_encoder as text

    read = text.TextEncoderProblem(
        config_from_dict(text.TextEncoderConfig, settings.network, "config.network"), device=settings.device
    )
    return read, lambda folder: text.export(read, folder)
