"""The loss on held-out rows: mean over the trained tokens, in nats."""

from __future__ import annotations

from typing import Any

import torch

from guild.training.collator import Collator
from guild.training.packing import TrainingWindows
from modelwright.data.encoding import IGNORED


@torch.no_grad()
def validation_loss(model: Any, windows: TrainingWindows, collate: Collator, *, batch_size: int, bf16: bool) -> float:
    """Mean cross-entropy of the trained tokens of all windows; the model is in training mode again afterwards if it was.

    No random number is drawn, so that training goes on as if nothing had been measured.
    """
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    try:
        for begin in range(0, len(windows), batch_size):
            batch = collate([windows[at] for at in range(begin, min(begin + batch_size, len(windows)))])
            batch = {name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
            tokens = int((batch["labels"][:, 1:] != IGNORED).sum())
            with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = model(**batch).loss
            total += float(loss) * tokens
            count += tokens
    finally:
        model.train(was_training)
    return total / count if count else float("nan")
