"""Folders of weights in the libraries' own formats: found, named, loaded strictly, safetensors only."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from sky4.errors import RequestError, Sky4Failure

# "owner/name", or "owner/name/sub/folder" for one part of a repository.
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(/[\w.-]+)*")
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
DIFFUSERS_PACKAGES = ("autoencoders", "transformers", "unets")
SHOWN_KEYS = 20  # a wrong folder differs in hundreds of names; the first tell which network it is


def find_folder(path: str | Path, what: str) -> Path:
    """The local folder of `path`: itself where it exists, else the files of a hub repository of that name.

    `what` names the part in messages ("a video codec"). Raises RequestError where neither is there.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise RequestError(f"{path} is a file, not a folder with {what}; give the folder that holds its config.json")
    if not HUB_NAME.fullmatch(str(path)):
        raise RequestError(f"there is no folder {path} with {what}; check the path, or give a hub name as owner/name")
    return _from_hub(str(path), what)


def read_json(path: Path) -> dict[str, Any]:
    """The object a JSON file holds; Sky4Failure where it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Sky4Failure(f"{path} cannot be read as JSON ({error}); fetch or export the folder again") from error
    if not isinstance(content, dict):
        raise Sky4Failure(f"{path} must hold one JSON object; fetch or export the folder again")
    return content


def read_config(folder: Path, what: str) -> dict[str, Any]:
    """The folder's config.json; RequestError where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise RequestError(f"{folder} is not {what}: it holds no config.json; give the folder that holds it")
    return read_json(path)


def load_diffusers(model_class: Any, folder: Path, device: str, dtype: torch.dtype) -> Any:
    """A frozen `diffusers` model with exactly the folder's weights. Raises Sky4Failure where they do not fit."""
    from safetensors import SafetensorError

    with quiet_libraries():
        try:
            model, info = model_class.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
            raise Sky4Failure(cannot_load(folder, error)) from error
    check_weights(folder, info["missing_keys"], info["unexpected_keys"])
    return model.to(device).eval().requires_grad_(False)


def check_weights(folder: Path, missing: Iterable[str], extra: Iterable[str]) -> None:
    """Raise Sky4Failure, listing the names, where a folder's weights are not exactly those of its config."""
    kinds = (("missing", sorted(missing)), ("extra", sorted(extra)))
    faults = [f"{kind} {_listed(names)}" for kind, names in kinds if names]
    if faults:
        raise Sky4Failure(
            f"the weights in {folder} do not fit its config.json: {'; '.join(faults)}; fetch or export the folder again"
        )


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' load reports and progress bars off the terminal; what matters is raised."""
    import diffusers.utils.logging
    import transformers.utils.logging

    loud = diffusers.utils.logging.get_verbosity(), transformers.utils.logging.get_verbosity()
    bars = transformers.utils.logging.is_progress_bar_enabled()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the libraries' own use of older torch functions
            yield
    finally:
        diffusers.utils.logging.set_verbosity(loud[0])
        transformers.utils.logging.set_verbosity(loud[1])
        if bars:
            transformers.utils.logging.enable_progress_bar()


@contextmanager
def single_modules() -> Iterator[None]:
    """Import a module of `diffusers.models` without its neighbours, which its packages' own __init__ would all load.

    That saves most of a second at every start. Inside, the packages stand open without having run; afterwards they are
    as if never imported, so that whoever asks for a package itself gets it whole.
    """
    import diffusers.models

    [root] = diffusers.models.__path__
    bare = {}
    for name in DIFFUSERS_PACKAGES:
        full = f"diffusers.models.{name}"
        if full not in sys.modules:
            bare[full] = sys.modules[full] = ModuleType(full)
            bare[full].__path__ = [str(Path(root, name))]
    try:
        yield
    finally:
        for full, module in bare.items():
            if sys.modules.get(full) is module:
                del sys.modules[full]
            if getattr(diffusers.models, full.rpartition(".")[2], None) is module:
                delattr(diffusers.models, full.rpartition(".")[2])


def cannot_load(folder: Path, error: Exception) -> str:
    """One sentence of a library's report."""
    report = " ".join(str(error).split())
    return f"the weights in {folder} cannot be loaded ({report[:400]}); fetch or export the folder again as safetensors"


def _from_hub(name: str, what: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    owner, repository, *inside = name.split("/")
    below = "/".join(inside)
    patterns = [f"{below}/{files}" if below else files for files in HUB_FILES]
    try:
        folder = Path(snapshot_download(f"{owner}/{repository}", allow_patterns=patterns)) / below
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RequestError(
            f"there is no folder {name} with {what}, and the hub does not give it ({reason}); check the name and the "
            "connection, or give a local folder"
        ) from error
    if not folder.is_dir():
        raise RequestError(f"the hub repository {owner}/{repository} has no folder {below} with {what}; check the name")
    return folder


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_KEYS} more" if len(names) > SHOWN_KEYS else ""
    return ", ".join(names[:SHOWN_KEYS]) + more
