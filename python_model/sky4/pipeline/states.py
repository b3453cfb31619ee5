"""The state of clips under way, on the disk: a run that was killed goes on from it, to the same bits.

    sky4-state.json                 what the state belongs to (resume.py)
    SEED/sampling.safetensors       where the sampling of one window stands
    SEED/refining.safetensors       where the refining of that window stands, once it is sampled
    SEED/window-0003.safetensors    the latents of a window that is sampled, and its colours
    SEED/kept-0003.safetensors      the frames that the window behind it keeps
    SEED/decoding.json              while frames are decoded
    SEED/written.json               in place of all that, once the clip's file is there

Every file is written beside its place and renamed, and tells its own checksum; one that does not hold is passed over
with a note, and what it held is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from sky4.diffusion.sampler import MODALITIES, Moment, State
from sky4.encoders.tiling import SmallerTiles
from sky4.errors import RequestError
from sky4.pipeline.clip import checksum, facts_of
from sky4.pipeline.components import Components
from sky4.pipeline.joining import ColourMatch
from sky4.pipeline.replacing import read_json, write_json
from sky4.pipeline.request import ClipRequest
from sky4.pipeline.resume import FORMAT, NAME, VERSION, read_state, require_same
from sky4.pipeline.segments import Window
from sky4.pipeline.state_files import Held, read_tensors, write_tensors
from sky4.pipeline.windows import Frames, MadeWindow

SAMPLING, REFINING = "sampling.safetensors", "refining.safetensors"
DECODING, WRITTEN = "decoding.json", "written.json"
# Writing may take up to this share of the time: small states are written at each step, large ones less often.
SHARE = 0.05

log = logging.getLogger("sky4")


@dataclass(frozen=True)
class ResumeFolder:
    """The state of a request's clips. facts: what decides their bits, as JSON values.

    every: steps between two writings, None for as often as SHARE allows. writes: whether this process writes, or only
    goes on from what another one, the first, has written.
    """

    path: Path
    facts: dict[str, Any]
    every: int | None = None
    writes: bool = True

    @classmethod
    def open(cls, path: Path, request: ClipRequest, components: Components, every: int | None = None) -> ResumeFolder:
        """Begin, or go on. RequestError where what lies there was made of, with or by something else."""
        facts = facts_of(request, components)
        if not components.ranks.first:
            return cls(path, facts, every, writes=False)
        there = read_state(path)
        if there is not None:
            require_same(path, there, facts)
        else:
            _remove(path)
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / NAME, {"format": FORMAT, "version": VERSION, **facts})
        return cls(path, facts, every)

    @classmethod
    def afresh(cls, path: Path, request: ClipRequest, components: Components) -> ResumeFolder:
        """As `open`, but what was made of, with or by something else goes: for a folder that nobody else uses."""
        try:
            return cls.open(path, request, components)
        except RequestError:
            cls(path, {}).clear()
            return cls.open(path, request, components)

    def clip(self, request: ClipRequest) -> ClipStates:
        """The state of one of the request's variations."""
        facts = {**self.facts, "request": request.to_dict()}
        identity = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return ClipStates(self.path / str(request.seed), identity, self.every, self.writes)

    def clear(self) -> None:
        """All clips are written: take away what was kept of them, and the folder if nothing else lies in it."""
        _remove(self.path)
        with suppress(OSError):
            self.path.rmdir()


class ClipStates:
    """The state of one clip. identity: of its request; a file that carries another one is not used.

    A disk that takes no more does not end the run: it goes on, unsaved, with a note.
    """

    def __init__(self, folder: Path, identity: str, every: int | None = None, writes: bool = True) -> None:
        self.folder = folder
        self._identity = identity
        self._every = every
        self._writes = writes

    @property
    def written(self) -> dict[str, Any] | None:
        """What `finish` was told of the file, as long as that is still there."""
        values = read_json(self.folder / WRITTEN)
        return values if values is not None and Path(str(values.get("path"))).exists() else None

    def finish(self, values: Mapping[str, Any]) -> None:
        """The clip's file (values["path"]) is there: its state goes."""
        self._attempt(lambda: write_json(self.folder / WRITTEN, values))
        for file in _ours(self.folder):
            if file.name != WRITTEN:
                file.unlink(missing_ok=True)

    def windows(self, plan: tuple[Window, ...]) -> tuple[list[MadeWindow], Frames | None]:
        """The windows that are made already, and the frames that the next one keeps; None where they are not held."""
        made: list[MadeWindow] = []
        for window in plan:
            held = self._read(_window_name(window))
            if held is None:
                break
            made.append(
                MadeWindow(
                    window,
                    _latents(held.tensors),
                    _match(held.tensors),
                    int(held.facts.get("rate", 1)),
                    held.tensors.get("low"),
                )
            )
        kept = self._read(_kept_name(made[-1].window)) if made else None
        return made, None if kept is None else np.asarray(kept.tensors["frames"].numpy(), np.uint8)

    def finish_window(self, made: MadeWindow, kept: Frames | None) -> None:
        """A window is made, and its successor keeps these frames of it."""
        window, tensors = made.window, _named(made.latents)
        if made.match is not None:
            tensors |= {"gain": torch.tensor(made.match.gain, dtype=torch.float64)}
            tensors |= {"offset": torch.tensor(made.match.offset, dtype=torch.float64)}
        if made.low is not None:
            tensors |= {"low": made.low}
        if kept is not None:  # first: a window that is there has all that the next one wants
            self._write(_kept_name(window), {"frames": torch.from_numpy(np.ascontiguousarray(kept))}, {})
        self._write(_window_name(window), tensors, {"rate": made.rate})
        if not self._writes:  # what is there stays
            return
        for file in (self.folder / SAMPLING, self.folder / REFINING, *self.folder.glob("kept-*")):
            if file.name != _kept_name(window):
                file.unlink(missing_ok=True)

    @contextmanager
    def sampling(self, key: str, start: State, steps: int, file: str = SAMPLING) -> Iterator[SamplingState]:
        """Around the sampling of one window, by its key, or (file=REFINING) its refining, during which what was sampled
        stays. The newest moment is written however the block ends."""
        noise = {name: checksum(part) for name, part in zip(MODALITIES, start, strict=True) if part is not None}
        facts = {"key": key, "steps": steps, "start": noise}
        state = SamplingState(self, file, facts, self._moment(file, facts, start), self._every)
        try:
            yield state
        finally:
            state.flush()

    def _moment(self, file: str, facts: dict[str, Any], start: State) -> Moment | None:
        held = self._read(file)
        if held is None:
            return None
        if any(held.facts.get(name) != value for name, value in facts.items()):
            if held.facts.get("key") == facts["key"]:
                log.warning(f"{self.folder / file} began from other noise or steps, so sampling begins anew")
            return None
        device = next(part.device for part in start if part is not None)
        tensors = {name: value.to(device) if value.ndim else value for name, value in held.tensors.items()}
        past = {name.removeprefix("history "): part for name, part in tensors.items() if name.startswith("history ")}
        return Moment(int(held.facts["step"]), _latents(tensors), past)

    def write_moment(self, file: str, facts: Mapping[str, Any], moment: Moment) -> None:
        history = {f"history {name}": value for name, value in moment.history.items()}
        self._write(file, _named(moment.latents) | history, {**facts, "step": moment.step})

    @contextmanager
    def decoding(self, codec: SmallerTiles | None) -> Iterator[None]:
        """Around the decoding into a file; None: there is no picture to decode.

        A process that died inside it, as one does that ran out of memory, left a mark: this one begins with smaller
        pieces.
        """
        if codec is None:
            yield
            return
        mark = self.folder / DECODING
        before = read_json(mark)
        if before is not None and codec.decode_smaller(int(before.get("rung", 0)) + 1):
            log.warning("the run before this one ended while it decoded, so this one decodes in smaller pieces")
        self._attempt(lambda: write_json(mark, {"rung": codec.rung}))
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def _write(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        told = {**facts, "identity": self._identity}
        self._attempt(lambda: write_tensors(self.folder / name, tensors, told))

    def _attempt(self, write: Callable[[], None]) -> None:
        if not self._writes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write()
        except (OSError, SafetensorError) as error:
            self._writes = False
            why = getattr(error, "strerror", None) or error
            log.warning(f"the state cannot be written to '{self.folder}' ({why}); the run goes on without")

    def _read(self, name: str) -> Held | None:
        return read_tensors(self.folder / name, identity=self._identity)


class NoStates:
    """Nothing is kept: what stands in for ClipStates where no folder was named."""

    written: dict[str, Any] | None = None

    def finish(self, values: Mapping[str, Any]) -> None:
        pass

    def windows(self, plan: tuple[Window, ...]) -> tuple[list[MadeWindow], Frames | None]:
        return [], None

    def finish_window(self, made: MadeWindow, kept: Frames | None) -> None:
        pass

    @contextmanager
    def sampling(self, key: str, start: State, steps: int, file: str = SAMPLING) -> Iterator[Unsaved]:
        yield Unsaved()

    @contextmanager
    def decoding(self, codec: SmallerTiles | None) -> Iterator[None]:
        yield


class Unsaved:
    """The sampling of a window of which nothing is kept."""

    resumed: Moment | None = None

    def passed(self, moment: Moment) -> None:
        pass


class SamplingState:
    """The sampling of one window: `resumed`, where it stood, and `passed`, which is told of each step."""

    def __init__(
        self, states: ClipStates, file: str, facts: dict[str, Any], resumed: Moment | None, every: int | None
    ) -> None:
        self.resumed = resumed
        self._states, self._file, self._facts, self._every = states, file, facts, every
        self._newest: Moment | None = None  # not written yet
        self._cost = 0.0  # seconds that the last writing took
        self._wrote = time.monotonic()

    def passed(self, moment: Moment) -> None:
        self._newest = moment
        last = moment.step == self._facts["steps"]
        if self._every is not None:
            due = moment.step % self._every == 0
        else:
            due = self._cost <= SHARE * (time.monotonic() - self._wrote)
        if due or last:  # the last one always: what follows is the decoding
            self.flush()

    def flush(self) -> None:
        if self._newest is not None:
            began = time.monotonic()
            self._states.write_moment(self._file, self._facts, self._newest)
            self._newest, self._wrote = None, time.monotonic()
            self._cost = self._wrote - began


def _window_name(window: Window) -> str:
    return f"window-{window.index:04d}.safetensors"


def _kept_name(window: Window) -> str:
    return f"kept-{window.index:04d}.safetensors"


def _named(latents: State) -> dict[str, Tensor]:
    return {name: part for name, part in zip(MODALITIES, latents, strict=True) if part is not None}


def _latents(tensors: Mapping[str, Tensor]) -> State:
    return tensors.get("video"), tensors.get("audio")


def _match(tensors: Mapping[str, Tensor]) -> ColourMatch | None:
    if "gain" not in tensors:
        return None
    (r, g, b), (x, y, z) = tensors["gain"].tolist(), tensors["offset"].tolist()
    return ColourMatch((r, g, b), (x, y, z))


def _ours(folder: Path) -> Iterator[Path]:
    """What stands in a clip's folder by the names that are given here."""
    for pattern in (SAMPLING, REFINING, DECODING, WRITTEN, "window-*.safetensors", "kept-*.safetensors", ".*.partial"):
        yield from folder.glob(pattern)


def _remove(path: Path) -> None:
    """What sky4 wrote into a folder of states, and nothing else."""
    for folder in path.glob("*/"):
        if folder.name.isdecimal() and not folder.is_symlink():
            for file in _ours(folder):
                file.unlink(missing_ok=True)
            with suppress(OSError):  # somebody else's files lie in it
                folder.rmdir()
    for file in (path / NAME, *path.glob(f".{NAME}.*.partial")):
        file.unlink(missing_ok=True)
