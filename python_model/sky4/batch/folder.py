"""A folder of inputs as rows: each picture, video or sound that the command takes; the rest comes from flags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from sky4.batch.manifest import Place, Row, Value
from sky4.errors import RequestError
from sky4.prompting.references import Kind, kind_of

MADE: dict[Kind, str] = {"image": ".png", "video": ".mp4", "audio": ".mp4"}


def rows_of_folder(folder: Path, takes: Mapping[Kind, tuple[str, ...]], still: bool) -> tuple[list[Row], list[Path]]:
    """(rows, files that the command does not take). takes: for each kind of file the flag that it is given to, and
    switches that go with it. still: whether a picture becomes a picture. RequestError where there is nothing to do.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise RequestError(f"'{folder}' cannot be read ({error.strerror}); give a folder of inputs") from error
    kinds = [(path, kind_of(path)) for path in files]
    taken = [(path, kind) for path, kind in kinds if kind is not None and kind in takes]
    left = [path for path, kind in kinds if kind is None or kind not in takes]
    if not taken:
        known = " or ".join(takes)
        raise RequestError(f"'{folder}' holds no {known} that the command takes; name another folder, or a --command")
    stems = Counter(path.stem.casefold() for path, _ in taken)
    rows = []
    for number, (path, kind) in enumerate(taken, 1):
        flag, *switches = takes[kind]
        stem = path.stem if stems[path.stem.casefold()] == 1 else path.name  # a.jpg and a.png stay two
        suffix = MADE[kind] if still or kind != "image" else ".mp4"
        values: dict[str, Value] = {flag: path.name, "out": f"{stem}{suffix}", **dict.fromkeys(switches, True)}
        rows.append(Row(Place(path), number, values))
    return rows, left
