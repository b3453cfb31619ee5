"""Cases of dense attention: joint over media and text with and without its preparation, across towers, preparation.

B = 1, H heads, N media tokens, N_t text tokens, d channels per head; tensors are [B, N, H, d].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sky4.bench import exact, ours
from sky4.bench.cases import OURS, Built, Candidate, Case, Setting
from sky4.bench.opponents import Attention, norm_rope, rivals, sdpa_rivals
from sky4.bench.shapes import AttentionShape
from sky4.conditioning.tokens import video_positions
from sky4.model.layers import NORM_EPS
from sky4.model.rope import rotation

THETA = 256.0  # the published base; the rate does not depend on it
BACKWARD = 2.5  # flop of the backward to those of the forward: five products instead of two
Told = Callable[[Callable[[Any], Tensor]], dict[str, Any]]
COPIES = 14  # of one stream that a case holds at once: inputs, prepared, joined and reordered ones, outputs


@dataclass(frozen=True)
class Streams:
    """Tokens of each segment; queries and keys differ across towers."""

    heads: int
    channels: int
    queries: tuple[int, ...]
    keys: tuple[int, ...]

    @property
    def pairs(self) -> int:
        """Queries times keys, of all heads."""
        return self.heads * sum(self.queries) * sum(self.keys)

    @property
    def flop(self) -> int:
        return 4 * self.channels * self.pairs

    def bytes(self, dtype: torch.dtype) -> int:
        """Queries and output, keys and values: each once."""
        return 2 * self.heads * self.channels * (sum(self.queries) + sum(self.keys)) * dtype.itemsize

    def memory(self, dtype: torch.dtype) -> int:
        return COPIES * self.bytes(dtype) // 4


def attention_cases(shape: AttentionShape, setting: Setting, kernels: set[str], backward: bool) -> list[Case]:
    """The cases of one shape that `kernels` asks for."""
    media = (shape.media, shape.text) if shape.text else (shape.media,)
    joint = Streams(shape.heads, shape.channels, media, media)
    cases = []
    if "prep" in kernels:
        cases.append(_prep(f"prep {shape.name}", joint, setting))
    if "prepared_attention" in kernels:
        cases.append(_prepared(f"prepared_attention {shape.name}", joint, setting))
    if "joint_attention" in kernels:
        cases.append(_plain(f"joint_attention {shape.name}", joint, setting))
        if backward:
            cases.append(_backward(f"joint_attention backward {shape.name}", joint, setting))
    if "cross_attention" in kernels and shape.audio_tokens:
        video, audio = (shape.media,), (shape.audio_tokens,)
        for name, queries, keys in (("audio reads video", audio, video), ("video reads audio", video, audio)):
            streams = Streams(shape.heads, shape.channels, queries, keys)
            cases.append(_plain(f"cross_attention {shape.name}, {name}", streams, setting))
    return cases


def _case(name: str, streams: Streams, setting: Setting, build: Callable[[], Built], **changes: Any) -> Case:
    known: dict[str, Any] = {
        "flop": streams.flop,
        "bytes": streams.bytes(setting.dtype),
        "memory": streams.memory(setting.dtype),
    }
    return Case(name, build, **known | changes)


def _plain(name: str, streams: Streams, setting: Setting) -> Case:
    """Attention alone. Torch is given what suits it best: joined, heads first, contiguous."""

    def build() -> Built:
        q, k, v = _inputs(streams, setting)

        def truth(rows: Tensor) -> Tensor:
            return exact.attention(_joined(q), _joined(k), _joined(v), rows)

        told = _against("output", truth, sum(streams.queries), streams.pairs)
        candidates = {
            OURS: Candidate(lambda: ours.attention(q, k, v, setting.backend), **told(_joined), **_by(q, setting))
        }
        joined = [_heads_first(x) for x in (q, k, v)]
        missing = _add_rivals(candidates, joined, told(_tokens_first), streams.flop >= setting.compile_from)
        return Built(candidates, missing)

    return _case(name, streams, setting, build)


def _add_rivals(
    candidates: dict[str, Candidate], joined: list[Tensor], told: dict[str, Any], compiled: bool
) -> dict[str, str]:
    missing = {}
    for rival, found in rivals(joined[0], joined[1], joined[2], compiled).items():
        if isinstance(found, str):
            missing[rival] = found
        elif reason := _too_large(rival, joined):
            missing[rival] = reason
        else:
            candidates[rival] = Candidate(_bind(found, *joined), **told)
    return missing


def _too_large(rival: str, joined: list[Tensor]) -> str:
    """The math backend holds every score."""
    q, k, _ = joined
    scores = q.shape[1] * q.shape[2] * k.shape[2] * 4
    limit = 2**35 if q.is_cuda else 2**29  # beyond, the CPU spends its time on memory
    if rival.endswith("math") and scores > limit:
        return f"its scores alone would take {scores / 2**30:.0f} GiB"
    return ""


def _backward(name: str, streams: Streams, setting: Setting) -> Case:
    """The backward alone: the graph is made once and kept."""

    def build() -> Built:
        q, k, v = ([x.requires_grad_() for x in part] for part in _inputs(streams, setting))
        tokens = sum(streams.queries)
        out_grad = setting.randn(1, tokens, streams.heads, streams.channels, generator=setting.generator)

        def truth(rows: Tensor) -> Tensor:
            joined = [_joined(part).detach() for part in (q, k, v)]
            return exact.query_gradient(joined[0], joined[1], joined[2], out_grad, rows)

        told = _against("gradient of the queries", truth, tokens, streams.pairs)
        candidates: dict[str, Candidate] = {}
        missing: dict[str, str] = {}

        def add(subject: str, out: Tensor, leaves: list[Tensor], finish: Callable[[Any], Tensor]) -> None:
            grad = out_grad if subject == OURS else out_grad.transpose(1, 2)
            call = _bind(torch.autograd.grad, out, leaves, grad)
            candidates[subject] = Candidate(lambda: call(retain_graph=True), **told(finish))

        with torch.enable_grad():
            out = _joined(ours.attention(q, k, v, setting.backend))
            add(OURS, out, [*q, *k, *v], lambda grads: torch.cat(grads[: len(q)], 1))
            leaves = [_heads_first(x).detach().requires_grad_() for x in (q, k, v)]
            for rival, found in rivals(leaves[0], leaves[1], leaves[2], streams.flop >= setting.compile_from).items():
                reason = found if isinstance(found, str) else _too_large(rival, leaves)
                if not reason and not isinstance(found, str):
                    add(rival, found(*leaves), leaves, lambda grads: grads[0].transpose(1, 2))
                else:
                    missing[rival] = str(reason)
        return Built(candidates, missing)

    flop, moved = round(BACKWARD * streams.flop), 2 * streams.bytes(setting.dtype)
    return _case(name, streams, setting, build, flop=flop, bytes=moved, memory=2 * streams.memory(setting.dtype))


def _prepared(name: str, streams: Streams, setting: Setting) -> Case:
    """Norm, rotation and attention from the projection's output, as a block of the model calls them."""

    def build() -> Built:
        q, k, v = _inputs(streams, setting)
        turns, weight = _turns(streams, setting), _weight(streams, setting)

        def ready(x: list[Tensor]) -> list[Tensor]:
            return [exact.norm_rope(part, weight, turn, NORM_EPS) for part, turn in zip(x, turns, strict=True)]

        def truth(rows: Tensor) -> Tensor:
            return exact.attention(_joined(ready(q)), _joined(ready(k)), _joined(v), rows)

        told = _against("output", truth, sum(streams.queries), streams.pairs)
        candidates = {
            OURS: Candidate(
                lambda: ours.prepared_attention(q, k, v, weight, turns, NORM_EPS, setting.backend),
                **told(_joined),
                **_by(q, setting),
            )
        }
        missing = {}
        for rival, found in sdpa_rivals(setting.device, setting.dtype, streams.channels).items():
            if rival.endswith("math"):
                continue  # attention alone shows how slow it is
            subject = f"torch norm + rope + cat + {rival.removeprefix('torch ')}"
            if isinstance(found, str):
                missing[subject] = found
            else:
                candidates[subject] = Candidate(
                    _bind(_compose, found, q, k, v, weight, turns), **told(lambda out: out.transpose(1, 2))
                )
        return Built(candidates, missing)

    return _case(name, streams, setting, build)


def _compose(
    attend: Attention,
    q: list[Tensor],
    k: list[Tensor],
    v: list[Tensor],
    weight: Tensor,
    turns: list[Tensor | None],
) -> Tensor:
    """As it is written without fused kernels: the opponent that users have."""
    q_all, k_all = (
        torch.cat([norm_rope(x, weight, turn, NORM_EPS) for x, turn in zip(part, turns, strict=True)], 1)
        for part in (q, k)
    )
    return attend(q_all.transpose(1, 2), k_all.transpose(1, 2), torch.cat(v, 1).transpose(1, 2))


def _prep(name: str, streams: Streams, setting: Setting) -> Case:
    """Queries and keys of both segments, each read and written once."""

    def build() -> Built:
        q, k, _ = _inputs(streams, setting)
        turns, weight = _turns(streams, setting), _weight(streams, setting)
        both = list(zip((*q, *k), (*turns, *turns), strict=True))

        def error(found: Any) -> float:
            pairs = zip(found, both, strict=True)
            return max(exact.max_error(y, exact.norm_rope(x, weight, turn, NORM_EPS)) for y, (x, turn) in pairs)

        told: dict[str, Any] = {"error": error, "error_of": "output, all rows"}
        return Built(
            {
                OURS: Candidate(
                    lambda: [ours.prep(x, weight, turn, NORM_EPS, setting.backend) for x, turn in both], **told
                ),
                "torch norm + rope": Candidate(
                    lambda: [norm_rope(x, weight, turn, NORM_EPS) for x, turn in both], **told
                ),
            }
        )

    moved = 4 * streams.heads * streams.channels * sum(streams.queries) * setting.dtype.itemsize
    return _case(name, streams, setting, build, flop=None, bytes=moved)


def _inputs(streams: Streams, setting: Setting) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Queries, keys and values by segment: views of one projection's output, as in the model."""
    generator = setting.generator
    found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    if streams.queries == streams.keys:
        for tokens in streams.queries:
            qkv = setting.randn(1, tokens, 3, streams.heads, streams.channels, generator=generator)
            for part, x in zip(found, qkv.unbind(2), strict=True):
                part.append(x)
        return found
    for tokens in streams.queries:
        found[0].append(setting.randn(1, tokens, streams.heads, streams.channels, generator=generator))
    for tokens in streams.keys:
        kv = setting.randn(1, tokens, 2, streams.heads, streams.channels, generator=generator)
        found[1].append(kv[:, :, 0])
        found[2].append(kv[:, :, 1])
    return found


def _turns(streams: Streams, setting: Setting) -> list[Tensor | None]:
    """The rotation of the media tokens; text has none."""
    d = streams.channels
    axes = (d // 8, d * 7 // 16, d * 7 // 16)  # as published for 128 channels: 16, 56, 56
    row = math.isqrt(streams.queries[0])
    positions = video_positions(1, -(-streams.queries[0] // row), row)[: streams.queries[0]]
    turn = rotation(positions.to(setting.device), axes, THETA)
    return [turn, None][: len(streams.queries)]


def _weight(streams: Streams, setting: Setting) -> Tensor:
    return setting.randn(streams.channels, generator=setting.generator) * 0.1 + 1


def _against(what: str, truth: Callable[[Tensor], Tensor], queries: int, pairs: int) -> Told:
    """How a candidate's error is found: `finish` brings what it returned to [1, N, H, d], `truth` gives some rows."""
    rows = exact.checked_rows(queries, pairs)

    def told(finish: Callable[[Any], Tensor]) -> dict[str, Any]:
        def error(found: Any) -> float:
            return exact.max_error(finish(found)[:, rows], truth(rows))

        return {"error": error, "error_of": f"{what}, {exact.told_rows(rows, queries)}"}

    return told


def _by(q: list[Tensor], setting: Setting) -> dict[str, Any]:
    return {"backend": ours.backend_of("joint_attention", q[0], setting.backend)}


def _heads_first(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts, 1).transpose(1, 2).contiguous()


def _tokens_first(out: Tensor) -> Tensor:
    return out.transpose(1, 2)


def _joined(outs: Any) -> Tensor:
    return torch.cat(list(outs), 1) if isinstance(outs, tuple | list) else outs


def _bind(function: Callable[..., Any], *values: Any) -> Callable[..., Any]:
    """functools.partial, but a plain function, which torch.compile and the profiler name well."""
    return lambda **more: function(*values, **more)
