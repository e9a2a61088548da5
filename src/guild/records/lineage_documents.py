"""`status/data_lineage.json`: how often each generator's data passed, and how strict each validator is. (specs/guild.md 4.6)"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from guild.places import Places
from guild.records.status_documents import export, records_lock
from modelwright.database import Database

NAME = "data_lineage.json"
MINIMUM_SAMPLES = 10
"""Below so many verdicts nobody is called the worst."""
TOP_ERRORS = 5

Side = Literal["generators", "validators"]


def lineage_document(db: Database) -> dict[str, Any]:
    """The document: totals per `id@version` of generators and validators, with what an adopted original document had counted before.

    Shares are from 0 to 1; `last_updated` is the time of the newest verdict, null without one.
    """
    generators, validators = _totals(db, "generators"), _totals(db, "validators")
    total = sum(entry["total"] for entry in generators.values())
    failed = sum(entry["failed"] for entry in generators.values())
    seen = [entry["last_seen"] for entry in generators.values() if entry["last_seen"]]
    return {
        "total_validations": total,
        "last_updated": max(seen, default=None),
        "generators": generators,
        "validators": validators,
        "summary": {
            "total_generators": len(generators),
            "total_validators": len(validators),
            "worst_generator": _worst(generators),
            "worst_validator": _worst(validators),
            "overall_fail_rate": failed / total if total else 0.0,
        },
    }


def export_lineage(db: Database, places: Places) -> None:
    """Write the document now."""
    with records_lock(places):
        write_lineage_document(db, places)


def write_lineage_document(db: Database, places: Places) -> None:
    """Write the document. The caller holds `records_lock`."""
    export(places.status / NAME, lineage_document(db))


def _totals(db: Database, side: Side) -> dict[str, dict[str, Any]]:
    """`id@version` → its totals, in the order of the names."""
    mine, other = ("generator", "validator") if side == "generators" else ("validator", "generator")
    by_other = f"by_{other}"
    found: dict[str, dict[str, Any]] = {}
    counted = "count(*) AS total, sum(valid) AS passed, count(*) - sum(valid) AS failed, max(at) AS last_seen"
    query = f"SELECT {mine} AS mine, {other} AS other, {counted} FROM validations GROUP BY 1, 2"
    for row in db.rows(query):
        _add(found.setdefault(row["mine"], _empty(by_other)), {**row, by_other: {row["other"]: row}}, by_other)
    errors = f"SELECT {mine} AS mine, each.key AS error, sum(each.value) AS count FROM validations, json_each(errors) AS each GROUP BY 1, 2"
    kinds: dict[str, Counter[str]] = {}
    for row in db.rows(errors):
        kinds.setdefault(row["mine"], Counter())[row["error"]] += row["count"]
    for row in db.rows("SELECT reference, totals FROM lineage_before WHERE side = ?", (side,)):
        before = json.loads(row["totals"])
        _add(found.setdefault(row["reference"], _empty(by_other)), before, by_other)
        kinds.setdefault(row["reference"], Counter()).update(_errors_before(before))
    for reference, entry in found.items():
        entry["fail_rate"] = entry["failed"] / entry["total"] if entry["total"] else 0.0
        top = sorted(kinds.get(reference, Counter()).items(), key=lambda item: (-item[1], item[0]))[:TOP_ERRORS]
        entry["top_errors"] = [{"error": error, "count": count} for error, count in top]
    return dict(sorted(found.items()))


def _empty(by_other: str) -> dict[str, Any]:
    return {"total": 0, "passed": 0, "failed": 0, "fail_rate": 0.0, by_other: {}, "last_seen": None, "top_errors": []}


def _add(entry: dict[str, Any], counts: Mapping[str, Any], by_other: str) -> None:
    for name in ("total", "passed", "failed"):
        entry[name] += int(counts.get(name) or 0)
    entry["last_seen"] = max((seen for seen in (entry["last_seen"], counts.get("last_seen")) if seen), default=None)
    parts = counts.get(by_other)
    for other, part in parts.items() if isinstance(parts, dict) else ():
        target = entry[by_other].setdefault(other, {"total": 0, "passed": 0, "failed": 0})
        numbers = part if isinstance(part, dict) else {"total": part}
        for name in target:
            target[name] += int(numbers.get(name) or 0)


def _errors_before(totals: Mapping[str, Any]) -> Counter[str]:
    """The errors of an original entry: objects, pairs or plain sentences, each counted at least once."""
    counted: Counter[str] = Counter()
    for item in totals.get("top_errors") or []:
        if isinstance(item, dict):
            counted[str(item.get("error", ""))] += int(item.get("count") or 1)
        elif isinstance(item, list) and len(item) == 2:
            counted[str(item[0])] += int(item[1])
        else:
            counted[str(item)] += 1
    return counted


def _worst(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The one with the highest share of failures, of equal ones the one seen more often, among those with enough samples."""
    known = [(entry["fail_rate"], entry["total"], reference) for reference, entry in entries.items() if entry["total"] >= MINIMUM_SAMPLES]
    if not known:
        return None
    rate, total, reference = max(known)
    return {"id": reference, "fail_rate": rate, "total": total}
