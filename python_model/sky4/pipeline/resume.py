"""Which run a folder of saved state belongs to, and whether this one may go on from it. JSON alone, no torch.

`--resume-dir` holds one request at a time: `sky4-state.json` tells the request, the model, the input files and what
computes. Tensors lie beside it, see states.py.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from sky4.errors import RequestError
from sky4.pipeline.request import ClipRequest

FORMAT, VERSION = "sky4-state", 1
NAME = "sky4-state.json"
SHOWN = 3  # differences that a refusal names

log = logging.getLogger("sky4")


def check_resume(folder: Path, request: ClipRequest, resume: bool) -> None:
    """Refuse a folder that cannot keep this request's state, before any work: RequestError with the remedy.

    resume: whether a state that lies there may be gone on from; without, it is not overwritten either.
    """
    there = read_state(folder)
    if there is not None and not resume:
        raise RequestError(
            f"--resume-dir '{folder}' holds the state of a run that did not end; add --resume to go on from it, or "
            "name another folder"
        )
    if there is not None:
        require_same(folder, there, {"request": request.to_dict()})
    elif resume and not (folder / NAME).exists():
        log.info(f"note: --resume-dir '{folder}' holds no state yet, so the run begins at its start")
    probe = folder / f".{NAME}.{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RequestError(f"--resume-dir '{folder}' takes no files ({error.strerror}); name another folder") from error


def read_state(folder: Path) -> dict[str, Any] | None:
    """What `sky4-state.json` tells; None without one, and, with a note, where it cannot be read."""
    try:
        values = json.loads((folder / NAME).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise RequestError(f"--resume-dir '{folder}' is no folder; name another one") from None
    except (OSError, ValueError) as error:
        log.warning(f"the state in '{folder}' cannot be read ({type(error).__name__}), so the run begins anew")
        return None
    if not isinstance(values, dict) or (values.get("format"), values.get("version")) != (FORMAT, VERSION):
        log.warning(f"the state in '{folder}' is not one that this sky4 reads, so the run begins anew")
        return None
    return values


def rewritten_prompt(folder: Path | None, request: ClipRequest) -> str | None:
    """The prompt that --enhance made of the request's in the run that is resumed; None without such a run."""
    there = None if folder is None else read_state(folder)
    before = there.get("request") if there is not None else None
    if isinstance(before, dict) and before.get("enhanced_from") == request.prompt:
        return str(before.get("prompt"))
    return None


def require_same(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """RequestError naming what differs between a state's facts and this run's, of the parts that `here` has."""
    before, now = (dict(_flat({key: facts.get(key) for key in here})) for facts in (there, here))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if not changed:
        return
    said = [f"{_plain(key)} is {_short(before.get(key))} there and {_short(now.get(key))} here" for key in changed]
    more = f" and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    what = "another model" if "model.digest" in changed else "another request"
    raise RequestError(
        f"--resume: the state in '{folder}' is of {what} ({', '.join(said[:SHOWN])}{more}); ask for the same again, or "
        "name another folder with --resume-dir"
    )


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{at}.{key}" if at else str(key))
    elif isinstance(value, (list, tuple)) and value:
        for number, item in enumerate(value):
            yield from _flat(item, f"{at}.{number}")
    else:
        yield at, value


def _plain(key: str) -> str:
    return key.removeprefix("request.").replace("_", " ")


def _short(value: Any) -> str:
    return "nothing" if value in (None, "", [], {}) else shorten(str(value), 40, placeholder=" ...")
