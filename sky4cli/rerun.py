"""`sky4 rerun`: the clip of a recipe once more, its latents compared bit for bit; or the clip but for a setting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sky4.errors import RequestError, Sky4Failure
from sky4cli.options import (
    C2pa,
    DryRun,
    Events,
    Force,
    Json,
    Model,
    NoMetadata,
    PreviewEvery,
    Quiet,
    Resume,
    ResumeDir,
    Sidecar,
    provenance_of,
)
from sky4cli.pipe import Container, opened

if TYPE_CHECKING:
    from sky4.pipeline.clip import Clip

EXAMPLES = (
    "sky4 rerun made.mp4 --set seed=7 --set steps=4 -o other.mp4",
    "sky4 rerun made.mp4 --verify",
)


def rerun(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that sky4 wrote, or its sidecar.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="PATH", help="Output, in the format of its suffix.")
    ] = None,
    container: Container = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the recipe, such as seed=7; repeatable."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Make the latents alone, compare their checksums, and write nothing.")
    ] = False,
    model: Model = None,
    device: Annotated[str | None, typer.Option("--device", help="Default: where the clip was made.")] = None,
    dry_run: DryRun = False,
    resume_dir: ResumeDir = None,
    resume: Resume = False,
    events: Events = None,
    preview_every: PreviewEvery = None,
    no_metadata: NoMetadata = False,
    sidecar: Sidecar = False,
    c2pa: C2pa = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a clip again from the recipe inside it, and say whether its latents are the same bit for bit."""
    from sky4.media import read_recipe
    from sky4.pipeline.request import ClipRequest
    from sky4cli.console import Reporter
    from sky4cli.following import Following
    from sky4cli.make import make_clips, make_latents, read_engine, variation_paths
    from sky4cli.recipes import changed

    if verify and (settings or out is not None):
        flag = f"-o {out}" if out is not None else "--set"
        raise RequestError(f"--verify compares the clip as it was made and writes nothing; drop {flag}, or --verify")
    if verify and dry_run:
        raise RequestError("--verify makes the latents and --dry-run makes nothing; drop one of them")
    if not verify and out is None:
        raise RequestError("-o is missing; name the output, or compare without one by --verify")
    out = opened(out, container)
    recipe = read_recipe(file)
    if "film" in recipe:
        raise RequestError(f"'{file}' is a film of several shots; `sky4 film` makes it again from its shot list")
    _check_version(recipe)
    request = changed(ClipRequest.from_dict(recipe.get("request", {})), settings or [])
    engine = replace(read_engine(recipe, model, device), dry_run=dry_run)
    following = Following(resume_dir, resume, events, preview_every)
    with Reporter(quiet=quiet, as_json=as_json, events=events, command="rerun") as reporter:
        if out is None:
            clip = make_latents(request, engine, reporter)
        else:
            paths, provenance = (
                variation_paths(out, 1, force or dry_run, resume),
                provenance_of(no_metadata, sidecar, c2pa),
            )
            clips = make_clips(request, engine, paths, force, reporter, following=following, provenance=provenance)
            if not clips:  # of a dry run, or the run that is resumed had come to its end
                return
            [clip] = clips
        if settings:
            return
        if clip.checksums != recipe.get("latents"):
            what = f"'{out}' was made, but its latents" if out is not None else "the latents made again"
            raise Sky4Failure(f"{what} differ from those of '{file}'{_why(recipe, clip)}")
        reporter.note("the latents are the same, bit for bit")
        if verify:
            reporter.result(f"{file}  verified: the latents are the same, bit for bit")
            reporter.record({"path": str(file), "verified": True, "latents": clip.checksums})


def _check_version(recipe: dict[str, Any]) -> None:
    from sky4.media.recipe import VERSION

    if recipe.get("version") != VERSION:
        raise RequestError(f"the recipe has version {recipe.get('version')!r}, this sky4 reads {VERSION}; update sky4")


def _why(recipe: dict[str, Any], clip: Clip) -> str:
    """What differs from the run that the recipe tells of."""
    now = clip.recipe()
    reasons = []
    if now["model"]["digest"] != recipe["model"].get("digest"):
        reasons.append("the model's weights are others")
    before_inputs = sorted(recipe.get("inputs", {}).values())
    if sorted(now["inputs"].values()) != before_inputs:
        reasons.append("an input file has changed")
    reasons += [
        f"{name} is {value} instead of {recipe['computed'].get(name)}"
        for name, value in now["computed"].items()
        if value != recipe["computed"].get(name)
    ]
    return f": {'; '.join(reasons)}" if reasons else ", and nothing of what is recorded has changed"
