"""The two tables of the tuning database, and how an older file gets the columns it lacks. (specs/autotune.md, 10)"""

from __future__ import annotations

import apsw

from modelwright.database import immediate

TABLES = """
CREATE TABLE IF NOT EXISTS tune_trials (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    ts_utc TEXT NOT NULL,                 -- when the trial began
    run_id TEXT NOT NULL,
    stage INTEGER NOT NULL,               -- 1 probe, 2 cell
    model TEXT NOT NULL,
    target_context INTEGER NOT NULL,
    measured_prompt_tokens INTEGER,       -- median of the server's own count
    max_tokens INTEGER NOT NULL,          -- answer budget
    agg_throughput_tps REAL,              -- median
    ttft_p95_ms REAL,
    fits INTEGER NOT NULL DEFAULT 0,      -- the gate's verdict
    n_err INTEGER NOT NULL DEFAULT 0,     -- failed replicates
    kept INTEGER NOT NULL DEFAULT 0,      -- the winner of Stage 2
    notes TEXT,                           -- why not, or `started` while it runs
    kv_bits INTEGER,                      -- NULL: unset
    max_context_cap INTEGER,              -- NULL: the server's default
    max_batch INTEGER,
    replicates_n INTEGER                  -- replicates attempted
);
CREATE TABLE IF NOT EXISTS tune_runs (
    run_id TEXT PRIMARY KEY,
    started_at_utc TEXT NOT NULL,
    ended_at_utc TEXT,                    -- NULL: interrupted or crashed
    spec_version TEXT NOT NULL,
    binary_version TEXT NOT NULL,
    machine_ram_gb INTEGER NOT NULL,
    machine_chip TEXT NOT NULL,
    machine_os_version TEXT NOT NULL,
    target_context INTEGER NOT NULL,
    candidate_models_json TEXT NOT NULL,
    stage1_replicates INTEGER NOT NULL,
    stage2_replicates INTEGER NOT NULL,
    gate_ttft_ms INTEGER NOT NULL,
    tps_tie_epsilon REAL NOT NULL,
    recommendation_json TEXT,
    recipe_hash TEXT,
    applied INTEGER NOT NULL DEFAULT 0,
    exit_reason TEXT NOT NULL,
    hf_cache_dir TEXT                     -- where weights came from
);
"""
INDEXES = """
CREATE INDEX IF NOT EXISTS idx_tune_trials_run_id ON tune_trials(run_id);
CREATE INDEX IF NOT EXISTS idx_tune_trials_ts ON tune_trials(ts_utc);
"""
MIGRATIONS = (
    "ALTER TABLE tune_trials ADD COLUMN stage INTEGER NOT NULL DEFAULT 1",
    "ALTER TABLE tune_trials ADD COLUMN kv_bits INTEGER",
    "ALTER TABLE tune_trials ADD COLUMN max_context_cap INTEGER",
    "ALTER TABLE tune_trials ADD COLUMN max_batch INTEGER",
    "ALTER TABLE tune_trials ADD COLUMN replicates_n INTEGER",
    "ALTER TABLE tune_runs ADD COLUMN hf_cache_dir TEXT",
)
ADDITIONS = (
    "ALTER TABLE tune_trials ADD COLUMN measured_json TEXT",
    "ALTER TABLE tune_trials ADD COLUMN repair TEXT",
    "ALTER TABLE tune_runs ADD COLUMN engine TEXT",
    "ALTER TABLE tune_runs ADD COLUMN experiment TEXT",
)
"""Columns of our own beyond the specification, all nullable. measured_json: every replicate, the load time, what the engine said
of itself. repair: path of the operator in a cell, NULL without one. engine: what `--engine` stood for. experiment:
name of the experiment that a run was, NULL for tuning."""
ADDED = frozenset(statement.split()[5] for statement in ADDITIONS)
"""Their names."""


def prepare(connection: apsw.Connection) -> None:
    """Create what is missing and add missing columns; does nothing to a file that has them all."""
    with immediate(connection):
        connection.execute(TABLES)
        for statement in (*MIGRATIONS, *ADDITIONS):
            try:
                connection.execute(statement)
            except apsw.SQLError as error:
                if "duplicate column" not in str(error):
                    raise
        connection.execute(INDEXES)
