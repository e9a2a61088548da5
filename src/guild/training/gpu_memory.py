"""The peak of GPU memory while one file is trained. (specs/guild.md 2.1.1)

The library counts the peak of a process, which holds the model for many files, so the count begins anew with each.
"""

from __future__ import annotations

import sys
from typing import Any


def begin_peak() -> None:
    """A file begins: what was the peak before is none of its business."""
    cuda = _cuda()
    for device in range(cuda.device_count() if cuda else 0):
        cuda.reset_peak_memory_stats(device)


def peak_gb() -> float | None:
    """Peak allocation since `begin_peak`, in 10^9 bytes, of the device where it was highest; None when no GPU was used."""
    cuda = _cuda()
    if not cuda:
        return None
    return round(max(cuda.max_memory_allocated(device) for device in range(cuda.device_count())) / 1e9, 3)


def _cuda() -> Any:
    """torch's view of GPUs once something was put on one, else None; asking never opens one."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
