"""`python -m guild.eval_runner`, also `guild eval`: evaluate checkpoints. (specs/guild.md 2.1.9)"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from guild.command import process
from guild.places import VARIABLE, Places
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.errors import ModelwrightError, UsageError

if TYPE_CHECKING:
    from guild.evaluation.keeping import Keeper
    from guild.evaluation.runner import RunReport
    from guild.records.checkpoint_record import CampaignId
    from modelwright.database import Database

INTERVAL_S = 600.0
POLL_S = 0.5
KEEP_S = 60.0
"""For how long a daemon keeps the model when there is nothing to evaluate: checkpoints of a trainer come minutes apart."""
_EXAMPLES = """\
examples:
  guild eval --once                                   carry out what waits now, then end
  guild eval --once --type quick
  guild eval --daemon --interval 60                   go on doing so, until SIGTERM or Ctrl-C
  guild eval --status --json
  guild eval --backfill                               queue what older checkpoints lack
  guild eval --checkpoint 1200 --skill bin --level 3  evaluate one checkpoint now
  guild eval --checkpoint 1200 --full                 every skill, every level up to the one it trains at, and the full passives
  guild eval --checkpoint 0 --full                    the same of the base model

exit codes:
  0  done, or nothing to do
  1  an evaluation failed (its failure is recorded) or has to wait, for a device that is in use; an unknown checkpoint or skill; another
     daemon of this kind
  2  wrong arguments
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild eval`."""
    parser = argparse.ArgumentParser(
        prog="guild eval",
        description="Evaluate checkpoints: the highest priority first, then the newest step, quick before full.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--daemon", action="store_true", help="carry out what waits, again and again")
    what.add_argument("--once", action="store_true", help="carry out what waits now")
    what.add_argument("--status", action="store_true", help="what waits, runs, failed, and the newest results")
    what.add_argument("--backfill", action="store_true", help="queue quick evaluations and passives that checkpoints lack")
    what.add_argument("--checkpoint", type=int, metavar="STEP", help="evaluate the checkpoint of this step now; 0 for the base model")
    parser.add_argument("--interval", type=float, default=INTERVAL_S, metavar="S", help="between rounds of --daemon (default: 600)")
    parser.add_argument("--idle-exit", type=float, metavar="S", help="with --daemon: end after so many seconds without work")
    parser.add_argument("--type", choices=("quick", "full"), help="with --once or --daemon: only these")
    parser.add_argument("--limit", type=int, metavar="N", help="with --once: at most so many jobs")
    parser.add_argument("--skill", metavar="S", help="with --checkpoint: id or alias of the skill")
    parser.add_argument("--level", type=int, metavar="L", help="with --skill: the level (default: the one it trains at)")
    parser.add_argument("--full", action="store_true", help="with --checkpoint: the full evaluation")
    parser.add_argument("--campaign", metavar="H/C", help="hero/campaign (default: the active one)")
    parser.add_argument("--device", metavar="D", help="cpu or cuda[:n] (default: the inference device of config/hosts.json)")
    parser.add_argument("--base-dir", metavar="DIR", help=f"the guild's house (default: ${VARIABLE}, else ~/.modelwright/guild)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser


def main(argv: Sequence[str] | None = None, *, clock: Clock = SYSTEM_CLOCK) -> int:
    """Run one verb; returns the exit code."""
    given = build_parser().parse_args(argv)
    _refuse_misfits(given)
    places = Places.of(given.base_dir)
    if given.daemon:
        return _daemon(places, given, clock)
    if given.once:
        return _once(places, given, clock)
    if given.status:
        return _status(places, given)
    return _backfill(places, given, clock) if given.backfill else _checkpoint(places, given, clock)


def _refuse_misfits(given: argparse.Namespace) -> None:
    faults = []
    if given.checkpoint is None and (given.skill or given.full or given.level is not None):
        faults.append("--skill, --level and --full: found without --checkpoint; allowed: with it.")
    if given.checkpoint is not None and not given.full and not given.skill:
        faults.append("--checkpoint: found neither --skill nor --full; allowed: one of them.")
    if given.level is not None and (given.level < 1 or (not given.skill and given.checkpoint is not None)):
        faults.append(f"--level: found {given.level}; allowed: 1 or more, with --skill.")
    if given.type and not (given.once or given.daemon):
        faults.append("--type: allowed with --once or --daemon.")
    if given.interval <= 0:
        faults.append(f"--interval: found {given.interval:g}; allowed: more than 0 seconds.")
    if given.idle_exit is not None and (given.idle_exit < 0 or not given.daemon):
        faults.append("--idle-exit: allowed: 0 or more seconds, with --daemon.")
    if given.limit is not None and (given.limit < 1 or not given.once):
        faults.append("--limit: allowed: 1 or more, with --once.")
    if given.device is not None and not _is_device(given.device):
        faults.append(f"--device: found {given.device!r}; allowed: cpu, cuda or cuda:N.")
    if faults:
        raise UsageError("\n".join(faults))


def _is_device(name: str) -> bool:
    return name in ("cpu", "cuda") or (name.startswith("cuda:") and name[5:].isdecimal())


def _once(places: Places, given: argparse.Namespace, clock: Clock) -> int:
    from modelwright.control import signals_as_requests

    with signals_as_requests() as signals, _database(places) as db:
        report = _work(db, places, given, lambda: bool(signals), clock, limit=given.limit)
    return _told(report, given)


def _daemon(places: Places, given: argparse.Namespace, clock: Clock) -> int:
    """Rounds until a signal, or until nothing waited for a while; a round that is refused is told and tried again."""
    from guild.evaluation.keeping import Keeper
    from modelwright.control import signals_as_requests
    from modelwright.files import make_folder
    from modelwright.lock import WriterLock

    lock = WriterLock(make_folder(places.pids / "eval_runner"), command=sys.argv, clock=clock)
    keeper = Keeper()
    try:
        with signals_as_requests() as signals, _database(places) as db:
            last = clock.monotonic()
            while not signals:
                worked = False
                try:
                    worked = bool(_work(db, places, given, lambda: bool(signals), clock, keeper=keeper).outcomes)
                except ModelwrightError as error:
                    print(error, file=sys.stderr, flush=True)
                if worked:
                    last = clock.monotonic()
                elif given.idle_exit is not None and clock.monotonic() - last >= given.idle_exit:
                    break
                until = clock.monotonic() + given.interval
                while not signals and clock.monotonic() < until:
                    if clock.monotonic() - last >= KEEP_S:
                        keeper.drop()
                    clock.sleep(min(POLL_S, given.interval))
    finally:
        keeper.drop()
        lock.release()
    return 0


def _work(
    db: Database,
    places: Places,
    given: argparse.Namespace,
    stop: Callable[[], bool],
    clock: Clock,
    *,
    limit: int | None = None,
    only: frozenset[int] | None = None,
    keeper: Keeper | None = None,
) -> RunReport:
    from guild.evaluation.runner import run_waiting

    say: Callable[[str], None] = (lambda line: None) if given.json else (lambda line: print(line, flush=True))
    return run_waiting(
        db, places, limit=limit, suite=given.type, only=only, device=given.device, stop=stop, say=say, keeper=keeper, clock=clock
    )  # fmt: skip


def _told(report: RunReport, given: argparse.Namespace, *, asked: int = 0) -> int:
    """The end of a run for people or programs, and its exit code: 1 for a failure, and when what was asked for is not stored."""
    bad = report.count("failed") + report.count("rejected")
    code = 1 if bad or report.held_back or report.count("stored") < asked else 0
    if given.json:
        told = [
            {
                "job": one.job.id,
                "state": one.state,
                "payload": one.job.payload,
                "results": [vars(each) for each in one.stored],
                "why": one.sentence,
            }
            for one in report.outcomes
        ]
        print(json.dumps({"schema_version": 1, "outcomes": told, "left": report.left, "held_back": report.held_back}, indent=2))
        return code
    if report.held_back:
        print(report.held_back, file=sys.stderr)
    if not report.outcomes and not report.held_back:
        print("Nothing waits to be evaluated.")
    elif report.outcomes:
        print(f"{report.count('stored')} evaluations are stored, {bad} failed, {report.left} wait.")
    return code


def _checkpoint(places: Places, given: argparse.Namespace, clock: Clock) -> int:
    from guild.evaluation.due import enqueue
    from modelwright.control import signals_as_requests

    with signals_as_requests() as signals, _database(places) as db:
        campaign = _campaign(places, given)
        queued = enqueue(db, places, campaign, _wanted(db, places, given, campaign), clock=clock)
        if queued.refused:
            print(queued.refused, file=sys.stderr)
            return 1
        asked = frozenset(job.id for job in (*queued.jobs, *queued.known))
        report = _work(db, places, given, lambda: bool(signals), clock, only=asked)
    return _told(report, given, asked=len(asked))


def _wanted(db: Database, places: Places, given: argparse.Namespace, campaign: CampaignId) -> list[Any]:
    from guild.errors import UnknownCheckpointError
    from guild.evaluation.due import ASKED_PRIORITY, BASE, Wanted, campaign_skills
    from guild.evaluation.passives import MODULES
    from guild.records import ledger
    from guild.skills.names import resolve
    from guild.skills.registry import skill_targets

    record = ledger.get(db, given.checkpoint, campaign)
    if record is None and given.checkpoint != 0:
        steps = [str(one.step) for one in ledger.list_all(db, campaign, limit=20)]
        raise UnknownCheckpointError(str(given.checkpoint), [*steps, "0"], where=f"the ledger of {campaign.key}")
    name = BASE if record is None else record.canonical_name
    if given.skill:
        skill = resolve(given.skill, tuple(skill_targets(places.skills)))
        level = given.level if given.level is not None or given.full else _level(places, skill, campaign)
        return [
            Wanted(given.checkpoint, name, "skill", skill, "full" if given.full else "quick", ASKED_PRIORITY, level, reason="asked for")
        ]
    skills = [
        Wanted(given.checkpoint, name, "skill", skill, "full", ASKED_PRIORITY, None, reason="asked for")
        for skill in campaign_skills(places, campaign)
    ]
    return skills + [Wanted(given.checkpoint, name, "passive", one.id, "full", ASKED_PRIORITY, reason="asked for") for one in MODULES]


def _level(places: Places, skill: str, campaign: CampaignId) -> int:
    from guild.curriculum.progress import training_level

    return training_level(places, skill, campaign)


def _backfill(places: Places, given: argparse.Namespace, clock: Clock) -> int:
    from guild.evaluation.due import backfill

    with _database(places) as db:
        campaign = _campaign(places, given)
        queued = backfill(db, places, campaign, clock=clock)
    if given.json:
        told = {"campaign": campaign.key, "queued": len(queued.jobs), "waiting_already": len(queued.known), "refused": queued.refused}
        print(json.dumps({"schema_version": 1, **told}, indent=2))
    else:
        print(f"{len(queued.jobs)} evaluations are queued, {len(queued.known)} waited already.")
        if queued.refused:
            print(queued.refused, file=sys.stderr)
    return 1 if queued.refused else 0


def _status(places: Places, given: argparse.Namespace) -> int:
    from guild.evaluation.overview import overview, overview_lines

    with _database(places) as db:
        told = overview(db, _campaign(places, given) if given.campaign else None)
    print(json.dumps({"schema_version": 1, **told}, indent=2) if given.json else "\n".join(overview_lines(told)))
    return 0


def _campaign(places: Places, given: argparse.Namespace) -> CampaignId:
    from guild.campaigns.pointer import require_active
    from guild.campaigns.store import find_campaign
    from guild.records.checkpoint_record import CampaignId

    if not given.campaign:
        return CampaignId(*require_active(places).key)
    hero, slash, campaign = given.campaign.partition("/")
    if not slash or not hero or not campaign:
        raise UsageError(f"--campaign: found {given.campaign!r}; allowed: HERO/CAMPAIGN, such as tiny/campaign-001.")
    return CampaignId(*find_campaign(places, hero, campaign).key)


def _database(places: Places) -> Database:
    from guild.records.database import open_guild

    return open_guild(places)


def run() -> int:
    """The process: errors as sentences."""
    return process(main)


if __name__ == "__main__":
    raise SystemExit(run())
