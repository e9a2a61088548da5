"""What goes and why: a pure decision over what lies there. The dry run and the real run are this one function. (specs/guild.md 2.8.4)

0. Optimizer state: of each campaign's checkpoints only the newest `save_total_limit` keep theirs; the others' goes, weights and sidecar
   stay. This does not wait for the cap or the age of 36 hours, since it is what `save_total_limit` means.
1. While all together exceed the cap: whole checkpoints go, the oldest first, then whole snapshots, the oldest first.
What is protected, or younger than one hour, is never touched; what is younger than 36 hours is never deleted whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

GB = 10**9
HOUR = 3600.0
Sort = Literal["checkpoint", "snapshot"]
What = Literal["optimizer", "whole"]


@dataclass(frozen=True)
class Limits:
    """cap_bytes: of all checkpoints and snapshots together. min_age_s: younger ones are never deleted. fresh_s: younger ones are not
    touched at all. keep_optimizer: campaign key → checkpoints that keep their optimizer's state; a campaign that is not named keeps all.
    """

    cap_bytes: int = 150 * GB
    min_age_s: float = 36 * HOUR
    fresh_s: float = HOUR
    keep_optimizer: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """A checkpoint or a snapshot. path: absolute, its name for every purpose. size, optimizer: bytes, the second part of the first.
    age_s: seconds since it was saved. campaign: key, "" for none. step: of a checkpoint. protected: why it must stay, empty when nothing
    needs it."""

    path: str
    sort: Sort
    size: int
    age_s: float
    campaign: str = ""
    step: int = 0
    optimizer: int = 0
    protected: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One deletion. why: a sentence's half."""

    path: str
    what: What
    size: int
    why: str


@dataclass(frozen=True)
class Plan:
    """steps: in the order in which they are done. before, after: bytes. cap: bytes. kept: path → why it stays, of those that the cap
    would have sent away."""

    steps: tuple[Step, ...]
    before: int
    after: int
    cap: int
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def over(self) -> int:
        """Bytes above the cap that nothing may be deleted for."""
        return max(0, self.after - self.cap)


def decide(items: Iterable[Item], limits: Limits) -> Plan:
    """The plan for what lies there; the order of `items` does not matter."""
    everything = sorted(items, key=lambda item: item.path)
    before = sum(item.size for item in everything)
    steps = _optimizers(everything, limits)
    lighter = {step.path: step.size for step in steps}
    total = before - sum(lighter.values())
    kept: dict[str, str] = {}
    for sort in ("checkpoint", "snapshot"):
        for item in sorted((item for item in everything if item.sort == sort), key=lambda item: (-item.age_s, item.path)):
            if total <= limits.cap_bytes:
                return Plan(tuple(steps), before, total, limits.cap_bytes, kept)
            why = stays(item, limits)
            if why:
                kept[item.path] = why
                continue
            size = item.size - lighter.get(item.path, 0)
            steps = [step for step in steps if step.path != item.path]  # its optimizer goes with it
            steps.append(Step(item.path, "whole", item.size, f"the oldest {sort} while {total / GB:.2f} GB lie here"))
            total -= size
    return Plan(tuple(steps), before, total, limits.cap_bytes, kept)


def stays(item: Item, limits: Limits) -> str:
    """Why an item must not be deleted whole, "" when it may."""
    if item.protected:
        return "; ".join(item.protected)
    if item.age_s < limits.min_age_s:
        return f"it is younger than {limits.min_age_s / HOUR:g} hours"
    return ""


def _optimizers(items: list[Item], limits: Limits) -> list[Step]:
    """Rule 0."""
    steps = []
    for campaign, keep in sorted(limits.keep_optimizer.items()):
        own = [item for item in items if item.sort == "checkpoint" and item.campaign == campaign and item.optimizer > 0]
        newest_first = sorted(own, key=lambda item: (-item.step, item.age_s, item.path))
        for item in newest_first[max(0, keep) :]:
            if not item.protected and item.age_s >= limits.fresh_s:
                steps.append(Step(item.path, "optimizer", item.optimizer, f"only the newest {keep} keep their optimizer's state"))
    return sorted(steps, key=lambda step: step.path)
