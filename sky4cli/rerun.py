"""`sky4 rerun`: the clip of a recipe once more, its latents compared bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sky4.errors import RequestError, Sky4Failure
from sky4cli.options import Events, Force, Json, Model, Out, PreviewEvery, Quiet, Resume, ResumeDir

if TYPE_CHECKING:
    from sky4.pipeline.clip import Clip


def rerun(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that sky4 wrote.")],
    out: Out,
    model: Model = None,
    device: Annotated[str | None, typer.Option("--device", help="Default: where the clip was made.")] = None,
    resume_dir: ResumeDir = None,
    resume: Resume = False,
    events: Events = None,
    preview_every: PreviewEvery = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a clip again from the recipe inside it, and say whether its latents are the same bit for bit."""
    from sky4.media import read_recipe
    from sky4.pipeline.request import ClipRequest
    from sky4cli.console import Reporter
    from sky4cli.following import Following
    from sky4cli.make import make_clips, read_engine, variation_paths

    recipe = read_recipe(file)
    if "film" in recipe:
        raise RequestError(f"'{file}' is a film of several shots; `sky4 film` makes it again from its shot list")
    request = ClipRequest.from_dict(recipe.get("request", {}))
    engine = read_engine(recipe, model, device)
    following = Following(resume_dir, resume, events, preview_every)
    paths = variation_paths(out, 1, force, resume)
    with Reporter(quiet=quiet, as_json=as_json, events=events, command="rerun") as reporter:
        clips = make_clips(request, engine, paths, force, reporter, following=following)
        if not clips:  # the run that is resumed had come to its end
            return
        [clip] = clips
        if clip.checksums != recipe.get("latents"):
            raise Sky4Failure(f"'{out}' was made, but its latents differ from those of '{file}'{_why(recipe, clip)}")
        reporter.note("the latents are the same, bit for bit")


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
