"""The one rule that keeps passkey probes and training rows apart.

A probe that asks for numbers the model was trained to answer measures memory, not retrieval. So the integers are split
once, here: probes draw only keys with ``k % 7 == 3``, training rows never state or answer one of those.
"""

from __future__ import annotations

PROBE_KEY_MODULUS = 7
PROBE_KEY_REMAINDER = 3
PROBE_KEY_MIN = 1
PROBE_KEY_MAX = 50_000


def is_probe_key(k: int) -> bool:
    """Whether the integer `k` is reserved for probes (and so forbidden as an answer in training rows).

    The rule holds for every integer, also beyond the range 1..50000 that probes draw from, so that a training row
    needs no special case.
    """
    return k % PROBE_KEY_MODULUS == PROBE_KEY_REMAINDER
