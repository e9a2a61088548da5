"""The tuning database: one row for a run, one for each trial, written so that a kill at any moment leaves whole rows.
(specs/autotune.md, 10)

A run's row stands from its start with the reason `internal_error` and no end, so that a crash reads as one; a trial's row stands
before its candidate starts, with the note `started`. Both are updated in place. Only retention deletes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import orjson

from macprovider.autotune.options import Inputs
from macprovider.autotune.outcome import ExitReason, SetupError
from macprovider.autotune.plan import Knobs
from macprovider.autotune.records.machine import Machine
from macprovider.autotune.records.tables import ADDED, prepare
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import BUSY_MS, immediate
from modelwright.errors import ModelwrightError
from modelwright.home import ensure_folder

SPEC_VERSION = "SPEC-013 v0.3"
STARTED = "started"
STALE_NOTE = "interrupted: the run that started this trial ended without a word"
RUN_FIELDS = (
    "run_id", "started_at_utc", "ended_at_utc", "spec_version", "binary_version", "machine_ram_gb", "machine_chip",
    "machine_os_version", "target_context", "candidate_models_json", "stage1_replicates", "stage2_replicates", "gate_ttft_ms",
    "tps_tie_epsilon", "recommendation_json", "recipe_hash", "applied", "exit_reason", "hf_cache_dir", "engine", "experiment",
)  # fmt: skip
TRIAL_FIELDS = (
    "id", "ts_utc", "run_id", "stage", "model", "target_context", "measured_prompt_tokens", "max_tokens", "agg_throughput_tps",
    "ttft_p95_ms", "fits", "n_err", "kept", "notes", "kv_bits", "max_context_cap", "max_batch", "replicates_n", "measured_json", "repair",
)  # fmt: skip

Row = dict[str, Any]


@dataclass(frozen=True)
class TrialValues:
    """What a finished trial adds to its row; see the table for the units."""

    fits: bool
    notes: str
    n_err: int
    replicates_n: int
    measured_prompt_tokens: int | None = None
    agg_throughput_tps: float | None = None
    ttft_p95_ms: float | None = None
    measured: Mapping[str, Any] | None = None


def knobs_of_row(trial: Row) -> Knobs:
    """The knobs that a trial's row stands for."""
    return Knobs(trial["kv_bits"], trial["max_batch"] or 1, trial["max_context_cap"], trial["repair"])


def unusable(path: Path, error: apsw.Error) -> SetupError:
    """Why a file cannot hold the tuning database, and what to do."""
    if isinstance(error, apsw.FullError):
        todo = "Free space on its disk, or name another file."
    elif isinstance(error, apsw.ReadOnlyError | apsw.CantOpenError | apsw.PermissionsError):
        todo = "Name a file that this user may write."
    elif isinstance(error, apsw.BusyError | apsw.LockedError):
        todo = "Wait for the program that holds it, or name another file."
    else:
        todo = "Name another file, or move this one away."
    return SetupError(f"--db-path: {path} cannot be used as a tuning database ({error}). {todo}")


class TuningDatabase:
    """One open database. Raises SetupError when it cannot be opened, or is none. readonly: it must exist, and is not changed."""

    def __init__(self, path: Path, clock: Clock = SYSTEM_CLOCK, *, readonly: bool = False) -> None:
        self.path, self._clock = path, clock
        try:
            if not readonly:
                ensure_folder(path.parent)
            flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
            self._connection = apsw.Connection(str(path), flags=flags)
        except (apsw.Error, ModelwrightError) as error:
            raise SetupError(f"--db-path: {path} cannot be opened ({error}). Name a file that this user may write.") from error
        try:
            self._connection.set_busy_timeout(BUSY_MS)
            if not readonly:
                prepare(self._connection)
        except apsw.Error as error:
            self._connection.close()
            raise unusable(path, error) from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def begin_run(
        self,
        run_id: str,
        inputs: Inputs,
        machine: Machine,
        *,
        exit_reason: ExitReason = "internal_error",
        hf_cache_dir: str | None = None,
        experiment: str | None = None,
        ended: bool = False,
    ) -> None:
        """Write the run's row. `ended` for one that was over before it began."""
        now = stamp(self._clock.now(), millis=True)
        values = (
            run_id, now, now if ended else None, SPEC_VERSION, machine.binary_version, machine.ram_gb, machine.chip, machine.os_version,
            inputs.target_context, orjson.dumps(list(inputs.candidate_models)).decode(), inputs.stage1_replicates,
            inputs.stage2_replicates, inputs.gate_ttft_ms, inputs.tps_tie_epsilon, None, None, 0, exit_reason, hf_cache_dir,
            inputs.engine, experiment,
        )  # fmt: skip
        self._insert("tune_runs", RUN_FIELDS, values)

    def end_run(
        self,
        run_id: str,
        exit_reason: ExitReason,
        *,
        recommendation: Mapping[str, Any] | None = None,
        recipe_hash: str | None = None,
        applied: bool = False,
    ) -> None:
        """Update the run's row; an interrupted run has no end."""
        ended = None if exit_reason == "interrupted" else stamp(self._clock.now(), millis=True)
        told = None if recommendation is None else orjson.dumps(recommendation).decode()
        with immediate(self._connection):
            self._connection.execute(
                "UPDATE tune_runs SET exit_reason = ?, ended_at_utc = ?, recommendation_json = ?, recipe_hash = ?, applied = ? "
                "WHERE run_id = ?",
                (exit_reason, ended, told, recipe_hash, int(applied), run_id),
            )

    def forget_old_runs(self, keep: int) -> list[str]:
        """Delete every run beyond the newest `keep`, with its trials, in one transaction; returns their ids. Trials of no run stay."""
        with immediate(self._connection):
            old = [
                row[0]
                for row in self._connection.execute(
                    "SELECT run_id FROM tune_runs ORDER BY started_at_utc DESC, run_id DESC LIMIT -1 OFFSET ?", (keep,)
                )
            ]
            self._connection.executemany("DELETE FROM tune_trials WHERE run_id = ?", [(run_id,) for run_id in old])
            self._connection.executemany("DELETE FROM tune_runs WHERE run_id = ?", [(run_id,) for run_id in old])
        return old

    def mark_stale_trials(self, run_id: str) -> int:
        """Call rows interrupted that another run left at `started`; only while no other run can be alive."""
        with immediate(self._connection):
            self._connection.execute("UPDATE tune_trials SET notes = ? WHERE notes = ? AND run_id != ?", (STALE_NOTE, STARTED, run_id))
            return self._connection.changes()

    def begin_trial(self, run_id: str, stage: int, model: str, knobs: Knobs, target_context: int, max_tokens: int) -> int:
        """Write a trial's row before its candidate starts; returns its id."""
        now = stamp(self._clock.now(), millis=True)
        fields = (
            "ts_utc", "run_id", "stage", "model", "target_context", "max_tokens", "fits", "n_err", "kept", "notes", "kv_bits",
            "max_context_cap", "max_batch", "replicates_n", "repair",
        )  # fmt: skip
        values = (
            now, run_id, stage, model, target_context, max_tokens, 0, 0, 0, STARTED, knobs.kv_bits, knobs.max_context,
            knobs.max_batch, 0, knobs.repair,
        )  # fmt: skip
        return self._insert("tune_trials", fields, values)

    def end_trial(self, trial: int, values: TrialValues) -> None:
        """Update a trial's row with what came of it."""
        measured = None if values.measured is None else orjson.dumps(values.measured).decode()
        with immediate(self._connection):
            self._connection.execute(
                "UPDATE tune_trials SET fits = ?, notes = ?, n_err = ?, replicates_n = ?, measured_prompt_tokens = ?, "
                "agg_throughput_tps = ?, ttft_p95_ms = ?, measured_json = ? WHERE id = ?",
                (
                    int(values.fits), values.notes or None, values.n_err, values.replicates_n, values.measured_prompt_tokens,
                    values.agg_throughput_tps, values.ttft_p95_ms, measured, trial,
                ),
            )  # fmt: skip

    def note_trial(self, trial: int, notes: str) -> None:
        """Update the note of a trial that did not come to its end."""
        with immediate(self._connection):
            self._connection.execute("UPDATE tune_trials SET notes = ? WHERE id = ?", (notes, trial))

    def keep(self, run_id: str, trial: int) -> None:
        """Mark the winner of Stage 2, and it alone."""
        with immediate(self._connection):
            self._connection.execute("UPDATE tune_trials SET kept = (id = ?) WHERE run_id = ? AND stage = 2", (trial, run_id))

    def run(self, run_id: str) -> Row:
        """The row of one run."""
        return self._rows("tune_runs", RUN_FIELDS, "WHERE run_id = ?", (run_id,))[0]

    def runs(self) -> list[Row]:
        """Every run, newest first."""
        return self._rows("tune_runs", RUN_FIELDS, "ORDER BY started_at_utc DESC, run_id DESC", ())

    def trials(self, run_id: str | None = None) -> list[Row]:
        """The trials of a run, or all of them, in the order they began."""
        if run_id is None:
            return self._rows("tune_trials", TRIAL_FIELDS, "ORDER BY id", ())
        return self._rows("tune_trials", TRIAL_FIELDS, "WHERE run_id = ? ORDER BY id", (run_id,))

    def _rows(self, table: str, fields: Sequence[str], rest: str, values: Sequence[Any]) -> list[Row]:
        # a file of an earlier version that is only read may lack columns of our own: they say nothing then
        lacking = ADDED - {row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")}
        columns = ", ".join(f"NULL AS {field}" if field in lacking else field for field in fields)
        return [dict(zip(fields, row, strict=True)) for row in self._connection.execute(f"SELECT {columns} FROM {table} {rest}", values)]

    def _insert(self, table: str, fields: Sequence[str], values: Sequence[Any]) -> int:
        places = ", ".join("?" * len(fields))
        with immediate(self._connection):
            self._connection.execute(f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({places})", values)
            return self._connection.last_insert_rowid()
