"""A trainer killed behind a save: at every line of what it tells, and by the real process. (specs/guild.md 2.1.4, 2.1.8, item 20)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.pointer import require_active
from guild.evaluation import due
from guild.evaluation.due import KIND, enqueue_for_checkpoint
from guild.places import Places
from guild.queue.inbox import process_inbox
from guild.queue.marks import take
from guild.records import events, jobs, ledger
from guild.records.checkpoint_record import CampaignId
from guild.records.checkpoint_sidecars import read_sidecar
from guild.records.database import open_guild
from guild.trainer import settling, watch
from guild.trainer.settling import never_evaluated, settle_checkpoints
from guild.trainer.watch import Watch
from guild.training.engine import record_fields
from guild.training.interface import SavedCheckpoint, TrainerConfig
from guild.training.status import TrainingStatus
from helpers.guild_house import command, job_of, make_house, put, trained_steps
from helpers.guild_records import write_safetensors
from helpers.guild_training import trainer_config
from helpers.kill_points import killed_before, lines_of
from modelwright.checkpoints import CheckpointStore
from modelwright.clock import SYSTEM_CLOCK
from modelwright.control import signals_as_requests
from modelwright.database import Database
from modelwright.files import write_json
from modelwright.identity import current_identity
from modelwright.rundir import RunDir

TELLING = (watch, ledger, due, settling)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return make_house(tmp_path_factory.mktemp("house"))


@pytest.fixture
def campaign(house: Places) -> CampaignFolder:
    return require_active(house)


def save(folder: CampaignFolder, step: int, config: TrainerConfig) -> SavedCheckpoint:
    """A small checkpoint as the engine saves one."""
    told = record_fields(config, step, 0.5, {"loss": 1.5, "eval_loss": None, "learning_rate": 1e-3})

    def fill(target: Path) -> None:
        (target / "config.json").write_text('{"model_type": "llama"}')
        write_safetensors(target / "model.safetensors")
        (target / "optimizer.pt").write_bytes(b"state")
        write_json(target / "trainer_state.json", {**told, "global_step": step, "guild": {}})

    path = CheckpointStore(folder.checkpoints).save(f"checkpoint-{step}", fill, step=step).path
    return SavedCheckpoint(path, step, 5, 10, 0.5, False, 1.5, None, 1e-3)


def queue(db: Database, places: Places, folder: CampaignFolder, step: int, name: str) -> None:
    enqueue_for_checkpoint(db, places, CampaignId(*folder.key), step, name)


def settle(db: Database, places: Places, folder: CampaignFolder) -> None:
    settle_checkpoints(db, places, folder, lambda step, name: queue(db, places, folder, step, name), clock=SYSTEM_CLOCK)


def asked(db: Database, step: int) -> list[str]:
    return sorted(
        str(job.once_key) for job in jobs.list_jobs(db, kinds=(KIND,), limit=10_000).jobs if job.payload["step"] == step
    )  # fmt: skip


def test_a_kill_at_any_line_behind_a_save_leaves_a_record_and_its_evaluations(house: Places, campaign: CampaignFolder) -> None:
    """Whatever line it hits, the next trainer records the checkpoint with file and loss, and queues each evaluation once."""
    put(house, "rows.jsonl", 10)
    me = current_identity()
    with open_guild(house) as db:
        process_inbox(db, house, allow_default=True)
        taken = take(db, house, me)
    assert taken is not None
    config = trainer_config(house.base / "unused", taken.path)
    numbers = iter(range(1001, 5000))  # unlike any level

    def tell(saved: SavedCheckpoint, number: int) -> None:
        run = RunDir.create(campaign.path / "runs" / f"{number}", kind="guild_train_file", command=["x"])
        with open_guild(house) as db, signals_as_requests() as signals:
            status = TrainingStatus(campaign.status / "training_status.json", "tiny", 256, 1)
            Watch(
                db, house, campaign, taken, run, me, signals, status, SYSTEM_CLOCK, 0, rows=10,
                on_saved=lambda one: queue(db, house, campaign, one.step, one.path.name),
            ).saved(saved)  # fmt: skip
            settle(db, house, campaign)  # the next file's trainer, killed as well

    first = save(campaign, next(numbers), config)
    points = lines_of(lambda: tell(first, first.step), TELLING)
    with open_guild(house) as db:
        whole = [key.replace(f":{first.step}:", ":N:") for key in asked(db, first.step)]
        assert len(whole) >= 5  # one for each skill, and the passives
    unrecorded = unasked = 0
    for number in points[:: max(1, len(points) // 20)]:
        step = next(numbers)
        saved = save(campaign, step, config)
        killed_before(lambda saved=saved, step=step: tell(saved, step), TELLING, number)  # type: ignore[misc]
        with open_guild(house) as db:
            unrecorded += ledger.get(db, step) is None
            unasked += not asked(db, step)
            for _ in range(2):  # done again it adds nothing
                settle(db, house, campaign)
                record = ledger.get(db, step, CampaignId(*campaign.key))
                assert record is not None, number
                assert (record.training_file, record.train_loss, record.epoch) == (taken.path.name, 1.5, 0.5), number
                assert record == read_sidecar(Path(record.path))
                assert [key.replace(f":{step}:", ":N:") for key in asked(db, step)] == whole, number
    assert 0 < unrecorded < unasked  # both gaps were hit
    with open_guild(house) as db:
        assert never_evaluated(db, CampaignId(*campaign.key), campaign.checkpoints) == []


DYING = """
import os, signal, sys
from guild.{module} import {name} as owner
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
owner.{function} = die
from guild.trainer.process import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("module", "name", "function"),
    [
        pytest.param("trainer", "watch", "ledger.record", id="before the record"),
        pytest.param("evaluation", "due", "enqueue_for_checkpoint", id="before the evaluations", marks=pytest.mark.slow),
    ],
)
def test_a_trainer_killed_behind_the_last_save_of_a_file(tmp_path: Path, module: str, name: str, function: str) -> None:
    """The next one finds the file trained whole: it trains no step again, and misses neither record nor evaluations."""
    house = make_house(tmp_path)
    put(house, "rows.jsonl", 40)
    words = ("--base-dir", str(house.base), "--idle-exit", "0", "--min-free-gb", "0")
    with open_guild(house) as db:
        process_inbox(db, house, allow_default=True)
    script = DYING.format(module=module, name=name, function=function)
    died = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False, timeout=120)
    assert died.returncode == -9, died.stderr
    steps = trained_steps(house, "rows.jsonl")
    second = command(house, "guild.trainer.process", *words[2:])
    assert second.returncode == 0, second.stderr
    job = job_of(house, "rows.jsonl")
    assert job.state == "completed" and trained_steps(house, "rows.jsonl") == steps
    folder = require_active(house)
    with open_guild(house) as db:
        recorded = ledger.list_all(db)
        assert [(record.step, record.training_file, record.train_loss is None) for record in recorded] == [
            (max(steps), "rows.jsonl", False)
        ]
        assert recorded[0].val_loss is not None and asked(db, max(steps))
        adopted = [event for event in events.read_after(db, 0).events if event.type == "training.checkpoint_adopted"]
        assert len(adopted) == (function == "ledger.record")
    assert (folder.campaign.current_step, folder.campaign.total_examples) == (max(steps), 38)
