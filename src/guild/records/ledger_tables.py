"""Tables of the checkpoint index, the evaluations, the passives and the lineage, as version 1 of `guild.db` has them.

`checkpoints` can be deleted and rebuilt from the sidecars. Of evaluations and passives the row with `current = 1` counts; the others
are their history. Their problems, which are long and seldom read, stand beside the record.
"""

SQL = """
CREATE TABLE checkpoints (
    hero_id     TEXT NOT NULL,
    campaign_id TEXT NOT NULL,
    step        INTEGER NOT NULL,
    path        TEXT NOT NULL UNIQUE,
    source      TEXT NOT NULL CHECK (source IN ('sidecar', 'original', 'trainer_state')),
    skill       TEXT,
    train_loss  REAL,
    val_loss    REAL,
    accuracy    REAL,
    perplexity  REAL,
    size_bytes  INTEGER NOT NULL,
    record      TEXT NOT NULL,
    PRIMARY KEY (hero_id, campaign_id, step)
) STRICT, WITHOUT ROWID;
CREATE INDEX checkpoints_by_step ON checkpoints (step);

CREATE TABLE evaluations (
    id              INTEGER PRIMARY KEY,
    hero_id         TEXT NOT NULL,
    campaign_id     TEXT NOT NULL,
    checkpoint_step INTEGER NOT NULL,
    skill           TEXT NOT NULL,
    level           INTEGER NOT NULL,
    correct         INTEGER NOT NULL CHECK (correct BETWEEN 0 AND total),
    total           INTEGER NOT NULL CHECK (total > 0),
    record          TEXT NOT NULL,
    problems        TEXT NOT NULL,
    current         INTEGER NOT NULL CHECK (current IN (0, 1))
) STRICT;
CREATE UNIQUE INDEX evaluations_that_count ON evaluations (hero_id, campaign_id, checkpoint_step, skill, level) WHERE current = 1;
CREATE INDEX evaluations_by_skill ON evaluations (skill, level, checkpoint_step);

CREATE TABLE passives (
    id              INTEGER PRIMARY KEY,
    hero_id         TEXT NOT NULL,
    campaign_id     TEXT NOT NULL,
    checkpoint_step INTEGER NOT NULL,
    passive_id      TEXT NOT NULL,
    mode            TEXT NOT NULL,
    version         TEXT NOT NULL,
    correct         INTEGER NOT NULL CHECK (correct BETWEEN 0 AND total),
    total           INTEGER NOT NULL CHECK (total > 0),
    record          TEXT NOT NULL,
    problems        TEXT NOT NULL,
    current         INTEGER NOT NULL CHECK (current IN (0, 1))
) STRICT;
CREATE UNIQUE INDEX passives_that_count
    ON passives (hero_id, campaign_id, checkpoint_step, passive_id, mode, version) WHERE current = 1;

CREATE TABLE validations (
    id        INTEGER PRIMARY KEY,
    at        TEXT NOT NULL,
    file      TEXT NOT NULL,
    validator TEXT NOT NULL,
    generator TEXT NOT NULL,
    valid     INTEGER NOT NULL CHECK (valid IN (0, 1)),
    errors    TEXT NOT NULL,
    warnings  INTEGER NOT NULL,
    UNIQUE (file, validator, generator, at)
) STRICT;

CREATE TABLE lineage_before (
    side      TEXT NOT NULL CHECK (side IN ('generators', 'validators')),
    reference TEXT NOT NULL,
    totals    TEXT NOT NULL,
    PRIMARY KEY (side, reference)
) STRICT, WITHOUT ROWID;
"""
