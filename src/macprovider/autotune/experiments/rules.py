"""What the five experiments decide from what they measured. Pure. (specs/autotune.md, 14)"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

NOISY_CV, QUIET_CV = 0.02, 0.005
FEW_REPLICATES, MORE_REPLICATES = 3, 5
CONFIDENCE = 0.9
RESAMPLES = 2000
TOLERATED_RATE, BAD_RATE = 0.05, 0.15
MISMATCH_LIMIT = 0.05
REMEDIES = (
    "a randomised order with its seed stored in tune_runs, a fixed pause between cells (such as 30 s), "
    "or a thermal probe that waits until quiet"
)


@dataclass(frozen=True)
class Decision:
    """keep: whether the default stands. advice: one sentence. figures: what it rests on."""

    keep: bool
    advice: str
    figures: Mapping[str, object]


def tie_epsilon(rates: Mapping[str, Sequence[float]], epsilon: float) -> Decision:
    """OQ-A. rates: model → tokens/s of the replicates of one cell, at least 3. The noisiest model decides: epsilon must not lie
    below its coefficient of variation (sample standard deviation over mean).
    """
    cvs = {model: statistics.stdev(values) / statistics.mean(values) for model, values in rates.items()}
    worst = max(cvs.values())
    figures = {"cv": cvs, "epsilon": epsilon}
    if worst > NOISY_CV:
        return Decision(
            False, f"Noise of {worst:.1%} is above 2 %: raise --tps-tie-epsilon to {_up(worst):g}, or noise looks like a gain.", figures
        )
    if worst < QUIET_CV:
        return Decision(
            False, f"Noise of {worst:.2%} is far below 2 %: --tps-tie-epsilon may shrink to {QUIET_CV:g}, to see smaller gains.", figures
        )
    return Decision(True, f"Noise of {worst:.1%} lies between 0.5 % and 2 %: keep --tps-tie-epsilon at {epsilon:g}.", figures)


def replicates(rates: Sequence[float], epsilon: float, count: int = FEW_REPLICATES, seed: int = 0) -> Decision:
    """OQ-B. rates: tokens/s of one cell's replicates. The gap is the 90th percentile of the absolute difference of two medians
    of `count`, both drawn with replacement from the same replicates: a difference that means nothing.
    """
    gap = discriminable_gap(rates, count, seed)
    allowed = epsilon * statistics.median(rates)
    figures = {"gap_tps": gap, "allowed_tps": allowed, "replicates": count}
    band = f"the tie band of {allowed:.3g} tok/s"
    if gap <= allowed:
        return Decision(True, f"A median of {count} tells gaps of {gap:.3g} tok/s, within {band}: keep {count} replicates.", figures)
    advice = f"A median of {count} tells only gaps above {gap:.3g} tok/s, wider than {band}: use --stage2-replicates {MORE_REPLICATES}."
    return Decision(False, advice, figures)


def discriminable_gap(rates: Sequence[float], count: int, seed: int) -> float:
    """See `replicates`; tokens/s."""
    draw = Random(seed)
    differences = sorted(
        abs(statistics.median(draw.choices(rates, k=count)) - statistics.median(draw.choices(rates, k=count))) for _ in range(RESAMPLES)
    )
    return differences[math.ceil(CONFIDENCE * RESAMPLES) - 1]


def kv_axis(rates: Mapping[str, Mapping[int | None, float | None]], epsilon: float) -> Decision:
    """OQ-C. rates: model → KV setting → median tokens/s, None for a setting that was not feasible. 8 bits win when nothing else is
    faster by more than epsilon.
    """
    wins = {model: _eight_wins(row, epsilon) for model, row in rates.items()}
    figures = {"wins": wins, "tps": {model: {str(bits): rate for bits, rate in row.items()} for model, row in rates.items()}}
    if wins and all(wins.values()):
        return Decision(
            False, "kv_bits 8 wins for every model on this machine: once every memory tier agrees it may become a fixed default.", figures
        )
    losers = ", ".join(model for model, won in wins.items() if not won) or "no model was measured"
    return Decision(True, f"kv_bits 8 does not win everywhere ({losers}): keep the axis.", figures)


def stage1_replicates(verdicts: Mapping[str, tuple[bool, bool]]) -> Decision:
    """OQ-D. verdicts: candidate → (fits at N=1, fits at N=3)."""
    total = max(1, len(verdicts))
    false_fit = sum(one and not three for one, three in verdicts.values()) / total
    false_reject = sum(three and not one for one, three in verdicts.values()) / total
    worst = max(false_fit, false_reject)
    wanted = 1 if worst <= TOLERATED_RATE else 2 if worst <= BAD_RATE else 3
    figures = {"false_fit_rate": false_fit, "false_reject_rate": false_reject, "candidates": len(verdicts)}
    rates = f"false-fit rate {false_fit:.0%}, false-reject rate {false_reject:.0%}"
    if wanted == 1:
        return Decision(True, f"{rates}: keep --stage1-replicates at 1.", figures)
    return Decision(False, f"{rates}: use --stage1-replicates {wanted}.", figures)


def order_bias(pairs: Sequence[tuple[str | None, str | None]]) -> Decision:
    """OQ-E. pairs: the winner in forward and in reverse order, by the words of its knobs; None where nothing won.

    The specification's rule looks at pairs alone. Whether an order is to blame shows beside them: how often two runs in the same order
    differ.
    """
    mismatches = sum(forward != backward for forward, backward in pairs)
    share = mismatches / len(pairs)
    differing, compared = same_order(pairs)
    figures = {
        "pairs": len(pairs),
        "mismatches": mismatches,
        "share": share,
        "same_order_mismatches": differing,
        "same_order_pairs": compared,
        "winners": [list(pair) for pair in pairs],
    }
    told = f"{mismatches} of {len(pairs)} pairs chose differently in reverse order"
    if share <= MISMATCH_LIMIT:
        return Decision(True, f"{told}: keep the fixed order.", figures)
    if compared and differing / compared >= share:
        told += f", and {differing} of {compared} in the same order: noise between these cells explains it; see tie-epsilon and replicates"
        return Decision(False, f"{told}. The rule says all the same: adopt one of {REMEDIES}.", figures)
    return Decision(False, f"{told}: order or heat biases the choice here; adopt one of {REMEDIES}.", figures)


def same_order(pairs: Sequence[tuple[str | None, str | None]]) -> tuple[int, int]:
    """(how many differ, how many there are) of all pairs of runs in the same order."""
    found = [one != other for runs in zip(*pairs, strict=True) for one, other in combinations(runs, 2)]
    return sum(found), len(found)


def _eight_wins(row: Mapping[int | None, float | None], epsilon: float) -> bool:
    eight = row.get(8)
    rates = [rate for rate in row.values() if rate]
    return bool(eight) and eight is not None and eight * (1 + epsilon) >= max(rates)


def _up(value: float) -> float:
    """To the next half per cent, so that advice is a round number."""
    return math.ceil(round(value * 200, 6)) / 200
