"""Which fp32 matrix-multiply precision pays on this machine: measured at start, never assumed.

torch's "medium" lets a backend trade mantissa bits for speed. On AVX2 and AVX-512 it is still close to fp32 and 1.2
to 1.8 times faster; on CPUs with AMX and on GPUs it really is bfloat16 or TF32. So the error is measured on the
machine, and "medium" is kept only when it is as good as fp32 for training.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

# Relative Frobenius error of a product against float64. Plain fp32 gives about 2e-7 here, bfloat16 2e-3, TF32 3e-4.
# Backpropagation multiplies some tens of such errors, so 1e-5 per product keeps gradients right to about 1e-4, far
# below mini-batch noise, and falls well between the "still fp32" and the "no longer fp32" machines.
ERROR_LIMIT = 1e-5
MINIMUM_SPEEDUP = 1.05
_SIZE = 768
_ROUNDS = 5


@dataclass(frozen=True)
class MatmulPrecision:
    """What was measured and chosen. Errors are relative (Frobenius) against float64, times the best of some rounds in
    seconds.
    """

    precision: str
    error_highest: float
    error_medium: float
    seconds_highest: float
    seconds_medium: float
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return asdict(self)


def choose_matmul_precision(*, recorded: str | None = None, clock: Callable[[], float] = time.perf_counter) -> MatmulPrecision:
    """Measure, then set torch's fp32 matmul precision for this process to "medium" or "highest" and say why.

    `recorded` is the choice of an earlier attempt of the same run: it is kept whatever the timing says, because a
    resumed run must repeat the same arithmetic bit for bit; it is given up only if its error is over the limit on
    this machine. Does not disturb torch's RNG state.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(_SIZE, _SIZE, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    errors: dict[str, float] = {}
    seconds: dict[str, float] = {"highest": float("inf"), "medium": float("inf")}
    for _ in range(_ROUNDS):  # interleaved, so that a busy moment hits both alike
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            start = clock()
            product = left @ right
            seconds[precision] = min(seconds[precision], clock() - start)
            errors[precision] = float((product.double() - exact).norm() / exact.norm())
    choice, reason = _decide(errors["medium"], seconds["highest"] / seconds["medium"], recorded)
    torch.set_float32_matmul_precision(choice)
    return MatmulPrecision(choice, errors["highest"], errors["medium"], seconds["highest"], seconds["medium"], reason)


def _decide(error: float, speedup: float, recorded: str | None) -> tuple[str, str]:
    if error > ERROR_LIMIT:
        return "highest", f"medium has relative error {error:.1e} on this machine, over the limit {ERROR_LIMIT:.0e}"
    if recorded in ("highest", "medium"):
        return recorded, f"{recorded} was used by the earlier attempt of this run"
    if speedup < MINIMUM_SPEEDUP:
        return "highest", f"medium is not faster here ({speedup:.2f} times)"
    return "medium", f"medium is {speedup:.2f} times as fast with relative error {error:.1e}"
