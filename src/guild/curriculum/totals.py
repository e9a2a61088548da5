"""`data_manager/generation_state.json`: what was generated so far, running numbers for seeds, and generations under way.
(specs/guild.md 2.4, 3.5)

A generation is noted with its number, its seed and its file's name before anything is written, so that after a kill the same one is
finished and not another one begun.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from guild.curriculum.quality import Outcome
from guild.places import Places
from guild.records.status_documents import export, read_document
from modelwright.clock import Clock, parse_stamp, stamp
from modelwright.errors import DamagedFileError, MissingFileError

NAME = "generation_state.json"
UNDER_WAY_KEPT = 50
"""Plans, and results, that are kept."""
SEED_BITS = 53
"""Exact in every JSON reader."""


@dataclass(frozen=True)
class Plan:
    """One generation as it was noted. job: which job asked for it (see `run_generation`). number: running number of its skill and level,
    0 with a seed of the request's own. file: the name of the file it makes."""

    job: str
    skill: str
    level: int
    count: int
    seed: int
    number: int
    priority: str
    file: str
    begun: str


@dataclass
class Totals:
    """The document, read and changed under the generation lock alone."""

    places: Places
    content: dict[str, Any]

    @classmethod
    def read(cls, places: Places) -> Totals:
        """What is there; empty when nothing was generated. Raises DamagedFileError, StorageError."""
        path = places.data_manager / NAME
        try:
            content = read_document(path)
        except MissingFileError:
            content = {}
        if not isinstance(content, dict):
            raise DamagedFileError(path, f"found a {type(content).__name__}", "an object", "Move it away to count anew")
        return cls(places, content)

    def write(self) -> None:
        """Replace the document, durably."""
        export(self.places.data_manager / NAME, self.content)

    def plan_of(self, job: str) -> Plan | None:
        """The plan noted for a job; None when it has none."""
        found = self.content.get("under_way", {}).get(job)
        return Plan(**found) if isinstance(found, dict) else None

    def next_number(self, skill: str, level: int) -> int:
        """The running number of the next generation of a level, from 1."""
        return int(self.content.get("numbers", {}).get(f"{skill}:{level}", 0)) + 1

    def note(self, plan: Plan) -> None:
        """Note a plan, durably, before it is carried out."""
        under_way = {**self.content.get("under_way", {}), plan.job: vars(plan)}
        self.content["under_way"] = dict(list(under_way.items())[-UNDER_WAY_KEPT:])
        if plan.number:
            self.content["numbers"] = {**self.content.get("numbers", {}), f"{plan.skill}:{plan.level}": plan.number}
        self.write()

    def result_of(self, job: str) -> dict[str, Any] | None:
        """What came of a job's generation that has ended and was counted; None when it has not."""
        found = self.content.get("ended", {}).get(job)
        return dict(found) if isinstance(found, dict) else None

    def close(self, plan: Plan, outcome: Outcome, score: float, result: Mapping[str, Any], preset: str, clock: Clock) -> None:
        """Count a generation that ended and note its result, durably. (A kill before its job is finished leads back to `result_of`.)"""
        self.content["ended"] = dict(list({**self.content.get("ended", {}), plan.job: dict(result)}.items())[-UNDER_WAY_KEPT:])
        self.content["under_way"] = {job: one for job, one in self.content["under_way"].items() if job != plan.job}
        kept = outcome != "REJECTED"
        for key, more in (
            ("generations", 1),
            ("rows_generated", plan.count),
            ("rows_approved", plan.count if kept else 0),
            ("rows_rejected", 0 if kept else plan.count),
            (f"files_{outcome.lower()}", 1),
        ):
            self.content[key] = int(self.content.get(key, 0)) + more
        self.content["quality_sum"] = float(self.content.get("quality_sum", 0.0)) + score
        self.content["last_generation"] = stamp(clock.now())
        turns = self.content.get("turns", {})
        files = turns.get("files", {}) if turns.get("preset") == preset else {}
        self.content["turns"] = {"preset": preset, "files": {**files, plan.skill: int(files.get(plan.skill, 0)) + 1}}
        self.write()

    def files(self, preset: str) -> Mapping[str, int]:
        """Skill → files generated since that preset is active."""
        turns = self.content.get("turns", {})
        return turns.get("files", {}) if turns.get("preset") == preset else {}

    @property
    def last(self) -> datetime | None:
        """When the last generation ended."""
        text = self.content.get("last_generation")
        return parse_stamp(text) if isinstance(text, str) else None

    def as_dict(self) -> dict[str, Any]:
        """Counts for people and pages; rates and means are from 0 to 1, None without a generation."""
        count = {
            key: int(self.content.get(key, 0))
            for key in (
                "generations", "rows_generated", "rows_approved", "rows_rejected", "files_approved", "files_conditional", "files_rejected"
            )
        }  # fmt: skip
        made, rows = count["generations"], count["rows_generated"]
        return {
            **count,
            "approval_rate": count["rows_approved"] / rows if rows else None,
            "mean_quality": float(self.content.get("quality_sum", 0.0)) / made if made else None,
            "last_generation": self.content.get("last_generation"),
        }


def default_seed(skill: str, level: int, number: int) -> int:
    """The seed of the `number`-th generation of a level: the same on every machine, another for every number."""
    digest = hashlib.sha256(f"guild\x1fgeneration\x1f{skill}\x1f{level}\x1f{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)
