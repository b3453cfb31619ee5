"""Orders carried out by Ray: one worker for each device, and another in its place when one dies.

Ray is an extra of the installation. Locks and journal stay with the process that runs the batch; the workers read
inputs and model and write clips, so all machines see the same paths.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sky4
from sky4.batch.work import Order, Outcome, Worker
from sky4.errors import RequestError, Sky4Failure

LOCAL = "local"
TRIES = 3  # of one job whose worker dies: a job that kills each worker must not go on for ever


def require_ray() -> Any:
    """The library. RequestError where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise RequestError("--ray needs Ray, which is not installed here; pip install 'sky4[ray]'") from error
    return ray


class Actor:
    """What runs at a device: a worker that takes and gives plain values."""

    def __init__(self) -> None:
        self._worker = Worker()

    def make(self, values: dict[str, Any]) -> dict[str, Any]:
        outcome = self._worker.make(Order.from_dict(values), _silent)
        return {"record": outcome.record, "message": outcome.message, "model_changed": outcome.model_changed}


@dataclass
class _Sent:
    name: str
    values: dict[str, Any]
    actor: Any
    tries: int = 1


class RayPool:
    """Use, then `close`. address: of a cluster; "local" begins one on this machine, for as long as the batch runs.

    workers: None takes one for each GPU of the cluster, or, where there is none, one for each machine.
    """

    def __init__(self, address: str = LOCAL, workers: int | None = None) -> None:
        self._ray = require_ray()
        self._address, self._workers = address, workers
        self._make_actor: Any = None
        self._idle: list[Any] = []
        self._sent: dict[Any, _Sent] = {}
        self.lost = 0  # workers that have died so far

    def start(self) -> None:
        """Reach the cluster and its devices; done by itself with the first order. RequestError, Sky4Failure."""
        local = self._address == LOCAL
        where: dict[str, Any] = {"include_dashboard": False} if local else {"address": self._address}
        if local and self._workers is not None:
            where["num_cpus"] = max(self._workers, os.cpu_count() or 1)  # workers may be more than cores
        try:
            self._ray.init(**where, log_to_driver=False, logging_level=logging.ERROR, **_ours(local))
            resources = self._ray.cluster_resources()
            machines = sum(1 for node in self._ray.nodes() if node["Alive"])
        except Exception as error:  # of many kinds, by what is wrong with the cluster
            reason = str(error).strip().partition("\n")[0]
            raise Sky4Failure(
                f"--ray {self._address}: Ray cannot be reached ({reason}); start it, or drop --ray"
            ) from error
        gpus = int(resources.get("GPU", 0))
        size = self._workers or gpus or machines
        if gpus and size > gpus:
            raise RequestError(f"--workers {size}: the cluster has {gpus} GPUs, one for a worker; ask for no more")
        cores = max(1, int(resources.get("CPU", 1)) // size)
        needs = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": cores}
        self._make_actor = self._ray.remote(**needs)(Actor).remote
        self._idle = [self._make_actor() for _ in range(size)]

    @property
    def free(self) -> bool:
        return self._make_actor is None or bool(self._idle)

    def submit(self, name: str, order: Order) -> None:
        if self._make_actor is None:
            self.start()
        self._send(_Sent(name, order.to_dict(), self._idle.pop(0)))

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        """Sky4Failure where the cluster is gone as a whole."""
        ready, _ = self._ray.wait(list(self._sent), num_returns=1, timeout=seconds)
        settled = []
        for reference in ready:
            sent = self._sent.pop(reference)
            try:
                outcome = Outcome(**self._ray.get(reference))
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.WorkerCrashedError):
                self.lost += 1
                actor = self._make_actor()
                if sent.tries < TRIES:
                    self._send(_Sent(sent.name, sent.values, actor, sent.tries + 1))
                    continue
                sent.actor = actor
                outcome = Outcome(message=f"its worker died {TRIES} times; see whether its memory suffices")
            except self._ray.exceptions.RayTaskError as error:
                outcome = Outcome(message=f"its worker could not begin it: {str(error.cause).partition(chr(10))[0]}")
            except self._ray.exceptions.RayError as error:
                raise Sky4Failure(f"Ray failed: {str(error).strip().partition(chr(10))[0]}") from error
            self._idle.append(sent.actor)
            settled.append((sent.name, outcome))
        return settled

    def close(self) -> None:
        """End the workers, and what was begun on this machine for them."""
        for actor in (*self._idle, *(sent.actor for sent in self._sent.values())):
            self._ray.kill(actor)
        self._ray.shutdown()

    def _send(self, sent: _Sent) -> None:
        self._sent[sent.actor.make.remote(sent.values)] = sent


def _ours(local: bool) -> dict[str, Any]:
    """Workers started here find this very library, however it was found by this process."""
    if not local:
        return {}
    roots = [str(Path(sky4.__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    return {"runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(root for root in roots if root)}}}


def _silent(stage: str, done: int, total: int) -> None:
    pass
