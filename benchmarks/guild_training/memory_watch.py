"""What a measurement holds: peaks of this process, and the optimizer that is really at work in it."""

from __future__ import annotations

import gc
from typing import Any

from modelwright.hardware import peak_rss_bytes, reset_peak_rss

ACCELERATE = "AcceleratedOptimizer"  # a wrapper around the real one


class MemoryWatch:
    """Peaks since it was made or reset. before: bytes that the process held then; on a GPU, those of its tensors."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.before = 0
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        gc.collect()
        reset_peak_rss()
        if self.device != "cpu":
            import torch

            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            self.before = peak_rss_bytes()

    def read(self) -> dict[str, int]:
        """`bytes`, the figure to compare: what torch had reserved of the GPU at the most, or the resident memory of a process on a
        processor; with the figures that it stands among. Managed (paged) memory is no part of torch's."""
        if self.device == "cpu":
            return {"bytes": peak_rss_bytes()}
        import torch

        torch.cuda.synchronize()
        reserved, allocated = torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()
        return {"bytes": reserved, "reserved_bytes": reserved, "allocated_bytes": allocated, "host_bytes": peak_rss_bytes()}


def live_optimizer() -> dict[str, Any]:
    """The optimizer that has a state in this process, found among its live objects, so that nobody's word for it is taken: `class`, `bytes`
    of its state by number format, and how many of them are paged. Raises RuntimeError unless there is exactly one."""
    import torch

    found = [
        item
        for item in gc.get_objects()
        if issubclass(type(item), torch.optim.Optimizer) and type(item).__name__ != ACCELERATE and item.state
    ]
    if len(found) != 1:
        raise RuntimeError(f"{len(found)} optimizers with a state in the process; allowed: one")
    optimizer = found[0]
    formats: dict[str, int] = {}
    paged = 0
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                name, size = str(value.dtype).removeprefix("torch."), value.numel() * value.element_size()
                formats[name] = formats.get(name, 0) + size
                paged += size if getattr(value, "is_paged", False) else 0
    return {
        "class": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        "bytes": sum(formats.values()),
        "bytes_by_format": formats,
        "paged_bytes": paged,
    }
