"""The command watch: which heartbeat it shows, what it prints, when it ends. (specs/medic.md, 8.9, C32; acceptance 29, 30)"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import modelwright
from cachemedicpp import train
from cachemedicpp.phases.watch_view import duration, look, plain, rows
from cachemedicpp.watch import main
from helpers.medic_run import write_config
from modelwright.clock import stamp
from modelwright.identity import current_identity

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
FIELDS: dict[str, Any] = {
    "run_id": "r",
    "status": "running",
    "reason": "heartbeat",
    "step": 50,
    "total_steps": 100,
    "progress": 0.5,
    "steps_remaining": 50,
    "elapsed_wall_sec": 3723.4,
    "steps_per_sec": 2.0,
    "eta_sec": None,
    "resumed_from": "checkpoints/train_state_latest.pt",
}


def beat(run: Path, phase: str, age_s: float = 0.0, *, timeline: bool = False, now: datetime | None = None, **fields: Any) -> None:
    """Write a heartbeat `age_s` seconds old as the snapshot, or append it to the timeline."""
    moment = stamp((now or datetime.now(UTC)) - timedelta(seconds=age_s), millis=True)
    document = {**FIELDS, "phase": phase, "timestamp_utc": moment, **fields}
    (run / "logs").mkdir(parents=True, exist_ok=True)
    path = run / "logs" / f"{phase}_heartbeat.json"
    if timeline:
        with open(f"{path}l", "a", encoding="utf-8") as lines:
            lines.write(json.dumps(document) + "\n")
    else:
        path.write_text(json.dumps(document), encoding="utf-8")


def command(run: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "cachemedicpp.watch", "--run_dir", str(run), *flags]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(modelwright.__file__).parents[1])}


def test_the_newest_phase_is_shown_with_every_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Acceptance 30."""
    beat(tmp_path, "eval", age_s=5, status="completed", step=90)
    told = {"tokens_per_sec": 1234.5, "gpu_mem_gb": 0.25, "loss_total": 0.125, "latest_train_state": "b.pt"}
    beat(tmp_path, "train", age_s=1, latest_repair_checkpoint="a.pt", current_unit={"kind": "curve", "delta_norm": 1.0}, **told)
    assert main(["--run_dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("run=r phase=train status=running updated=20")
    assert shown[1:10] == [
        "step=50/100 (50.0%) remaining=50 eta=n/a elapsed=1h02m03s",
        "steps/s=2.000 tokens/s=1234.5 gpu_mem_gb=0.25 loss=0.12500",
        "reason=heartbeat",
        "latest_repair_checkpoint=a.pt",
        "latest_train_state=b.pt",
        "resumed_from=checkpoints/train_state_latest.pt",
        f"pause_request={tmp_path}/control/pause.request",
        "current_unit=kind curve, delta_norm 1.0",
        "earlier_eval=completed at 90/100",
    ]


def test_the_snapshot_comes_before_the_timeline_which_steps_in_when_it_is_damaged(tmp_path: Path) -> None:
    beat(tmp_path, "train", age_s=0, timeline=True, step=60, now=NOW)
    beat(tmp_path, "train", age_s=10, step=59, now=NOW)
    assert seen_step(tmp_path) == 59
    with open(tmp_path / "logs/train_heartbeat.jsonl", "a", encoding="utf-8") as torn:
        torn.write('{"step": 61, "phase": "tra')
    snapshot = tmp_path / "logs/train_heartbeat.json"
    for damage in (b"", b'{"step": 5', b"[1]", b"\xff\xfe", None):
        snapshot.unlink() if damage is None else snapshot.write_bytes(damage)
        assert seen_step(tmp_path) == 60
    beat(tmp_path, "eval", timestamp_utc="yesterday", step=999)
    beat(tmp_path, "stability", timestamp_utc=17, step=1000)
    assert seen_step(tmp_path) == 60  # a time that cannot be read counts as the epoch
    (tmp_path / "logs/train_heartbeat.jsonl").unlink()
    assert seen_step(tmp_path) == 1000  # and of equal times the larger step


def seen_step(run: Path) -> int:
    sight, _ = look(run, NOW, 2.0)
    assert sight is not None
    return int(sight.beat["step"])


@pytest.mark.parametrize(
    ("status", "age", "poll", "shown"),
    [("running", 119, 2, "running"), ("running", 121, 2, "stale"), ("running", 121, 13, "running"), ("resumed", 131, 13, "stale")]
    + [(status, 9999, 2, status) for status in ("completed", "paused", "failed")],
)
def test_an_old_heartbeat_of_a_run_that_goes_on_is_stale(tmp_path: Path, status: str, age: float, poll: float, shown: str) -> None:
    beat(tmp_path, "train", age_s=age, now=NOW, status=status)
    sight, _ = look(tmp_path, NOW, poll)
    assert sight is not None and sight.status == shown
    assert ("note=The heartbeat says" in plain(sight)) == (shown == "stale")


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("paused", 3), ("failed", 1)])
def test_it_follows_until_the_phase_ends(tmp_path: Path, status: str, code: int) -> None:
    run = tmp_path / "later"
    watching = subprocess.Popen(
        command(run, "--follow", "--stop_on_terminal", "--poll_sec", "0.0", "--clear_screen"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert watching.stdout is not None and watching.stderr is not None
    assert "waiting" in watching.stderr.readline()
    moment = stamp(datetime.now(UTC), millis=True)
    beat(run, "train", timestamp_utc=moment, step=1)
    assert "run=r phase=train" in watching.stdout.readline()
    beat(run, "train", timestamp_utc=moment, step=1, loss_total=9.0)  # nothing that counts has changed
    time.sleep(0.5)
    beat(run, "train", timestamp_utc=moment, step=2, status=status, error="it broke" if status == "failed" else None)
    out, _ = watching.communicate(timeout=60)
    assert watching.returncode == code
    assert out.count("run=r") == 1 and "step=2/100" in out and "\x1b" not in out
    assert ("error=it broke" in out) == (status == "failed")


def test_an_exception_leaves_a_failed_heartbeat_and_watch_returns_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Acceptance 29."""
    config = write_config(tmp_path / "config.yaml", tmp_path / "no-model")
    assert train.main(["--config", str(config), "--run_dir", str(tmp_path / "run")]) == 1
    assert main(["--run_dir", str(tmp_path / "run"), "--follow", "--stop_on_terminal"]) == 1
    shown = capsys.readouterr().out
    assert "phase=train status=failed" in shown and "error=The model" in shown and "reason=LoadError" in shown


def test_without_a_heartbeat_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run_dir", str(tmp_path / "nowhere")]) == 1
    assert "found no heartbeat" in capsys.readouterr().err


def test_a_dead_process_is_said_and_ends_the_watch_once_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = {**current_identity().as_dict(), "pid": gone.pid, "start_time": 1}
    beat(tmp_path, "train", age_s=3, writer=dead)
    assert main(["--run_dir", str(tmp_path), "--stop_on_terminal"]) == 0
    assert "status=running" in (shown := capsys.readouterr().out) and "ended without a last word" in shown
    beat(tmp_path, "train", age_s=300, writer=dead)
    assert main(["--run_dir", str(tmp_path), "--follow", "--stop_on_terminal"]) == 1
    beat(tmp_path, "train", age_s=300, writer=current_identity().as_dict())
    sight, _ = look(tmp_path, datetime.now(UTC), 2.0)
    assert sight is not None and not sight.dead


def test_a_sweep_shows_the_run_at_hand(tmp_path: Path) -> None:
    beat(tmp_path, "sweep", now=NOW, run_id="s", step=1, total_steps=8, current_unit={"run": "a", "phase": "train"})
    beat(tmp_path / "a", "train", now=NOW, run_id="a", step=7)
    sight, _ = look(tmp_path, NOW, 2.0)
    assert sight is not None and sight.status == "running"
    assert "current_unit=run a, phase train" in plain(sight) and "in_run=a phase=train step=7/100" in plain(sight)
    before = sight.key
    beat(tmp_path / "a", "train", now=NOW, run_id="a", step=8)
    after, _ = look(tmp_path, NOW, 2.0)
    assert after is not None and after.key != before


def test_a_terminal_gets_a_panel(tmp_path: Path) -> None:
    beat(tmp_path, "train", run_id="a[red]b\x1b[2J")
    master, slave = pty.openpty()
    watching = subprocess.Popen(command(tmp_path, "--clear_screen"), stdout=slave, env={**environment(), "TERM": "xterm", "COLUMNS": "100"})
    assert watching.wait(60) == 0
    os.close(slave)
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert shown.startswith("\x1b[H\x1b[2J") and shown.count("\x1b[2J") == 1  # what a file says steers no terminal
    assert "╭" in shown and "a[red]b" in shown and "50/100 (50.0%)" in shown


@pytest.mark.parametrize(("words", "said"), [(["--poll_sec", "nan"], "--poll_sec"), (["--poll_sec", "x"], "seconds"), ([], "--run_dir")])
def test_bad_flags_exit_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*(["--run_dir", "r"] if words else []), *words])
    assert stop.value.code == 2 and said in capsys.readouterr().err


def test_it_loads_neither_torch_nor_pydantic(tmp_path: Path) -> None:
    beat(tmp_path, "train")
    heavy = "assert not {'torch', 'transformers', 'pydantic', 'rich'} & set(sys.modules), sorted(sys.modules)"
    code = f"import sys\nfrom cachemedicpp.watch import main\nassert main(['--run_dir', {str(tmp_path)!r}]) == 0\n{heavy}"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), capture_output=True)


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0, 3.4, 123, 3723, 360000)] == ["0s", "3s", "2m03s", "1h02m03s", "100h00m00s"]
    assert {duration(odd) for odd in (None, "5", True, float("nan"), float("inf"))} == {"n/a"}


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["timestamp_utc", "progress", "eta_sec", "loss_total", "current_unit", "writer", "error", *FIELDS])


@settings(max_examples=60, deadline=None)
@given(document=st.dictionaries(NAMES, JSON), cut=st.integers(0, 400), phase=st.sampled_from(["train", "sweep"]))
def test_whatever_stands_in_the_files_it_does_not_crash(
    tmp_path_factory: pytest.TempPathFactory, document: Any, cut: int, phase: str
) -> None:
    run = tmp_path_factory.mktemp("any")
    (run / "logs").mkdir()
    text = json.dumps(document).encode()
    (run / "logs" / f"{phase}_heartbeat.json").write_bytes(text[:cut])
    (run / "logs" / f"{phase}_heartbeat.jsonl").write_bytes(text + b"\n" + text[:cut])
    sight, _ = look(run, NOW, 2.0)
    assert sight is not None
    assert all("\n" not in value for line in rows(sight) for _, value in line) and plain(sight)
