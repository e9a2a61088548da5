"""Retention over real trees: what goes, what stays, kills in between, links. (specs/guild.md 2.8.4, G1, item 43; parts.md, fault 12)"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from guild.campaigns.checkpoints import find_checkpoint
from guild.campaigns.store import create_campaign, find_campaign, record_progress
from guild.places import Places
from guild.records import jobs, ledger
from guild.records.checkpoint_marks import has_optimizer, resumable_checkpoint, usable_checkpoint
from guild.records.checkpoint_record import CampaignId, CheckpointFacts
from guild.records.checkpoint_sidecars import read_sidecar, write_sidecar
from guild.records.database import open_guild
from guild.records.evaluation_records import new_evaluation
from guild.records.evaluations import record_evaluation
from guild.records.orphans import rebuild
from guild.retention.apply import limits_of, retain
from guild.retention.deleting import check_target, sweep_graves
from guild.retention.rules import HOUR, Limits
from helpers.guild_campaigns import new_house
from helpers.guild_records import digests, killed_at_line, write_checkpoint
from modelwright.checkpoints import CheckpointStore
from modelwright.clock import SYSTEM_CLOCK, ManualClock, stamp
from modelwright.database import Database
from modelwright.errors import ModelwrightError

OWNER = CampaignId("tiny", "campaign-001")
TIGHT = Limits(cap_bytes=0, keep_optimizer={OWNER.key: 2})
FREE = Limits(keep_optimizer={OWNER.key: 2})


@pytest.fixture
def house(tmp_path: Path) -> Places:
    places = new_house(tmp_path / "the house")
    create_campaign(places, "tiny", "One")
    return places


@pytest.fixture
def db(house: Places) -> Iterator[Database]:
    with open_guild(house) as opened:
        yield opened


def checkpoint(
    db: Database, places: Places, step: int, hours: float, *, kernel: bool = False, campaign: CampaignId = OWNER, **facts: float
) -> Path:
    """A recorded checkpoint that is so many hours old."""
    folder = places.campaigns / campaign.hero_id / campaign.campaign_id / "checkpoints"
    if kernel:
        made = write_checkpoint(places.base / "made", f"checkpoint-{step}")
        (made / "scheduler.pt").write_bytes(b"schedule")

        def fill(target: Path) -> None:
            shutil.copytree(made, target, dirs_exist_ok=True)

        CheckpointStore(folder).save(f"checkpoint-{step}", fill, step=step)
        shutil.rmtree(made)
        path = folder / f"checkpoint-{step}"
    else:
        path = write_checkpoint(folder, f"checkpoint-{step}")
    record = ledger.record(db, places, path, facts=CheckpointFacts(**facts), campaign=campaign)  # type: ignore[arg-type]
    write_sidecar(path, record.model_copy(update={"timestamp": stamp(SYSTEM_CLOCK.now() - timedelta(hours=hours))}))
    return path


def snapshot(places: Places, days: int) -> Path:
    """A daily snapshot of so many days ago."""
    day = SYSTEM_CLOCK.now().astimezone() - timedelta(days=days)
    path = places.snapshots / day.date().isoformat()
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"w" * 1000)
    past = time.time() - days * 24 * 3600
    os.utime(path, (past, past))
    return path


def files_of(places: Places) -> dict[str, str]:
    """Digests of everything but the database."""
    return {path: digest for path, digest in digests(places.base).items() if "guild.db" not in path}


def left(places: Places) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in places.campaigns.glob("*/*/checkpoints/checkpoint-*"))


def test_item_43_latest_best_young_parents_and_live_jobs_survive_and_the_cap_takes_the_rest(house: Places, db: Database) -> None:
    for step, hours, facts in (
        (100, 90, {}), (200, 80, {"val_loss": 0.1}), (300, 70, {}), (400, 60, {}), (500, 50, {}), (600, 45, {}),
        (700, 20, {}), (800, 40, {}),
    ):  # fmt: skip
        checkpoint(db, house, step, hours, **facts)
    record_evaluation(db, house, new_evaluation(OWNER, 300, "bin", 1, correct=9, total=10, timestamp=stamp(SYSTEM_CLOCK.now())))
    record_evaluation(db, house, new_evaluation(OWNER, 400, "bin", 1, correct=1, total=10, timestamp=stamp(SYSTEM_CLOCK.now())))
    folder = find_campaign(house, *("tiny", "campaign-001"))
    record_progress(house, folder, current_step=800, total_examples=0)
    (house.campaigns / "tiny" / "campaign-001" / "checkpoints" / "checkpoint-500" / "config.json").write_text("{}")
    create_campaign(house, "tiny", "Child", checkpoint=find_checkpoint(house, folder.checkpoints / "checkpoint-500"))
    jobs.enqueue(db, jobs.NewJob("eval", {"campaign": OWNER.key, "step": 600, "checkpoint": "checkpoint-600", "skill": "bin"}))
    shots = [snapshot(house, days) for days in (0, 1, 3, 5)]
    before = files_of(house)

    plan = retain(db, house, dry_run=True, limits=TIGHT)
    assert files_of(house) == before
    done = retain(db, house, limits=TIGHT)

    assert done.plan == plan.plan and [step.path for step in done.done] == [step.path for step in plan.plan.steps] and not done.failed
    assert left(house) == [200, 300, 500, 600, 700, 800]
    assert [path.exists() for path in shots] == [True, True, False, False]
    assert {record.step for record in ledger.list_all(db)} == {200, 300, 500, 600, 700, 800}
    assert retain(db, house, limits=TIGHT).done == []
    index = json.loads((house.status / "retention_index.json").read_text())
    assert len(index["items"]) == 8 and index["last_pass"]["over_bytes"] > 0


def test_below_the_cap_nothing_goes_whole_and_the_newest_keep_their_optimizer(house: Places, db: Database) -> None:
    paths = [checkpoint(db, house, step, hours, kernel=step != 200) for step, hours in ((100, 9), (200, 8), (300, 7), (400, 6), (500, 5))]
    done = retain(db, house, limits=FREE)
    assert [step.what for step in done.done] == ["optimizer"] * 3
    assert [has_optimizer(path) for path in paths] == [False, False, False, True, True]
    assert [usable_checkpoint(path) for path in paths] == [[]] * 5
    assert resumable_checkpoint(paths[0]) and not resumable_checkpoint(paths[4])
    record = read_sidecar(paths[0])
    assert record is not None and not record.has_optimizer and ledger.get(db, 100) is not None
    assert not ledger.get(db, 100).has_optimizer  # type: ignore[union-attr]
    assert CheckpointStore(paths[0].parent, writer=False).verify("checkpoint-100") == []
    assert retain(db, house, limits=FREE).done == []


def test_limits_come_from_the_settings(house: Places) -> None:
    assert limits_of(house).keep_optimizer[OWNER.key] >= 1
    content = {"model_name": "m", "model_path": "modelwright/tiny-0.4m", "retention": {"cap_gb": 2, "min_age_hours": 40}}
    (house.base / "config.json").write_text(json.dumps(content))
    limits = limits_of(house)
    assert (limits.cap_bytes, limits.min_age_s) == (2 * 10**9, 40 * HOUR)


def test_links_and_what_lies_outside_are_never_touched(house: Places, db: Database, tmp_path: Path) -> None:
    """G1: links and `..` are resolved before the check."""
    outside = write_checkpoint(tmp_path / "elsewhere", "checkpoint-1")
    inside = house.campaigns / "tiny" / "campaign-001" / "checkpoints"
    (inside / "checkpoint-2").symlink_to(outside)
    (house.campaigns / "tiny" / "campaign-001" / "runs" / "r").mkdir(parents=True)
    (house.campaigns / "tiny" / "campaign-001" / "runs" / "r" / "checkpoints").symlink_to(outside.parent)
    (house.snapshots / "2020-01-01").symlink_to(outside)
    checkpoint(db, house, 5, 99)
    checkpoint(db, house, 9, 98)
    before = digests(outside)
    done = retain(db, house, limits=TIGHT)
    assert [Path(step.path).name for step in done.done] == ["checkpoint-5"] and digests(outside) == before
    for target in (
        inside / "checkpoint-2", outside, inside / ".." / ".." / ".." / "..", house.status, house.base, inside,
        house.snapshots / "2020-01-01", inside / "checkpoint-9" / ".." / "checkpoint-9",
    ):  # fmt: skip
        with pytest.raises(ModelwrightError):
            check_target(house, target)
    assert check_target(house, (inside / "checkpoint-9").resolve())


def test_a_damaged_campaign_document_stops_the_pass_before_anything_goes(house: Places, db: Database) -> None:
    checkpoint(db, house, 5, 99)
    checkpoint(db, house, 9, 98)
    create_campaign(house, "tiny", "Two")
    (house.campaigns / "tiny" / "campaign-002" / "campaign.json").write_text("{")
    with pytest.raises(ModelwrightError, match="campaign-002"):
        retain(db, house, limits=TIGHT)
    assert left(house) == [5, 9]


def test_a_wall_clock_set_forward_makes_nothing_old(house: Places, db: Database) -> None:
    """parts.md, fault 9: what was seen before the jump is as old as the boot clock says."""
    checkpoint(db, house, 5, 10)
    checkpoint(db, house, 9, 9)
    assert retain(db, house, limits=TIGHT).done == []
    clock = ManualClock(SYSTEM_CLOCK.now())
    clock.jump(3 * 24 * 3600)
    assert retain(db, house, limits=TIGHT, clock=clock).done == []
    (house.status / "retention_index.json").unlink()
    assert len(retain(db, house, dry_run=True, limits=TIGHT, clock=clock).plan.steps) == 1


def test_killed_at_any_line_everything_is_whole_or_gone_and_the_next_pass_ends_it(house: Places, tmp_path: Path) -> None:
    """parts.md, faults 2 and 12."""
    with open_guild(house) as db:
        for step in (1, 2, 3, 4):
            checkpoint(db, house, step, 100 - step, kernel=True)
    template = tmp_path / "template"
    shutil.copytree(house.base, template)

    def work() -> None:
        with open_guild(house) as db:
            retain(db, house, limits=Limits(cap_bytes=2000, keep_optimizer={OWNER.key: 1}))

    line, kills = 1, 0
    while True:
        shutil.rmtree(house.base)
        shutil.copytree(template, house.base)
        if not killed_at_line(line, ("retention/deleting.py",), work):
            break
        kills += 1
        inside = house.campaigns / "tiny" / "campaign-001" / "checkpoints"
        assert all(usable_checkpoint(path) == [] for path in inside.glob("checkpoint-*"))
        assert (inside / "checkpoint-4").is_dir() and has_optimizer(inside / "checkpoint-4")
        work()
        assert not list(inside.glob(".staging-*")) and sweep_graves(house) == 0
        with open_guild(house) as db:
            listed = {Path(record.path).name for record in ledger.list_all(db)}
            assert listed == {path.name for path in inside.glob("checkpoint-*")}
        line += 31
    assert kills > 2


def test_dry_run_and_run_agree_over_random_trees(tmp_path: Path) -> None:
    for seed in range(3):
        rng = random.Random(seed)
        places = new_house(tmp_path / str(seed))
        owners = []
        for number in (1, 2):
            folder = create_campaign(places, "tiny", f"c{number}")
            owners.append(CampaignId(*folder.key))
        with open_guild(places) as db:
            for owner in owners:
                for step in sorted(rng.sample(range(1, 40), 5)):
                    loss = {"val_loss": rng.random()} if rng.random() < 0.5 else {}
                    checkpoint(db, places, step, rng.choice([0.2, 5, 30, 40, 50, 90]), kernel=rng.random() < 0.5, campaign=owner, **loss)
            for days in rng.sample(range(9), 4):
                snapshot(places, days)
            rebuild(db, places)
            limits = Limits(rng.choice([0, 2500, 4500, 10**9]), keep_optimizer={owner.key: rng.randint(1, 3) for owner in owners})
            planned = retain(db, places, dry_run=True, limits=limits).plan
            done = retain(db, places, limits=limits)
            assert done.plan == planned and tuple(done.done) == planned.steps
            for step in planned.steps:
                assert Path(step.path).exists() == (step.what == "optimizer")
            again = retain(db, places, limits=limits)
            assert again.done == [] and again.plan.before == planned.after


def test_the_command_shows_and_does_the_same(house: Places, db: Database) -> None:
    for step, hours in ((1, 99), (2, 98), (3, 97)):
        checkpoint(db, house, step, hours)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "guild.retention_cli", "--base-dir", str(house.base), "--cap-gb", "0", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    shown = run("--dry-run", "--json")
    assert shown.returncode == 0 and left(house) == [1, 2, 3]
    done = run("--json")
    assert json.loads(done.stdout)["planned"] == json.loads(shown.stdout)["planned"] and left(house) == [3]
    assert "Nothing to delete" in run().stdout
    refused = run("--min-age-hours", "0.5")
    assert refused.returncode == 2 and "--min-age-hours" in refused.stderr
