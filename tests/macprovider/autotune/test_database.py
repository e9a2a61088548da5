"""The tuning database: columns, migration of a populated prototype, retention, rows that a crash left (specification 10; AC-16)."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from macprovider.autotune.options import Inputs
from macprovider.autotune.outcome import SetupError
from macprovider.autotune.plan import Knobs
from macprovider.autotune.records.database import STALE_NOTE, TrialValues, TuningDatabase
from macprovider.autotune.records.machine import Machine
from macprovider.autotune.records.tables import MIGRATIONS
from modelwright.clock import ManualClock

MACHINE = Machine(16, "Apple M2", "macOS 26.3.1", "1.4.0")
TRIAL_COLUMNS = {
    "id": "INTEGER", "ts_utc": "TEXT", "run_id": "TEXT", "stage": "INTEGER", "model": "TEXT", "target_context": "INTEGER",
    "measured_prompt_tokens": "INTEGER", "max_tokens": "INTEGER", "agg_throughput_tps": "REAL", "ttft_p95_ms": "REAL", "fits": "INTEGER",
    "n_err": "INTEGER", "kept": "INTEGER", "notes": "TEXT", "kv_bits": "INTEGER", "max_context_cap": "INTEGER", "max_batch": "INTEGER",
    "replicates_n": "INTEGER",
}  # fmt: skip
RUN_COLUMNS = {
    "run_id": "TEXT", "started_at_utc": "TEXT", "ended_at_utc": "TEXT", "spec_version": "TEXT", "binary_version": "TEXT",
    "machine_ram_gb": "INTEGER", "machine_chip": "TEXT", "machine_os_version": "TEXT", "target_context": "INTEGER",
    "candidate_models_json": "TEXT", "stage1_replicates": "INTEGER", "stage2_replicates": "INTEGER", "gate_ttft_ms": "INTEGER",
    "tps_tie_epsilon": "REAL", "recommendation_json": "TEXT", "recipe_hash": "TEXT", "applied": "INTEGER", "exit_reason": "TEXT",
    "hf_cache_dir": "TEXT",
}  # fmt: skip
NULLABLE_ADDITIONS = {"measured_json", "engine", "experiment", "repair"}
PROTOTYPE = """
CREATE TABLE tune_trials (
    id INTEGER PRIMARY KEY AUTOINCREMENT, ts_utc TEXT NOT NULL, run_id TEXT NOT NULL, model TEXT NOT NULL,
    target_context INTEGER NOT NULL, measured_prompt_tokens INTEGER, max_tokens INTEGER NOT NULL, agg_throughput_tps REAL,
    ttft_p95_ms REAL, fits INTEGER NOT NULL DEFAULT 0, n_err INTEGER NOT NULL DEFAULT 0, kept INTEGER NOT NULL DEFAULT 0, notes TEXT
);
INSERT INTO tune_trials (ts_utc, run_id, model, target_context, max_tokens, fits, notes)
VALUES ('2026-01-01T00:00:00Z', 'proto', 'a/1B', 2000, 48, 1, NULL), ('2026-01-01T00:01:00Z', 'proto', 'a/7B', 2000, 48, 0, 'slow');
"""


def table(path: Path, name: str) -> dict[str, tuple[str, int, object]]:
    with sqlite3.connect(path) as reader:
        return {row[1]: (row[2], row[3], row[4]) for row in reader.execute(f"PRAGMA table_info({name})")}


def begin(database: TuningDatabase, run_id: str) -> None:
    database.begin_run(run_id, Inputs(2000, ("a", "b"), 1, 3, 60000, 0.02, "transformers"), MACHINE)


def test_columns_are_those_of_the_specification(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "db.sqlite"
    TuningDatabase(path).close()
    for name, columns in (("tune_trials", TRIAL_COLUMNS), ("tune_runs", RUN_COLUMNS)):
        found = table(path, name)
        assert {column: found[column][0] for column in columns} == columns
        assert set(found) - set(columns) <= NULLABLE_ADDITIONS
        assert all(not found[column][1] for column in set(found) - set(columns))
    with sqlite3.connect(path) as reader:
        indexes = {row[0] for row in reader.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")}
    assert indexes == {"idx_tune_trials_run_id", "idx_tune_trials_ts"}
    assert table(path, "tune_trials")["stage"] == ("INTEGER", 1, None)  # a new row must say its stage


def test_ac16_a_populated_prototype_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with sqlite3.connect(path) as writer:
        writer.executescript(PROTOTYPE)
    writer.close()
    assert "ALTER TABLE tune_trials ADD COLUMN stage INTEGER NOT NULL DEFAULT 1" in MIGRATIONS
    for _ in range(2):  # the second time changes nothing
        database = TuningDatabase(path)
        rows = database.trials("proto")
        found = [(row["stage"], row["model"], row["notes"], row["kv_bits"]) for row in rows]
        assert found == [(1, "a/1B", None, None), (1, "a/7B", "slow", None)]
        database.close()
    database = TuningDatabase(path)
    begin(database, "new")
    database.forget_old_runs(1)
    assert len(database.trials("proto")) == 2  # rows of no run are left alone
    database.close()


def test_a_file_of_an_earlier_version_is_read_without_being_changed(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    database = TuningDatabase(path)
    begin(database, "run")
    database.begin_trial("run", 2, "a", Knobs(4, 1, 2000), 2000, 48)
    database.close()
    with sqlite3.connect(path) as writer:
        writer.execute("ALTER TABLE tune_trials DROP COLUMN repair")
    writer.close()
    reader = TuningDatabase(path, readonly=True)
    assert [(row["kv_bits"], row["repair"]) for row in reader.trials()] == [(4, None)] and "repair" not in table(path, "tune_trials")
    reader.close()
    writer = TuningDatabase(path)  # one that may write adds the column
    assert table(path, "tune_trials")["repair"] == ("TEXT", 0, None)
    trial = writer.begin_trial("run", 2, "a", Knobs(4, 1, 2000, "/x/repair_step_1.pt"), 2000, 48)
    assert [(row["id"], row["repair"]) for row in writer.trials()][-1] == (trial, "/x/repair_step_1.pt")
    writer.close()


def test_retention_keeps_the_newest_runs_whole(tmp_path: Path) -> None:
    clock = ManualClock()
    database = TuningDatabase(tmp_path / "db.sqlite", clock)
    for number in range(5):
        begin(database, f"run-{number}")
        database.begin_trial(f"run-{number}", 1, "a", Knobs(), 2000, 48)
        clock.advance(1)
    assert sorted(database.forget_old_runs(2)) == ["run-0", "run-1", "run-2"]
    assert [row["run_id"] for row in database.runs()] == ["run-4", "run-3"]
    assert [row["run_id"] for row in database.trials()] == ["run-3", "run-4"]
    assert database.forget_old_runs(2) == []
    database.close()


def test_runs_of_one_moment_are_ordered_by_their_id(tmp_path: Path) -> None:
    database = TuningDatabase(tmp_path / "db.sqlite", ManualClock())
    for name in "bca":
        begin(database, name)
    assert sorted(database.forget_old_runs(1)) == ["a", "b"]
    database.close()


def test_a_row_reads_as_a_crash_until_it_ends(tmp_path: Path) -> None:
    database = TuningDatabase(tmp_path / "db.sqlite")
    begin(database, "run")
    assert (database.run("run")["exit_reason"], database.run("run")["ended_at_utc"]) == ("internal_error", None)
    trial = database.begin_trial("run", 2, "a", Knobs(8, 2, 4000), 2000, 48)
    row = database.trials("run")[0]
    assert (row["notes"], row["stage"], row["kv_bits"], row["max_batch"], row["max_context_cap"]) == ("started", 2, 8, 2, 4000)
    database.end_trial(trial, TrialValues(True, "", 0, 3, 1900, 2.05, 100.0, {"load_s": 1.0}))
    row = database.trials("run")[0]
    assert (row["id"], row["notes"], row["fits"], row["agg_throughput_tps"], row["replicates_n"]) == (trial, None, 1, 2.05, 3)
    database.end_run("run", "ok", recommendation={"model": "a"}, recipe_hash="sha256:0", applied=True)
    assert (database.run("run")["exit_reason"], database.run("run")["applied"]) == ("ok", 1)
    assert database.run("run")["ended_at_utc"].endswith("Z")
    database.end_run("run", "interrupted")
    assert database.run("run")["ended_at_utc"] is None
    database.close()


def test_rows_that_a_crash_left_are_called_interrupted(tmp_path: Path) -> None:
    database = TuningDatabase(tmp_path / "db.sqlite")
    for name in ("old", "new"):
        begin(database, name)
        database.begin_trial(name, 1, "a", Knobs(), 2000, 48)
    assert database.mark_stale_trials("new") == 1
    assert [row["notes"] for row in database.trials()] == [STALE_NOTE, "started"]
    database.close()


def test_a_file_that_is_no_database_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    path.write_text("this is text, and long enough to be looked at as a header of SQLite" * 20)
    with pytest.raises(SetupError, match="--db-path"):
        TuningDatabase(path)
    assert path.read_text().startswith("this is text")
