"""What `autotune --engine auto` stands for, and where the answer is kept and told."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.tuning import Bench
from macprovider.autotune.arguments import parse
from macprovider.autotune.engine import engine_of_serve, goes_without_saying, with_engine
from macprovider.autotune.experiments.command import parse_experiment
from macprovider.autotune.options import Options
from macprovider.autotune.plan import Knobs, describe
from macprovider.autotune.records import history
from modelwright.tiny import tiny_model_path

TINY = ("modelwright/tiny-5m", "modelwright/tiny-0.4m")
KNOBS = Knobs(None, 2, 256)
pytestmark = pytest.mark.skipif(importlib.util.find_spec("openvino_genai") is None, reason="needs openvino-genai")


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, monkeypatch, capsys)


def options(*flags: str, models: tuple[str, ...] = TINY) -> Options:
    return parse(["--candidate-models", ",".join(models), "--target-context", "256", "--max-tokens", "16", *flags])[0]


def test_one_engine_for_all_that_can_hold_each() -> None:
    one = options()
    assert one.engine == "openvino" and one.engine_reason.startswith("engine openvino: ")
    assert "openvino: on a processor" in describe(one, ["", ""], [], "")
    without = options(models=(*TINY, "nobody/there-7B"))
    assert without.engine == "transformers" and "not here yet (nobody/there-7B)" in without.engine_reason
    named = options("--engine", "transformers")
    assert (named.engine, named.engine_reason) == ("transformers", "")
    assert parse(["--max-model-size", "8B"])[0].engine == "transformers", "of the built-in list nothing is here yet"


def test_what_the_run_asks_for_decides() -> None:
    gate = options("--quality-gate")
    assert gate.engine == "transformers" and "it has no top_logprobs" in gate.engine_reason
    repaired = with_engine(replace(options(), repair=Path("/runs/repair_step_5.pt")))
    assert repaired.engine == "transformers" and "no repair operator" in repaired.engine_reason


def test_an_experiment_looks_at_its_own_model_and_at_what_it_uses() -> None:
    flags = ["--target-context", "256", "--max-tokens", "16"]
    assert parse_experiment(["tie-epsilon", "--model", TINY[1], *flags])[0].engine == "openvino"
    assert parse_experiment(["tie-epsilon", "--model", TINY[1], "--quality-gate", *flags])[0].engine == "openvino"


def test_serve_is_told_the_engine_where_it_might_take_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.yaml"
    assert engine_of_serve(TINY[0], KNOBS) == "openvino" and engine_of_serve("nobody/there-7B", KNOBS) == "transformers"
    assert goes_without_saying("openvino", TINY[0], KNOBS, config) and not goes_without_saying("transformers", TINY[0], KNOBS, config)
    config.write_text("dtype: float32\n")
    assert not goes_without_saying("openvino", TINY[0], KNOBS, config)
    config.write_text("port: 8080\n")
    assert goes_without_saying("openvino", TINY[0], KNOBS, config)
    monkeypatch.setenv("MACPROVIDER_ENGINE", "transformers")
    assert not goes_without_saying("openvino", TINY[0], KNOBS, config)


def test_a_whole_run_names_its_engine_only_there(bench: Bench, tmp_path: Path) -> None:
    folder = str(shutil.copytree(tiny_model_path(TINY[1]), tmp_path / "tiny-0.4m"))
    flags = ("--candidate-models", folder, "--config", str(tmp_path / "config.yaml"))
    done = bench.tune({}, *flags)
    assert done.run["engine"] == "openvino" and "engine openvino: on a processor" in done.err
    assert done.document["recommendation"]["engine"] == "openvino" and "--engine" not in done.document["recommendation"]["serve_command"]
    done = bench.tune({}, *flags, "--engine", "transformers", "--compare")
    assert "--engine transformers" in done.document["recommendation"]["serve_command"]
    assert any(line.split() == ["engine", "transformers", "openvino", "(changed)"] for line in done.out.splitlines())


def test_apply_tells_of_another_engine_in_the_file(bench: Bench, tmp_path: Path) -> None:
    folder, config = str(shutil.copytree(tiny_model_path(TINY[1]), tmp_path / "tiny-0.4m")), tmp_path / "config.yaml"
    flags = ("--candidate-models", folder, "--config", str(config), "--apply")
    config.write_text("engine: transformers\n")
    done = bench.tune({}, *flags)
    assert f"with the engine openvino, not transformers as there: set `engine: openvino` in {config}" in done.err
    assert "--engine openvino" in done.document["recommendation"]["serve_command"]
    config.write_text("engine: openvino\n")
    assert "set `engine:" not in bench.tune({}, *flags).err
    config.write_text("port: 8080\n")
    assert "set `engine:" not in bench.tune({}, *flags).err
    assert f"engine transformers: set `engine: transformers` in {config}" in bench.tune({}, *flags, "--engine", "transformers").err


def test_what_is_resumed_keeps_its_engine() -> None:
    asked = options("--resume")
    run: dict[str, Any] = {
        "experiment": None,
        "candidate_models_json": '["modelwright/tiny-5m","modelwright/tiny-0.4m"]',
        "target_context": 256,
        "gate_ttft_ms": asked.gate_ttft_ms,
        "stage1_replicates": asked.stage1_replicates,
        "engine": "transformers",
        "exit_reason": "interrupted",
    }
    resumed = history.as_before(asked, [run])
    assert resumed.engine == "transformers" and resumed.engine_reason == "engine transformers, as in the run that is resumed"
    assert history.as_before(asked, [run | {"exit_reason": "ok"}]).engine == "openvino"
    assert history.as_before(asked, [run | {"target_context": 512}]).engine == "openvino"
    assert history.as_before(options(), [run]).engine == "openvino"
    assert history.as_before(options("--resume", "--engine", "openvino"), [run]).engine == "openvino"
