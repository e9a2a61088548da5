"""The ladder of context lengths, which probes each rung gets, and when falling scores stop the climb.

Schedules are the seed's (specs/scaler.md section 3.2); values above the target and targets below the base are refused
instead of giving a ladder that goes down. Lengths are in tokens. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Growth = Literal["double", "single_shot", "two_stage"]
GROWTH_POLICIES: tuple[Growth, ...] = ("double", "single_shot", "two_stage")

LONGFORM, RETRIEVAL, CODE = "synthetic_longform", "retrieval_qa", "code_generation"
CODE_FROM = 32768
FIRST_DOUBLING = 1024
STAND_INS = {RETRIEVAL: "passkey"}  # what is measured while a scheduled probe does not exist yet


@dataclass(frozen=True)
class ContextStep:
    """One rung: its length, the probes it is judged by, and a remark."""

    length: int
    probes: list[str] = field(default_factory=lambda: [LONGFORM])
    notes: str = ""


def build_context_schedule(base: int, target: int, explicit: Iterable[int] | None = None, growth: Growth = "double") -> list[ContextStep]:
    """Rungs from `base` to `target`, strictly increasing, the base first and the target last.

    Without `explicit` values (None or empty) the policy `growth` decides: `double` starts at max(base, 1024) and doubles,
    `single_shot` goes straight to the target, `two_stage` makes one stop near the geometric mean (as LongRoPE does).

    Raises ValueError when the base is not positive, the target is below the base, or an explicit value lies outside
    base..target.
    """
    if base <= 0:
        raise ValueError(f"base context must be above 0, found {base}")
    if target < base:
        raise ValueError(f"target context {target} is below the base context {base}")
    values = sorted(set(explicit or ()))
    if values:
        lengths = _explicit_lengths(base, target, values)
    else:
        lengths = _automatic_lengths(base, target, growth)
    return [_step(length, base) for length in lengths]


def _explicit_lengths(base: int, target: int, values: Sequence[int]) -> list[int]:
    below = [value for value in values if value < base]
    above = [value for value in values if value > target]
    if below:
        raise ValueError(f"context schedule holds {_join(below)} below the base context {base}")
    if above:
        raise ValueError(f"context schedule holds {_join(above)} above the target context {target}")
    return sorted({base, target, *values})


def _automatic_lengths(base: int, target: int, growth: Growth) -> list[int]:
    if growth == "single_shot":
        return sorted({base, target})
    if growth == "two_stage":
        middle = base * 2 ** round(math.log2(target / base) / 2)
        return sorted({base, min(middle, target), target})
    if growth != "double":
        raise ValueError(f"growth policy {growth!r} is unknown; allowed are {', '.join(GROWTH_POLICIES)}")
    lengths = {base, target}
    length = max(base, FIRST_DOUBLING)
    while length < target:
        lengths.add(length)
        length *= 2
    return sorted(lengths)


def _step(length: int, base: int) -> ContextStep:
    if length == base:
        return ContextStep(base, [LONGFORM], "base context checkpoint")
    probes = [LONGFORM, RETRIEVAL]
    if length >= CODE_FROM:
        probes.append(CODE)
    return ContextStep(length, probes)


def evaluation_lengths(lengths: Sequence[int], index: int) -> list[int]:
    """Lengths to evaluate after the rung `index`: that rung and every earlier one, so that short-context loss is seen."""
    return list(lengths[: index + 1])


def runnable_probes(names: Iterable[str], available: Iterable[str]) -> tuple[list[str], list[str]]:
    """The probes to run for the scheduled `names`, and one remark for each that runs as a stand-in or not at all."""
    present = set(available)
    run: list[str] = []
    remarks: list[str] = []
    for name in names:
        stand_in = STAND_INS.get(name)
        if name in present:
            run.append(name)
        elif stand_in in present:
            run.append(str(stand_in))
            remarks.append(f"probe {name} is not part of this version; {stand_in} stands in for it")
        else:
            remarks.append(f"probe {name} is not part of this version and is left out")
    return list(dict.fromkeys(run)), remarks


def should_halt(scores: Sequence[float], threshold: float, window: int = 3) -> bool:
    """True when the mean of the last `window` scores (higher is better) is strictly below `threshold`.

    Fewer than `window` scores never halt. A score that is not a number halts: it cannot be above any floor.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, found {window}")
    if len(scores) < window:
        return False
    mean = sum(scores[-window:]) / window
    return math.isnan(mean) or mean < threshold


@dataclass
class ScoreBook:
    """One series of scores per probe, each judged against its own score at the base rung."""

    floor_ratio: float = 0.9
    window: int = 3
    series: dict[str, list[float]] = field(default_factory=dict)

    def add(self, probe: str, score: float) -> None:
        """Append the score of one rung; the first one of a probe is its base score."""
        self.series.setdefault(probe, []).append(score)

    def threshold(self, probe: str) -> float:
        """floor_ratio x the probe's first score."""
        return self.floor_ratio * self.series[probe][0]

    def halting(self) -> list[str]:
        """Names of the probes whose recent mean fell below their floor."""
        return [name for name, scores in self.series.items() if should_halt(scores, self.threshold(name), self.window)]


def _join(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)
