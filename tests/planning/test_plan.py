"""Plans: what is fitted comes back out, calibrations are found again, and memory limits choose the least economy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sky4.errors import DoesNotFit
from sky4.pipeline.economy import Economy
from sky4.pipeline.model_folder import ModelFolder
from sky4.pipeline.validate import validate
from sky4.planning import calibration
from sky4.planning.calibration import FEATURES, Calibration, Facts, Sighting, fitted, model_key
from sky4.planning.plan import Plan, economies, plan_request, plan_within, shard_bytes
from sky4.planning.sketch import ModelSketch
from sky4.planning.trace import Cost
from sky4.planning.work import Setting
from tests.pipeline.plain import PLAIN

CPU = Setting("cpu", torch.float32)
FACTS = Facts("a CPU", 2, 1, "2.0", "float32")
MIB = 2**20


def sighting(scale: int, stage: str = "base") -> Sighting:
    """Of a machine that takes 2 ms a run, 1 us an operation and 1 ns a FLOP, and of the heap 1.5 times as much."""
    cost = {"operations": 10 * scale, "linear_flop": 1000 * scale**2, "attention_flop": 0, "convolution_flop": 0}
    seconds = 2e-3 + 1e-6 * cost["operations"] + 1e-9 * cost["linear_flop"]
    heap = 20 * MIB * scale
    peak = round(300 * MIB + 50 * MIB + 7 * MIB + 1.5 * heap)
    return Sighting(stage, {**cost, "moved_bytes": 0}, 7 * MIB, heap, 50 * MIB, seconds, seconds, peak)


def some_calibration(sketch: ModelSketch, **changed) -> Calibration:
    made = Calibration(
        facts=FACTS,
        model="nano",
        model_key=model_key(sketch),
        rates=fitted([[sighting(scale)] for scale in (1, 5, 20, 60)]),
        load_seconds={"libraries": 2.0, "transformer": 0.5},
        library_bytes=300 * MIB,
        copy_bytes_per_second=1e9,
        spread=1.1,
    )
    return replace(made, **changed)


@pytest.fixture
def sketch(nano_model: Path) -> ModelSketch:
    return ModelSketch.read(ModelFolder.read(nano_model))


def planned(sketch: ModelSketch, setting: Setting = CPU, known: Calibration | None = None) -> Plan:
    return plan_request(PLAIN, validate(PLAIN, sketch.folder), sketch, setting, known)


def test_the_rates_of_a_machine_come_back_out_of_its_runs(sketch: ModelSketch) -> None:
    made = some_calibration(sketch)
    unseen = sighting(33)
    cost = Cost(operations=unseen.cost["operations"], linear_flop=unseen.cost["linear_flop"])
    assert made.seconds("base", cost) == pytest.approx(unseen.seconds, rel=1e-6)
    told = made.peak_bytes("base", unseen.mapped_bytes, unseen.heap_bytes, unseen.weight_bytes, kept=0)
    assert told == pytest.approx(unseen.peak_bytes, rel=1e-6)
    assert all(rate >= 0 for rate in made.rates["base"].seconds) and len(made.rates["base"].seconds) == len(FEATURES)


def test_what_the_heap_has_grown_to_counts_in_later_stages(sketch: ModelSketch) -> None:
    made = some_calibration(sketch)
    small, kept = 20 * MIB, made.heap_bytes("base", 100 * MIB)
    assert kept == pytest.approx(150 * MIB)
    rates = {"base": replace(made.rates["base"], of_kept=0.5)}
    after = replace(made, rates=rates).peak_bytes("base", 0, small, 0, kept)
    assert after == made.rates["base"].rest_bytes + 0.5 * kept


def test_a_calibration_is_kept_in_the_cache_and_found_again(
    sketch: ModelSketch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = some_calibration(sketch)
    path = calibration.save(made)
    assert path.parent == tmp_path / "sky4" / "calibration"
    assert calibration.find(FACTS, made.model_key) == made
    assert calibration.find(replace(FACTS, threads=8), made.model_key) is None
    assert calibration.find(FACTS, "another model") == made  # rather an estimate than nothing
    path.write_text("{")
    assert calibration.find(FACTS, made.model_key) is None


def test_without_a_calibration_seconds_are_unknown_and_the_plan_says_so(sketch: ModelSketch) -> None:
    plan = planned(sketch)
    assert plan.seconds is None and "estimate" in plan.calibrated and not plan.exact
    assert plan.peak_bytes > sum(part.bytes for part in plan.parts.values())


def test_another_models_calibration_is_called_an_estimate(sketch: ModelSketch) -> None:
    told = planned(sketch, known=some_calibration(sketch, model_key="other", model="tiny"))
    assert told.calibrated.startswith("estimated") and "tiny" in told.calibrated and not told.exact
    assert planned(sketch, known=some_calibration(sketch)).exact


def test_networks_that_are_let_go_of_do_not_count_later(sketch: ModelSketch) -> None:
    held = {one.stage.name: one.weight_bytes for one in planned(sketch).stages}
    let_go = planned(sketch, replace(CPU, economy=Economy(release=True)))
    freed = {one.stage.name: one.weight_bytes for one in let_go.stages}
    assert held["mux"] == sum(part.bytes for part in let_go.parts.values())
    assert freed["base"] == let_go.parts["transformer"].bytes and freed["mux"] == 0
    streamed = planned(sketch, replace(CPU, economy=Economy(release=True, stream=True)))
    assert {s.stage.name: s.weight_bytes for s in streamed.stages}["base"] <= freed["base"]


def within(sketch: ModelSketch, limit: int) -> Plan:
    geometry = validate(PLAIN, sketch.folder)
    return plan_within(limit, PLAIN, geometry, sketch, CPU, {torch.float32: None}, narrow=False)


def test_a_limit_chooses_no_more_economy_than_it_must(sketch: ModelSketch) -> None:
    whole = planned(sketch).peak_bytes
    assert within(sketch, whole).setting.economy == Economy()
    thrifty = within(sketch, whole - 1)
    assert thrifty.setting.economy.release and thrifty.peak_bytes < whole


def test_what_cannot_fit_names_the_stage_and_the_remedy(sketch: ModelSketch) -> None:
    with pytest.raises(DoesNotFit, match=r"--memory .*'\w[\w ]*'; lower --size or --frames"):
        within(sketch, 100 * MIB)


def test_a_plan_is_json(sketch: ModelSketch) -> None:
    import json

    told = json.loads(json.dumps(planned(sketch).to_dict()))
    assert (told["schema"], told["version"]) == ("sky4-plan", 1)
    assert [stage["name"] for stage in told["stages"]][-1] == "mux"
    assert told["peak_bytes"] == max(stage["peak_bytes"] for stage in told["stages"])


def test_processes_share_the_towers_work_and_their_weights_only_where_they_must(sketch: ModelSketch) -> None:
    alone, shared = planned(sketch), planned(sketch, replace(CPU, processes=2))
    works = {one.stage.name: (one.live_bytes, one.stage.cost.flop) for one in alone.stages}
    for one in shared.stages:
        less = 2 if one.stage.name == "base" else 1
        assert one.stage.cost.flop == pytest.approx(works[one.stage.name][1] / less, abs=2)
        assert one.live_bytes < works[one.stage.name][0] if less == 2 else one.live_bytes == works[one.stage.name][0]
    part = shared.parts["transformer"]
    thrifty = planned(sketch, replace(CPU, processes=2, economy=Economy(shard=True)))
    weights = {one.stage.name: one.weight_bytes for one in thrifty.stages}
    assert weights["base"] == shared.stages[2].weight_bytes - part.bytes + shard_bytes(part, 2)
    assert [setting.economy for setting in economies(CPU, False, False) if setting.economy.shard] == []
    tried = [setting.economy for setting in economies(replace(CPU, processes=2), False, False)]
    assert tried[:3] == [Economy(), Economy(release=True), Economy(release=True, shard=True)] and not tried[-1].shard
    assert "2 processes" in shared.calibrated and shared.to_dict()["processes"] == 2
