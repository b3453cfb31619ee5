"""Real runs on the smallest shapes: what they give fits the schema, and its figures hang together."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from sky4.bench.cases import OURS, Built, Candidate, Case, Setting, run_cases
from sky4.bench.kernels import KERNELS, kernel_cases, kernels_wanted, shapes_wanted
from sky4.bench.machine import Roofs, environment
from sky4.bench.plot import write_plot
from sky4.bench.record import Document
from sky4.bench.timing import HostStopwatch
from sky4.bench.tower import DIFFUSERS, TowerSize, tower_case
from sky4.errors import RequestError

CPU = torch.device("cpu")
SETTING = Setting(CPU, torch.float32, 0, "torch", math.inf)


def quiet(*_: object) -> None:
    pass


def run(cases: list[Case], budget: float = 10.0, setting: Setting = SETTING) -> Document:
    stopwatch = HostStopwatch()
    roofs = Roofs(CPU, [setting.dtype], stopwatch, small=True)
    rows, not_run = run_cases(cases, setting, stopwatch, roofs, budget, quiet)
    told = environment(CPU, setting.dtype, 0)
    return Document("kernels", told, {}, [roof.to_dict() for roof in roofs.all], rows, not_run)


@pytest.fixture(scope="module")
def measured() -> Document:
    shapes = shapes_wanted(["nano", "2x6c2x32", "2x40+7x32"], CPU)
    return run(kernel_cases(shapes, kernels_wanted([]), SETTING, backward=True))


def test_a_run_fits_the_schema(measured: Document) -> None:
    assert Document.from_dict(json.loads(json.dumps(measured.to_dict()))) == measured


def test_every_kernel_is_measured_forward_and_backward(measured: Document) -> None:
    ours = {row.case for row in measured.rows if row.ours}
    for kernel in KERNELS:
        assert any(case.startswith(kernel) for case in ours), kernel
    for kernel in ("joint_attention backward", "block_sparse_attention backward"):
        assert any(case.startswith(kernel) for case in ours), kernel


def test_every_candidate_computes_the_same(measured: Document) -> None:
    for row in measured.rows:
        if row.subject != "sky4 dense":  # what the sparse stage is compared with in time
            assert row.max_error is not None and row.max_error < 1e-4, row


def test_rates_follow_from_work_and_time(measured: Document) -> None:
    (copy,) = (roof["bytes_per_second"] for roof in measured.roofs if roof["name"] == "copy")
    row = next(row for row in measured.rows if row.case == "joint_attention 2x40+7x32" and row.ours)
    assert row.flop == 4 * 2 * 47 * 47 * 32
    assert row.bytes == 4 * 2 * 47 * 32 * 4
    assert row.flop_per_second == pytest.approx(row.flop / row.timing.median)
    assert row.share_of_copy == pytest.approx(row.bytes / row.timing.median / copy)
    assert row.times_ours == 1.0


def test_sparse_work_counts_the_selected_pairs(measured: Document) -> None:
    rows = {row.subject: row for row in measured.rows if row.case == "block_sparse_attention 2x6c2x32, 2 of 6 cubes"}
    assert rows[OURS].flop == rows["gathered SDPA"].flop == 4 * 32 * 2 * 6 * 64 * 2 * 64
    assert rows["sky4 dense"].flop == 3 * rows[OURS].flop


def test_opponents_that_are_not_here_are_told_with_their_reasons(measured: Document) -> None:
    reasons = {item.subject: item.reason for item in measured.not_run}
    assert reasons["flash_attn"] == "it is for CUDA devices"
    assert "--compile" in reasons["FlexAttention"]
    assert "torch has no such kernel for cpu" in reasons["torch SDPA cudnn"]


def test_the_roofline_is_drawn_in_both_formats(measured: Document, tmp_path) -> None:
    from PIL import Image

    write_plot(measured, tmp_path / "roofline.png")
    assert Image.open(tmp_path / "roofline.png").size[0] > 500
    write_plot(measured, tmp_path / "roofline.svg")
    svg = (tmp_path / "roofline.svg").read_text("utf-8")
    assert svg.count("<circle") == sum(1 for row in measured.rows if row.flop)
    with pytest.raises(RequestError, match="must be .png or .svg"):
        write_plot(measured, tmp_path / "roofline.pdf")


def test_what_is_too_large_is_skipped_with_the_reason() -> None:
    shapes = shapes_wanted(["24x1000000x128", "1080p-15s"], CPU)
    document = run(kernel_cases(shapes, {"joint_attention", "block_sparse_attention"}, SETTING, backward=False))
    assert not document.rows
    reasons = [item.reason for item in document.not_run]
    assert len(reasons) == 3
    assert all("are free" in reason or "raise --budget" in reason for reason in reasons)


def test_a_case_that_cannot_be_built_does_not_stop_the_others() -> None:
    def broken() -> Built:
        raise RuntimeError("no room for it")

    good = Case("good", lambda: Built({OURS: Candidate(lambda: None)}))
    document = run([Case("broken", broken), good], budget=1.0)
    assert [row.case for row in document.rows] == ["good"]
    assert [(item.case, item.reason) for item in document.not_run] == [("broken", "no room for it")]


def test_bfloat16_is_measured_beside_float32_products_too() -> None:
    setting = replace(SETTING, dtype=torch.bfloat16)
    document = run(kernel_cases(shapes_wanted(["2x40x32"], CPU), {"joint_attention"}, setting, False), setting=setting)
    row = next(row for row in document.rows if row.ours)
    assert row.share_of_matmul is not None
    if not document.environment["bf16_instructions"]:
        assert row.share_of_matmul_float32 is not None


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(RequestError, match="--kernel flash is unknown; choose of prep"):
        kernels_wanted(["flash"])


def test_a_shape_without_the_kernel_is_refused() -> None:
    with pytest.raises(RequestError, match="none of the shapes has such a case"):
        kernel_cases(shapes_wanted(["2x40x32"], CPU), {"latent_assemble"}, SETTING, backward=False)


@pytest.mark.slow  # importing diffusers' model is most of it
def test_our_tower_and_diffusers_compute_the_same_velocity() -> None:
    size = TowerSize(heads=2, channels=32, dual_blocks=1, single_blocks=1, grid=(3, 4, 6), text=5, latent_channels=4)
    document = run([tower_case(size, SETTING, torch.float32)])
    rows = {row.subject: row for row in document.rows}
    assert set(rows) == {OURS, DIFFUSERS}
    assert rows[OURS].flop == rows[DIFFUSERS].flop
    assert all(row.max_error < 1e-4 for row in rows.values())
