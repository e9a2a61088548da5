"""A job that is a run of another room, from taken to settled: started or adopted, followed through the run contract, asked, judged.

(issue "Build" 8; specs/guild.md 8.5; parts.md, faults 5 to 7.) A run outlives the runner that started it; the next one finds it by
identity and goes on following it. A run that is silent but alive is told as stalled and left alone.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from guild.processes import log_tail, start_process
from guild.queue.disk import disk_verdict
from guild.records import jobs
from guild.side_jobs import adoption
from guild.side_jobs.adoption import Present
from guild.side_jobs.asking import RANK, Asking, Wish
from guild.side_jobs.device import environment_for
from guild.side_jobs.job_folder import JobFolder, folder_of
from guild.side_jobs.outcomes import settle_completed, summary_of
from guild.side_jobs.rooms import Meaning
from guild.side_jobs.work import Desk
from modelwright.control import Control
from modelwright.errors import ModelwrightError
from modelwright.files import make_folder
from modelwright.heartbeat import read_heartbeat
from modelwright.record import read_record

KEEPER = "guild.side_jobs.keeper"
START_PATIENCE_S = 30.0


@dataclass
class Following:
    """A run that is followed. asking: what it was asked last. lost: the job is not ours any more."""

    desk: Desk
    job: jobs.Job
    folder: JobFolder
    present: Present
    control: Control
    asking: Asking | None = None
    lost: str = ""
    stalled: bool = False
    leased: float = field(default=float("-inf"))


def carry_out(desk: Desk, job: jobs.Job, *, adopted: bool = False) -> None:
    """Carry out a held job of a room's kind to where it is not held by this process any more. Raises what the store raises.

    adopted: it was taken over from a runner that died, so that an end which nobody took note of is its own.
    """
    folder = folder_of(desk.places, job)
    present = adoption.look(folder)
    if present.state == "none" or (present.state == "ended" and not adopted):
        present = start(desk, job, folder)
    elif present.process is not None:
        desk.tell(job, "queue.adopted", f"{job.label}: its run goes on in process {present.process.identity.pid}.")
    following = Following(desk, job, folder, present, Control(make_folder(folder.path), clock=desk.clock))
    while True:
        code = _follow(following)
        if following.lost:
            return
        meaning, words = folder.room.meaning(code)
        if not _rests(following, meaning) or not _hold(following, meaning, words):
            _settle(following, meaning, words, code)
            return
        following.asking = None


def start(desk: Desk, job: jobs.Job, folder: JobFolder) -> Present:
    """Start the run of a job, or go on with it, beneath a keeper; what lives there already is followed instead.

    Raises ModelwrightError when the keeper does not begin.
    """
    resume = folder.run is not None if folder.room.contract else folder.stdout.exists()
    adoption.forget_last(folder)
    argv = folder.room.argv(job.payload["arguments"], folder.place, resume=resume)
    cwd = Path(job.payload.get("cwd") or desk.places.base)
    environment = environment_for(desk.places, job.kind)
    make_folder(folder.place.parent)
    words = [sys.executable, "-m", KEEPER, str(folder.path), "--", *argv]
    keeper = start_process(words, folder.log, cwd=cwd if cwd.is_dir() else desk.places.base, environment=environment)
    jobs.heartbeat(desk.db, job.id, desk.me, run=_relative(desk, folder.place if folder.room.contract else folder.path), clock=desk.clock)
    deadline = desk.clock.monotonic() + START_PATIENCE_S
    while True:
        found = adoption.look(folder)
        if found.state != "none":
            word = "goes on" if resume else "is started"
            desk.tell(job, "queue.started", f"{job.label}: its run {word} in {folder.place}.", argv=argv)
            return found
        if not keeper.alive() and adoption.look(folder).state == "none":
            raise ModelwrightError(f"The run of {job.label} cannot be started: {log_tail(folder.log)}")
        if desk.clock.monotonic() >= deadline:
            keeper.leave_in_order(1.0)
            raise ModelwrightError(f"The run of {job.label} did not begin within {START_PATIENCE_S:g} s: {log_tail(folder.log)}")
        desk.clock.sleep(0.02)


# ---- following -----------------------------------------------------------------------------------------------------


def _follow(following: Following) -> int | None:
    """Watch the run until it ended; its exit code, None when it was killed together with its keeper."""
    desk, folder = following.desk, following.folder
    while True:
        found = adoption.look(folder)
        if found.state != "live":
            return found.code
        following.present = found
        _renew(following)
        if following.lost:
            return None
        _listen(following)
        if following.asking is not None:
            sentence = following.asking.step(folder, found)
            if sentence:
                desk.tell(following.job, "queue.run_pressed", f"{following.job.label}: {sentence}", severity="warning")
        assert found.process is not None
        found.process.wait(desk.poll_s)


def _renew(following: Following) -> None:
    """Keep the lease, and note what the store and the run's heartbeat say."""
    desk, job = following.desk, following.job
    now = desk.clock.monotonic()
    if now - following.leased < desk.lease_every_s:
        return
    following.leased = now
    position = None
    if following.folder.run is not None:
        view = read_heartbeat(following.folder.run, clock=desk.clock)
        step = (view.snapshot or {}).get("step")
        position = step if isinstance(step, int) and step >= 0 else None
        _tell_stalled(following, view.state == "stalled", view.age_s)
    try:
        held = jobs.heartbeat(desk.db, job.id, desk.me, position=position, clock=desk.clock)
    except jobs.NotHeldError as error:
        following.lost = str(error)  # whoever holds it now follows the same run; this process lets go of it
        return
    if held.cancel_asked:
        wish(following, "cancel", "the job is cancelled")
    elif any(late.id == job.id for late in jobs.overdue(desk.db)) and wish(following, "overdue", "its time is over"):
        desk.tell(job, "queue.overdue", f"{job.label} runs for longer than its kind may and is asked to stop.", severity="warning")


def _tell_stalled(following: Following, stalled: bool, age_s: float | None) -> None:
    if stalled and not following.stalled:
        age = "" if age_s is None else f" for {age_s:.0f} s"
        text = f"{following.job.label}: its run lives and has said nothing{age}. It is left alone."
        following.desk.tell(following.job, "queue.stalled", text, severity="warning")
    following.stalled = stalled


def _listen(following: Following) -> None:
    """Signals to this process, and requests that a person put into the job's folder."""
    if following.desk.signals:
        wish(following, "release", f"{following.desk.signals.name} arrived")
    for request in following.control.poll():
        reason = str(request.body.get("reason") or f"asked for by {request.actor}")
        wanted: Wish | None = {"pause": "hold", "stop": "cancel", "abort": "cancel"}.get(request.kind)  # type: ignore[assignment]
        if wanted is None:
            following.control.ack(request, "refused", reason=f"{request.kind}: the run is at work; allowed: pause, stop, abort.")
            continue
        wish(following, wanted, reason)
        following.control.ack(request, "passed_on", reason=reason)


def wish(following: Following, wanted: Wish, reason: str) -> bool:
    """Begin to make the run stop, unless a wish of the same or a higher rank is under way; whether it is new."""
    now = following.asking
    if now is not None and RANK[now.wish] >= RANK[wanted]:
        return False
    stage = 0 if now is None else now.stage
    since = 0.0 if now is None else now.since
    following.asking = Asking(wanted, reason, following.desk.grace_s, following.desk.clock, stage, since)
    return True


# ---- at rest -------------------------------------------------------------------------------------------------------


def _rests(following: Following, meaning: Meaning) -> bool:
    """Whether the run is paused and nobody wants its job given back or ended."""
    asked = following.asking.wish if following.asking else None
    if meaning == "paused":
        return asked in (None, "hold")
    return asked == "hold" and meaning in ("ended", "failed")


def _hold(following: Following, meaning: Meaning, words: str) -> bool:
    """Hold a paused job until it shall go on; False when it is to be settled instead.

    It goes on when somebody asks (a `resume` in the job's folder), when somebody resumed the run by hand, and after a pause for lack of
    disk as soon as there is room.
    """
    desk, job, folder = following.desk, following.job, following.folder
    disk = _reason(folder) == "disk"
    why = "disk" if disk else following.asking.reason if following.asking else "the run was paused"
    jobs.pause(desk.db, job.id, desk.me, clock=desk.clock)
    desk.tell(job, "queue.run_paused", f"{job.label}: {words} ({why}). It keeps its place; ask it to resume, or cancel the job.")
    following.leased = float("-inf")
    while True:
        desk.clock.sleep(desk.poll_s)
        _renew(following)
        if following.lost:
            return True
        asking = following.asking
        if asking is not None and asking.wish == "cancel":
            return False
        if desk.signals:
            wish(following, "release", f"{desk.signals.name} arrived")
            return False
        again = adoption.look(folder).state == "live"
        if again or _resume_asked(following) or (disk and disk_verdict(desk.places.base).verdict != "refuse"):
            jobs.resume(desk.db, job.id, desk.me, clock=desk.clock)
            if not again:
                start(desk, job, folder)
            return True


def _resume_asked(following: Following) -> bool:
    found = False
    for request in following.control.poll():
        if request.kind == "resume":
            found = True
            following.control.ack(request, "resumed")
        elif request.kind in ("stop", "abort"):
            wish(following, "cancel", str(request.body.get("reason") or f"asked for by {request.actor}"))
            following.control.ack(request, "cancelled")
        else:
            following.control.ack(request, "refused", reason=f"{request.kind}: the run is paused; allowed: resume, stop, abort.")
    return found


def _reason(folder: JobFolder) -> str:
    run = folder.run
    try:
        return "" if run is None else read_record(run).reason
    except ModelwrightError:
        return ""


# ---- settled -------------------------------------------------------------------------------------------------------


def _settle(following: Following, meaning: Meaning, words: str, code: int | None) -> None:
    """Say what became of the job. What was wished for decides, unless the work was done before it was heard."""
    desk, job, folder = following.desk, following.job, following.folder
    asked = following.asking.wish if following.asking else None
    try:
        if meaning == "completed":
            settle_completed(desk, job, folder, code, words)
        elif asked == "cancel":
            jobs.cancel_held(desk.db, job.id, desk.me, clock=desk.clock)
        elif asked == "overdue":
            jobs.fail(desk.db, job.id, desk.me, f"its time was over ({words})", clock=desk.clock)
        elif asked == "release":
            jobs.release(desk.db, job.id, desk.me, clock=desk.clock)
        else:
            why = _why(folder, words)
            if meaning in ("unfit", "stopped"):
                jobs.reject(desk.db, job.id, desk.me, why, clock=desk.clock)
            elif meaning == "ended":
                desk.tell(job, "queue.run_ended", f"{job.label}: {why}")
                jobs.cancel_held(desk.db, job.id, desk.me, clock=desk.clock)
            else:
                jobs.fail(desk.db, job.id, desk.me, why, clock=desk.clock)
    except jobs.NotHeldError as error:
        print(error, flush=True)
        return
    adoption.forget_last(folder)


def _why(folder: JobFolder, words: str) -> str:
    """Why a run did not complete: the meaning of its code, and its own words."""
    told = str(summary_of(folder).get("error") or _reason(folder) or log_tail(folder.log))
    return f"{words}: {told}" if told else words


def _relative(desk: Desk, path: Path) -> str:
    return str(path.relative_to(desk.places.base)) if path.is_relative_to(desk.places.base) else str(path)
