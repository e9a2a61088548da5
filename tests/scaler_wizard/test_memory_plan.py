"""How a rung will be computed follows from the memory that is free: the same rule for the dry run and for the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.small_job import small_job
from modelwright.memory import MemoryRequest, forecast
from scaler_wizard.adaptive_scaling import HardwareProfile
from scaler_wizard.memory_plan import COMFORTABLE, GIB, RUNTIME_BYTES, memory_plan, memory_request
from scaler_wizard.resolve import resolve_document
from scaler_wizard.resolved import ResolvedJob


@pytest.fixture
def job(tmp_path: Path) -> ResolvedJob:
    return resolve_document(small_job(tmp_path))


def machine(free_bytes: float) -> HardwareProfile:
    """A CPU machine with so much free memory."""
    return HardwareProfile(total_vram_gb=0.0, gpu_count=0, ram_free_gb=free_bytes / GIB)


def asked(job: ResolvedJob, free_bytes: float) -> MemoryRequest:
    return memory_request(job, job.rungs[-1], machine(free_bytes))


def test_the_fastest_way_that_leaves_room_is_taken(job: ResolvedJob) -> None:
    roomy = asked(job, 64 * GIB)
    assert (roomy.keeps_freed, roomy.checkpointing, roomy.runtime_bytes) == (True, False, RUNTIME_BYTES)
    needs = forecast(roomy).total_bytes / COMFORTABLE
    assert asked(job, needs + GIB / 1024) == roomy
    returned = asked(job, needs - GIB / 1024)
    assert (returned.keeps_freed, returned.checkpointing) == (False, False)
    tight = asked(job, forecast(returned).total_bytes / COMFORTABLE - GIB / 1024)
    assert (tight.keeps_freed, tight.checkpointing) == (False, True)
    assert asked(job, 1) == tight


@pytest.mark.parametrize(("wanted", "recomputed"), [("on", True), ("off", False)])
def test_recomputation_that_was_named_is_kept(job: ResolvedJob, wanted: str, recomputed: bool) -> None:
    named = replace(job, training=replace(job.training, gradient_checkpointing=wanted))
    assert {asked(named, free).checkpointing for free in (64 * GIB, 1)} == {recomputed}


def test_the_plan_counts_the_process_itself(job: ResolvedJob) -> None:
    plan = memory_plan(job, machine(64 * GIB))
    for rung in plan["rungs"]:
        assert {part["name"]: part["bytes"] for part in rung["parts"]}["runtime"] == RUNTIME_BYTES
    assert not memory_plan(job, machine(RUNTIME_BYTES))["fits"]
