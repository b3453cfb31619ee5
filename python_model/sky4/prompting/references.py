"""`--ref NAME=PATH`: the files that a prompt's @names stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sky4.errors import RequestError
from sky4.prompting.tags import NAME, Prompt

Kind = Literal["image", "video", "audio"]

SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"),
    "video": (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".gif"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac"),
}
# What a name says about its file: an Actor may be seen in an image or a film, an Audio is heard.
_PROMISED: dict[str, tuple[Kind, ...]] = {
    "image_": ("image",),
    "video_": ("video",),
    "audio_": ("audio",),
    "Audio-": ("audio",),
    "Actor-": ("image", "video"),
}


@dataclass(frozen=True)
class ReferenceFile:
    """One reference: the name without its @, the file, and what kind of thing it is.

    skip: frames of a video left out at its head, at the clip's rate. implied: it is what the prompt as a whole speaks
    of, such as the clip being edited, so that the prompt need not mention it.
    """

    name: str
    path: Path
    kind: Kind
    skip: int = 0
    implied: bool = False


def resolve_references(values: Sequence[str]) -> tuple[ReferenceFile, ...]:
    """Read the values of --ref, in order. Raises RequestError for what cannot be a reference, naming the value."""
    references: list[ReferenceFile] = []
    for value in values:
        reference = _read(value)
        if any(reference.name == other.name for other in references):
            raise RequestError(
                f"--ref {value}: the name {reference.name} is given twice; choose another for one of them"
            )
        references.append(reference)
    return tuple(references)


def in_prompt_order(references: Sequence[ReferenceFile], prompt: Prompt) -> tuple[ReferenceFile, ...]:
    """The references in the order of their first mention, which is their order on the time axis.

    Those that the prompt does not mention follow in the order given.
    """
    names = [mention.name for mention in prompt.mentions()]

    def place(reference: ReferenceFile) -> int:
        return names.index(reference.name) if reference.name in names else len(names)

    return tuple(sorted(references, key=place))


def kind_of(path: Path) -> Kind | None:
    """What a file is by its suffix; None for a suffix that is none of ours."""
    return next((kind for kind, suffixes in SUFFIXES.items() if path.suffix.lower() in suffixes), None)


def _read(value: str) -> ReferenceFile:
    name, equals, file = value.partition("=")
    if not equals or not file:
        raise RequestError(f"--ref {value}: expected NAME=PATH, for example image_1=photo.png")
    if not NAME.fullmatch(name):
        wish = name.removeprefix("@")
        remedy = f"write {wish}=..." if NAME.fullmatch(wish) else "use Latin letters, digits, _ and -, as in Actor-0"
        raise RequestError(f"--ref {value}: {name or 'the empty text'} is no name for a reference; {remedy}")
    path = Path(file).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise RequestError(f"--ref {value}: {path} {what}; give the path of an image, video or sound file")
    kind = kind_of(path)
    if kind is None:
        known = " ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
        raise RequestError(f"--ref {value}: the suffix {path.suffix or '(none)'} is unknown; use one of {known}")
    for prefix, kinds in _PROMISED.items():
        if name.startswith(prefix) and name[len(prefix) :].isdigit() and kind not in kinds:
            remedy = f"call it {_usual_name(kind, name)}"
            raise RequestError(f"--ref {value}: the name {name} promises {' or '.join(kinds)}, not {kind}; {remedy}")
    return ReferenceFile(name, path, kind)


def _usual_name(kind: Kind, name: str) -> str:
    number = "".join(filter(str.isdigit, name))
    return f"{kind}_{number}"
