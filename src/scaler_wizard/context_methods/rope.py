"""Rotary position embedding: the arithmetic of every context method, in plain Python floats.

Nothing here needs torch: the functions are the reference that the tests compare transformers with, and that `apply.py`
compares a patched model with. All of them work in double precision.

Symbols: `d` rotary dimensions per head, `i` in 0 .. d/2-1 the index of a frequency, `b` the base (`rope_theta`), `L`
the original context and `n` the current sequence length in tokens, `s` the scale factor L'/L. `theta_i = b^(-2i/d)` in
radians per token (Su et al. 2021, arXiv 2104.09864); its wavelength is `2 pi / theta_i` tokens, and `r_i = L theta_i /
(2 pi)` counts its turns inside the original context.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

BETA_FAST = 32.0
BETA_SLOW = 1.0


def frequencies(d: int, base: float) -> list[float]:
    """Unscaled `theta_i = b^(-2i/d)`, highest first. `d` positive, `b` > 1. Returns [ceil(d/2)], radians per token."""
    return [base ** (-index / d) for index in range(0, d, 2)]


def turns(thetas: Sequence[float], length: int) -> list[float]:
    """How often each frequency turns within `length` tokens: `r_i = length * theta_i / (2 pi)`. [d/2] -> [d/2]."""
    return [length * theta / (2 * math.pi) for theta in thetas]


def linear_frequencies(thetas: Sequence[float], s: float) -> list[float]:
    """Position interpolation: every frequency divided by `s` (Chen et al. 2023, arXiv 2306.15595). [d/2] -> [d/2]."""
    return [theta / s for theta in thetas]


def ntk_base(base: float, s: float, d: int) -> float:
    """NTK-aware base `b' = b s^(d/(d-2))`, which leaves the highest frequency alone and divides the lowest by exactly
    `s`.

    Source: Peng et al. 2024 (arXiv 2309.00071), section 3.1.
    Raises ValueError for fewer than 4 rotary dimensions, where there is only one frequency.
    """
    if d < 4:
        raise ValueError(f"the NTK base needs at least 4 rotary dimensions, found {d}")
    return base * s ** (d / (d - 2))


def dynamic_ntk_base(base: float, d: int, length: int, original: int, factor: float = 1.0) -> float:
    """Base for a sequence of `length` tokens: `b ((f n/L) - (f-1))^(d/(d-2))`, with `n` never taken below `L`.

    `factor` = 1 is the paper's form `s = max(1, n/L)` (Peng et al. 2024, section 3.3); other factors are the form of
    transformers.
    """
    n = max(length, original)
    return ntk_base(base, factor * n / original - (factor - 1), d)


def paper_ramp(r: float, alpha: float = BETA_SLOW, beta: float = BETA_FAST) -> float:
    """`gamma(r)`: 0 below `alpha` turns, 1 above `beta` turns, linear between (Peng et al. 2024, section 3.2)."""
    if r < alpha:
        return 0.0
    if r > beta:
        return 1.0
    return (r - alpha) / (beta - alpha)


def blend(theta: float, s: float, keep: float) -> float:
    """Mix interpolated and untouched frequency: `(1-keep) theta/s + keep theta`; exact at keep = 0 and keep = 1."""
    if keep >= 1.0:
        return theta
    if keep <= 0.0:
        return theta / s
    return (1.0 - keep) * theta / s + keep * theta


def paper_yarn_frequencies(
    thetas: Sequence[float], s: float, length: int, *, beta_fast: float = BETA_FAST, beta_slow: float = BETA_SLOW
) -> list[float]:
    """NTK-by-parts with the paper's ramp, linear in the number of turns `r` within the original `length`. [d/2] ->
    [d/2].
    """
    kept = [paper_ramp(r, beta_slow, beta_fast) for r in turns(thetas, length)]
    return [blend(theta, s, keep) for theta, keep in zip(thetas, kept, strict=True)]


def index_of_turns(rho: float, d: int, base: float, length: int) -> float:
    """The (fractional) index whose frequency turns `rho` times in `length` tokens: `d ln(L/(2 pi rho)) / (2 ln b)`."""
    return d * math.log(length / (2 * math.pi * rho)) / (2 * math.log(base))


def index_ramp_bounds(
    d: int,
    base: float,
    length: int,
    *,
    beta_fast: float = BETA_FAST,
    beta_slow: float = BETA_SLOW,
    truncate: bool = True,
) -> tuple[float, float]:
    """First and last index of the ramp of YaRN's reference code, clamped to [0, d-1]; `truncate` rounds outwards to
    integers.
    """
    low = index_of_turns(beta_fast, d, base, length)
    high = index_of_turns(beta_slow, d, base, length)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, d - 1)


def index_yarn_frequencies(
    thetas: Sequence[float],
    s: float,
    d: int,
    base: float,
    length: int,
    *,
    beta_fast: float = BETA_FAST,
    beta_slow: float = BETA_SLOW,
    truncate: bool = True,
) -> list[float]:
    """NTK-by-parts with the ramp of the reference code and of transformers, linear in the index `i`. [d/2] -> [d/2]."""
    low, high = index_ramp_bounds(d, base, length, beta_fast=beta_fast, beta_slow=beta_slow, truncate=truncate)
    if low == high:
        high += 0.001
    kept = [1.0 - min(1.0, max(0.0, (index - low) / (high - low))) for index in range(len(thetas))]
    return [blend(theta, s, keep) for theta, keep in zip(thetas, kept, strict=True)]


def mscale(s: float, weight: float = 1.0) -> float:
    """`0.1 weight ln(s) + 1`, and 1 when nothing is stretched: the `sqrt(1/t)` of Peng et al. 2024, equation 22."""
    return 1.0 if s <= 1 else 0.1 * weight * math.log(s) + 1.0


def yarn_attention_factor(s: float, numerator: float | None = None, denominator: float | None = None) -> float:
    """What YaRN multiplies cos and sin with; `numerator` and `denominator` are DeepSeek's `mscale` and
    `mscale_all_dim`.
    """
    if numerator and denominator:
        return mscale(s, numerator) / mscale(s, denominator)
    return mscale(s)


def longrope_frequencies(thetas: Sequence[float], factors: Sequence[float]) -> list[float]:
    """Every frequency divided by its own factor (Ding et al. 2024, arXiv 2402.13753). [d/2], [d/2] -> [d/2]."""
    return [theta / factor for theta, factor in zip(thetas, factors, strict=True)]


def longrope_factors(thetas: Sequence[float], scaled: Sequence[float]) -> list[float]:
    """The factors that turn `thetas` into `scaled`: any fixed rescaling written in LongRoPE's form. [d/2], [d/2] ->
    [d/2].
    """
    return [theta / new for theta, new in zip(thetas, scaled, strict=True)]


def longrope_attention_factor(s: float, length: int) -> float:
    """`sqrt(1 + ln s / ln L)`, and 1 when nothing is stretched (Ding et al. 2024)."""
    return 1.0 if s <= 1 else math.sqrt(1.0 + math.log(s) / math.log(length))
