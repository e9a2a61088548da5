"""A quantised cache of one tensor that tokens are appended to: packed blocks, then a window in full precision."""

from __future__ import annotations

import torch
from torch import Tensor

from modelwright.errors import ConfigError, Fault
from modelwright.kv.hadamard import rotate
from modelwright.kv.quantisers import Quantised, dequantise, packed, quantise, unpacked
from modelwright.kv.settings import TensorFormat

_GROWTH = 1.25  # how much a full buffer grows; small, for a cache that is quantised to save memory


class TensorStore:
    """Keys or values of one layer.

    A block is quantised once, when it leaves the window, and never again; what `read` returns for it does not depend
    on how its tokens arrived. Unfinished blocks wait in full precision.
    """

    def __init__(self, form: TensorFormat, capacity: int = 0) -> None:
        """capacity: tokens to reserve room for at the first append; more are taken, by copying."""
        self.form = form
        self._capacity = capacity
        self._buffers: dict[str, Tensor] = {}
        self._rows: dict[str, int] = {}
        self._window: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Tokens stored, T."""
        return self.quantised_tokens + (0 if self._window is None else self._window.shape[2])

    @property
    def quantised_tokens(self) -> int:
        """Tokens that have left the window."""
        return self._rows.get("codes", 0)

    @property
    def nbytes(self) -> int:
        """Bytes in use; `settings.cache_bytes` forecasts keys and values together."""
        window = 0 if self._window is None else self._window.nbytes
        return window + sum(part.nbytes for part in self._filled().values())

    @property
    def allocated_bytes(self) -> int:
        """Bytes held, reserved room included."""
        window = 0 if self._window is None else self._window.nbytes
        return window + sum(buffer.nbytes for buffer in self._buffers.values())

    def append(self, x: Tensor) -> None:
        """Add the newest tokens x `[B, H, n, d]`. Raises ConfigError for another shape or dtype than before."""
        window = self._window
        if window is None:
            faults = [] if x.dim() == 4 and x.shape[-1] == self.form.head_dim else [_fault(x, f"[B, H, n, {self.form.head_dim}]")]
        else:
            same = x.dim() == 4 and x.shape[:2] == window.shape[:2] and x.shape[3] == window.shape[3] and x.dtype == window.dtype
            batch, heads, _, width = window.shape
            faults = [] if same else [_fault(x, f"[{batch}, {heads}, n, {width}] {window.dtype}, as stored")]
        if faults:
            raise ConfigError(faults)
        waiting = x if window is None else torch.cat((window, x), dim=2)
        leaving = self.form.quantised_tokens(self.quantised_tokens + waiting.shape[2]) - self.quantised_tokens
        if leaving:
            block = packed(quantise(waiting[:, :, :leaving], self.form), self.form)
            for name, part in block.parts().items():
                self._add(name, part, leaving)
        self._window = waiting[:, :, leaving:].clone()  # a copy: no view may keep the rest of its storage alive

    def read(self, *, rotated: bool = False) -> Tensor:
        """All tokens `[B, H, T, d]` in the dtype they came in, the quantised ones dequantised.

        rotated: the whole in the Hadamard basis, for queries that are rotated too; only for formats that rotate.
        Raises ConfigError for an empty store.
        """
        if self._window is None:
            raise ConfigError([Fault("cache", "no token", "at least one appended token")])
        window = self._window
        if rotated and self.form.hadamard:
            window = rotate(window.float(), self.form.seed).to(window.dtype)
        if not self.quantised_tokens:
            return window
        stored = unpacked(Quantised(**self._filled()), self.form)
        return torch.cat((dequantise(stored, self.form, window.dtype, rotated=rotated), window), dim=2)

    def select(self, rows: Tensor) -> None:
        """Keep these sequences of the batch, in this order (int64 `[n]`; a row may repeat): beams, finished requests."""
        self._buffers = {name: buffer.index_select(0, rows) for name, buffer in self._buffers.items()}
        if self._window is not None:
            self._window = self._window.index_select(0, rows)

    def _filled(self) -> dict[str, Tensor]:
        return {name: buffer[:, :, : self._rows[name]] for name, buffer in self._buffers.items()}

    def _add(self, name: str, part: Tensor, tokens: int) -> None:
        """Write `part`, which holds `tokens` tokens, behind what its buffer holds; grow the buffer where it must."""
        used = self._rows.get(name, 0)
        needed = used + part.shape[2]
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape[2] < needed:
            reserved = -(-self._capacity * part.shape[2] // tokens)
            room = max(needed, reserved, int(_GROWTH * used))
            larger = part.new_empty((*part.shape[:2], room, *part.shape[3:]))
            if buffer is not None:
                larger[:, :, :used] = buffer[:, :, :used]
            self._buffers[name] = buffer = larger
        buffer[:, :, used:needed] = part
        self._rows[name] = needed


def _fault(x: Tensor, allowed: str) -> Fault:
    return Fault("appended tokens", f"{list(x.shape)} {x.dtype}", allowed)
