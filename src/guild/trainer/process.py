"""`python -m guild.trainer.process`: the trainer. Started by the daemon, or by hand; it takes files until none is left.

One trainer for each house: a second one is refused and told who holds it. Exit codes: 0 nothing left to train or stopped as asked,
1 the configuration or the store refuses (nothing was trained with other settings), 2 wrong arguments, 3 another trainer is at work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.effective_config import Effective, start_config
from guild.campaigns.pointer import require_active
from guild.control.daemon import TRAINER_LOCK
from guild.control.signals import active
from guild.hosts.registry import load_registry
from guild.places import Places
from guild.queue.disk import REFUSE_BELOW
from guild.queue.marks import mark_returned, take
from guild.queue.payload import TRAIN_FILE
from guild.queue.recovery import recover_queue
from guild.records import events, jobs
from guild.records.checkpoint_record import CampaignId
from guild.records.database import open_guild
from guild.records.turns import whose_turn
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.control import signals_as_requests
from modelwright.errors import ModelwrightError, RunLockedError
from modelwright.files import make_folder
from modelwright.identity import current_identity
from modelwright.lock import WriterLock

if TYPE_CHECKING:
    from modelwright.control import SignalFlag
    from modelwright.database import Database

EXIT_HELD = 3
IDLE_POLL_S = 0.5
QUIET_S = 2.0


def build_parser() -> argparse.ArgumentParser:
    """The parser of the trainer process."""
    parser = argparse.ArgumentParser(
        prog="python -m guild.trainer.process",
        description="Train the files of the queue, one after the other, with the active campaign's settings. The daemon starts this.",
        epilog="example: python -m guild.trainer.process --idle-exit 0\n"
        "exit codes: 0 done or stopped, 1 refused, 2 wrong arguments, 3 another trainer is at work",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base-dir", metavar="DIR", help="the guild's house (default: $TRAINING_BASE_DIR, else ~/.modelwright/guild)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting of the campaign for this process"
    )
    parser.add_argument("--idle-exit", type=float, default=30.0, metavar="S", help="end after so many seconds without a file (default: 30)")
    parser.add_argument("--files", type=int, metavar="N", help="end after so many files")
    parser.add_argument(
        "--min-free-gb", type=float, default=REFUSE_BELOW / 1e9, metavar="GB", help="begin no file with less free disk (default: 10)"
    )
    return parser


def main(argv: Sequence[str] | None = None, *, clock: Clock = SYSTEM_CLOCK) -> int:
    """Work until nothing is left, a stop is asked for, or the active campaign changes hands."""
    given = build_parser().parse_args(argv)
    places = Places.of(given.base_dir)
    folder = require_active(places)
    effective = start_config(places, folder, sets=given.set)
    try:
        lock = WriterLock(make_folder(places.pids / TRAINER_LOCK), command=sys.argv, clock=clock)
    except RunLockedError as error:
        print(f"Another trainer is at work. {error}", file=sys.stderr)
        return EXIT_HELD
    try:
        with signals_as_requests() as signals:
            return _work(places, folder, effective, given, signals, clock)
    finally:
        lock.release()


def _work(
    places: Places, folder: CampaignFolder, effective: Effective, given: argparse.Namespace, signals: SignalFlag, clock: Clock
) -> int:
    from guild.correction.staleness import return_if_stale
    from guild.trainer.device_turns import EvaluatorTurn
    from guild.trainer.job import Desk, settle, train_one
    from guild.training.engine import TrainerEngine
    from guild.training.quiet import quiet_libraries

    quiet_libraries()
    with open_guild(places) as db:
        me = current_identity()
        recover_queue(db, places, clock=clock)
        desk = Desk(db, places, me, signals, clock, round(given.min_free_gb * 1e9), on_saved=_queue_evaluations(db, places, clock))
        settle(desk, folder, effective)
        desk.one_gpu = load_registry(places).one_gpu
        engine, evaluator = TrainerEngine(clock=clock), EvaluatorTurn(db, clock)
        last = clock.monotonic()
        while not signals and (given.files is None or desk.number < given.files):
            if whose_turn(db, "trainer") not in (None, TRAIN_FILE):
                return 0  # another room's run waits for the device and is before the files; the daemon comes back to them
            if desk.one_gpu and jobs.takeable(db, (TRAIN_FILE,)) and evaluator.lasts():
                last = clock.monotonic()
                clock.sleep(IDLE_POLL_S)
                continue
            asked = active(places)  # before a file is begun, what is asked for is the daemon's to carry out
            taken = None if asked["pause"] or asked["stop"] else take(db, places, me, clock=clock)
            if taken is None:
                if clock.monotonic() - last >= given.idle_exit:
                    return 0
                clock.sleep(IDLE_POLL_S)
                continue
            if return_if_stale(db, places, taken.job, me, clock=clock):
                continue
            try:  # both may have changed while no file was trained
                now = require_active(places)
                if now.key == folder.key:
                    folder, effective = now, start_config(places, now, sets=given.set)
            except ModelwrightError:
                mark_returned(db, places, taken.job.id, me, clock=clock)
                raise
            if now.key != folder.key:
                mark_returned(db, places, taken.job.id, me, clock=clock)
                return 0  # the daemon starts a trainer for the campaign that is active now
            following = train_one(desk, engine, folder, effective, taken)
            if following == "leave":
                return 0
            if following == "stop":
                told = {"signal": signals.name}
                message = "The trainer was asked to stop."
                events.record(db, "daemon.stop_asked", message, source="trainer", data=told, durable=True, clock=clock)
                return 0
            last = clock.monotonic()
            evaluator.over()
            if require_active(places).key != folder.key:
                return 0
    return 0


def _queue_evaluations(db: Database, places: Places, clock: Clock) -> Callable[[CampaignFolder, Effective, int, str], None]:
    """What is called with every recorded checkpoint: it queues its evaluations."""
    from guild.evaluation.due import enqueue_for_checkpoint

    def queue(folder: CampaignFolder, effective: Effective, step: int, name: str) -> None:
        every = effective.value.full_eval_steps
        enqueue_for_checkpoint(db, places, CampaignId(*folder.key), step, name, full_every=every, clock=clock)

    return queue


def run() -> int:
    """The process: errors as sentences."""
    try:
        return main()
    except ModelwrightError as error:
        print(error, file=sys.stderr)
        return error.exit_code if error.exit_code != 2 else 1


if __name__ == "__main__":
    raise SystemExit(run())
