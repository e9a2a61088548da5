"""Encoded rows to training windows, packed or one by one; documents of one window never see each other.

The packing is the kernel's (`modelwright.data.packing`: best-fit decreasing, positions that restart). A window keeps no padding here; the
collator pads a batch as little as it can. (specs/guild.md 2.1.4)
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from modelwright.data.encoding import EncodedDocument
from modelwright.data.packing import Window, pack
from modelwright.errors import UsageError

VARIABLE = "ENABLE_PACKING"
Item = dict[str, "array[int]"]


@dataclass(frozen=True)
class TrainingWindows:
    """A dataset for a data loader: item i is `input_ids`, `labels` and `position_ids`, int32 arrays of one length, without padding.

    length: the most tokens of a window. tokens: of all windows.
    """

    windows: tuple[Window, ...]
    length: int
    packed: bool

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, at: int) -> Item:
        window = self.windows[at]
        size = sum(window.pieces)
        return {
            "input_ids": window.input_ids[:size],
            "labels": window.labels[:size],
            "position_ids": window.position_ids[:size],
        }

    @property
    def tokens(self) -> int:
        return sum(sum(window.pieces) for window in self.windows)

    @property
    def efficiency(self) -> float:
        """Share of the windows' room that holds tokens, from 0 to 1."""
        return self.tokens / (len(self.windows) * self.length)


def training_windows(documents: Sequence[EncodedDocument], length: int, *, pad_id: int, seed: int, packing: bool = True) -> TrainingWindows:
    """Windows of at most `length` tokens, each document exactly once and whole, in an order that the seed alone decides.

    Raises ValueError for a document longer than a window: rows are cut where they are encoded, and counted there.
    """
    for document in documents:
        if len(document) > length:
            raise ValueError(f"{document.where} has {len(document)} tokens; a window holds {length}")
    if packing:
        return TrainingWindows(pack(documents, length, pad_id=pad_id, seed=seed).windows, length, True)
    windows = [Window(document.input_ids, document.labels, array("i", range(len(document))), (len(document),)) for document in documents]
    Random(f"windows:{seed}").shuffle(windows)
    return TrainingWindows(tuple(windows), length, False)


def packing_enabled(environment: Mapping[str, str] = os.environ, default: bool = True) -> bool:
    """Whether rows are packed: `ENABLE_PACKING` is 1 or 0; unset, `default`. Raises UsageError for anything else."""
    value = environment.get(VARIABLE, "").strip()
    if value not in ("", "0", "1"):
        raise UsageError(f"{VARIABLE}: found {value!r}; allowed: 1 (pack rows into windows) or 0 (one row, one window).")
    return default if not value else value == "1"
