"""Means, intervals and verdicts over the trials of the study. Pure: numbers in, numbers out; needs numpy, no torch.

A table of one quantity is `[S, N]`: S training seeds (one row for a defence that is not trained), N trials, one fault each,
column i of every table from the same fault. Low is good: divergences in nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from cachemedicpp.evaluation.bootstrap import PERCENTILES, RESAMPLES, Interval
from modelwright.errors import UsageError

Verdict = Literal["better", "worse", "undecided"]
Table = Sequence[Sequence[float]]
HARM = 1e-3
"""Nats by which a defence must be worse than no defence to count as harm: below lies rounding."""


def as_table(values: Table) -> np.ndarray:
    """The table as float64 `[S, N]`. Raises UsageError when it is empty, ragged or holds values that are not finite."""
    lengths = {len(row) for row in values}
    if len(lengths) != 1 or lengths == {0}:
        raise UsageError(f"A table needs at least one seed and equally many trials for each; found rows of {sorted(lengths)}.")
    table = np.asarray(values, float)
    if not np.isfinite(table).all():
        raise UsageError("A table holds values that are not finite; cap them before they are averaged.")
    return table


def two_way_interval(values: Table, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The mean with its 95 % interval; seeds and trials are both resampled (with one seed: the trials alone).

    Percentile intervals of a crossed bootstrap (Owen 2007, "The pigeonhole bootstrap").
    """
    table = as_table(values)
    rng = np.random.default_rng(seed)
    seeds, trials = table.shape
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)  # [R, S], how often each was drawn
    by_trial = rng.multinomial(trials, np.full(trials, 1 / trials), size=resamples)  # [R, N]
    samples = ((by_seed @ table) * by_trial).sum(1) / (seeds * trials)
    low, high = np.percentile(samples, PERCENTILES)
    return Interval(float(table.mean()), float(low), float(high), trials)


def paired_table(ours: Table, theirs: Table) -> np.ndarray:
    """ours − theirs, trial by trial; a table of one seed is compared with every seed of the other."""
    left, right = as_table(ours), as_table(theirs)
    if left.shape[1] != right.shape[1] or (left.shape[0] != right.shape[0] and 1 not in (left.shape[0], right.shape[0])):
        raise UsageError(f"Only tables over the same trials can be paired; found {left.shape} and {right.shape}.")
    return np.asarray(left - right)


def verdict(effect: Interval) -> Verdict:
    """Of a divergence, ours − theirs: better when the whole interval lies below zero, worse when above."""
    return "better" if effect.high < 0 else "worse" if effect.low > 0 else "undecided"


def compare(ours: Table, theirs: Table, *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The paired effect with interval, the effect of each seed, and the verdict."""
    differences = paired_table(ours, theirs)
    effect = two_way_interval(differences.tolist(), seed=seed, resamples=resamples)
    return {"effect": effect.as_dict(), "by_seed": differences.mean(1).tolist(), "verdict": verdict(effect)}


def repair_summary(kl: Table, unchanged: Table, finite: Table, undefended: Table, *, seed: int = 0) -> dict[str, Any]:
    """How well one defence repairs one kind of fault.

    kl: nats against the clean cache, capped. unchanged, finite: 1 or 0, whether the greedy continuation is that of the
    clean cache and whether every logit is finite. undefended: the kl of no defence, `[1, N]`.
    """
    table = as_table(kl)
    return {
        "kl": two_way_interval(kl, seed=seed).as_dict(),
        "kl_median": float(np.median(table)),
        "kl_worst": float(table.max()),
        "unchanged": float(as_table(unchanged).mean()),
        "harmed": float((paired_table(kl, undefended) > HARM).mean()),
        "not_finite": float(1 - as_table(finite).mean()),
    }


def over_kinds(tables: Mapping[str, Table]) -> list[list[float]]:
    """The mean over the kinds, trial by trial: trial i of every kind reads the same text, so texts are what is resampled."""
    stacked = [as_table(table) for table in tables.values()]
    if len({table.shape for table in stacked}) != 1:
        raise UsageError(f"Kinds can be averaged over equal numbers of trials only; found {[table.shape for table in stacked]}.")
    mean: list[list[float]] = np.mean(stacked, axis=0).tolist()
    return mean


def auc(damaged: Sequence[float], clean: Sequence[float]) -> float | None:
    """Chance that a damaged token scores above a clean one, ties half (Mann and Whitney 1947); None without both."""
    if not len(damaged) or not len(clean):
        return None
    scores = np.concatenate([np.asarray(damaged, float), np.asarray(clean, float)])
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count - 1) / 2  # mean rank of equal values
    rank_sum = middle[place[: len(damaged)]].sum()
    below = rank_sum - len(damaged) * (len(damaged) + 1) / 2
    return float(below / (len(damaged) * len(clean)))


def share(hits: int, of: int) -> float | None:
    return hits / of if of else None
