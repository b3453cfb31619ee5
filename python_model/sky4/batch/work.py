"""One worker: it loads a model once, and makes one clip after the other from orders of plain values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sky4.batch.gates import NO_CHECK, checked, refusal
from sky4.batch.keys import ModelChanged
from sky4.errors import RequestError, Sky4Failure
from sky4.media import INSIDE, Credentials, Provenance
from sky4.pipeline.economy import Economy
from sky4.pipeline.engine import Engine
from sky4.pipeline.events import EventLog, open_events
from sky4.pipeline.model_folder import ModelFolder
from sky4.pipeline.request import ClipRequest

if TYPE_CHECKING:
    from sky4.pipeline.clip import Progress
    from sky4.pipeline.components import Components
    from sky4.prompting.enhance import LocalRewriter


@dataclass(frozen=True)
class Order:
    """One clip: of this request, by these weights, at this place. replace: what lies there may go.

    model: the digest of the weights that the batch began with. state: a folder for how far it has come, its own.
    events: a file that the making is told to, as `command`'s. check: hold the clip against the gates of `sky4 check`.
    """

    request: ClipRequest
    engine: Engine
    out: Path
    model: str
    state: Path
    replace: bool = False
    enhancer: Path | None = None
    provenance: Provenance = INSIDE
    events: str | None = None
    command: str = ""
    check: bool = True

    def to_dict(self) -> dict[str, Any]:
        """JSON values for a worker elsewhere."""
        engine = {**asdict(self.engine), "model": str(self.engine.model.absolute())}
        enhancer = None if self.enhancer is None else str(self.enhancer.absolute())
        signer = self.provenance.credentials
        told = {
            "out": str(self.out.absolute()),
            "model": self.model,
            "replace": self.replace,
            "enhancer": enhancer,
            "inside": self.provenance.inside,
            "sidecar": self.provenance.sidecar,
            "signer": None if signer is None else [str(signer.certificate), str(signer.key)],
            "events": self.events,
            "command": self.command,
            "check": self.check,
        }
        return {"request": self.request.to_dict(), "engine": engine, "state": str(self.state.absolute()), **told}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Order:
        told = values["engine"]
        engine = Engine(**{**told, "model": Path(told["model"]), "economy": Economy(**told["economy"])})
        enhancer = None if values["enhancer"] is None else Path(values["enhancer"])
        request = ClipRequest.from_dict(values["request"])
        out, state, signer = Path(values["out"]), Path(values["state"]), values["signer"]
        credentials = None if signer is None else Credentials(*map(Path, signer))
        provenance = Provenance(values["inside"], values["sidecar"], credentials)
        more = (values["replace"], enhancer, provenance, values["events"], values["command"], values["check"])
        return cls(request, engine, out, values["model"], state, *more)


@dataclass(frozen=True)
class Outcome:
    """What became of an order: the clip's record, or why there is none."""

    record: dict[str, Any] | None = None
    message: str = ""
    model_changed: bool = False


def make_clip(order: Order, components: Components, progress: Progress) -> dict[str, Any]:
    """Make an order's clip and write it; returns its record. RequestError and Sky4Failure as the pipeline.

    The order's state, where a run that was killed goes on from, is gone once the clip is written.
    """
    from sky4.pipeline.finish import finish
    from sky4.pipeline.generate import generate_clips
    from sky4.pipeline.states import ResumeFolder

    began = time.monotonic()
    request = order.request
    states = ResumeFolder.afresh(order.state, request, components)
    clip = next(generate_clips(request, components, progress, states))
    with states.clip(clip.request).decoding(components.video_codec if request.runs_video else None):
        finished = finish(clip, order.out, order.replace, progress, order.provenance)
    states.clear()
    record = finished.record(time.monotonic() - began)
    if order.check:
        progress("checking the file", 0, 1)
        record["check"] = checked(order.out, order.provenance)
    return record


def fitted(order: Order, progress: Progress) -> Engine:
    """The order's engine, as its plan has it where its memory is limited. DoesNotFit where nothing fits."""
    if order.engine.memory is None:
        return order.engine
    from sky4.pipeline.validate import validate
    from sky4.planning.fitting import engine_of, plan_of
    from sky4.planning.sketch import ModelSketch

    progress("planning", 0, 1)
    folder = ModelFolder.read(order.engine.model)
    geometry = validate(order.request, folder)
    return engine_of(plan_of(order.request, geometry, ModelSketch.read(folder), order.engine), order.engine)


def followed(order: Order) -> AbstractContextManager[EventLog | None]:
    """Around the making of one clip: its events, where they are asked for. RequestError where they cannot be told."""
    return nullcontext() if order.events is None else EventLog(open_events(order.events), order.command)


def both(one: Progress, other: Progress) -> Progress:
    """What is told to two."""

    def say(stage: str, done: int, total: int) -> None:
        one(stage, done, total)
        other(stage, done, total)

    return say


class Worker:
    """Keeps the model of the last order loaded."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._components: Components | None = None
        self._rewriters: dict[Path, LocalRewriter] = {}

    def make(self, order: Order, progress: Progress) -> Outcome:
        """Every error of this one job becomes its outcome; only an interrupt goes through."""
        try:
            with followed(order) as log:
                say = progress if log is None else both(progress, log.stage)
                components = self._loaded(replace(order, engine=fitted(order, say)), say)
                request = self._enhanced(order.request, order.enhancer, say)
                record = make_clip(replace(order, request=request), components, say)
                if log is not None:
                    log.artifact("clip", order.out, record)
                    if why := refusal(record.get("check", NO_CHECK)):
                        log.warning(why)
                return Outcome(record)
        except ModelChanged as error:
            return Outcome(message=str(error), model_changed=True)
        except (RequestError, Sky4Failure) as error:
            return Outcome(message=" ".join(str(error).split()))
        except MemoryError:
            return Outcome(message="memory ran out; lower --size or --frames")
        except Exception as error:  # one job's bug must not end the others
            return Outcome(message=f"unexpected {type(error).__name__}: {' '.join(str(error).split())}")

    def _loaded(self, order: Order, progress: Progress) -> Components:
        from sky4.pipeline.components import Components

        if self._components is None or self._engine != order.engine:
            self._components = self._engine = None  # the old weights go before the new ones come
            progress("loading", 0, 1)
            engine = order.engine
            found = Components.load(
                engine.model, engine.device, engine.dtype, engine.attention_backend, engine.threads, engine.economy
            )
            _ = found.transformer, found.video_codec, found.audio_codec, found.text_encoder
            self._components, self._engine = found, engine
        if self._components.digest != order.model:  # read after the weights, so that both are of one state
            raise ModelChanged(
                f"the model in '{order.engine.model}' changed while the batch was running; start it again"
            )
        return self._components

    def _enhanced(self, request: ClipRequest, folder: Path | None, progress: Progress) -> ClipRequest:
        if folder is None:
            return request
        from sky4.prompting.enhance import LocalRewriter, enhance

        progress("rewriting the prompt", 0, 1)
        if folder not in self._rewriters:
            self._rewriters[folder] = LocalRewriter(folder)
        made = enhance(request.prompt, self._rewriters[folder], request.names)
        return replace(request, prompt=made.prompt, enhanced_from=made.original)
