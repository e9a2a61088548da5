"""The tables of jobs and events. (issue decisions State and One job system; specs/guild.md 2.1.2, 2.1.11, 4.10, 8.5)

A row is written whole and carries a checksum of its values (`guild.records.checksums`), because SQLite notices a damaged page and not a
changed byte inside a value. Ids are never used again, so that a run directory or an event stream can be named by them.
"""

from __future__ import annotations

SQL = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,                   -- guild.records.kinds
    resource TEXT NOT NULL,               -- trainer, inference or cpu
    name TEXT,                            -- of the data file, for train_file
    once_key TEXT,                        -- two jobs with one key are never unfinished at a time
    payload TEXT NOT NULL,                -- JSON, checked by the kind's model
    state TEXT NOT NULL,                  -- guild.records.states
    priority INTEGER NOT NULL,            -- the highest is taken first
    ordinal INTEGER NOT NULL,             -- then the lowest: ns since 1970, of the file's mtime or of the enqueueing
    from_priority INTEGER,                -- the priority it was taken with
    position INTEGER NOT NULL,            -- examples (or another unit of the kind) done and saved
    taken_position INTEGER NOT NULL,      -- position when it was last taken
    attempts INTEGER NOT NULL,            -- failures so far
    max_attempts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,             -- deaths of its worker in a row, none of which came further than the one before
    max_crashes INTEGER NOT NULL,
    skips INTEGER NOT NULL,
    owner TEXT,                           -- JSON of the process that holds it
    lease_boot TEXT,                      -- boot of this machine in which lease_until counts
    lease_until REAL,                     -- seconds since that boot
    running_since REAL,                   -- seconds since that boot: when it was taken, or resumed
    cancel_asked INTEGER NOT NULL,        -- 1: its worker shall stop and cancel it
    campaign TEXT,                        -- hero/campaign it belongs to
    run TEXT,                             -- its run directory, relative to the base directory where it lies below
    error TEXT,                           -- why it last failed
    result TEXT,                          -- JSON
    enqueued_at TEXT NOT NULL,
    started_at TEXT,                      -- when it was last taken
    finished_at TEXT,                     -- when it reached its end
    updated_at TEXT NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE INDEX jobs_queue ON jobs(kind, priority DESC, ordinal, id) WHERE state = 'queued';
CREATE INDEX jobs_held ON jobs(kind) WHERE state IN ('running', 'paused');
CREATE INDEX jobs_state ON jobs(kind, state);
CREATE INDEX jobs_skipped ON jobs(kind) WHERE skips > 0;
-- a name that lies in failed/ is refused until a person has dealt with it (2.1.1)
CREATE UNIQUE INDEX jobs_name ON jobs(name)
    WHERE name IS NOT NULL AND state IN ('queued', 'running', 'paused', 'failed', 'rejected');
CREATE UNIQUE INDEX jobs_once ON jobs(once_key) WHERE once_key IS NOT NULL AND state IN ('queued', 'running', 'paused');
CREATE INDEX jobs_key ON jobs(once_key) WHERE once_key IS NOT NULL;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- grows in the order of commits: the sequence number of streams
    type TEXT NOT NULL,                   -- family.word
    message TEXT NOT NULL,
    severity TEXT NOT NULL,
    source TEXT NOT NULL,
    job INTEGER,                          -- the job whose log this belongs to
    data TEXT NOT NULL,                   -- JSON
    timestamp TEXT NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE INDEX events_job ON events(job, id) WHERE job IS NOT NULL;

CREATE TABLE damaged_rows (               -- what a wrong checksum took out of the tables above
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    table_name TEXT NOT NULL,
    row_id INTEGER NOT NULL,
    content TEXT NOT NULL,                -- JSON of the values as they were found; bytes that are no text as hexadecimal
    found_at TEXT NOT NULL
);
"""
