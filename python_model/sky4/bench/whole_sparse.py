"""The case of Video Sparse Attention as a whole: means, choice, coarse and fine stage, gates, and the text's rows.

What a block of the refiner calls, against dense attention over the same tokens. B = 1, H heads, N video tokens in cube
order, N_t text tokens, d channels per head, M cubes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sky4.bench import exact, ours
from sky4.bench.cases import OURS, Built, Candidate, Case, Setting
from sky4.bench.shapes import CubeShape, cubes_of
from sky4.bench.sparse import DENSE, Selection, chosen_cubes, inputs, sparse_case, title


def whole_cases(shape: CubeShape, setting: Setting, kernels: set[str]) -> list[Case]:
    """The one case of a shape, where `kernels` asks for it."""
    if "video_sparse_attention" not in kernels:
        return []
    count = cubes_of(shape.grid)

    def build() -> Built:
        q, k, v, text_k, text_v = inputs(shape, setting)
        text_q = setting.randn(*text_k.shape, generator=setting.generator)
        text = (text_q, text_k, text_v) if shape.text else None
        gates = (torch.full_like(q[:, :1], 0.5), torch.full_like(q[:, :1], 0.75))
        tiling = ours.cube_tiling(shape.grid)
        rows = exact.checked_rows(q.shape[1], shape.heads * q.shape[1] ** 2)

        def error(found: tuple[Tensor, Tensor | None]) -> float:
            """Against both stages in float64, on the cubes that ours chooses: where scores tie, others may do too."""
            starts = tiling.starts.to(q.device)
            q_means, k_means, v_means = (ours.cube_means(x, starts) for x in (q, k, v))
            bits = ours.select(q_means, k_means, shape.keep, setting.backend)
            chosen = Selection(shape, chosen_cubes(bits, count, shape.keep))
            keys, values = torch.cat([k, text_k], 1), torch.cat([v, text_v], 1)
            fine = exact.attention(q, keys, values, rows, chosen.allowed(rows, shape.text))
            coarse = exact.attention(q_means, k_means, v_means, torch.arange(count))
            return exact.max_error(found[0][:, rows], coarse[:, chosen.cube_of[rows]] * 0.5 + fine * 0.75)

        what = f"output, {exact.told_rows(rows, q.shape[1])}"
        served = ours.backend_of("block_sparse_attention", q, setting.backend)
        all_q, all_k, all_v = (
            [x, words] if shape.text else [x] for x, words in ((q, text_q), (k, text_k), (v, text_v))
        )
        dense: dict[str, Any] = {"flop": 4 * shape.heads * shape.channels * (q.shape[1] + shape.text) ** 2}
        return Built(
            {
                OURS: Candidate(
                    lambda: ours.sparse((q, k, v), text, tiling, shape.keep / count, gates, setting.backend),
                    error,
                    what,
                    backend=served,
                ),
                DENSE: Candidate(lambda: ours.attention(all_q, all_k, all_v, setting.backend), **dense),
            }
        )

    # beside the fine stage: the coarse one and the scores of the choice, and the text's rows
    more = shape.heads * shape.channels * (6 * count**2 + 4 * shape.text * (_tokens(shape) + shape.text))
    return [sparse_case(f"video_sparse_attention {title(shape)}", shape, setting, build, more=more)]


def _tokens(shape: CubeShape) -> int:
    return shape.grid[0] * shape.grid[1] * shape.grid[2]
