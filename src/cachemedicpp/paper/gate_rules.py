"""The verdict of a gate from numbers over seeds: rows make a clause, clauses make a gate. (specs/medic.md, 10; [C25])

`pass`: the whole interval of the mean lies on the right side of the limit. `fail`: the whole interval lies on the other
side. Else, and always with too few seeds, `undecided`. Needs numpy, no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cachemedicpp.evaluation.bootstrap import Interval, paired_difference

MIN_SEEDS = 5
Verdict = Literal["pass", "fail", "undecided", "not measured"]
Side = Literal["above", "below", "at most"]


@dataclass(frozen=True)
class Row:
    """One number over the seeds. values: seed → number. It shall lie on the side `side` of `limit`.

    met: whether the mean does; verdict: whether the interval of the mean does.
    """

    what: str
    values: Mapping[int, float]
    side: Side
    limit: float
    unit: str
    effect: Interval
    met: bool
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON values."""
        own = {"what": self.what, "side": self.side, "limit": self.limit, "unit": self.unit, "met": self.met, "verdict": self.verdict}
        return own | {"effect": self.effect.as_dict(), "values": {str(seed): value for seed, value in self.values.items()}}


@dataclass(frozen=True)
class Clause:
    """One requirement of a gate, met when `needed` of its rows pass (None: all of them). note: what was left out, and why."""

    name: str
    rows: tuple[Row, ...]
    needed: int | None
    verdict: Verdict
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The clause as JSON values."""
        own = {"name": self.name, "needed": self.needed, "verdict": self.verdict, "note": self.note}
        return own | {"rows": [row.as_dict() for row in self.rows]}


@dataclass(frozen=True)
class Gate:
    """A gate: passes when all its clauses do. seeds: those of its runs."""

    number: int
    title: str
    clauses: tuple[Clause, ...]
    seeds: tuple[int, ...] = field(default=())

    @property
    def verdict(self) -> Verdict:
        """All clauses together; what was not measured leaves the gate undecided."""
        found = all_of([clause.verdict for clause in self.clauses])
        return "undecided" if found == "not measured" and self.seeds else found

    def as_dict(self) -> dict[str, Any]:
        """The gate as JSON values."""
        own = {"number": self.number, "title": self.title, "verdict": self.verdict, "seeds": list(self.seeds)}
        return own | {"clauses": [clause.as_dict() for clause in self.clauses]}


def row_of(what: str, values: Mapping[int, float], side: Side, limit: float, unit: str, minimum: int) -> Row:
    """A number taken from each of several seeds. minimum: seeds that a verdict needs."""
    seeds = sorted(values)
    effect = paired_difference([values[seed] for seed in seeds], [0.0] * len(seeds))
    inside, outside = _sides(effect, side, limit)
    met = {"above": effect.estimate > limit, "below": effect.estimate < limit, "at most": effect.estimate <= limit}[side]
    verdict: Verdict = "undecided" if len(seeds) < minimum else "pass" if inside else "fail" if outside else "undecided"
    return Row(what, {seed: values[seed] for seed in seeds}, side, limit, unit, effect, met, verdict)


def _sides(effect: Interval, side: Side, limit: float) -> tuple[bool, bool]:
    """Whether the whole interval lies where it shall, and whether it lies wholly elsewhere."""
    if side == "above":
        return effect.low > limit, effect.high <= limit
    if side == "below":
        return effect.high < limit, effect.low >= limit
    return effect.high <= limit, effect.low > limit


def clause_of(name: str, rows: Sequence[Row | None], needed: int | None, note: str) -> Clause:
    """A clause of the rows that could be measured."""
    found = tuple(row for row in rows if row is not None)
    return Clause(name, found, needed, _verdict([row.verdict for row in found], needed), note)


def _verdict(rows: Sequence[Verdict], needed: int | None) -> Verdict:
    """Of all rows, or of at least `needed` of them."""
    if not rows:
        return "not measured"
    if needed is None:
        return all_of(rows)
    if rows.count("pass") >= needed:
        return "pass"
    return "fail" if len(rows) - rows.count("fail") < needed else "undecided"


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """One failure is a failure; all must pass to pass."""
    if not verdicts or all(verdict == "not measured" for verdict in verdicts):
        return "not measured"
    if "fail" in verdicts:
        return "fail"
    return "pass" if all(verdict == "pass" for verdict in verdicts) else "undecided"
