"""The command `train` in a run directory: files, resume, pause, kills. (specs/medic.md 4.4, 4.5, 8.4)"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import modelwright
from cachemedicpp.phases.record_models import TrainControlLine, TrainHeartbeat, TrainLine, TrainPauseAck
from cachemedicpp.repair.spec import HeadLayout
from cachemedicpp.train import main
from cachemedicpp.training import distillation as training
from cachemedicpp.training.state import latest_repair, load_repair, read_document
from helpers.medic_run import contents, heartbeat, heartbeats, write_config
from helpers.tiny_random import random_llama, save_model
from modelwright.errors import DamagedFileError, ModelwrightError
from modelwright.files import read_json, read_jsonl
from modelwright.metrics import read_metrics
from modelwright.model_shape import ModelShape

TIMES = ("timestamp_utc", "tokens_per_sec", "step_wall_sec")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Bits are compared between processes, so all of them compute with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "llama", random_llama())


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Configuration and run directory of a training that nothing disturbed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    config = write_config(folder / "config.yaml", model)
    assert command(config, folder / "run") == 0
    torch.set_num_threads(threads)
    return config, folder / "run"


def command(config: Path, run: Path, *flags: str) -> int:
    return main(["--config", str(config), "--run_dir", str(run), *flags])


def values(run: Path) -> list[dict[str, Any]]:
    """The log lines of the steps without what differs between two equal trainings."""
    lines = [line for line in read_jsonl(run / "logs" / "train.jsonl").records if line["phase"] == "train"]
    return [{name: value for name, value in line.items() if name not in (*TIMES, "run_id")} for line in lines]


def same_training(run: Path, other: Path) -> None:
    """Parameters, optimiser, generators and log values are equal to the last bit."""
    for path in (other / "checkpoints").glob("repair_step_*.pt"):
        mine, its = (read_document(folder / "checkpoints" / path.name, "repair") for folder in (run, other))
        assert_equal(dict(mine), dict(its))
    mine, its = (dict(read_document(folder / "checkpoints" / "train_state_latest.pt", "state")) for folder in (run, other))
    for name in ("timestamp_utc", "elapsed_wall_sec"):
        del mine[name], its[name]
    assert_equal(mine, its)
    assert values(run) == values(other)
    curves = [read_metrics(folder / "metrics.jsonl") for folder in (run, other)]
    for name in ("loss_total", "rho_mean"):
        logged = [(line["step"], line[name]) for line in values(other) if line[name] is not None]
        assert logged and [curve.series(f"train/{name}") for curve in curves] == [logged, logged]


def assert_equal(mine: Any, its: Any) -> None:
    if isinstance(mine, torch.Tensor):
        assert torch.equal(mine, its)
    elif isinstance(mine, dict):
        assert mine.keys() == its.keys()
        for name in mine:
            assert_equal(mine[name], its[name])
    elif isinstance(mine, list):
        for one, two in zip(mine, its, strict=True):
            assert_equal(one, two)
    else:
        assert mine == its


def before_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Call `act` when the training is about to make `step`."""
    real = training.training_step

    def step_after_act(*arguments: Any) -> Any:
        if arguments[-1] == step:
            act()
        return real(*arguments)

    monkeypatch.setattr(training, "training_step", step_after_act)


def test_help_imports_no_torch() -> None:
    words = "import sys; from cachemedicpp.train import main; sys.argv[1:] = ['--help']\n"
    words += (
        "try: main()\nexcept SystemExit as stop: assert stop.code == 0\nassert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert "--no-resume" in done.stdout and "Example:" in done.stdout


def test_every_file_is_there_and_fits_its_schema(whole: tuple[Path, Path], model: Path) -> None:
    """Acceptance 23 and 24."""
    _, run = whole
    names = set(contents(run))
    states = {f"checkpoints/{name}.pt" for name in ("train_state_latest", "train_state_step_3", "train_state_step_6")}
    repairs = {f"checkpoints/repair_step_{step}.pt" for step in (3, 6)}
    records = {"run_record.json", "config_resolved.yaml", "env.json", "git.json", "run.json", "metrics.jsonl", "writer.lock"}
    assert names == states | repairs | records | {"logs/train.jsonl", "logs/train_heartbeat.json", "logs/train_heartbeat.jsonl"}
    lines = read_jsonl(run / "logs" / "train.jsonl").records
    assert [(line["phase"], line["step"]) for line in lines] == [("train", 2), ("train", 4), ("train", 6), ("train_control", 6)]
    for line in lines:
        (TrainLine if line["phase"] == "train" else TrainControlLine).model_validate(line)
    for beat in heartbeats(run, "train"):
        TrainHeartbeat.model_validate(beat)
    last = heartbeat(run, "train")
    assert (last["status"], last["latest_repair_checkpoint"]) == ("completed", "checkpoints/repair_step_6.pt")
    shape = ModelShape.from_config(json.loads((model / "config.json").read_text()))
    path = latest_repair(run)
    assert path is not None and path.name == "repair_step_6.pt"
    operator, document = load_repair(path, HeadLayout(shape.head_dim, shape.kv_heads, shape.heads))
    assert document["step"] == 6 and operator.spec.protect_layers == (0, 1)
    assert all(name.startswith(("layer_0.", "layer_1.")) for name in document["repair_state"])


def test_a_finished_training_is_not_repeated_and_a_changed_config_is_refused(whole: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    """Acceptance 27 and 28."""
    config, run = whole
    before = contents(run / "checkpoints")
    assert command(config, run) == 0
    assert heartbeat(run, "train")["reason"] == "already_completed"
    assert contents(run / "checkpoints") == before
    assert read_jsonl(run / "logs" / "train.jsonl").records[-1]["event"] == "completed"
    other = write_config(tmp_path / "other.yaml", model, {"train.lr": 0.5})
    everything = contents(run)
    assert command(other, run) == 2
    assert contents(run) == everything


def test_no_resume_archives_and_starts_at_step_one(whole: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    """Acceptance 27."""
    config = write_config(tmp_path / "config.yaml", model, {"train.steps": 1})
    run = tmp_path / "run"
    assert command(config, run) == 0
    first = contents(run)
    assert command(config, run, "--no-resume") == 0
    (kept,) = (run / "archive").iterdir()
    assert set(contents(kept)) == {name for name in first if name.startswith(("logs/", "checkpoints/", "metrics"))}
    assert heartbeats(run, "train")[0]["step"] == 0 and heartbeats(run, "train")[0]["resumed_from"] is None
    assert [line["step"] for line in values(run)] == [1]


@pytest.mark.parametrize("step", [1, 4])
def test_a_paused_training_goes_on_bit_for_bit(
    whole: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Acceptance 25 and 26: the request comes during `step`, which is finished and is the last one."""
    config, reference = whole
    run = tmp_path / "run"
    request = run / "control" / "pause.request"
    with monkeypatch.context() as patch:
        before_step(patch, step, request.touch)
        assert command(config, run) == 3
    assert not request.exists()
    ack = TrainPauseAck.model_validate(read_json(run / "control" / "pause_ack.json"))
    assert (ack.step, ack.reason, ack.resume_state) == (step, "pause_request", f"checkpoints/train_state_step_{step}.pt")
    assert (heartbeat(run, "train")["status"], heartbeat(run, "train")["step"]) == ("paused", step)
    line = TrainControlLine.model_validate(read_jsonl(run / "logs" / "train.jsonl").records[-1])
    assert (line.event, line.step, line.resume_state) == ("paused", step, ack.resume_state)
    assert read_document(run / "checkpoints" / f"train_state_step_{step}.pt", "state")["reason"] == "pause_request"
    assert command(config, run) == 0
    same_training(run, reference)
    assert heartbeat(run, "train")["status"] == "completed"


def test_a_request_before_the_first_step_saves_nothing(whole: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "control").mkdir(parents=True)
    (run / "control" / "pause.request").touch()
    assert command(whole[0], run) == 3
    ack = TrainPauseAck.model_validate(read_json(run / "control" / "pause_ack.json"))
    assert (ack.step, ack.resume_state) == (0, None)
    assert not list((run / "checkpoints").iterdir())


def test_missing_text_leaves_a_failed_heartbeat(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Acceptance 29 and 33."""
    config = write_config(tmp_path / "config.yaml", model, {"data.offline_paths.wikitext2": "nowhere.txt"})
    assert command(config, tmp_path / "run") == 1
    last = TrainHeartbeat.model_validate(heartbeat(tmp_path / "run", "train"))
    assert last.status == "failed" and last.reason == "DataUnavailableError" and "nowhere.txt" in str(last.error)
    assert "nowhere.txt" in capsys.readouterr().err


def test_the_contraction_target_is_measured_against_the_bound(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """[C15], and half types on a CPU run as float32 (acceptance 32)."""
    config = write_config(tmp_path / "config.yaml", model, {"train.steps": 1, "train.alpha_contr": 0.8, "dtype": "bfloat16"})
    assert command(config, tmp_path / "run") == 0
    said = capsys.readouterr()
    assert "at least 0.866 for isotropic noise with rank 4 of 16 dimensions" in said.out
    assert "train.alpha_contr is 0.8" in said.err and "repair.rank to 6" in said.err
    assert json.loads((tmp_path / "run" / "run_record.json").read_text())["env"]["runtime_dtype"] == "float32"


def test_a_damaged_state_is_named(whole: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "train_state_latest.pt"
    path.write_bytes((whole[1] / "checkpoints" / "train_state_latest.pt").read_bytes()[:900])
    with pytest.raises(DamagedFileError, match=r"train_state_latest\.pt is damaged"):
        read_document(path, "state")


# ---------------------------------------------------------------------- real processes


def environment() -> dict[str, str]:
    source = str(Path(modelwright.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_a_request_pauses_the_real_command(model: Path, tmp_path: Path) -> None:
    """Acceptance 25 with a process of its own."""
    config = write_config(tmp_path / "config.yaml", model, {"train.steps": 100_000, "train.prefix_len": 12, "corruption.axes.N_recent": 2})
    words = [
        sys.executable,
        "-m",
        "cachemedicpp.train",
        "--config",
        str(config),
        "--run_dir",
        str(tmp_path / "run"),
        "--heartbeat_every",
        "1",
    ]
    child = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: (tmp_path / "run" / "logs" / "train_heartbeat.json").exists() and heartbeat(tmp_path / "run", "train")["step"] > 1)
        (tmp_path / "run" / "control" / "pause.request").touch()
        assert child.wait(timeout=300) == 3
    finally:
        child.kill()
        child.wait()
    last = heartbeat(tmp_path / "run", "train")
    assert (last["status"], last["reason"]) == ("paused", "pause_request")
    assert not (tmp_path / "run" / "control" / "pause.request").exists()
    TrainPauseAck.model_validate(read_json(tmp_path / "run" / "control" / "pause_ack.json"))


def in_child(config: str, run: str) -> None:
    """Train in a process of its own, as the command does."""
    torch.set_num_threads(1)
    sys.exit(command(Path(config), Path(run), "--heartbeat_every", "1"))


@pytest.mark.parametrize("kills", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_change_nothing(model: Path, tmp_path: Path, kills: int) -> None:
    """SIGKILL at so many moments, in start-up and work in turn; the resumed training equals the undisturbed one bit for bit.

    Children are forked from a server that has imported everything, so a life is short and is killed in its work.
    """
    small = {"train.steps": 70, "train.save_every": 7, "train.log_every": 5, "train.prefix_len": 24, "corruption.axes.N_recent": 4}
    config = write_config(tmp_path / "config.yaml", model, small)
    assert command(config, tmp_path / "reference" / "run") == 0
    run = tmp_path / "run"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "cachemedicpp.training.distillation", __name__])
    chance = random.Random(7)
    for kill in range(kills + 1):
        child = context.Process(target=in_child, args=(str(config), str(run)))
        child.start()
        if kill < kills:
            reached = 0 if kill % 2 else 50 * kill // kills + 1
            wait_for(functools.partial(has_come_to, run, child, reached))
            time.sleep(chance.uniform(0.0, 0.05))
            child.kill()
        child.join()
        assert child.exitcode == (-signal.SIGKILL if kill < kills else 0)
    same_training(run, tmp_path / "reference" / "run")


def has_come_to(run: Path, child: Any, step: int) -> bool:
    """Whether the child has told of `step` in its heartbeat, or is gone."""
    try:
        last = heartbeat(run, "train")
    except ModelwrightError:
        last = {}
    return not child.is_alive() or (last.get("writer", {}).get("pid") == child.pid and last["step"] >= step)


def wait_for(happened: Callable[[], bool], limit_s: float = 300.0) -> None:
    deadline = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
