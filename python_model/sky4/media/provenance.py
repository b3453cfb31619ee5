"""Where a clip's recipe goes, and who signs for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sky4 import __version__
from sky4.errors import RequestError, Sky4Failure
from sky4.files import partial_name
from sky4.media import xmp
from sky4.media.credentials import Credentials, check_credentials, sign
from sky4.media.destination import output_format
from sky4.media.recipe import encode_recipe, sidecar_of

EDITED = ("sources", "video", "audio", "soundtrack")  # of a request: with any of them, part of the clip is given


@dataclass(frozen=True)
class Provenance:
    """inside: the recipe lies in the file. sidecar: it lies beside it. credentials: the file is signed with them."""

    inside: bool = True
    sidecar: bool = False
    credentials: Credentials | None = None


INSIDE = Provenance()  # what is usual: the recipe in the file, and nothing else


def check_provenance(path: Path, provenance: Provenance, force: bool) -> None:
    """Refuse what could not be written or signed in the end, before any work is done: RequestError with the remedy."""
    beside = sidecar_of(path)
    if provenance.sidecar and os.path.lexists(beside):
        if not force:
            raise RequestError(f"--sidecar: '{beside}' exists already; choose another output, or --force to replace it")
        if beside.is_dir():
            raise RequestError(f"--sidecar: '{beside}' is a folder, which --force does not replace; move it away")
    if provenance.credentials is not None:
        check_credentials(provenance.credentials, path)


def put_inside(partial: Path, path: Path, recipe: Mapping[str, Any], provenance: Provenance) -> None:
    """What a finished file gets beside its comment, before it takes its name: the XMP box, and a signature over all.

    partial: the file as it lies now; path: as it will be called. Sky4Failure where it cannot be signed.
    """
    source = source_type(recipe)
    if provenance.inside and output_format(path).muxer in ("mp4", "mov"):
        xmp.append(partial, xmp.packet(encode_recipe(recipe), f"sky4 {__version__}", source))
    if provenance.credentials is not None:
        sign(partial, path, provenance.credentials, source)


def put_beside(path: Path, recipe: Mapping[str, Any], force: bool) -> None:
    """Write the sidecar, whole or not at all, of a clip that stands. Sky4Failure where that fails."""
    beside = sidecar_of(path)
    partial = partial_name(beside)
    try:
        partial.write_text(encode_recipe(recipe) + "\n", "utf-8")
        if force:
            os.replace(partial, beside)
        else:
            os.link(partial, beside)  # unlike a rename, this does not replace what somebody put there meanwhile
    except OSError as error:
        raise Sky4Failure(
            f"'{path}' was made, and its recipe could not be written to '{beside}' ({error.strerror})"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def source_type(recipe: Mapping[str, Any]) -> str:
    """IPTC's word for where the clip comes from: a model alone, or a model and what was given to it."""
    request = recipe.get("request")
    given = isinstance(request, Mapping) and any(request.get(name) for name in EDITED)
    return xmp.COMPOSITE if given else xmp.TRAINED
