"""`python -m guild.side_jobs.runner`: takes waiting jobs that are not training and carries them out, under leases.

One runner for each kind of job in a house; a second one is refused. Jobs that a runner held when it died are taken over when their run
lives (or has ended since), and go back to their queue otherwise. Exit codes: 0 nothing left to do or asked to leave, 1 refused, 2 wrong
arguments, 3 another runner has that kind, 4 jobs wait and none could be taken now.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from guild.places import Places
from guild.records import jobs
from guild.records.database import open_guild
from guild.side_jobs import adoption, room_runs
from guild.side_jobs.handlers import carried_out_here, handler_of
from guild.side_jobs.job_folder import folder_of
from guild.side_jobs.rooms import ROOMS
from guild.side_jobs.work import GRACE_S, LEASE_EVERY_S, Desk, Leash, Stopped, Work
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.control import signals_as_requests
from modelwright.errors import ConfigError, ModelwrightError, RunLockedError, UsageError
from modelwright.files import make_folder
from modelwright.identity import current_identity, liveness
from modelwright.lock import WriterLock

EXIT_HELD, EXIT_NONE_TAKEN = 3, 4
MODULE = "guild.side_jobs.runner"


def lock_folder(places: Places, kind: str) -> str:
    """The name below `.pids/` of the folder whose lock the runner of a kind holds."""
    return f"side-{kind}"


def build_parser() -> argparse.ArgumentParser:
    """The parser of the runner."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}",
        description="Carry out waiting jobs of one kind that is not training, one after the other. The daemon starts this.",
        epilog=f"example: python -m {MODULE} --kind retention\n"
        "exit codes: 0 nothing left or asked to leave, 1 refused, 2 wrong arguments, 3 another runner has that kind, "
        "4 jobs wait and none could be taken now",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base-dir", metavar="DIR", help="the guild's house (default: $TRAINING_BASE_DIR, else its home)")
    parser.add_argument("--kind", required=True, choices=carried_out_here(), help="which jobs")
    parser.add_argument("--idle-exit", type=float, default=2.0, metavar="S", help="end after so many seconds without a job (default: 2)")
    parser.add_argument("--grace", type=float, default=GRACE_S, metavar="S", help="time for a run to save and end (default: 120)")
    parser.add_argument("--poll", type=float, default=0.5, metavar="S", help="seconds between looks at a run (default: 0.5)")
    parser.add_argument(
        "--renew", type=float, default=LEASE_EVERY_S, metavar="S", help="seconds between renewals of the lease (default: 10)"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="end after so many jobs")
    return parser


def main(argv: Sequence[str] | None = None, *, clock: Clock = SYSTEM_CLOCK) -> int:
    """Work until nothing is left or a signal arrives."""
    given = build_parser().parse_args(argv)
    places = Places.of(given.base_dir)
    try:
        lock = WriterLock(make_folder(places.pids / lock_folder(places, given.kind)), command=sys.argv, clock=clock)
    except RunLockedError as error:
        print(f"Another runner has the jobs of kind {given.kind}. {error}", file=sys.stderr)
        return EXIT_HELD
    try:
        with signals_as_requests() as signals, open_guild(places) as db:
            desk = Desk(db, places, current_identity(), signals, clock, given.grace, given.poll, given.renew)
            done = work_on(desk, given.kind, idle_exit_s=given.idle_exit, at_most=given.jobs)
            waiting = not signals and jobs.counts(db, given.kind).states["queued"] > 0
    finally:
        lock.release()
    return EXIT_NONE_TAKEN if waiting and not done else 0


def work_on(desk: Desk, kind: str, *, idle_exit_s: float = 0.0, at_most: int | None = None) -> int:
    """Take over and take jobs of a kind until none waits for `idle_exit_s` seconds; returns how many were carried out."""
    number, last = 0, desk.clock.monotonic()
    while not desk.signals and (at_most is None or number < at_most):
        job, adopted = take(desk, kind)
        if job is None:
            if _idle(desk, last, idle_exit_s):
                return number
            continue
        number += 1
        try:
            if kind in ROOMS:
                _run(desk, job, adopted)
            else:
                inside(desk, job)
        except jobs.NotHeldError as error:
            print(error, file=sys.stderr, flush=True)
        last = desk.clock.monotonic()
    return number


def _idle(desk: Desk, last: float, idle_exit_s: float) -> bool:
    """Whether nothing came for so long that the runner ends; else a moment is waited."""
    if desk.clock.monotonic() - last >= idle_exit_s:
        return True
    desk.clock.sleep(min(desk.poll_s, max(0.01, idle_exit_s)))
    return False


def take(desk: Desk, kind: str) -> tuple[jobs.Job | None, bool]:
    """The next job to work on, and whether it was taken over from a runner that died."""
    for job in jobs.list_jobs(desk.db, kinds=(kind,), states=("running", "paused")).jobs:
        if job.owner is None or job.owner == desk.me or liveness(job.owner, desk.me) != "dead" or kind not in ROOMS:
            continue
        if adoption.look(folder_of(desk.places, job)).state == "none":
            continue
        try:
            mine = jobs.transfer(desk.db, job.id, job.owner, desk.me, clock=desk.clock)
        except jobs.NotHeldError:
            continue  # another one was faster
        if mine.state == "paused":  # its runner held it; whether it still rests is seen in a moment
            mine = jobs.resume(desk.db, mine.id, desk.me, clock=desk.clock)
        return mine, True
    jobs.recover(desk.db, kinds=(kind,), here=desk.me, clock=desk.clock)
    return jobs.claim(desk.db, desk.me, kinds=(kind,), clock=desk.clock), False


def _run(desk: Desk, job: jobs.Job, adopted: bool) -> None:
    """A run of another room. What is wrong with the job's own settings or folder is its failure, not the runner's."""
    try:
        room_runs.carry_out(desk, job, adopted=adopted)
    except jobs.NotHeldError:
        raise
    except (UsageError, ConfigError) as error:
        jobs.reject(desk.db, job.id, desk.me, str(error), clock=desk.clock)
    except ModelwrightError as error:
        jobs.fail(desk.db, job.id, desk.me, str(error), clock=desk.clock)


def inside(desk: Desk, job: jobs.Job) -> None:
    """Carry out a job inside this process, its lease renewed meanwhile, and say what became of it."""
    with Leash(desk.places, job, desk.me, desk.signals, desk.clock, desk.lease_every_s, desk.grace_s) as leash:
        work = Work(desk.db, desk.places, job, desk.me, leash.why, desk.clock)
        result, error = _guarded(job, work)
    db, me, clock = desk.db, desk.me, desk.clock
    if leash.lost:
        print(leash.lost, file=sys.stderr, flush=True)
    elif error is None:
        jobs.finish(db, job.id, me, result, clock=clock)
    elif isinstance(error, Stopped):
        if leash.cancelled:
            jobs.cancel_held(db, job.id, me, position=error.position, clock=clock)
        elif leash.overdue:
            jobs.fail(db, job.id, me, f"its time was over: {error}", position=error.position, clock=clock)
        else:
            jobs.release(db, job.id, me, position=error.position, clock=clock)
    elif isinstance(error, UsageError):
        jobs.reject(db, job.id, me, str(error), clock=clock)
    else:
        jobs.fail(db, job.id, me, str(error), clock=clock)


def _guarded(job: jobs.Job, work: Work) -> tuple[dict[str, object], ModelwrightError | None]:
    try:
        return dict(handler_of(job.kind)(work)), None
    except ModelwrightError as error:
        return {}, error


def run() -> int:
    """The process: errors as sentences."""
    try:
        return main()
    except ModelwrightError as error:
        print(error, file=sys.stderr)
        return error.exit_code if error.exit_code != 2 else 1


if __name__ == "__main__":
    raise SystemExit(run())
