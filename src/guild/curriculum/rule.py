"""The mastery rule, as arithmetic alone. (specs/guild.md 6.3)

Level 0 is none mastered; the training level is the one after the highest mastered. An evaluation counts when it was made at the training
level, on a checkpoint that has not counted yet for the skill, with enough problems. When the mean of the last `min_evals` counted shares
reaches the level's threshold, the skill advances by one level and collects evidence anew. The last level has no threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

MIN_EVALS = 3
MIN_PROBLEMS = 20
THRESHOLD = 0.8


@dataclass(frozen=True)
class Measured:
    """One evaluation. checkpoint: what makes it the same checkpoint (`hero/campaign:step`). correct of total answers were right."""

    checkpoint: str
    level: int
    correct: int
    total: int

    @property
    def share(self) -> Fraction:
        """Right answers of all, exactly."""
        return Fraction(self.correct, self.total)


@dataclass(frozen=True)
class Rule:
    """What a skill's levels ask. max_level: its last level. threshold: the mean that masters a level, 0 to 1; thresholds: levels that have
    one of their own. min_evals: counted evaluations that the mean is of. min_problems: answers that an evaluation needs to count."""

    max_level: int
    threshold: float = THRESHOLD
    thresholds: tuple[tuple[int, float], ...] = ()
    min_evals: int = MIN_EVALS
    min_problems: int = MIN_PROBLEMS

    def training_level(self, mastered: int) -> int:
        """The level after the highest mastered, at most the last."""
        return min(mastered + 1, self.max_level)

    def threshold_of(self, level: int) -> Fraction | None:
        """What the mean must reach at `level`; None at the last one, which nobody leaves."""
        if level >= self.max_level:
            return None
        return Fraction(str(dict(self.thresholds).get(level, self.threshold)))


@dataclass(frozen=True)
class Standing:
    """Where a skill stands. evidence: evaluations counted since the level began, in their order. counted: checkpoints that ever counted."""

    mastered: int = 0
    evidence: tuple[Measured, ...] = ()
    counted: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Considered:
    """What came of an evaluation. reason: why it does not count, or "". evidence: what the advance rests on, the last `min_evals`."""

    standing: Standing
    counted: bool
    advanced: bool = False
    reason: str = ""
    evidence: tuple[Measured, ...] = ()


def consider(standing: Standing, measured: Measured, rule: Rule) -> Considered:
    """Count one evaluation, or say why it does not count, and advance when the evidence suffices."""
    reason = why_not(standing, measured, rule)
    if reason:
        return Considered(standing, False, reason=reason)
    counted = replace(standing, evidence=(*standing.evidence, measured), counted=standing.counted | {measured.checkpoint})
    return _advanced(counted, rule, True)


def progress(standing: Standing, rule: Rule) -> Considered:
    """Advance by one level when the evidence that is there suffices, for example after a threshold was lowered."""
    return _advanced(standing, rule, False)


def why_not(standing: Standing, measured: Measured, rule: Rule) -> str:
    """Why an evaluation does not count, a sentence; "" when it does."""
    level = rule.training_level(standing.mastered)
    if measured.level != level:
        return f"It was made at level {measured.level}, and the training level is {level}."
    if measured.checkpoint in standing.counted:
        return f"The checkpoint {measured.checkpoint} has counted already."
    if measured.total < rule.min_problems:
        return f"It has {measured.total} answers; {rule.min_problems} are needed."
    return ""


def mean(standing: Standing, rule: Rule) -> Fraction | None:
    """Mean of the last `min_evals` counted shares, of fewer while there are fewer; None without any."""
    last = standing.evidence[-rule.min_evals :]
    return sum((one.share for one in last), Fraction(0)) / len(last) if last else None


def missing(standing: Standing, rule: Rule) -> str:
    """What still keeps the skill at its level, a sentence; "" when the evidence suffices."""
    level = rule.training_level(standing.mastered)
    threshold = rule.threshold_of(level)
    if threshold is None:
        return f"Level {level} is the last one; it has no threshold."
    have, now = len(standing.evidence), mean(standing, rule)
    if have < rule.min_evals:
        return f"{have} of {rule.min_evals} evaluations on different checkpoints are there."
    if now is not None and now < threshold:
        return f"The mean of the last {rule.min_evals} is {float(now):.3f}; {float(threshold):g} is needed."
    return ""


def _advanced(standing: Standing, rule: Rule, counted: bool) -> Considered:
    if missing(standing, rule):
        return Considered(standing, counted, reason="" if counted else missing(standing, rule))
    evidence = standing.evidence[-rule.min_evals :]
    return Considered(replace(standing, mastered=standing.mastered + 1, evidence=()), counted, advanced=True, evidence=evidence)
