"""What `autotune --engine auto` stands for, and where the answer is kept and told."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from macprovider.autotune.arguments import parse
from macprovider.autotune.engine import engine_for_run, engine_of_serve
from macprovider.autotune.experiments.command import parse_experiment
from macprovider.autotune.plan import Knobs, describe

TINY = ("modelwright/tiny-5m", "modelwright/tiny-0.4m")
KNOBS = Knobs(None, 2, 256)
pytestmark = pytest.mark.skipif(importlib.util.find_spec("openvino_genai") is None, reason="needs openvino-genai")


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def flags(*more: str) -> list[str]:
    return ["--candidate-models", ",".join(TINY), "--target-context", "256", "--max-tokens", "16", *more]


def test_one_engine_for_all_that_can_hold_each() -> None:
    assert engine_for_run(TINY, KNOBS, quality_gate=False).engine == "openvino"
    without = engine_for_run([*TINY, "nobody/there-7B"], KNOBS, quality_gate=False)
    assert without.engine == "transformers" and "not here yet (nobody/there-7B)" in without.reason


def test_what_the_run_asks_for_decides() -> None:
    gate = engine_for_run(TINY, KNOBS, quality_gate=True)
    assert gate.engine == "transformers" and "it has no top_logprobs" in gate.reason
    repaired = engine_for_run(TINY, Knobs(None, 1, 256, "/runs/repair_step_5.pt"), quality_gate=False)
    assert repaired.engine == "transformers" and "no repair operator" in repaired.reason


def test_the_choice_and_its_reason_are_the_runs_own() -> None:
    options, _ = parse(flags())
    assert options.engine == "openvino" and options.engine_reason.startswith("engine openvino: ")
    assert "openvino: on a processor" in describe(options, ["", ""], [], "")
    named, _ = parse(flags("--engine", "transformers"))
    assert (named.engine, named.engine_reason) == ("transformers", "")
    assert parse(flags("--quality-gate"))[0].engine == "transformers"
    assert parse(["--max-model-size", "8B"])[0].engine == "transformers"  # of the built-in list nothing is fetched yet


def test_an_experiment_looks_at_its_own_model() -> None:
    assert parse_experiment(["tie-epsilon", "--model", TINY[1], "--target-context", "256", "--max-tokens", "16"])[0].engine == "openvino"


def test_serve_is_told_the_engine_only_where_it_would_take_another() -> None:
    assert engine_of_serve(TINY[0], KNOBS) == "openvino"
    assert engine_of_serve("nobody/there-7B", KNOBS) == "transformers"
