"""Signals, the budget and SIGKILL over whole runs in processes of their own: no orphan, a free port, whole rows, a next run that
works (specification 11, 12; AC-10, AC-13).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.tuning import Behaviour, autotune_argv, free_port, processes_naming, wait_until, write_script
from macprovider.autotune.candidate.ports import port_free
from macprovider.autotune.outcome import EXIT_CODES
from macprovider.autotune.records.database import STALE_NOTE, STARTED, TuningDatabase

X, Y = "o/X-7B", "o/Y-3B"
SLOW: Behaviour = {"token_s": 0.5}


def _heed_hangups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Run:
    """One `autotune` in a process of its own."""

    def __init__(self, folder: Path, behaviours: dict[str, Behaviour], *flags: str) -> None:
        self.folder, self.port = folder, free_port()
        self.database, self.script = folder / "db.sqlite", write_script(folder / "script.json", behaviours)
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        base = ["--target-context", "256", "--max-tokens", "8", "--kv-bits-axis", "unset", "--max-batch-axis", "1,2", "--drain-grace", "3"]
        self.flags = [*base, "--port", str(self.port), "--db-path", str(self.database), "--json", "--candidate-models", f"{X},{Y}", *flags]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {"HOME": str(self.folder)}
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            # A test run below `nohup` hands an ignored SIGHUP down, which autotune rightly goes on ignoring.
            self.process = subprocess.Popen(
                autotune_argv(self.script, *self.flags), stdout=out, stderr=err, env=environment, preexec_fn=_heed_hangups
            )
        return self.process

    def finish(self) -> int:
        assert self.process is not None
        return self.process.wait(60)

    def seen(self, text: str) -> bool:
        return self.err.is_file() and text in self.err.read_text(errors="replace")

    def rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        database = TuningDatabase(self.database)
        try:
            return database.runs(), database.trials()
        finally:
            database.close()

    def document(self) -> dict[str, Any]:
        text = self.out.read_text()
        return dict(json.loads(text if text.startswith("{") else text[text.index("\n{") + 1 :]))

    def left_nothing(self) -> bool:
        return wait_until(lambda: not processes_naming(str(self.script)) and port_free(self.port), 15)


@pytest.fixture
def started() -> Iterator[list[Run]]:
    runs: list[Run] = []
    yield runs
    for run in runs:
        if run.process is not None and run.process.poll() is None:
            run.process.kill()
            run.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ac10_a_signal_during_a_probe(tmp_path: Path, started: list[Run], number: signal.Signals) -> None:
    run = Run(tmp_path, {X: SLOW}, "-v")
    started.append(run)
    run.start().send_signal(signal.SIGCONT)
    assert wait_until(lambda: run.seen("warm-up") or run.seen("ready after"))
    assert run.process is not None
    run.process.send_signal(number)
    assert run.finish() == 130
    assert run.left_nothing()
    (row,), (trial,) = run.rows()
    assert row["exit_reason"] == "interrupted" and row["ended_at_utc"] is None and row["recommendation_json"] is None
    assert trial["notes"].startswith("interrupted:") and trial["fits"] == 0
    assert run.document()["exit_reason"] == "interrupted" and run.document()["recommendation"] is None
    run.script.write_text("{}")
    run.start()
    assert run.finish() == 0
    assert [row["exit_reason"] for row in run.rows()[0]] == ["ok", "interrupted"]


def test_a_signal_in_stage_two_leaves_a_partial_recommendation(tmp_path: Path, started: list[Run]) -> None:
    config = tmp_path / "config.yaml"
    run = Run(tmp_path, {f"{X} unset 2 256": SLOW}, "--apply", "--config", str(config))
    started.append(run)
    run.start()
    assert wait_until(lambda: run.seen("[stage 2, 2/2]"))
    assert run.process is not None
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 130 and run.left_nothing()
    told = run.document()["recommendation"]
    assert told["partial"] is True and told["knobs"]["max_concurrency_override"] == 1
    assert "PARTIAL" in run.out.read_text() and not config.exists()
    assert run.rows()[0][0]["recommendation_json"] is not None


def test_a_second_signal_does_not_wait_for_the_grace(tmp_path: Path, started: list[Run]) -> None:
    run = Run(tmp_path, {X: {"token_s": 0.5, "ignore_term": True}}, "--drain-grace", "300")
    started.append(run)
    process = run.start()
    assert wait_until(lambda: len(processes_naming("--no-join")) > 0 and run.seen("[stage 1"))
    assert wait_until(lambda: any(str(run.script) in " ".join(p.cmdline()) for p in processes_naming("--no-join")))
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert run.finish() == 130 and run.left_nothing()


@pytest.mark.parametrize("behaviours", [{X: {"pull_s": 60.0}}, {X: {"never_ready": True}}, {X: {"mute": True}}])
def test_ac13_the_budget_ends_stage_one(tmp_path: Path, started: list[Run], behaviours: dict[str, Behaviour]) -> None:
    run = Run(tmp_path, behaviours, "--max-duration", "3")
    started.append(run)
    run.start()
    assert run.finish() == EXIT_CODES["budget_exhausted_no_model_selected"] and run.left_nothing()
    (row,), _ = run.rows()
    assert row["exit_reason"] == "budget_exhausted_no_model_selected" and row["ended_at_utc"] and row["recommendation_json"] is None
    assert run.document()["recommendation"] is None
    assert run.seen("tuning incomplete: no model selected") and run.seen("--max-duration")


def test_ac13_the_budget_ends_stage_two(tmp_path: Path, started: list[Run]) -> None:
    run = Run(tmp_path, {f"{X} unset 1 256": {"mute": True}}, "--max-duration", "8", "--apply", "--config", str(tmp_path / "c.yaml"))
    started.append(run)
    run.start()
    assert run.finish() == EXIT_CODES["budget_exhausted_with_partial_recommendation"] and run.left_nothing()
    told = run.document()["recommendation"]
    assert told["partial"] is True and told["model"] == X
    assert told["knobs"] == {"kv_bits": None, "max_concurrency_override": 1, "max_context_override": 256}  # those of Stage 1
    assert told["tps_median"] > 0 and run.seen("warning:") and not (tmp_path / "c.yaml").exists()


def test_sigkill_while_a_candidate_runs(tmp_path: Path, started: list[Run]) -> None:
    _killed(tmp_path, started, 1, seed=3)


@pytest.mark.slow
def test_sigkill_at_thirty_random_moments(tmp_path: Path, started: list[Run]) -> None:
    _killed(tmp_path, started, 30, seed=11)


def _killed(tmp_path: Path, started: list[Run], times: int, seed: int) -> None:
    """Kill a run at a random moment, many times over on one database; then one run must find everything in order."""
    draw = random.Random(seed)
    run = Run(tmp_path, {X: {"exit_in_load": 1}, Y: {"token_s": 0.02, "grandchild": False}})
    started.append(run)
    for _ in range(times):
        process = run.start()
        time.sleep(draw.uniform(0.2, 4.0))
        process.kill()
        process.wait()
        assert run.left_nothing()
        if run.database.is_file():
            runs, trials = run.rows()
            assert all(trial["notes"] or trial["fits"] for trial in trials)
            assert all(row["exit_reason"] in EXIT_CODES for row in runs)
    run.start()
    assert run.finish() == 0
    runs, trials = run.rows()
    assert runs[0]["exit_reason"] == "ok" and not [trial for trial in trials if trial["notes"] == STARTED]
    assert {row["exit_reason"] for row in runs} <= {"ok", "internal_error"}
    for row in runs[1:]:
        if row["exit_reason"] == "internal_error":
            assert row["ended_at_utc"] is None
            assert all(trial["fits"] or trial["notes"] for trial in trials if trial["run_id"] == row["run_id"])
    assert all(trial["notes"] != STALE_NOTE for trial in trials if trial["run_id"] == runs[0]["run_id"])
