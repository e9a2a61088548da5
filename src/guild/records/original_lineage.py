"""The totals that the original system's `status/data_lineage.json` had counted; they are added to our own verdicts. (specs/guild.md 4.6)"""

from __future__ import annotations

import json

from guild.places import Places
from guild.records.lineage_documents import NAME
from guild.records.status_documents import original_document
from modelwright.database import Database
from modelwright.errors import ModelwrightError

SIDES = ("generators", "validators")


def adopt_totals(db: Database, places: Places) -> tuple[int, list[str]]:
    """Keep the totals of the original's document; returns how many generators and validators it names, and a sentence for each fault.

    Writes nothing but the table; done again it changes nothing.
    """
    path = places.status / NAME
    try:
        document = original_document(path)
    except ModelwrightError as error:
        return 0, [str(error)]
    sides = {side: document.get(side) for side in SIDES} if isinstance(document, dict) else {}
    entries = [(side, reference, totals) for side, found in sides.items() if isinstance(found, dict) for reference, totals in found.items()]
    good = [(side, reference, json.dumps(totals)) for side, reference, totals in entries if isinstance(totals, dict)]
    faults = [
        f"{path}, {side} {reference}: found {totals!r}; allowed: an object of totals."
        for side, reference, totals in entries
        if not isinstance(totals, dict)
    ]
    with db.transaction() as connection:
        for values in good:
            connection.execute("INSERT OR REPLACE INTO lineage_before (side, reference, totals) VALUES (?, ?, ?)", values)
    return len(good), faults


def counted_before(db: Database) -> bool:
    """Whether an original document was adopted, so that the verdicts in original sidecars are counted already."""
    return db.row("SELECT 1 FROM lineage_before LIMIT 1") is not None
