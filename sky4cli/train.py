"""`sky4 train`: training from a config file; each command is one call into sky4.train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from sky4.errors import RequestError

train = typer.Typer(
    name="train",
    help="Train the codecs, the text encoder, the joint model and its refiner.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file of settings.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Replace one setting, such as run.folder=runs/second; repeatable."
    ),
]
MaxMinutes = Annotated[
    float | None, typer.Option("--max-minutes", help="Stop cleanly after so many minutes, with a checkpoint.")
]


@train.command("joint")
def joint(
    config: Config,
    settings: Settings = None,
    max_minutes: MaxMinutes = None,
    decay_minutes: Annotated[
        float | None,
        typer.Option(
            "--decay-minutes", help="Let the learning rate fall to zero in the last minutes of --max-minutes."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")] = False,
) -> None:
    """Train the joint model on the cache of latents; under torchrun, processes share each batch's parts."""
    from sky4.distributed.ranks import joined

    with user_faults(), joined() as ranks:
        values = read(config, settings)
        from sky4.train.batches import BatchSource
        from sky4.train.latent_cache import read_black
        from sky4.train.sampling import show_samples
        from sky4.train.start import build_model, load_codecs, load_encode
        from sky4.train.trainer import Limits, choose_device, train

        device = choose_device(values.run.device)
        limits = Limits(max_minutes, decay_minutes)
        source = BatchSource(values)
        black = read_black(Path(values.data.cache))
        model, encode = build_model(values, device), load_encode(values, device)
        show = None
        if values.run.sample_minutes > 0:
            show = show_samples(values, source.clip, encode, black, load_codecs(values, device))
        outcome = train(values, model, source, encode, black, limits, ranks=ranks, resume=resume, say=say, show=show)
    if ranks.first:
        say(f"{outcome.reason}: {outcome.samples:,} samples, {outcome.step:,} steps, checkpoint {outcome.checkpoint}")
    if outcome.reason == "interrupt":
        raise KeyboardInterrupt


@train.command("video-codec")
def video_codec(config: Config, settings: Settings = None, max_minutes: MaxMinutes = None) -> None:
    """Train the video codec; goes on where an earlier run stopped, and exports when it is done."""
    frozen("video-codec", config, settings, max_minutes)


@train.command("audio-codec")
def audio_codec(config: Config, settings: Settings = None, max_minutes: MaxMinutes = None) -> None:
    """Train the audio codec; goes on where an earlier run stopped, and exports when it is done."""
    frozen("audio-codec", config, settings, max_minutes)


@train.command("text-encoder")
def text_encoder(config: Config, settings: Settings = None, max_minutes: MaxMinutes = None) -> None:
    """Train the text encoder and its tokenizer; goes on where it stopped, and exports when it is done."""
    frozen("text-encoder", config, settings, max_minutes)


@train.command("refiner")
def refiner(config: Config, settings: Settings = None, max_minutes: MaxMinutes = None) -> None:
    """Train the refiner of a model on pairs of clips; goes on where it stopped, and exports when it is done."""
    frozen("refiner", config, settings, max_minutes)


@train.command("shot-detector")
def shot_detector(config: Config, settings: Settings = None, max_minutes: MaxMinutes = None) -> None:
    """Train what `sky4 shots` finds transitions with; goes on where it stopped, and exports when it is done."""
    frozen("shot-detector", config, settings, max_minutes)


def frozen(network: Any, config: Path, settings: list[str] | None, max_minutes: float | None) -> None:
    """The networks that the towers see frozen, and the refiner of towers that are trained, are trained alike."""
    with user_faults():
        from sky4.train.frozen_runs import read_frozen_settings, train_frozen

        values = read_frozen_settings(config, pairs(settings, "--set"))
        done = train_frozen(network, values, max_minutes, say)
    say("done" if done else "stopped at --max-minutes; the same command goes on")


@train.command("cache")
def cache(
    config: Config,
    settings: Settings = None,
    max_minutes: MaxMinutes = None,
    part: Annotated[
        str, typer.Option("--part", metavar="I/N", help="Make only every N-th shard, from the I-th (1 to N).")
    ] = "1/1",
) -> None:
    """Render the world's clips and keep their latents; shards that exist stay, several processes may share the work."""
    with user_faults():
        values = read(config, settings)
        index, _, count = part.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise RequestError(f"--part must be I/N with 1 <= I <= N, such as 1/2, got {part!r}")
        from sky4.train.cache import codec_digest, fill_cache
        from sky4.train.start import load_codecs
        from sky4.train.trainer import choose_device

        device = choose_device(values.run.device)
        codecs = load_codecs(values, device)
        digests = codec_digest(Path(values.codecs.video)), codec_digest(Path(values.codecs.audio))
        mine = int(index) - 1, int(count)
        written = fill_cache(values, codecs, digests, device, part=mine, max_minutes=max_minutes, say=say)
    say(f"{written} shards written to {values.data.cache}")


@train.command("export")
def export(
    config: Config,
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="The model folder to write.")],
    settings: Settings = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="A checkpoint's folder; the run's newest otherwise.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="The model's name.")] = "tiny",
    default: Annotated[
        list[str] | None,
        typer.Option("--default", metavar="NAME=VALUE", help="A default of the model, such as guidance=3; repeatable."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The weights as they stand, not their moving average.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the folder.")] = False,
) -> None:
    """Write the model folder that `sky4 generate --model` reads."""
    with user_faults():
        values = read(config, settings)
        from sky4.train.checkpoints import checkpoints
        from sky4.train.export import export_model

        present = checkpoints(Path(values.run.folder) / "checkpoints")
        if checkpoint is None and not present:
            raise RequestError(f"{values.run.folder} holds no checkpoint: train first, or give --checkpoint")
        source = checkpoint or present[-1]
        export_model(values, source, target, name, defaults=pairs(default, "--default"), raw=raw, force=force)
    say(f"{target}: {name} from {source}")


@train.command("mix")
def mix(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="A folder with weights: of a model, a detector.")],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="Another run's folder, of the same form.")],
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to write: FIRST with mixed weights.")],
    share: Annotated[float, typer.Option("--share", help="How much of SECOND: 0 to 1.")] = 0.5,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Mix weights whose names begin so, and no others; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the folder.")] = False,
) -> None:
    """Write the weighted mean of two runs' weights, which often has what both can do."""
    with user_faults():
        from sky4.train.mixing import mix_folders

        mixed = mix_folders(first, second, target, share, only or (), force=force)
    say(f"{target}: {mixed} tensors of {first}, {share:g} of {second} in them")


def read(config: Path, settings: list[str] | None) -> Any:
    """The config file with the replacements of --set."""
    from sky4.train.settings import read_settings

    return read_settings(config, pairs(settings, "--set"))


def pairs(values: list[str] | None, flag: str) -> dict[str, Any]:
    """NAME=VALUE options as a mapping; values are read as YAML reads them."""
    import yaml

    from sky4.train.settings import read_yaml

    found = {}
    for text in values or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise RequestError(f"{flag} must be NAME=VALUE, got {text!r}")
        try:
            found[name] = read_yaml(value)
        except yaml.YAMLError as error:
            raise RequestError(f"{flag} {name}: {value!r} is not a value that YAML reads") from error
    return found


@contextmanager
def user_faults() -> Iterator[None]:
    """What a config or an option got wrong is a bad request (exit 2)."""
    try:
        yield
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(str(error)) from error


def say(line: str) -> None:
    print(line, flush=True)
