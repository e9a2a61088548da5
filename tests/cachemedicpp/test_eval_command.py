"""The command eval as a process: files, resume after a pause and after SIGKILL, failures (specs/medic.md, 6.5, 8.1-8.5)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml

from cachemedicpp.config.settings import config_hash, load_run_config
from cachemedicpp.eval import main
from cachemedicpp.evaluation.examples import task_examples
from cachemedicpp.evaluation.grid import DEFENCES
from cachemedicpp.evaluation.setup import evaluation_setup
from cachemedicpp.repair.operator import layout_of
from cachemedicpp.schemas import SCHEMAS
from cachemedicpp.training.distillation import operator_of
from cachemedicpp.training.state import load_repair, save_repair
from helpers.tiny_random import byte_tokenizer, random_llama, save_model
from helpers.warm_process import WarmProcess
from modelwright.schema_registry import json_schema

TINY = Path(__file__).parents[2] / "configs" / "medic" / "tiny.yaml"
BY_NAME = {artifact.name: artifact for artifact in SCHEMAS}
UNITS = 2 * 6 * (1 + 2 * 2)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run configuration over a random model and the packaged text: two tasks, two types, two epsilons."""
    folder = tmp_path_factory.mktemp("eval")
    save_model(folder / "model")
    document = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    document["model"]["name"] = str(folder / "model")
    document["repair"].update(protect_layers=[0, 1], rank=4)
    document["stability"].pop("layers")
    document["train"]["steps"] = 4
    document["eval"] |= {
        "tasks": [{"name": "wikitext2_ppl", "num_examples": 20}, {"name": "sst2_prompted", "num_examples": 18}],
        "corruption_eval": {"eps": [0, 0.3], "types": ["gaussian", "contiguous_overwrite"]},
        "max_seq_len": 128,
        "measure_overhead": False,
    }
    return written(folder / "config.yaml", document)


@pytest.fixture(scope="module")
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted evaluation in a process of its own."""
    run = trained(config, tmp_path_factory.mktemp("runs") / "whole")
    done = process(config, run)
    assert done.wait(120) == 0, done.stderr
    return run


def written(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def changed(config: Path, path: Path, **overrides: Any) -> Path:
    """A copy of a configuration; `a__b` names the key `a.b`."""
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    for name, value in overrides.items():
        *way, last = name.split("__")
        section = document
        for part in way:
            section = section[part]
        section[last] = value
    return written(path, document)


def trained(config: Path, run: Path, step: int = 4, scale: float = 0.2) -> Path:
    """A run directory with a repair checkpoint, as train leaves it."""
    settings = load_run_config(config)
    operator = operator_of(settings, random_llama())
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    assert operator.layout == layout_of(random_llama())
    path = run / "checkpoints" / f"repair_step_{step}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_repair(path, operator, step=step, config_hash=config_hash(settings), model_name=settings.model.name)
    return run


def flags(config: Path, run: Path, *further: str) -> list[str]:
    return ["--config", str(config), "--run_dir", str(run), *further]


def process(config: Path, run: Path, *further: str, code: str | None = None, **environment: str) -> WarmProcess | subprocess.Popen[bytes]:
    """The command, or `code` in a new interpreter."""
    words, variables = flags(config, run, *further), {**os.environ, **environment}
    if code is None:
        return WarmProcess("cachemedicpp.eval", words, env=variables)
    return subprocess.Popen([sys.executable, "-c", code, *words], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def valid(name: str, document: Any) -> None:
    jsonschema.Draft202012Validator(json_schema(BY_NAME[name])).validate(document)


def results(run: Path) -> Any:
    """What an evaluation found, without times."""
    metrics = read(run / "metrics/task_metrics.json")
    metrics["metrics"].pop("overhead")
    examples = sorted(read_lines(run / "metrics/eval_examples.jsonl"), key=lambda line: (line["unit_key"], line["example"]))
    log = read_lines(run / "logs/eval.jsonl")
    for line in (metrics, *examples, *log):
        line.pop("run_id")
        line.pop("timestamp_utc", None)
        line.pop("tokens_per_sec", None)
    return metrics, examples, log


def wait_for_units(running: WarmProcess | subprocess.Popen[bytes], run: Path, count: int) -> None:
    path, deadline = run / "metrics/eval_progress.json", time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None:
        if path.exists() and read(path)["completed_units"] >= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"the evaluation ended with {running.returncode} before {count} units")


def test_help_imports_no_torch() -> None:
    code = "import sys; from cachemedicpp import eval\ntry: eval.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(flag in done.stdout for flag in ("--config", "--run_dir", "--no-resume", "--heartbeat_every", "--allow_untrained"))
    assert main.__doc__ is not None


def test_every_file_is_valid_and_complete(finished: Path, config: Path) -> None:
    metrics = read(finished / "metrics/task_metrics.json")
    valid("medic-task-metrics", metrics)
    valid("medic-eval-progress", read(finished / "metrics/eval_progress.json"))
    valid("medic-eval-heartbeat", read(finished / "logs/eval_heartbeat.json"))
    for line in read_lines(finished / "logs/eval_heartbeat.jsonl"):
        valid("medic-eval-heartbeat", line)
    log, examples = read_lines(finished / "logs/eval.jsonl"), read_lines(finished / "metrics/eval_examples.jsonl")
    for line in log:
        valid("medic-log-record", line)
    for line in examples:
        valid("medic-eval-example", line)
    valid("medic-run-record", read(finished / "run_record.json"))
    assert [line["step"] for line in log] == [0, 300] and all(line["tokens_per_sec"] > 0 for line in log)
    assert Counter(line["unit_key"].split("|")[1] for line in examples) == {
        "wikitext2_ppl": 20 * UNITS // 2,
        "sst2_prompted": 18 * UNITS // 2,
    }

    settings, found = metrics["settings"], metrics["metrics"]
    assert settings["checkpoint_loaded"] is True and settings["repair_checkpoint"]["step"] == 4
    assert settings["data_source"]["wikitext2_ppl"]["split"] == "test" and settings["data_source"]["sst2_prompted"]["wording"] == "plain"
    splits = settings["data_source"]["text_splits"]
    assert len({splits["train"]["sha256"], splits["validation"]["sha256"], settings["data_source"]["wikitext2_ppl"]["sha256"]}) == 3
    assert len(found["task_curves"]) == UNITS - 12 and found["overhead"] == {}
    for task, clean in found["clean_metrics"].items():
        at_zero = {x["defense"]: x["value"] for x in found["task_curves"] if x["task"] == task and x["epsilon"] == 0}
        assert at_zero == clean
    assert read(finished / "logs/eval_heartbeat.json")["step"] == UNITS


def test_a_finished_evaluation_recomputes_nothing(finished: Path, config: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "again")
    before = {path: path.read_bytes() for path in (run / "metrics").iterdir()}
    assert main(flags(config, run)) == 0
    assert read(run / "logs/eval_heartbeat.json")["reason"] == "already_completed"
    (run / "metrics/eval_progress.json").unlink()  # a metrics file without progress also says that all is done
    assert main(flags(config, run)) == 0
    assert read(run / "logs/eval_heartbeat.json")["reason"] == "already_completed"
    assert all(path.read_bytes() == before[path] for path in (run / "metrics").iterdir())


@pytest.mark.parametrize("how", [pytest.param("pause", marks=pytest.mark.slow), "kill"])
def test_an_interrupted_evaluation_goes_on_to_the_same_results(how: str, finished: Path, config: Path, tmp_path: Path) -> None:
    run = trained(config, tmp_path / how)
    first = process(config, run)
    wait_for_units(first, run, 8)
    if how == "kill":
        first.send_signal(signal.SIGKILL)
        first.wait(60)
    else:
        request = run / "control/pause.request"
        request.touch()
        assert first.wait(60) == 3 and not request.exists()
        acknowledged, beat = read(run / "control/pause_ack_eval.json"), read(run / "logs/eval_heartbeat.json")
        valid("medic-unit-pause-ack", acknowledged)
        assert beat["status"] == "paused" and beat["reason"] == acknowledged["reason"] == "pause_request"
        assert acknowledged["resume_state"] == "metrics/eval_progress.json" and acknowledged["completed_units"] == beat["step"]
    progress = read(run / "metrics/eval_progress.json")
    valid("medic-eval-progress", progress)
    assert 8 <= progress["completed_units"] < UNITS and not (run / "metrics/task_metrics.json").exists()
    if how == "kill":
        with open(run / "metrics/eval_examples.jsonl", "ab") as torn:
            torn.write(b'{"unit_key": "corr|sst2')
    assert main(flags(config, run, "--heartbeat_every", "7")) == 0
    assert results(run) == results(finished)
    beats = read_lines(run / "logs/eval_heartbeat.jsonl")
    resumed = next(beat for beat in beats if beat["status"] == "resumed")
    assert resumed["step"] >= progress["completed_units"] and resumed["resumed_from"] == "metrics/eval_progress.json"


def test_a_pause_request_at_the_start_stops_before_the_first_unit(config: Path, tmp_path: Path) -> None:
    run = trained(config, tmp_path / "early")
    (run / "control").mkdir()
    (run / "control/pause.request").touch()
    assert main(flags(config, run)) == 3
    assert read(run / "control/pause_ack_eval.json")["completed_units"] == 0


def test_a_new_checkpoint_makes_earlier_results_void(finished: Path, config: Path, tmp_path: Path) -> None:
    run = trained(config, shutil.copytree(finished, tmp_path / "new"), step=4, scale=0.5)  # the same step, another content
    (run / "control/pause.request").touch()
    assert main(flags(config, run)) == 3
    progress = read(run / "metrics/eval_progress.json")
    assert progress["completed_units"] == 0 and progress["repair"] != read(finished / "metrics/eval_progress.json")["repair"]
    assert not (run / "metrics/task_metrics.json").exists() and not (run / "logs/eval.jsonl").exists()
    assert len(list(run.glob("archive/*/metrics/task_metrics.json"))) == 1


def test_no_checkpoint_is_a_failure_unless_allowed(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "untrained"
    assert main(flags(config, run)) == 1
    assert "--allow_untrained" in capsys.readouterr().err
    beat = read(run / "logs/eval_heartbeat.json")
    valid("medic-eval-heartbeat", beat)
    assert beat["status"] == "failed" and beat["reason"] == "MissingFileError" and "repair_step" in beat["error"]


def test_all_defences_see_the_same_damage_of_the_held_out_type_end_to_end(config: Path, tmp_path: Path) -> None:
    """With an identity repair and heuristics of no effect, four of the six defences must score every example alike."""
    neutral = changed(
        config,
        tmp_path / "neutral.yaml",
        baseline__smoothing_beta=0.0,
        baseline__dropout_p=0.0,
        eval__ood_protocol="loto_holdout_dropout_zero",
        eval__measure_overhead=True,
    )
    run = tmp_path / "neutral"
    assert main(flags(neutral, run, "--allow_untrained")) == 0
    metrics = read(run / "metrics/task_metrics.json")
    assert metrics["settings"]["types"] == ["dropout_zero"] and metrics["settings"]["checkpoint_loaded"] is False
    assert {point["corruption_type"] for point in metrics["metrics"]["task_curves"]} == {"dropout_zero"}
    assert read(run / "metrics/eval_progress.json")["total_units"] == 2 * 6 * (1 + 1 * 2)
    rows = metrics["metrics"]["decode_overhead"]
    assert set(metrics["metrics"]["overhead"]) == set(DEFENCES)
    assert [(row["defense"], row["form"]) for row in rows] == [
        *((name, None) for name in DEFENCES[:-1]),
        *(("cachemedic", form) for form in ("materialised", "extended", "collapsed")),
    ]
    plain, extended, collapsed = (rows[place]["cache_bytes_per_token"] for place in (0, 6, 7))
    assert plain == collapsed == 2 * 2 * 2 * 16 * 4 and extended == plain + 2 * 2 * 4 * 4  # layers, KV heads, rank, bytes
    assert all(row["decode_ms_per_token"] > 0 and row["repeats"] >= 20 for row in rows)
    losses: dict[tuple[str, int], dict[str, float]] = {}
    for line in read_lines(run / "metrics/eval_examples.jsonl"):
        if line["unit_key"].endswith("|dropout_zero|0.3"):
            losses.setdefault((line["task"], line["example"]), {})[line["defense"]] = line["loss"]
    assert len(losses) == 38
    for found in losses.values():
        for name in ("smoothing", "masking_dropout", "cachemedic"):
            assert found[name] == pytest.approx(found["no_defense"], abs=1e-4)
    assert any(found["reset_clear"] != pytest.approx(found["no_defense"], abs=1e-2) for found in losses.values())


def test_another_configuration_is_refused_and_no_resume_starts_anew(finished: Path, config: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "other")
    other = changed(config, tmp_path / "other.yaml", seed=99)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(flags(other, run)) == 2
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    (run / "control/pause.request").touch()
    assert main(flags(config, run, "--no-resume")) == 3
    assert len(list(run.glob("archive/*/metrics/eval_progress.json"))) == 1
    assert read(run / "metrics/eval_progress.json")["completed_units"] == 0


def test_wording_needle_values_batch_and_base_are_read_from_the_configuration(config: Path, tmp_path: Path) -> None:
    values = ["copper-1", "copper-2", "copper-3", "copper-4", "copper-5"]
    own = changed(
        config,
        tmp_path / "own.yaml",
        repair__family="C",
        repair__conditioning={},
        repair__base="B",
        eval__tasks=[{"name": "sst2_prompted", "num_examples": 4}, {"name": "needle_long_context", "num_examples": 4}],
        eval__corruption_eval={"eps": [0.3], "types": ["gaussian"]},
        eval__max_seq_len=160,
        eval__batch_size=3,
        eval__sst2_wording="{text}\nGood or bad? It is",
        eval__needle_values=values,
    )
    run = trained(own, tmp_path / "own")
    assert main(flags(own, run)) == 0
    metrics, settings = read(run / "metrics/task_metrics.json"), load_run_config(own)
    valid("medic-task-metrics", metrics)
    assert metrics["settings"]["data_source"]["sst2_prompted"]["wording"] == settings.eval.sst2_wording
    counts = Counter(line["unit_key"].split("|")[1] for line in read_lines(run / "metrics/eval_examples.jsonl"))
    assert counts == {"sst2_prompted": 4 * 12, "needle_long_context": 4 * 12}

    tokenizer, model = byte_tokenizer(), random_llama()
    examples, _ = task_examples(settings, tokenizer)
    assert all(tokenizer.decode(one.lead).endswith("Good or bad? It is") for one in examples["sst2_prompted"])
    said = {tokenizer.decode(candidate).strip() for one in examples["needle_long_context"] for candidate in one.continuations}
    assert said <= set(values)
    assert evaluation_setup(settings, model, tokenizer, ("gaussian",)).batch == 3
    operator, _ = load_repair(run / "checkpoints/repair_step_4.pt", layout_of(model), model.device)
    assert (operator.spec.family, operator.spec.base, operator.spec.orthonormal) == ("C", "B", True)


COLD = """
import sys
from cachemedicpp.eval import main
sys.exit(main(sys.argv[1:]))
"""
OFFLINE = (
    """
import sys
def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print("connection tried", arguments, file=sys.stderr)
        import os; os._exit(77)
sys.addaudithook(guard)
"""
    + COLD
)


def test_offline_data_needs_no_connection_and_nothing_replaces_the_hub(config: Path, tmp_path: Path) -> None:
    small = {"eval__tasks": [{"name": "wikitext2_ppl", "num_examples": 2}], "eval__corruption_eval__types": ["gaussian"]}
    offline = process(changed(config, tmp_path / "a.yaml", **small), tmp_path / "a", "--allow_untrained", code=OFFLINE)
    hub = changed(config, tmp_path / "b.yaml", **small, data__use_offline=False)
    closed = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "empty")}
    without = process(hub, tmp_path / "b", "--allow_untrained", code=COLD, **closed)
    assert offline.wait(120) == 0 and without.wait(120) == 1
    beat = read(tmp_path / "b/logs/eval_heartbeat.json")
    assert beat["status"] == "failed" and beat["reason"] == "DataUnavailableError"
    assert not (tmp_path / "b/metrics/task_metrics.json").exists()
