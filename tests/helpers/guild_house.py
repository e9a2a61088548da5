"""A guild's house in a folder of a test, with the tiny hero, and its daemon as a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guild.campaigns.activation import activate
from guild.campaigns.store import create_campaign
from guild.init import initialise
from guild.places import Places
from guild.records import jobs
from guild.records.database import open_guild
from helpers.guild_training import write_rows
from modelwright.errors import ModelwrightError
from modelwright.files import read_json

PATIENCE_S = 120.0


def make_house(base: Path, *, overrides: dict[str, Any] | None = None) -> Places:
    """A house with one active campaign of the tiny hero."""
    places = Places(base)
    initialise(places)
    new_campaign(places, overrides=overrides)
    return places


def new_campaign(places: Places, name: str = "Test", *, overrides: dict[str, Any] | None = None, select: bool = True) -> tuple[str, str]:
    folder = create_campaign(places, "tiny", name, config_overrides=overrides or {})
    if select:
        activate(places, *folder.key)
    return folder.key


def put(places: Places, name: str, rows: int, *, folder: str = "inbox", first: int = 0) -> Path:
    """Rows as a file that was written a while ago, so that it is taken in at once."""
    target = places.base / folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    write_rows(target, rows, first=first)
    past = time.time() - 60
    os.utime(target, (past, past))
    return target


def command(places: Places, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command module to its end."""
    argv = [sys.executable, "-m", module, "--base-dir", str(places.base), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


class DaemonProcess:
    """`python -m guild.training_daemon` as a child."""

    def __init__(self, places: Places, *words: str) -> None:
        self.places = places
        self.log = open(places.base / "daemon.txt", "ab")  # noqa: SIM115 - closed with the process
        argv = [sys.executable, "-m", "guild.training_daemon", "--base-dir", str(places.base), "--poll", "1", "--min-free-gb", "0", *words]
        self.process = subprocess.Popen(argv, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)

    def said(self) -> str:
        return (self.places.base / "daemon.txt").read_text()

    def wait(self, seconds: float = PATIENCE_S) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL, the daemon alone."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it and whatever trainer it left, by whatever means."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        self.log.close()
        kill_trainer(self.places)


@contextmanager
def daemon(places: Places, *words: str) -> Iterator[DaemonProcess]:
    started = DaemonProcess(places, *words)
    try:
        yield started
    finally:
        started.close()


def trainer_pid(places: Places) -> int | None:
    """The living trainer's number."""
    from guild.loop.trainer_process import find_trainer

    found = find_trainer(places)
    return None if found is None else found.identity.pid


def kill_trainer(places: Places) -> int | None:
    """SIGKILL the trainer; its number."""
    pid = trainer_pid(places)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        until(lambda: trainer_pid(places) is None, "the trainer to be gone")
    return pid


def until(holds: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
    """Wait until something holds, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


def state(places: Places) -> dict[str, Any]:
    try:
        return dict(read_json(places.state))
    except ModelwrightError:
        return {}


def status(places: Places, campaign: str = "campaign-001") -> dict[str, Any]:
    """`training_status.json` of a campaign."""
    try:
        return dict(read_json(places.campaigns / "tiny" / campaign / "status" / "training_status.json"))
    except ModelwrightError:
        return {}


def training(places: Places, name: str, steps: int = 1, campaign: str = "campaign-001") -> bool:
    """Whether the file is being trained and has come so many steps in."""
    now = status(places, campaign)
    return now.get("status") == "training" and now.get("current_file") == name and (now.get("batch_step") or 0) >= steps


def job_of(places: Places, name: str) -> jobs.Job:
    with open_guild(places) as db:
        return jobs.find_file(db, name)


def is_completed(places: Places, name: str) -> bool:
    """Whether a file is trained; one that nobody took in yet is not."""
    try:
        return job_of(places, name).state == "completed"
    except jobs.UnknownJobError:
        return False


def trained_steps(places: Places, name: str, campaign: str = "campaign-001") -> list[int]:
    """Steps of the campaign that the file's run recorded, in order, each as often as it was accepted."""
    from modelwright.metrics import read_metrics

    folder = next((places.campaigns / "tiny" / campaign / "runs").glob(f"*-{Path(name).stem}"))
    return [step for step, _ in read_metrics(folder / "metrics.jsonl").series("train/loss") if step is not None]
