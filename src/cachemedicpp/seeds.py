"""Counter-based random streams: a draw depends on what it is for, never on what was drawn before it.

Every generator is seeded with `mix(seed, (stream, …))`, so resuming, the order of units, batching and the set of
defences cannot change a number. All generators live on the CPU, so runs on any device use the same numbers.
(specs/medic.md, 2.6 and 5.1)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MODULUS = 2147483647

# Streams: the first part of every counter.
SENSITIVITY = 1001
"""Directions of the sensitivity curve, parts (prompt, direction, layer); `offset=1` for V."""
HEURISTIC_DIRECTION = 1002
"""Draws of the heuristic defence on the sensitivity curve, same parts."""
AMPLIFICATION = 2001
"""Directions of the amplification map, parts (prompt, direction, layer, head); `offset=1` for V."""
CORRUPTION = 3001
"""Masks and operators, parts (phase, unit, example, layer)."""
EVENT = 3002
"""Which event a unit gets, parts (phase, unit)."""
HEURISTIC = 3003
"""Draws of a heuristic defence, on base `seed + HEURISTIC_OFFSET`, parts (phase, unit, example, layer)."""
TRAINING_TEXT = 4001
"""Where training prefixes start, on base `seed + TRAINING_DATA_OFFSET`, parts (phase, step, row)."""

# Phases: the second part where one stream serves several commands.
TRAIN, EVAL, STABILITY, BENCHMARK = 1, 2, 3, 4

TRAINING_DATA_OFFSET = 17
"""The training text is drawn from `seed + 17`."""
HEURISTIC_OFFSET = 333
"""The heuristics of the evaluation draw from `seed + 333`."""


def mix(base: int, parts: Iterable[int]) -> int:
    """The hash of section 5.1, in `[0, 2**31 - 1)`.

    `v = base mod P`; for part `p_i` (i from 0): `v = (v*1103515245 + 12345 + p_i + 97*i) mod P`, `P = 2147483647`.
    """
    value = base % MODULUS
    for index, part in enumerate(parts):
        value = (value * 1103515245 + 12345 + part + 97 * index) % MODULUS
    return value


def unit_number(*names: str) -> int:
    """A counter part, in `[0, 2**31 - 1)`, for a unit that has a name rather than a number, such as a task and a type.

    The same names give the same number in every process. Leave out what must not change the draws: the defence always,
    and epsilon where the points of a curve shall differ in severity alone.
    """
    digest = hashlib.sha256("|".join(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") % MODULUS


def generator(seed: int, stream: int, *parts: int, offset: int = 0) -> torch.Generator:
    """A fresh CPU generator for one counter. `offset` is added after hashing (the sensitivity streams add 1 for V)."""
    import torch

    return torch.Generator().manual_seed(mix(seed, (stream, *parts)) + offset)
