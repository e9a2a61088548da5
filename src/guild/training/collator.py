"""Windows to a batch for `model(**batch)`. (specs/guild.md 2.1.4)

Documents in a row stay isolated because their positions restart, which transformers honours only without an attention mask and without
a cache; so a batch carries neither, and its padding is a document of its own at the end, never trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelwright.data.encoding import IGNORED
from modelwright.data.packing import block_mask, collate


@dataclass(frozen=True)
class Collator:
    """pad_id: token of the padding. multiple: rows are padded to a multiple of it, in tokens. explicit_mask: isolate by a 4-D block mask
    too, for models or attention kernels that ignore restarted positions (FlashAttention with more than one row is one)."""

    pad_id: int
    multiple: int = 8
    explicit_mask: bool = False

    def __call__(self, items: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Any]:
        """B windows to `input_ids`, `labels`, `position_ids`, int64 `[B, T]` with T the longest window, and `use_cache` False."""
        import torch

        length = -(-max(len(item["input_ids"]) for item in items) // self.multiple) * self.multiple
        padded = []
        for item in items:
            room = length - len(item["input_ids"])
            padding = {"input_ids": [self.pad_id] * room, "labels": [IGNORED] * room, "position_ids": range(room)}
            padded.append({name: torch.tensor([*item[name], *values], dtype=torch.long) for name, values in padding.items()})
        batch = collate(padded)
        if self.explicit_mask:
            batch["attention_mask"] = block_mask(batch["position_ids"])
        return batch
