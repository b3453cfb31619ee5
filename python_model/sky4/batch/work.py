"""One worker: it loads a model once, and makes one clip after the other from orders of plain values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sky4.batch.keys import ModelChanged
from sky4.errors import RequestError, Sky4Failure
from sky4.pipeline.economy import Economy
from sky4.pipeline.engine import Engine
from sky4.pipeline.request import ClipRequest

if TYPE_CHECKING:
    from sky4.pipeline.clip import Progress
    from sky4.pipeline.components import Components
    from sky4.prompting.enhance import LocalRewriter


@dataclass(frozen=True)
class Order:
    """One clip: of this request, by these weights, at this place. replace: what lies there may go.

    model: the digest of the weights that the batch began with. state: a folder for how far it has come, its own.
    """

    request: ClipRequest
    engine: Engine
    out: Path
    model: str
    state: Path
    replace: bool = False
    enhancer: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values for a worker elsewhere."""
        engine = {**asdict(self.engine), "model": str(self.engine.model.absolute())}
        enhancer = None if self.enhancer is None else str(self.enhancer.absolute())
        told = {"out": str(self.out.absolute()), "model": self.model, "replace": self.replace, "enhancer": enhancer}
        return {"request": self.request.to_dict(), "engine": engine, "state": str(self.state.absolute()), **told}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Order:
        told = values["engine"]
        engine = Engine(**{**told, "model": Path(told["model"]), "economy": Economy(**told["economy"])})
        enhancer = None if values["enhancer"] is None else Path(values["enhancer"])
        request = ClipRequest.from_dict(values["request"])
        out, state = Path(values["out"]), Path(values["state"])
        return cls(request, engine, out, values["model"], state, values["replace"], enhancer)


@dataclass(frozen=True)
class Outcome:
    """What became of an order: the clip's record, or why there is none."""

    record: dict[str, Any] | None = None
    message: str = ""
    model_changed: bool = False


def make_clip(
    request: ClipRequest, components: Components, out: Path, replace_it: bool, progress: Progress, state: Path
) -> dict[str, Any]:
    """Make one clip from one request and write it; returns its record. RequestError and Sky4Failure as the pipeline.

    state: where a run that was killed goes on from; gone once the clip is written.
    """
    from sky4.pipeline.finish import finish
    from sky4.pipeline.generate import generate_clips
    from sky4.pipeline.states import ResumeFolder

    began = time.monotonic()
    states = ResumeFolder.afresh(state, request, components)
    clip = next(generate_clips(request, components, progress, states))
    with states.clip(clip.request).decoding(components.video_codec if request.runs_video else None):
        finished = finish(clip, out, replace_it, progress)
    states.clear()
    return finished.record(time.monotonic() - began)


class Worker:
    """Keeps the model of the last order loaded."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._components: Components | None = None
        self._rewriters: dict[Path, LocalRewriter] = {}

    def make(self, order: Order, progress: Progress) -> Outcome:
        """Every error of this one job becomes its outcome; only an interrupt goes through."""
        try:
            components = self._loaded(order, progress)
            request = self._enhanced(order.request, order.enhancer, progress)
            return Outcome(make_clip(request, components, order.out, order.replace, progress, order.state))
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
