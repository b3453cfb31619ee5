"""How a run is followed and kept while it goes on: state to go on from, events for programs, previews."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sky4.errors import Interrupted, RequestError

if TYPE_CHECKING:
    from sky4.pipeline.components import Components
    from sky4.pipeline.preview import Previews
    from sky4.pipeline.request import ClipRequest
    from sky4.pipeline.states import ResumeFolder
    from sky4cli.console import Reporter


@dataclass(frozen=True)
class Following:
    """--resume-dir, --resume, --events, --preview-every. RequestError for what does not go together."""

    resume_dir: Path | None = None
    resume: bool = False
    events: str | None = None
    preview_every: int | None = None

    def __post_init__(self) -> None:
        if self.resume and self.resume_dir is None:
            raise RequestError("--resume needs the folder that holds the state; add --resume-dir FOLDER")
        if self.preview_every is not None and self.preview_every < 1:
            raise RequestError(f"--preview-every {self.preview_every} is less than 1 step; 5 is usual")

    def check(self, request: ClipRequest, paths: list[Path]) -> None:
        """Whatever can be said against it before weights are loaded. RequestError."""
        if self.resume_dir is not None:
            from sky4.pipeline.resume import check_resume

            check_resume(self.resume_dir, request, self.resume)
        if self.preview_every is not None and request.wants_video:
            from sky4.pipeline.preview_file import check_preview

            for path in paths:
                check_preview(path)

    def states(self, request: ClipRequest, components: Components) -> ResumeFolder | None:
        """The folder of saved state, begun or gone on from. RequestError where another model or machine wrote it."""
        if self.resume_dir is None:
            return None
        from sky4.pipeline.states import ResumeFolder

        return ResumeFolder.open(self.resume_dir, request, components)

    def previews(
        self, request: ClipRequest, paths: list[Path], components: Components, reporter: Reporter
    ) -> Previews | None:
        if self.preview_every is None or not request.wants_video:
            return None
        from sky4.pipeline.preview import Previews, projection_of

        reporter.stage("fitting the preview", 0, 1)  # the first time with a model; then it is read
        projection = projection_of(components)
        by_seed = {request.seed + index: path for index, path in enumerate(paths)}
        return Previews(self.preview_every, by_seed, projection, reporter.preview)

    def interrupted(self) -> Interrupted:
        """What is said of a run that is stopped in the middle."""
        from sky4.pipeline.resume import NAME

        if self.resume_dir is None or not (self.resume_dir / NAME).exists():
            return Interrupted("interrupted; no partial file was left")
        return Interrupted(
            f"interrupted; the state is in '{self.resume_dir}': the same command with --resume goes on from it"
        )


UNFOLLOWED = Following()
