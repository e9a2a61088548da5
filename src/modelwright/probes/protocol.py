"""What a probe is: it builds prompts of a wanted length, scores outputs 0..1 and aggregates the scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Variant = Literal["raw", "chat"]
VARIANTS: tuple[Variant, ...] = ("raw", "chat")
DEPTHS = tuple(percent / 100 for percent in range(0, 101, 10))
DEFAULT_SAMPLES = 20
LENGTH_TOLERANCE = 64  # tokens a prompt may fall short of its target


@dataclass(frozen=True)
class ProbeItem:
    """One question. `depth` is where the needle lies, 0 (start) to 1 (end); `length` the target in tokens, answer
    budget
    included.
    """

    input_ids: tuple[int, ...]
    answer: str
    depth: float
    length: int
    max_new_tokens: int


@dataclass(frozen=True)
class Score:
    """The score (0..1) of one output, and the depth it was asked at."""

    value: float
    depth: float


@dataclass(frozen=True)
class ProbeResult:
    """One probe at one length. `mean` and the Wilson 95 % interval are 0..1; `by_depth` maps a percentage ("0".."100")
    to its mean.

    `cache` says how tokens were generated: `kv` (prefill, then cached steps) or `prefill` (whole prompt anew for each
    token, which methods with length-dependent frequencies need). `failures` holds the sentences of generations that
    failed and therefore scored 0.
    """

    name: str
    length: int
    metric: str
    n: int
    mean: float
    ci_low: float
    ci_high: float
    by_depth: Mapping[str, float]
    seconds: float = 0.0
    prompt_variant: Variant = "raw"
    seed: int = 0
    cache: Literal["kv", "prefill"] = "kv"
    failures: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {**asdict(self), "by_depth": dict(self.by_depth), "failures": list(self.failures)}

    def ran(self, **facts: Any) -> ProbeResult:
        """A copy with the facts of the run (seconds, variant, seed, cache, failures) filled in."""
        return replace(self, **facts)


@runtime_checkable
class Probe(Protocol):
    """The protocol of a probe; a class with these members registered by name is all that an extension needs."""

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> str: ...

    @property
    def higher_is_better(self) -> bool: ...

    @property
    def min_length(self) -> int:
        """The shortest target length in tokens that `build` can meet."""
        ...

    def build(self, tokenizer: PreTrainedTokenizerBase, length: int, n: int, seed: int, variant: Variant = "raw") -> list[ProbeItem]:
        """`n` items whose prompt plus answer budget is within -64/+0 tokens of `length`."""
        ...

    def score(self, item: ProbeItem, output: str) -> float:
        """The score 0..1 of the generated text."""
        ...

    def aggregate(self, scores: Sequence[Score], length: int) -> ProbeResult:
        """Mean, interval and per-depth table."""
        ...


def wilson_interval(mean: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson score interval of a proportion (E. B. Wilson 1927), by default at 95 %. For n = 0: (0, 1)."""
    if n == 0:
        return 0.0, 1.0
    centre = mean + z * z / (2 * n)
    spread = z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mean_result(probe: Probe, scores: Sequence[Score], length: int) -> ProbeResult:
    """The usual aggregate: plain mean, Wilson interval, mean per depth."""
    mean = sum(score.value for score in scores) / len(scores) if scores else 0.0
    low, high = wilson_interval(mean, len(scores))
    return ProbeResult(probe.name, length, probe.metric, len(scores), mean, low, high, by_depth(scores))


def by_depth(scores: Iterable[Score]) -> dict[str, float]:
    """Mean score per depth in percent, in rising depth."""
    groups: dict[int, list[float]] = {}
    for score in scores:
        groups.setdefault(round(score.depth * 100), []).append(score.value)
    return {str(percent): sum(values) / len(values) for percent, values in sorted(groups.items())}


def stratified_depths(n: int, rng: Random) -> list[float]:
    """`n` depths over the 11 points: every point equally often, the remainder spread evenly over the range, in an order
    drawn from `rng`.
    """
    whole, remainder = divmod(n, len(DEPTHS))
    extra = [round(i * (len(DEPTHS) - 1) / max(remainder - 1, 1)) for i in range(remainder)]
    depths = [depth for depth in DEPTHS for _ in range(whole)] + [DEPTHS[i] for i in extra]
    rng.shuffle(depths)
    return depths
