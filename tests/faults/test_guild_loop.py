"""The unattended loop under random SIGKILLs: daemon, trainer, evaluator and skill server. (issue Guild I, Faults)

At the end every step was accepted once, no job is lost or doubled, every checkpoint is in the ledger and the curriculum stands on the
evaluations alone.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from guild.campaigns.pointer import require_active
from guild.curriculum.progress import training_level
from guild.curriculum.state import read_state
from guild.demo import SKILL, START_LEVEL, build_house
from guild.loop.evaluations import LOCK_FOLDER as EVALUATOR
from guild.places import Places
from guild.processes import find_holder
from guild.records import jobs
from guild.records.checkpoint_marks import checkpoint_folders, usable_checkpoint
from guild.records.checkpoint_record import CampaignId
from guild.records.database import open_guild
from guild.records.evaluations import evaluations_of
from guild.records.ledger import list_all
from helpers.guild_house import DaemonProcess, kill_trainer, trainer_pid, until
from helpers.guild_skill_server import start as start_server
from modelwright.clock import SYSTEM_CLOCK
from modelwright.files import read_json, read_yaml, write_json, write_yaml
from modelwright.metrics import read_metrics

ROWS = 240


class Server:
    """A skill server that can be killed and comes back under its port."""

    def __init__(self, places: Places, port: int = 0) -> None:
        self.places = places
        self.process = start_server("bin", "--port", str(port), base=places.base)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def house_with_server(base: Path) -> tuple[Places, Server]:
    """The demo's house with small files and a skill server instead of the skill in process."""
    places = Places(base)
    build_house(places, SYSTEM_CLOCK)
    server = Server(places)
    skill = read_yaml(places.skills / f"{SKILL}.yaml")
    write_yaml(places.skills / f"{SKILL}.yaml", {**skill, "api": {**skill["api"], "url": server.url}})
    hosts = read_json(places.hosts)
    for host in hosts["hosts"].values():
        if f"skill_{SKILL}" in host["services"]:
            host["services"][f"skill_{SKILL}"]["port"] = server.port
    write_json(places.hosts, hosts)
    settings = read_json(places.config_file)
    write_json(places.config_file, {**settings, "auto_generate": {**settings["auto_generate"], "count": ROWS}})
    return places, server


def kill_evaluator(places: Places) -> bool:
    found = find_holder(places.pids / EVALUATOR)
    return found is not None and found.signal(signal.SIGKILL)


def unattended(base: Path, seconds: float, seed: int) -> tuple[Places, dict[str, int]]:
    """Run the loop, killing something every few seconds, then let it come to rest; how often each was killed."""
    rng, killed = random.Random(seed), dict.fromkeys(("daemon", "trainer", "evaluator", "server"), 0)
    places, server = house_with_server(base)
    daemon = DaemonProcess(places)
    try:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(rng.uniform(1.0, 6.0))
            victim = rng.choice(("daemon", "trainer", "trainer", "evaluator", "server"))
            if victim == "daemon":
                daemon.kill()
                daemon.log.close()
                daemon = DaemonProcess(places)
            elif victim == "trainer":
                if trainer_pid(places) is None:
                    continue
                kill_trainer(places)
            elif victim == "evaluator":
                if not kill_evaluator(places):
                    continue
            else:
                server.kill()
                server = Server(places, server.port)
            killed[victim] += 1
        settings = read_json(places.config_file)  # no more data: what there is comes to its end
        write_json(places.config_file, {**settings, "auto_generate": {**settings["auto_generate"], "enabled": False}})
        with open_guild(places) as db:
            until(lambda: not jobs.list_jobs(db, states=("queued", "running", "paused"), limit=1).jobs, "every job to end", 240)
    finally:
        daemon.close()
        kill_evaluator(places)
        server.kill()
    return places, killed


def check(places: Places) -> None:
    folder = require_active(places)
    campaign = CampaignId(*folder.key)
    with open_guild(places) as db:
        trained = jobs.list_jobs(db, kinds=("train_file",), limit=10_000).jobs
        assert trained and {job.state for job in trained} == {"completed"}
        assert len({job.name for job in trained}) == len(trained)
        recorded = {Path(record.path) for record in list_all(db, campaign)}
        evaluations = evaluations_of(db, campaign, skill=SKILL)
    # every step once, over all files, and no row of a file left out
    steps = []
    for run in (folder.path / "runs").iterdir():
        steps += [step for step, _ in read_metrics(run / "metrics.jsonl").series("train/loss")]
    assert sorted(steps) == list(range(1, len(steps) + 1))
    made = {read_json(path)["example_count"] for path in places.recently_completed.glob("*.meta.json")}
    assert made == {ROWS}
    # every checkpoint whole and in the ledger
    found = checkpoint_folders(folder.checkpoints)
    assert [reason for path in found for reason in usable_checkpoint(path, deep=True)] == []
    assert recorded == set(found)
    assert folder.campaign.current_step == len(steps)
    # the curriculum's evidence is that of the evaluations, each checkpoint once
    entry = read_state(places, campaign).entry(SKILL)
    history = entry.get("accuracy_history", [])
    assert len({(one["step"], one["training_level"]) for one in history}) == len(history)
    known = {(one.checkpoint_step, one.level): one.accuracy for one in evaluations}
    for one in history:
        assert known[one["step"], one["training_level"]] == pytest.approx(one["accuracy"])
    earned = [one for one in entry.get("progression_history", []) if one.get("by") != "operator"]
    assert training_level(places, SKILL, campaign) == START_LEVEL + len(earned)


def test_a_minute_of_random_kills(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    places, killed = unattended(tmp_path / "house", 60.0, seed)
    print(f"seed {seed}, killed {killed}")
    check(places)
    assert sum(killed.values()) >= 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_minutes_of_random_kills(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    places, killed = unattended(tmp_path / "house", 600.0, seed)
    print(f"seed {seed}, killed {killed}")
    check(places)
    assert all(killed.values())
