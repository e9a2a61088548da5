"""Keep-best: which of two cells is the better one. Pure. (specs/autotune.md, 6.2)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Objective = Literal["tps", "capacity"]


@dataclass(frozen=True)
class Score:
    """What a cell is judged by.

    fits: the gate's verdict. tps: median tokens per second, None when unknown. ttft_ms: p95, None when unknown.
    capacity_tokens: requests at the same time × tokens of each. kv_bytes_per_token: of the cache, None when unknown.
    """

    fits: bool
    tps: float | None
    ttft_ms: float | None
    capacity_tokens: int = 0
    kv_bytes_per_token: float | None = None

    @property
    def rate(self) -> float | None:
        """tps where it can be compared: finite and above zero."""
        return self.tps if self.tps is not None and math.isfinite(self.tps) and self.tps > 0 else None


def is_new_best(new: Score, best: Score | None, epsilon: float, objective: Objective = "tps") -> bool:
    """Whether `new` takes the place of `best`, the holder.

    More than `epsilon` faster wins. Within `epsilon` either way (a tie) the lower TTFT wins; with the objective `capacity` a
    tie goes to more capacity, then to fewer bytes of cache per token, and only then to the lower TTFT. The comparison is with
    the current holder, so the order of the cells matters, as the specification has it.
    """
    if not new.fits or new.rate is None:
        return False
    if best is None or best.rate is None:
        return True
    if new.rate > best.rate * (1 + epsilon):
        return True
    if abs(new.rate - best.rate) / best.rate > epsilon:
        return False
    if objective == "capacity" and _room(new) != _room(best):
        return _room(new) > _room(best)
    return _milliseconds(new) < _milliseconds(best)


def best_of(scores: Sequence[Score], epsilon: float, objective: Objective = "tps") -> int | None:
    """Index of the winner of one pass in order, None when nothing qualifies."""
    best: int | None = None
    for index, score in enumerate(scores):
        if is_new_best(score, None if best is None else scores[best], epsilon, objective):
            best = index
    return best


def can_still_win(done: Sequence[float | None], replicates: int, best: Score | None, epsilon: float) -> bool:
    """Whether a cell with these throughputs so far may still become the best, whatever its other replicates give.

    The median of all is greatest when every replicate to come is infinitely fast; a cell whose greatest median lies below the
    tie band of the holder is beaten.
    """
    if best is None or best.rate is None:
        return True
    rates = sorted(value if value is not None else math.inf for value in done)
    everything = rates + [math.inf] * (replicates - len(rates))
    middle = (everything[(len(everything) - 1) // 2] + everything[len(everything) // 2]) / 2
    return middle > best.rate or abs(middle - best.rate) / best.rate <= epsilon


def _room(score: Score) -> tuple[int, float]:
    return score.capacity_tokens, -(score.kv_bytes_per_token if score.kv_bytes_per_token is not None else math.inf)


def _milliseconds(score: Score) -> float:
    return score.ttft_ms if score.ttft_ms is not None else math.inf
