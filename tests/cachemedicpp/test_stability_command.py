"""The command stability as a process: files, resume after a pause and after SIGKILL, failures (specs/medic.md, 5, 8.2, 8.3, 8.6)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from cachemedicpp.config.settings import config_hash, load_run_config
from cachemedicpp.schemas import SCHEMAS
from cachemedicpp.sensitivity.progress import Inputs
from cachemedicpp.sensitivity.prompts import choose_prompts
from cachemedicpp.stability import main
from cachemedicpp.training.distillation import operator_of
from cachemedicpp.training.state import save_repair
from helpers.medic_run import contents, write_config
from helpers.tiny_random import random_llama, save_model
from helpers.warm_process import WarmProcess
from modelwright.errors import UsageError
from modelwright.schema_registry import json_schema

BY_NAME = {artifact.name: artifact for artifact in SCHEMAS}
DELTAS = [0, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0]
UNITS = len(DELTAS) + 2
CURVES = ("baseline", "heuristics", "cachemedic", "cachemedic_no_contr")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run configuration over a random model and the packaged text."""
    folder = tmp_path_factory.mktemp("stability")
    save_model(folder / "model")
    overrides = {
        "eval.max_seq_len": 96,
        "stability.num_prompts": 24,
        "stability.num_directions": 4,
        "stability.delta_norms": DELTAS,
        "stability.topk_logits": 100,
    }
    return write_config(folder / "config.yaml", folder / "model", overrides)


@pytest.fixture(scope="module")
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted measurement in a process of its own."""
    run = trained(config, tmp_path_factory.mktemp("runs") / "main_contr")
    assert process(config, run).wait(300) == 0
    return run


def changed(config: Path, path: Path, **overrides: Any) -> Path:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    document = load_run_config(config, named).model_dump(mode="json")
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def trained(config: Path, run: Path, seed: int = 4, pair: bool = True) -> Path:
    """A run directory with a repair checkpoint, as train leaves it; with `pair` beside a counterpart."""
    settings = load_run_config(config)
    operator = operator_of(settings, random_llama())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    path = run / "checkpoints" / "repair_step_6.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_repair(path, operator, step=6, config_hash=config_hash(settings), model_name=settings.model.name)
    if pair:
        sibling = run.with_name("ablation_no_contr")
        sibling.mkdir(exist_ok=True)
        trained(changed(config, sibling / "config_resolved.yaml", train__lambda_contr=0.0), sibling, seed=5, pair=False)
    return run


def flags(config: Path, run: Path, *further: str) -> list[str]:
    return ["--config", str(config), "--run_dir", str(run), *further]


def process(config: Path, run: Path, *further: str) -> WarmProcess:
    return WarmProcess("cachemedicpp.stability", flags(config, run, *further), env=os.environ)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def valid(name: str, document: Any) -> None:
    jsonschema.Draft202012Validator(json_schema(BY_NAME[name])).validate(document)


def beat(run: Path) -> Any:
    return read(run / "logs/stability_heartbeat.json")


def results(run: Path) -> Any:
    """What a measurement found, without times."""
    log = read_lines(run / "logs/stability.jsonl")
    for line in log:
        line.pop("timestamp_utc")
    return read(run / "metrics/stability_metrics.json"), log


def wait_for_units(running: WarmProcess, run: Path, count: int) -> None:
    path, deadline = run / "metrics/stability_progress.json", time.monotonic() + 300
    while time.monotonic() < deadline and running.poll() is None:
        if path.exists() and read(path)["completed_units"] >= count:
            return
        time.sleep(0.002)
    raise AssertionError(f"the measurement ended with {running.returncode} before {count} units")


def test_help_imports_no_torch() -> None:
    code = "import sys; from cachemedicpp import stability\ntry: stability.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(flag in done.stdout for flag in ("--config", "--run_dir", "--no-resume", "--heartbeat_every", "--allow_untrained"))


def test_every_file_is_valid_and_complete(finished: Path) -> None:
    metrics = read(finished / "metrics/stability_metrics.json")
    valid("medic-stability-metrics", metrics)
    valid("medic-stability-progress", read(finished / "metrics/stability_progress.json"))
    beats = read_lines(finished / "logs/stability_heartbeat.jsonl")
    for line in beats:
        valid("medic-stability-heartbeat", line)
    for line in read_lines(finished / "logs/stability.jsonl"):
        valid("medic-log-record", line)
    reasons = [line["reason"] for line in beats]
    assert reasons == ["startup", *["curve_progress"] * 8, *["amplification_progress"] * 2, "finalizing", "completed"]
    assert beats[1]["current_unit"] == {"kind": "curve", "delta_norm": 0.0}
    assert beats[-3]["current_unit"] == {"kind": "amplification", "layer": 1} and beats[-1]["step"] == UNITS

    settings, found = metrics["settings"], metrics["metrics"]
    points, details = found["stability.logit_sensitivity"], found["stability.settings"]
    assert settings["delta_norms"] == DELTAS and settings["layers"] == [0, 1] and settings["heads"] == [0, 1]
    assert settings["runtime_dtype"] == "float32" and settings["repair_checkpoint"]["step"] == 6
    assert settings["data_source"]["split"] == "test"
    assert details["cachemedic_no_contr_source"] == "../ablation_no_contr" and details["cachemedic_no_contr_checkpoint"]["step"] == 6
    assert details["best_heuristic_name"] == "smoothing" and details["best_heuristic_source"] == "default"
    assert details["amplification_delta_norm"] == 0.25 and details["delta_injection_shared_across_variants"] is True
    assert details["num_prompts"] == details["distinct_prompts"] == 24 and details["checkpoint_loaded"] is True
    grid = found["stability.amplification_map"]
    assert all(
        len(grid[name]) == 2 and all(len(row) == 2 for row in grid[name]) for name in ("baseline", "cachemedic", "cachemedic_response")
    )

    zero = points[0]
    assert [point["delta_norm"] for point in points] == DELTAS
    assert zero["cachemedic"]["value"] > 0 and zero["heuristics"]["value"] > 0 and zero["delta_pair_norm"] == 0
    for name in CURVES:
        for point in points:
            one = point[name]
            assert one["value_at_zero"] == zero[name]["value"] and one["excess"] == pytest.approx(one["value"] - one["value_at_zero"])
            assert len(one["per_prompt"]) == 24 and one["standard_error"] is not None
    assert points[1]["cachemedic"] != points[1]["cachemedic_no_contr"]
    assert points[2]["baseline"]["value"] / points[1]["baseline"]["value"] == pytest.approx(2, rel=0.05)
    relative = [point["delta_pair_rel_norm"] for point in points]
    assert relative == sorted(relative) and relative[3] == pytest.approx(1 / (2 * 95 * 16) ** 0.5, rel=0.1)  # heads, tokens, dimensions


def test_a_finished_measurement_recomputes_nothing(finished: Path, config: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "alone")  # away from its counterpart, as after a move
    before = contents(run / "metrics")
    assert main(flags(config, run)) == 0
    assert beat(run)["reason"] == "already_completed" and beat(run)["step"] == UNITS
    (run / "metrics/stability_progress.json").unlink()  # a metrics file without progress also says that all is done
    assert main(flags(config, run)) == 0
    assert beat(run)["reason"] == "already_completed"
    assert contents(run / "metrics")["stability_metrics.json"] == before["stability_metrics.json"]


@pytest.mark.parametrize("how", [pytest.param("pause", marks=pytest.mark.slow), "kill"])
def test_an_interrupted_measurement_goes_on_to_the_same_results(how: str, finished: Path, config: Path, tmp_path: Path) -> None:
    run = trained(config, tmp_path / "main_contr")
    first = process(config, run)
    wait_for_units(first, run, 3)
    if how == "kill":
        first.send_signal(signal.SIGKILL)
        first.wait(60)
    else:
        request = run / "control/pause.request"
        request.touch()
        assert first.wait(60) == 3 and not request.exists()
        acknowledged = read(run / "control/pause_ack_stability.json")
        valid("medic-unit-pause-ack", acknowledged)
        assert beat(run)["status"] == "paused" and beat(run)["reason"] == acknowledged["reason"] == "pause_request"
        assert acknowledged["resume_state"] == "metrics/stability_progress.json" and acknowledged["completed_units"] == beat(run)["step"]
    progress = read(run / "metrics/stability_progress.json")
    valid("medic-stability-progress", progress)
    assert 3 <= progress["completed_units"] < UNITS and not (run / "metrics/stability_metrics.json").exists()
    assert process(config, run, "--heartbeat_every", "4").wait(300) == 0
    assert results(run) == results(finished)
    resumed = next(line for line in read_lines(run / "logs/stability_heartbeat.jsonl") if line["status"] == "resumed")
    assert resumed["step"] >= progress["completed_units"] and resumed["resumed_from"] == "metrics/stability_progress.json"


def test_new_inputs_make_earlier_results_void(finished: Path, config: Path, tmp_path: Path) -> None:
    run = trained(config, shutil.copytree(finished, tmp_path / "main_contr"), seed=9, pair=False)  # the same step, another content
    (run / "control/pause.request").touch()
    assert main(flags(config, run)) == 3
    assert read(run / "metrics/stability_progress.json")["completed_units"] == 0
    assert not (run / "metrics/stability_metrics.json").exists() and not (run / "logs/stability.jsonl").exists()
    assert len(list(run.glob("archive/*/metrics/stability_metrics.json"))) == 1


def test_when_results_stand() -> None:
    one, two = {"step": 6, "sha256": "a"}, {"step": 6, "sha256": "b"}
    held = Inputs(one, "smoothing", "task_metrics.json", "../x", two)
    moved = Inputs(one, "smoothing", "default", "missing_pair", None)
    assert held.allow(held.as_dict(), finished=False) and held.allow(
        {**held.as_dict(), "repair_checkpoint": {**one, "file": "f"}}, finished=True
    )
    assert moved.allow(held.as_dict(), finished=True) and not moved.allow(held.as_dict(), finished=False)
    assert not held.allow(moved.as_dict(), finished=True)  # the counterpart has come since
    assert not Inputs(two, "smoothing", "default", "missing_pair", None).allow(held.as_dict(), finished=True)
    other = Inputs(one, "reset_clear", "task_metrics.json", "../x", two)
    assert not other.allow(held.as_dict(), finished=True)
    assert Inputs(one, "smoothing", "default", "../x", two).allow(other.as_dict(), finished=True)


def test_without_a_penalty_the_run_is_its_own_counterpart(config: Path, tmp_path: Path) -> None:
    small = {"stability__num_prompts": 2, "stability__delta_norms": [1.0], "stability__head_subset": [1], "stability__layers": [1]}
    own = changed(config, tmp_path / "own.yaml", train__lambda_contr=0.0, **small)
    run = trained(own, tmp_path / "run", pair=False)
    (run / "metrics").mkdir()
    (run / "metrics/task_metrics.json").write_text('{"metrics": {"best_heuristic_name": "masking_dropout"}}', encoding="utf-8")
    assert main(flags(own, run)) == 0
    metrics = read(run / "metrics/stability_metrics.json")
    valid("medic-stability-metrics", metrics)
    details, (point,) = metrics["metrics"]["stability.settings"], metrics["metrics"]["stability.logit_sensitivity"]
    assert details["cachemedic_no_contr_source"] == "self" and point["cachemedic_no_contr"] == point["cachemedic"]
    assert details["best_heuristic_name"] == "masking_dropout" and details["best_heuristic_source"] == "task_metrics.json"
    assert metrics["settings"]["heads"] == [1] and metrics["settings"]["layers"] == [1]
    assert point["cachemedic"]["value_at_zero"] > 0  # measured though 0 is not among the deltas


def test_no_checkpoint_is_a_failure_unless_allowed(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "untrained"
    assert main(flags(config, run)) == 1
    assert "--allow_untrained" in capsys.readouterr().err
    valid("medic-stability-heartbeat", beat(run))
    assert beat(run)["status"] == "failed" and beat(run)["reason"] == "MissingFileError"
    small = changed(config, tmp_path / "small.yaml", stability__num_prompts=2, stability__delta_norms=[1.0])
    again = tmp_path / "allowed"
    assert main(flags(small, again, "--allow_untrained")) == 0
    metrics = read(again / "metrics/stability_metrics.json")
    (point,) = metrics["metrics"]["stability.logit_sensitivity"]
    assert point["cachemedic_no_contr"] is None and metrics["settings"]["repair_checkpoint"] is None
    assert metrics["metrics"]["stability.settings"]["cachemedic_no_contr_source"] == "missing_pair"
    assert point["cachemedic"]["value"] == pytest.approx(point["baseline"]["value"], rel=1e-3)


def test_another_configuration_is_refused_and_no_resume_starts_anew(finished: Path, config: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "other")
    before = contents(run)
    assert main(flags(changed(config, tmp_path / "other.yaml", seed=99), run)) == 2
    assert contents(run) == before
    (run / "control/pause.request").touch()
    assert main(flags(config, run, "--no-resume")) == 3
    assert len(list(run.glob("archive/*/metrics/stability_progress.json"))) == 1
    assert read(run / "metrics/stability_progress.json")["completed_units"] == 0


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("stability.layers", [1, 2], "repair.protect_layers"),
        ("stability.N_recent", 81, "eval.max_seq_len"),
        ("stability.head_subset", [2], "KV heads 0 to 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    key: str, value: Any, said: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Acceptance 39: layers outside the protected ones end with 2, as do a region and heads that do not exist."""
    model = load_run_config(config).model.name
    wrong = write_config(tmp_path / "wrong.yaml", model, {"eval.max_seq_len": 96, key: value})
    assert main(flags(wrong, tmp_path / "run")) == 2
    message = capsys.readouterr().err
    assert key in message and said in message and not (tmp_path / "run").exists()


def test_short_lines_are_skipped_and_counted() -> None:
    lines = ["x" * 30, "short", "y" * 31, "x" * 99, "z" * 40]
    prompts, skipped = choose_prompts(lines, lambda line: list(line.encode()), count=3, shortest=31, longest=50)
    assert [(prompt.index, prompt.item, len(prompt.ids)) for prompt in prompts] == [(0, 2, 31), (1, 3, 50), (2, 4, 40)]
    assert skipped == 2
    repeated, skipped = choose_prompts(lines[:3], lambda line: list(line.encode()), count=3, shortest=31, longest=50)
    assert [(prompt.index, prompt.item) for prompt in repeated] == [(0, 2), (1, 2), (2, 2)] and skipped == 2
    with pytest.raises(UsageError, match="None of the 2 test lines has 31 tokens"):
        choose_prompts(lines[:2], lambda line: list(line.encode()), count=1, shortest=31, longest=50)
