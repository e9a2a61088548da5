"""Working off the evaluations that wait, one after the other, in the order of the queue. (specs/guild.md 2.1.9; 10.1 no. 8)

A job is held under a lease while its model answers, and leaves the queue only when its result is stored or its failure is recorded: a
runner that dies in between gives it back. Two runners at once never work at the same job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from guild.campaigns.config_file import installation_config
from guild.errors import UnknownNameError
from guild.evaluation.answerers import Answerer
from guild.evaluation.carrying_out import Setting, StoppedError, Stored, carry_out
from guild.evaluation.due import KIND, export_waiting, waiting
from guild.evaluation.keeping import Keeper
from guild.evaluation.subject import GoneCheckpointError, Subject, subject_of
from guild.hosts.registry import load_registry, same_gpu
from guild.places import Places
from guild.records import jobs
from guild.records.evaluation_records import EvalType
from guild.records.states import HELD
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database
from modelwright.errors import LoadError, ModelwrightError, UsageError
from modelwright.identity import ProcessIdentity, current_identity, liveness

State = Literal["stored", "failed", "rejected", "released", "cancelled", "lost"]
LEASE_EVERY_S = 10.0
Ask = Callable[[Subject, str, Clock], Answerer]
"""`ask(subject, device, clock)`: who answers for a subject."""


@dataclass(frozen=True)
class Outcome:
    """What became of one job. state: `stored`; `failed`, recorded, and tried again while it has attempts left; `rejected`, recorded, and
    never; `released`, back in the queue; `cancelled`; `lost` to another process."""

    job: jobs.Job
    state: State
    stored: tuple[Stored, ...] = ()
    sentence: str = ""


@dataclass(frozen=True)
class RunReport:
    """outcomes: in order. left: jobs that still wait. held_back: why nothing more was taken although some wait, or ""."""

    outcomes: tuple[Outcome, ...] = ()
    left: int = 0
    held_back: str = ""

    def count(self, state: State) -> int:
        """How many jobs ended so."""
        return sum(outcome.state == state for outcome in self.outcomes)


@dataclass
class _Run:
    db: Database
    places: Places
    device: str
    shared: bool
    stop: Callable[[], bool]
    ask: Ask
    clock: Clock
    me: ProcessIdentity
    max_new_tokens: int
    keeper: Keeper
    renewed: float = float("-inf")
    cancelled: bool = False
    outcomes: list[Outcome] = field(default_factory=list)


def run_waiting(
    db: Database,
    places: Places,
    *,
    limit: int | None = None,
    suite: EvalType | None = None,
    only: frozenset[int] | None = None,
    device: str | None = None,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda line: None,
    ask: Ask | None = None,
    keeper: Keeper | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> RunReport:
    """Carry out waiting evaluations until none is left, `limit` are done, or `stop` says so; imports torch when there is one.

    suite: only quick or only full ones. only: ids of jobs. device: the inference role's of this host when None. keeper: holds the model
    until the next call, and its owner drops it; without one the model is given back at the end. On a GPU that the trainer uses too, nothing
    is taken while a file is being trained, and no model is left behind. A job that failed is not tried twice in one call. Raises what the
    store and the hosts registry raise, never for one job's sake.
    """
    jobs.recover(db, kinds=(KIND,), clock=clock)
    chosen, shared = _device(places, device)
    config = installation_config(places)
    me, most, kept = current_identity(), config.eval_max_tokens, keeper or Keeper()
    run = _Run(db, places, chosen, shared, stop, ask or _in_this_process, clock, me, most, kept)
    held_back, done = "", set[int]()
    try:
        while not stop() and (limit is None or len(run.outcomes) < limit):
            ready = [job.id for job in waiting(db) if job.id not in done and _chosen(job, suite, only)]
            if not ready:
                break
            if shared and _training(db):
                held_back = f"A file is being trained on {chosen}; evaluations wait until it is done."
                break
            job = jobs.claim(db, run.me, kinds=(KIND,), among=ready, clock=clock)
            if job is None:
                if any(found.state in ("running", "paused") for found in _held(db)):
                    held_back = "Another process is evaluating."
                break
            if shared and _training(db):  # a file was taken since the look above: the second of two gives way
                jobs.release(db, job.id, run.me, clock=clock)
                continue
            done.add(job.id)
            outcome = _one(run, job)
            run.outcomes.append(outcome)
            say(describe(outcome))
            export_waiting(db, places, clock=clock)
    finally:
        if keeper is None or shared:
            run.keeper.drop()
    return RunReport(tuple(run.outcomes), len(waiting(db)), held_back)


def describe(outcome: Outcome) -> str:
    """One line for people."""
    payload = outcome.job.payload
    what = f"step {payload['step']} {payload.get('skill') or payload.get('passive')} ({payload['suite']})"
    if outcome.state == "stored":
        return f"step {payload['step']}: {'; '.join(one.line for one in outcome.stored)}"
    return f"{what}: {outcome.state}. {outcome.sentence}".strip()


def _one(run: _Run, job: jobs.Job) -> Outcome:
    """One held job to its end; the result or the failure is in the store when this returns."""
    db, me, clock = run.db, run.me, run.clock
    run.renewed, run.cancelled = run.clock.monotonic(), False
    try:
        try:
            subject = subject_of(db, run.places, job, clock)
            answerer = run.keeper.answerer(subject, run.device, lambda: run.ask(subject, run.device, run.clock))
            stored = carry_out(_setting(run, job), job, subject, answerer)
        except StoppedError as stopped:
            _give_way(run)
            if run.cancelled:
                return Outcome(jobs.cancel_held(db, job.id, me, position=stopped.position, clock=clock), "cancelled")
            return Outcome(jobs.release(db, job.id, me, position=stopped.position, clock=clock), "released", (), "it was asked to stop")
        except jobs.NotHeldError:
            raise
        except (GoneCheckpointError, UnknownNameError, UsageError, LoadError) as error:
            return Outcome(jobs.reject(db, job.id, me, str(error), clock=clock), "rejected", (), str(error))
        except (ModelwrightError, RuntimeError, ValueError, OSError) as error:
            text = str(error) if isinstance(error, ModelwrightError) else f"{type(error).__name__}: {error}"
            run.keeper.drop()  # whatever state the model is in, the next job begins with a new one
            return Outcome(jobs.fail(db, job.id, me, text, clock=clock), "failed", (), text)
        _give_way(run)
        results = [vars(one) for one in stored]
        ended = jobs.finish(db, job.id, me, {"checkpoint": subject.name, "results": results}, clock=clock)
    except jobs.NotHeldError as error:
        return Outcome(job, "lost", (), str(error))
    return Outcome(ended, "stored", tuple(stored))


def _give_way(run: _Run) -> None:
    """Drop the model before a job is let go of when the trainer may begin then; kept on a shared GPU from one evaluation to the next."""
    if run.shared and (run.stop() or _training(run.db) or not waiting(run.db)):
        run.keeper.drop()


def _setting(run: _Run, job: jobs.Job) -> Setting:
    def beat(position: int | None) -> bool:
        now = run.clock.monotonic()
        if position is not None or now - run.renewed >= LEASE_EVERY_S:
            run.renewed = now
            held = jobs.heartbeat(run.db, job.id, run.me, position=position, clock=run.clock)
            run.cancelled = held.cancel_asked
        return not run.cancelled and not run.stop()

    return Setting(run.db, run.places, run.clock, beat, run.max_new_tokens)


def _in_this_process(subject: Subject, device: str, clock: Clock) -> Answerer:
    return subject.answerer(device, clock)


def _device(places: Places, named: str | None) -> tuple[str, bool]:
    """(the device that answers, whether it is a GPU that the trainer of this host uses too)."""
    registry = load_registry(places)
    local = registry.get_local_host().devices
    chosen = named or local.get("inference") or registry.device("inference")
    return chosen, same_gpu(chosen, local.get("trainer", ""))


def _chosen(job: jobs.Job, suite: EvalType | None, only: frozenset[int] | None) -> bool:
    return (only is None or job.id in only) and (suite is None or job.payload.get("suite") == suite)


def _training(db: Database) -> bool:
    """Whether a trainer that may live holds a file."""
    held = jobs.list_jobs(db, kinds=("train_file",), states=HELD).jobs
    return any(job.owner is not None and liveness(job.owner) != "dead" for job in held)


def _held(db: Database) -> tuple[jobs.Job, ...]:
    return jobs.list_jobs(db, kinds=(KIND,), states=("running", "paused")).jobs
