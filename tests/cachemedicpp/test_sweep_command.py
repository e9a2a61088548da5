"""The command sweep with its real phases as processes: order, failure, kill, pause. (specs/medic.md, 7.2, 8.3, 8.8; [C34])

Acceptance 24, 25, 26, 28 and 34 for sweeps.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import TypeAdapter

import modelwright
from cachemedicpp import eval as eval_command
from cachemedicpp import stability, train, watch
from cachemedicpp.phases.record_models import LogRecord, SweepHeartbeat, SweepSummary
from cachemedicpp.sweep import main
from cachemedicpp.training.state import read_document
from helpers.medic_run import contents, heartbeat, heartbeats, write_config
from modelwright.control import answers
from modelwright.files import read_json, read_jsonl
from modelwright.lock import read_holder, writer_liveness

SMALL: dict[str, Any] = {
    "train.steps": 3,
    "train.batch_size": 1,
    "train.log_every": 1,
    "eval.tasks": [{"name": "wikitext2_ppl", "num_examples": 2}],
    "eval.corruption_eval": {"eps": [0, 0.3], "types": ["gaussian"]},
    "eval.max_seq_len": 64,
    "stability.num_prompts": 1,
    "stability.num_directions": 1,
    "stability.topk_logits": 16,
}
HELD = {"name": "held", "overrides": {"eval.ood_protocol": "loto_holdout_quant_noise"}}
BROKEN = {"name": "broken", "overrides": {"model.name": "nobody/nothing"}}
LONG = {"name": "long", "overrides": {"train.steps": 4000}}
OF_TIME = ("tokens_per_sec", "wall_time_sec", "gpu_mem_gb", "decode_overhead", "elapsed_sec")


def write_sweep(folder: Path, *runs: Mapping[str, Any], **base: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / "base.yaml", "modelwright/tiny-0.4m", {**SMALL, **base})
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"sweep_name": "s", "base_config": "base.yaml", "runs": list(runs), "budget": {"notes": "small"}}))
    return path


def words(sweep: Path, *flags: str) -> list[str]:
    return ["--sweep_config", str(sweep), "--out_root", str(sweep.parent / "out"), *flags]


def start(sweep: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cachemedicpp.sweep", *words(sweep, *flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())


def environment() -> dict[str, str]:
    here = str(Path(modelwright.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": here, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def wait_until(true: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def summary(sweep: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(sweep.parent / "out" / "s_summary.json")
    SweepSummary.model_validate(found)
    return found


def statuses(sweep: Path) -> dict[str, list[tuple[str, str | None]]]:
    phases = ("train", "eval", "stability", "plots")
    return {run["name"]: [(run[phase]["status"], run[phase].get("reason")) for phase in phases] for run in summary(sweep)["runs"]}


def lasting(value: Any) -> Any:
    """A metrics document without what differs between two equal measurements."""
    if isinstance(value, dict):
        return {name: lasting(inner) for name, inner in value.items() if name not in OF_TIME}
    return [lasting(inner) for inner in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A sweep that was killed in the middle of an evaluation and started again while that evaluation still ran.

    Returns the sweep file, and what the second sweep and a third one that was refused said.
    """
    sweep = write_sweep(tmp_path_factory.mktemp("study"), HELD, BROKEN)
    folder = sweep.parent / "out" / "s"
    first = start(sweep)
    progress = folder / "held" / "metrics" / "eval_progress.json"
    wait_until(lambda: progress.exists() and read_json(progress)["completed_units"] >= 2, first)
    orphan = read_holder(folder / "held")["pid"]
    os.kill(orphan, signal.SIGSTOP)
    first.kill()
    first.communicate()
    assert writer_liveness(folder) == "dead" and writer_liveness(folder / "held") == "alive"
    second = start(sweep)
    try:
        assert second.stdout is not None
        assert second.stdout.readline() == "[sweep] 1 of 8 phases were completed before\n"
        said = second.stdout.readline()
        assert f"held is still being written by process {orphan} " in said and "waiting" in said
        third = start(sweep)
        refused = third.communicate(timeout=240)[0]
        assert third.returncode == 1 and f"process {second.pid} on host" in refused
    finally:
        os.kill(orphan, signal.SIGCONT)
    rest = second.communicate(timeout=400)[0]
    assert second.returncode == 1, rest
    return sweep, [said, rest, refused]


def test_a_failed_run_is_recorded_and_the_others_go_on(study: tuple[Path, list[str]]) -> None:
    """[C34]: two passes, and exit 1 with every other run complete."""
    sweep, said = study
    assert "1 run of the sweep failed" in said[1] and "broken: train: The model nobody/nothing" in said[1]
    found = statuses(sweep)
    assert [status for status, _ in found["held"]] == ["completed"] * 4
    assert found["broken"] == [("failed", "LoadError"), *[("skipped", "train_failed")] * 3]
    document = summary(sweep)
    assert document["status"] == "failed" and document["paused_run"] is None and document["budget"]["notes"] == "small"
    assert document["runs"][1]["train"]["exit_code"] == 1 and "nobody/nothing" in document["runs"][1]["train"]["error"]
    assert document["runs"][0]["overrides"] == HELD["overrides"]
    assert (sweep.parent / "out" / document["runs"][0]["run_dir"] / "paper/figures").is_dir()
    log = read_jsonl(sweep.parent / "out/s/logs/sweep.jsonl").records
    order = [(line["run"], line["run_phase"]) for line in log]
    assert order[-3:] == [("broken", "train"), ("held", "stability"), ("held", "plots")]  # train and eval of all runs first
    for line in log:
        TypeAdapter(LogRecord).validate_python(line)
    beats = heartbeats(sweep.parent / "out/s", "sweep")
    for beat in beats:
        SweepHeartbeat.model_validate(beat)
    assert beats[-1]["status"] == "failed" and beats[-1]["reason"] == "SweepFailedError"
    assert (beats[-1]["step"], beats[-1]["total_steps"]) == (8, 8)
    second = next(beat for beat in beats if beat["status"] == "resumed")
    assert second["step"] == 1 and second["resumed_from"].endswith("s_summary.json")
    assert watch.main(["--run_dir", str(sweep.parent / "out/s"), "--stop_on_terminal"]) == 1


def test_a_kill_changes_no_result(study: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Acceptance 26: the killed sweep leaves what its commands leave when nothing disturbs them."""
    held, alone = study[0].parent / "out/s/held", tmp_path / "held"
    config = str(held / "sweep_resolved_config.yaml")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for command in (train, eval_command, stability):
        assert command.main(["--config", config, "--run_dir", str(alone)]) == 0
    torch.set_num_threads(threads)
    for name in ("metrics/task_metrics.json", "metrics/stability_metrics.json"):
        assert lasting(read_json(held / name)) == lasting(read_json(alone / name))
    mine, its = (read_document(run / "checkpoints/repair_step_3.pt", "repair")["repair_state"] for run in (held, alone))
    assert mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)
    examples = [read_jsonl(run / "metrics/eval_examples.jsonl").records for run in (held, alone)]
    assert lasting(examples[0]) == lasting(examples[1])


def test_a_held_out_run_has_its_mixture(study: tuple[Path, list[str]]) -> None:
    held = study[0].parent / "out/s/held"
    mixture = yaml.safe_load((held / "ood_train_mix.yaml").read_text())
    assert mixture["name"] == "ood_train_mix_loto_holdout_quant_noise" and "quant_noise" not in mixture["weights"]
    assert yaml.safe_load((held / "sweep_resolved_config.yaml").read_text())["corruption"]["mixture"] == "ood_train_mix.yaml"
    assert read_json(held / "metrics/task_metrics.json")["settings"]["types"] == ["quant_noise"]


def test_another_configuration_is_refused_and_no_resume_archives(
    study: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Acceptance 27 and --fail_fast."""
    shutil.copytree(study[0].parent / "out", tmp_path / "out")
    sweep = write_sweep(tmp_path, BROKEN, HELD, seed=77)
    before = contents(tmp_path / "out")
    assert main(words(sweep)) == 2
    faults = capsys.readouterr().err
    assert "run held: config_hash" in faults and "run broken: config_hash" in faults and "--no-resume" in faults
    assert contents(tmp_path / "out") == before
    assert main(words(sweep, "--no-resume", "--fail_fast")) == 1
    held = tmp_path / "out/s/held"
    for name in ("metrics/task_metrics.json", "checkpoints/repair_step_3.pt", "run_record.json", "logs/train.jsonl"):
        assert len(list(held.glob(f"archive/*/{name}"))) == 1 and not (held / name).exists()
    assert len(list((tmp_path / "out").glob("archive/*/s_summary.json"))) == 1
    assert statuses(sweep) == {
        "broken": [("failed", "LoadError"), *[("skipped", "train_failed")] * 3],
        "held": [("skipped", "fail_fast")] * 4,
    }


def test_a_finished_sweep_recomputes_nothing(study: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Acceptance 28."""
    shutil.copytree(study[0].parent / "out", tmp_path / "out")
    held = tmp_path / "out/s/held"
    before = {name: digest for name, digest in contents(held).items() if name.startswith(("metrics/", "checkpoints/", "paper/"))}
    sweep = write_sweep(tmp_path, HELD)
    assert main(words(sweep)) == 0
    beat = heartbeat(tmp_path / "out/s", "sweep")
    assert (beat["reason"], beat["step"], beat["total_steps"]) == ("already_completed", 4, 4)
    assert before.items() <= contents(held).items() and summary(sweep)["status"] == "completed"
    assert len(read_json(held / "run.json")["entries"]) == len(read_json(study[0].parent / "out/s/held/run.json")["entries"])
    (held / "paper/tables/table_main_results.tex").write_text("changed by hand")
    assert main(words(sweep)) == 0  # what is not as it was left is made again, and nothing else
    assert before.items() <= contents(held).items()
    assert [line["run_phase"] for line in read_jsonl(tmp_path / "out/s/logs/sweep.jsonl").records][-1] == "plots"
    assert heartbeat(tmp_path / "out/s", "sweep")["reason"] == "completed"


def test_a_pause_reaches_the_running_phase_and_a_signal_does_too(tmp_path: Path) -> None:
    """Acceptance 25: the request goes through `modelwright runs pause`."""
    sweep = write_sweep(tmp_path, LONG, HELD)
    folder = tmp_path / "out/s"
    run = folder / "long"
    first = start(sweep)
    wait_until(lambda: trained(run) >= 1, first)
    command = [sys.executable, "-m", "modelwright.cli", "runs", "pause", str(folder), "--wait", "120", "--json"]
    asked = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert asked.returncode == 0 and '"outcome":"paused"' in asked.stdout, asked
    first.communicate(timeout=60)
    assert first.returncode == 3
    document, beat = summary(sweep), heartbeat(folder, "sweep")
    assert (document["status"], document["paused_run"]) == ("paused", "long")
    assert (beat["status"], beat["reason"], beat["step"]) == ("paused", "pause_request", 3)
    assert statuses(sweep) == {
        "long": [("paused", "pause_request"), *[("skipped", "train_paused")] * 3],
        "held": [("skipped", "sweep_pause_request")] * 4,
    }
    paused_at = trained(run)
    assert read_json(run / "control/pause_ack.json")["step"] == paused_at > 0
    assert not list(run.glob("control/*.request")) and not list(folder.glob("control/*.request"))
    assert answers(run)[-1]["actor"] == "sweep"

    second = start(sweep)
    wait_until(lambda: trained(run) > paused_at, second)
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=120)
    assert second.returncode == 3
    assert heartbeat(folder, "sweep")["reason"] == "keyboard_interrupt" and heartbeat(run, "train")["status"] == "paused"
    assert statuses(sweep)["held"] == [("skipped", "sweep_keyboard_interrupt")] * 4
    assert watch.main(["--run_dir", str(folder), "--stop_on_terminal"]) == 3
    (folder / "control/pause.request").touch()  # and before a run nothing is started at all
    before = contents(run)
    assert main(words(sweep)) == 3
    changed = {name for name, digest in contents(run).items() if before.get(name) != digest}
    assert changed == set() and statuses(sweep)["long"][0] == ("skipped", "sweep_pause_request")


def trained(run: Path) -> int:
    """The step of the newest heartbeat of the training, 0 before there is one."""
    path = run / "logs/train_heartbeat.json"
    return int(read_json(path)["step"]) if path.exists() else 0


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"name": "a", "overrides": {"train.steps.many": 1}}, "run a: train.steps.many: found 3 at train.steps"),
        ({"name": "a", "overrides": {"repair.protect_layers": [99]}}, "run a: repair.protect_layers: found 99"),
        ({"name": "a", "overrides": {"device": "cuda:77"}}, "run a: device: found 'cuda:77'"),
        ({"name": "logs", "overrides": {}}, "runs: found the name logs"),
    ],
)
def test_a_fault_is_found_before_any_run_starts(run: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Acceptance 34."""
    assert main(words(write_sweep(tmp_path, HELD, run))) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
