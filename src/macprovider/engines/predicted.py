"""A forecast of a candidate's memory: its parts, in bytes, and in the words that stand beside the candidate. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

GIB = 1 << 30
Source = Literal["files", "name"]


@dataclass(frozen=True)
class Predicted:
    """Bytes, None where unknown. source: where the weights are known from. loading_bytes: pages of the files that are resident beside the
    weights while the engine turns them into its own number format; the system can take them back. on_gpu: weights and cache are there,
    and not in the memory of the process. why: what keeps more from being known, "" for nothing.
    """

    weights_bytes: int | None = None
    kv_bytes: int | None = None
    runtime_bytes: int | None = None
    source: Source | None = None
    loading_bytes: int = 0
    on_gpu: bool = False
    why: str = ""

    @property
    def predicted_bytes(self) -> int | None:
        """The sum of what is known once the model is loaded, None without weights."""
        if self.weights_bytes is None:
            return None
        return self.weights_bytes + (self.kv_bytes or 0) + (self.runtime_bytes or 0)

    def words(self, ram_gb: float | None = None) -> str:
        """`predicted memory 1.2 GiB: weights 0.9, cache 0.1, runtime 0.2; 23 GiB here`. ram_gb: of this machine, GiB."""
        here = "" if ram_gb is None else f"; {_number(ram_gb)} GiB here"
        total = self.predicted_bytes
        if total is None or self.weights_bytes is None:
            return f"memory cannot be predicted: {self.why}{here}"
        place = " on the GPU" if self.on_gpu else ""
        parts = [f"weights {gib(self.weights_bytes)}{' by its name' if self.source == 'name' else ''}{place}"]
        parts.append("cache unknown" if self.kv_bytes is None else f"cache {gib(self.kv_bytes)}{place}")
        parts.append("runtime unknown" if self.runtime_bytes is None else f"runtime {gib(self.runtime_bytes)}")
        return f"predicted memory {gib(total)} GiB: {', '.join(parts)}{here}"

    def beside(self, peak_bytes: int | None) -> str:
        """`memory 1.1 GiB (predicted 1.2)`: what was measured, "" when nothing was."""
        if peak_bytes is None:
            return ""
        total = self.predicted_bytes
        if self.on_gpu:
            return f"memory {gib(peak_bytes)} GiB without the GPU's"
        unknown = [name for name, part in (("cache", self.kv_bytes), ("runtime", self.runtime_bytes)) if part is None]
        more = f" without {' and '.join(unknown)}" if unknown else ""
        loading = gib(max(total or 0, (total or 0) - (self.kv_bytes or 0) + self.loading_bytes))
        if total is not None and loading != gib(total):
            more += f", {loading} while loading"
        return f"memory {gib(peak_bytes)} GiB" + ("" if total is None else f" (predicted {gib(total)}{more})")

    def as_dict(self, peak_bytes: int | None) -> dict[str, Any]:
        """What a trial's row keeps. Nothing here reads the memory of a GPU."""
        return {
            "predicted_bytes": self.predicted_bytes,
            "weights_bytes": self.weights_bytes,
            "kv_bytes": self.kv_bytes,
            "runtime_bytes": self.runtime_bytes,
            "loading_bytes": self.loading_bytes,
            "source": self.source,
            "peak_bytes": peak_bytes,
            "gpu_peak_bytes": None,
        }


def gib(count: int) -> str:
    """Bytes in GiB, with as many digits as help: `23`, `1.2`, `0.02`."""
    return _number(count / GIB)


def _number(value: float) -> str:
    if value >= 9.95:
        return f"{value:.0f}"
    if value >= 0.095:
        return f"{value:.1f}"
    return f"{value:.1g}" if value >= 0.00095 else "<0.001"
