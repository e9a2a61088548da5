"""`guild ledger`, also `python -m guild.checkpoint_ledger`: every checkpoint and what it was trained on. (specs/guild.md 2.1.8)"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guild.command import answered, say
from guild.places import VARIABLE, Places
from modelwright.errors import UsageError

if TYPE_CHECKING:
    from guild.records.checkpoint_record import CampaignId, CheckpointRecord
    from modelwright.database import Database

_EXAMPLES = """\
examples:
  guild ledger list --limit 10
  guild ledger best --metric val_loss
  guild ledger show 12000 --json
  guild ledger scan                     checkpoints on disk that the ledger does not list
  guild ledger rebuild                  the index anew from the records beside checkpoints and data files

exit codes:
  0  done
  1  no such checkpoint; or a scan or a rebuild named something that is damaged
  2  wrong arguments
"""
HELP_PAGES: tuple[tuple[str, ...], ...] = ((),)
GB = 1e9


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild ledger`."""
    parser = argparse.ArgumentParser(
        prog="guild ledger",
        description="The ledger of checkpoints: list, look up, find what is missing, rebuild.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=help, description=help)
        added.add_argument("--campaign", metavar="H/C", help="hero/campaign (default: all)")
        added.add_argument("--json", action="store_true", help="print JSON for programs")
        added.add_argument("--base-dir", metavar="DIR", help=f"the guild's house (default: ${VARIABLE}, else ~/.modelwright/guild)")
        return added

    listing = verb("list", "every checkpoint, the highest step first")
    listing.add_argument("--limit", type=int, metavar="N", help="at most so many")
    listing.add_argument("--skill", metavar="S", help="only those trained on a skill")
    verb("latest", "the checkpoint of the highest step")
    best = verb("best", "the checkpoint with the best value of a metric")
    best.add_argument("--metric", default="val_loss", help="train_loss, val_loss, perplexity or accuracy (default: val_loss)")
    verb("show", "one checkpoint").add_argument("step", type=int, help="its step")
    verb("summary", "counts, losses, sizes")
    verb("scan", "checkpoints on disk that are not in the ledger")
    verb("adopt", "take such a checkpoint into the ledger").add_argument("path", type=Path, help="its folder")
    verb("rebuild", "make ledger, evaluations and data lineage say what lies on disk")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    given = build_parser().parse_args(argv)
    from guild.records.database import open_guild

    places = Places.of(given.base_dir)
    with open_guild(places) as db:
        return _VERBS[given.verb](db, places, given)


def _list(db: Database, places: Places, given: argparse.Namespace) -> int:
    from guild.records import ledger

    campaign = _campaign(given)
    found = ledger.list_by_skill(db, given.skill, campaign, given.limit) if given.skill else ledger.list_all(db, campaign, given.limit)
    say(given, {"checkpoints": [record.model_dump() for record in found]}, [_line(record) for record in found] or ["No checkpoints."])
    return 0


def _latest(db: Database, places: Places, given: argparse.Namespace) -> int:
    from guild.records import ledger

    return _one(given, ledger.get_latest(db, _campaign(given)), "No checkpoints.")


def _best(db: Database, places: Places, given: argparse.Namespace) -> int:
    from guild.records import ledger

    return _one(given, ledger.get_best(db, given.metric, campaign=_campaign(given)), f"No checkpoint has a value of {given.metric}.")


def _show(db: Database, places: Places, given: argparse.Namespace) -> int:
    from guild.records import ledger

    return _one(given, ledger.get(db, given.step, _campaign(given)), f"step {given.step}: found no such checkpoint in the ledger.")


def _summary(db: Database, places: Places, given: argparse.Namespace) -> int:
    from guild.records.ledger_summary import get_summary

    found = get_summary(db, _campaign(given))
    say(given, found, [f"{name.replace('_', ' ').capitalize() + ':':18} {_shown(value)}" for name, value in found.items()])
    return 0


def _scan(db: Database, places: Places, given: argparse.Namespace) -> int:
    from guild.records.orphans import scan_orphans

    found = scan_orphans(db, places)
    bad = [one for one in found if one.reasons or one.outranked]
    lines = []
    for one in found:
        lines.append(f"{one.path}: step {one.step}, " + ("can be adopted." if one not in bad else "cannot be adopted."))
        lines += [f"  {reason}" for reason in one.reasons]
        lines += ["  the ledger lists another folder of that step"] if one.outranked else []
    told = [{"path": str(one.path), "step": one.step, "reasons": list(one.reasons), "outranked": one.outranked} for one in found]
    say(given, {"orphans": told}, lines or ["Every checkpoint on disk is in the ledger."])
    return 1 if bad else 0


def _adopt(db: Database, places: Places, given: argparse.Namespace) -> int:
    from guild.records.original_tree import read_back
    from guild.records.orphans import adopt_orphan

    record = adopt_orphan(db, places, given.path.expanduser().absolute(), keep_sidecar=True)
    results = read_back(db, places, [Path(record.path)])
    say(given, record.model_dump(), [f"Adopted: {_line(record)}", *results.faults])
    return 1 if results.faults else 0


def _rebuild(db: Database, places: Places, given: argparse.Namespace) -> int:
    from guild.records.lineage import rebuild_lineage
    from guild.records.lineage_documents import lineage_document
    from guild.records.original_tree import read_back
    from guild.records.orphans import rebuild

    done, results = rebuild(db, places), read_back(db, places)
    faults = [*done.faults, *results.faults, *rebuild_lineage(db, places)]
    verdicts = lineage_document(db)["total_validations"]
    lines = [
        f"{done.listed} checkpoints are listed.",
        f"{results.evaluations} evaluations and {results.passives} passives were read from the files beside them.",
        f"The lineage holds {verdicts} verdicts.",
        *(f"Gone: {path}" for path in done.gone),
        *faults,
    ]
    told = {"listed": done.listed, "evaluations": results.evaluations, "passives": results.passives, "verdicts": verdicts}
    say(given, {**told, "gone": list(done.gone), "faults": faults}, lines)
    return 1 if faults else 0


_VERBS: dict[str, Callable[..., int]] = {
    "list": _list, "latest": _latest, "best": _best, "show": _show, "summary": _summary, "scan": _scan, "adopt": _adopt,
    "rebuild": _rebuild,
}  # fmt: skip


def _one(given: argparse.Namespace, record: CheckpointRecord | None, otherwise: str) -> int:
    if record is None:
        print(otherwise, file=sys.stderr)
        return 1
    fields = record.model_dump()
    say(given, fields, [f"{name + ':':22} {_shown(value)}" for name, value in fields.items() if value is not None])
    return 0


def _line(record: CheckpointRecord) -> str:
    losses = ", ".join(
        f"{word} {value:.4f}" for word, value in (("train", record.train_loss), ("validation", record.val_loss)) if value is not None
    )
    size = f"{record.size_bytes / GB:.2f} GB"
    return f"{record.key}  {record.canonical_name}  {size}  {losses or 'no losses'}  {record.training_file or ''}".rstrip()


def _campaign(given: argparse.Namespace) -> CampaignId | None:
    from guild.records.checkpoint_record import CampaignId

    if given.campaign is None:
        return None
    hero, slash, campaign = given.campaign.partition("/")
    if not (hero and slash and campaign):
        raise UsageError(f"--campaign: found {given.campaign!r}; allowed: HERO/CAMPAIGN, for example tiny/campaign-001.")
    return CampaignId(hero, campaign)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def run() -> int:
    """The process: errors as sentences."""
    return answered(main)


if __name__ == "__main__":
    raise SystemExit(run())
