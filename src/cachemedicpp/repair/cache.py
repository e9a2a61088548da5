"""A cache layer for the extended form: the r extra values of every token are computed once, when it is cached.

It stands in `DynamicCache.layers` in place of a plain layer and stores `[K ; terms]` and, for family D, `[V ; terms]` as
the kernel reads them, so that cropping, reordering and repeating move the terms with their tokens. Assigning `keys` or
`values` (as fault injection does) computes the terms anew from what is now stored and keeps the checksums of the write:
a stale projection would no longer equal the repair of the stored key (specs/medic.md, 12.3 rule 7). Tensors written in
place need `refresh()`. For serving: the terms carry no gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from cachemedicpp.repair.forms import extend, require_form
from cachemedicpp.repair.operator import LayerRepair, RepairOperator
from cachemedicpp.repair.token_gate import distances, written_terms
from modelwright.errors import UsageError

Name = Literal["keys", "values"]
Checks = Mapping[int, tuple[Tensor | None, Tensor | None]]
"""Layer number to the checksums of keys and values, `[B, Hkv, T, r]` each, None for a side that is not repaired."""
SPARE_TOKENS, SPARE_SHARE = 64, 8
"""Room for further tokens is at least 64 tokens and an eighth of those held, so growth copies each token about eight times."""
L = TypeVar("L", bound="RepairLayer")


class RepairLayer(DynamicLayer):
    """Keys and values of one protected layer with their terms.

    repair: the operator of the layer. starts: `[B]`, first real token of each left-padded row, used by the neighbour
    feature only; None without padding.
    """

    def __init__(self, repair: LayerRepair, starts: Tensor | None = None) -> None:
        self._wide: dict[Name, Tensor] = {}  # [B, Hkv, T, d (+ r)]
        self._checks: dict[Name, Tensor] = {}  # [B, Hkv, T, r]
        self._rooms: dict[str, Tensor] = {}  # the tensors with spare tokens at the end that the ones above are views of
        self.repair, self.starts = repair, starts
        super().__init__()

    @property
    def keys(self) -> Tensor | None:
        """`[B, Hkv, T, d]`, a view of what is stored; None while empty."""
        return self._plain("keys")

    @keys.setter
    def keys(self, x: Tensor | None) -> None:
        self._replace("keys", x)

    @property
    def values(self) -> Tensor | None:
        """`[B, Hkv, T, d]`, a view of what is stored; None while empty."""
        return self._plain("values")

    @values.setter
    def values(self, x: Tensor | None) -> None:
        self._replace("values", x)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append tokens `[B, Hkv, t, d]`; returns all keys and values with their terms, `[B, Hkv, T, d (+ r)]`.

        Without gradients a token is written into spare room, so that a decode step does not copy the cache.
        """
        if torch.is_grad_enabled():
            # A graph may hold what is returned; writing into the room behind it later would count as a change of it.
            with torch.no_grad():
                self._append(key_states, value_states, {})
        else:
            self._append(key_states, value_states, {}, spare=True)
        return self._wide["keys"], self._wide["values"]

    def refresh(self) -> None:
        """Compute the terms from the keys and values as they are stored now."""
        for name in ("keys", "values"):
            self._replace(name, self._plain(name))

    def extra_values_per_token(self) -> dict[str, int]:
        """What is stored for each token and KV head beside keys and values, by kind: `keys`, `values`, `checks`."""
        d = self.repair.layout.head_dim
        extra: dict[str, int] = {name: wide.shape[-1] - d for name, wide in self._wide.items()}
        return {**extra, "checks": sum(check.shape[-1] for check in self._checks.values())}

    def crop(self, tokens_to_remove: int) -> None:
        """As the library's layer: a number below 0 removes that many of the newest tokens."""
        if tokens_to_remove > 0:
            raise UsageError(f"crop takes the number of tokens to remove as a negative number; found {tokens_to_remove}.")
        if tokens_to_remove < 0:
            self._map(lambda x: x[:, :, :tokens_to_remove])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows in the order of `beam_idx` [B]."""
        self._map(lambda x: x.index_select(0, beam_idx.to(x.device)), rows=True)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times."""
        self._map(lambda x: x.repeat_interleave(repeats, dim=0), rows=True)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only the rows `indices`."""
        self._map(lambda x: x[indices], rows=True)

    def reset(self) -> None:
        """Forget every token."""
        self._wide, self._checks, self._rooms = {}, {}, {}
        self.is_initialized = False

    def offload(self) -> None:
        """Move what is stored to the processor's memory."""
        self._map(lambda x: x.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        """Move what is stored back to the device it came from."""
        self._map(lambda x: x.to(self.device, non_blocking=True))

    def __deepcopy__(self: L, memo: dict[int, Any]) -> L:
        """A layer that goes its own way; the operator is shared."""
        twin = copy.copy(self)
        twin._wide = {name: x.clone() for name, x in self._wide.items()}
        twin._checks = {name: x.clone() for name, x in self._checks.items()}
        twin._rooms = {}
        memo[id(self)] = twin
        return twin

    def _append(self, key: Tensor, value: Tensor, checks: Mapping[Name, Tensor | None], spare: bool = False) -> None:
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = key.dtype, key.device, True
        new: dict[Name, Tensor] = {"keys": key, "values": value}
        done: dict[Name, tuple[Tensor, Tensor]] = {}
        if (plan := self.repair.token_plan()) is not None and not any(check is not None for check in checks.values()):
            names = [name for name in new if self._side(name) is not None]
            projected, terms = written_terms(plan, [new[name] for name in names])
            done = dict(zip(names, zip(terms.unbind(), projected.unbind(), strict=True), strict=True))
        for name, x in new.items():
            term, check = done.get(name) or self._term(name, x, checks.get(name))
            wide = x if term is None else extend(x, term)
            self._wide[name] = self._grown(name, self._wide.get(name), wide, spare)
            if self._keeps_checks and check is not None:
                self._checks[name] = self._grown(f"check of {name}", self._checks.get(name), check, spare)

    def _term(self, name: Name, x: Tensor, check: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The terms of new tokens and their checksums (`check`, or their projections as they are now); None where none are stored."""
        side = self._side(name)
        if self.repair.spec.token_gate is None:
            weight = self.repair.key_projection() if name == "keys" else None
            return (None if weight is None else x.to(weight.dtype) @ weight), None
        if side is None:
            return None, None
        if self._keeps_checks:
            check = side.check(x) if check is None else check.to(x.device)
        stored = self._plain(name)
        offset, previous = (0, None) if stored is None or stored.shape[2] == 0 else (stored.shape[2], stored[:, :, -1:])
        return layer_term(self.repair, name, x, check, previous, self.starts, offset), check

    def _grown(self, name: str, held: Tensor | None, new: Tensor, spare: bool) -> Tensor:
        """`[held ; new]` along the tokens; with `spare` a view into room for some more of them, which `name` keeps."""
        if held is None:
            return new
        if not spare:
            self._rooms.pop(name, None)
            return torch.cat([held, new], dim=2)
        length, total = held.shape[2], held.shape[2] + new.shape[2]
        room = self._rooms.get(name)
        sealed = room is not None and room.is_inference() and not torch.is_inference_mode_enabled()
        if room is None or room.shape[2] < total or sealed:
            room = held.new_empty(*held.shape[:2], total + max(SPARE_TOKENS, total // SPARE_SHARE), held.shape[3])
            room.narrow(2, 0, length).copy_(held)
            self._rooms[name] = room
        room.narrow(2, length, new.shape[2]).copy_(new)
        return room.narrow(2, 0, total)

    @torch.no_grad()
    def _replace(self, name: Name, x: Tensor | None) -> None:
        if x is None or not x.numel():
            self._wide.pop(name, None)
            self._checks.pop(name, None)
            self._forget_rooms(name)
            return
        stored = self._plain(name)
        if stored is None or stored.shape != x.shape:
            found = "nothing" if stored is None else str(list(stored.shape))
            raise UsageError(
                f"{name} of a repaired cache layer can be replaced only token by token: {found} is stored, {list(x.shape)} was given; "
                "use crop, reorder_cache or update."
            )
        check = self._checks.pop(name, None)
        del self._wide[name]
        self._forget_rooms(name)
        term, check = self._term(name, x, check)
        self._wide[name] = x if term is None else extend(x, term)
        if self._keeps_checks and check is not None:
            self._checks[name] = check

    def _plain(self, name: Name) -> Tensor | None:
        wide = self._wide.get(name)
        return None if wide is None else wide[..., : self.repair.layout.head_dim]

    def _forget_rooms(self, name: Name) -> None:
        self._rooms.pop(name, None)
        self._rooms.pop(f"check of {name}", None)

    @property
    def _keeps_checks(self) -> bool:
        gated = self.repair.spec.token_gate
        return gated is not None and gated.checksum

    def _side(self, name: Name) -> Any:
        return self.repair.key if name == "keys" else self.repair.value

    def _map(self, change: Callable[[Tensor], Tensor], rows: bool = False) -> None:
        self._rooms = {}  # after a crop the room behind the kept tokens may still be seen by someone
        self._wide = {name: change(x) for name, x in self._wide.items()}
        self._checks = {name: change(x) for name, x in self._checks.items()}
        if rows and self.starts is not None:
            self.starts = change(self.starts)


def layer_term(
    repair: LayerRepair,
    name: Name,
    x: Tensor,
    check: Tensor | None = None,
    previous: Tensor | None = None,
    starts: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """What the gate of one side multiplies, `[B, Hkv, T, r]`, for keys or values x `[B, Hkv, T, d]` at positions `offset` on.

    The other arguments as in `token_gate.distances`; check: `TokenGate`. Raises ValueError for a side that is not repaired.
    """
    side = repair.key if name == "keys" else repair.value
    if side is None:
        raise ValueError(f"the {name} of this layer are not repaired")
    gated = repair.spec.token_gate
    distance = distances(x.to(side.W.dtype), previous, starts, offset) if gated is not None and gated.neighbour else None
    return side.term(x, check, distance)


def extend_cache(cache: DynamicCache, operator: RepairOperator, checks: Checks | None = None, starts: Tensor | None = None) -> DynamicCache:
    """Give the protected layers of `cache` their terms, in place, and return it.

    cache: `DynamicCache(config=model.config)`, empty or filled by a prefill. checks: the checksums of tokens already in
    it when they were damaged since (`RepairOperator.checks`); left out, they are taken as they are now. starts: `[B]`,
    first real token of each left-padded row (neighbour feature only). Sliding-window layers stay as they are, and
    attention computes their terms at every step. Raises UsageError for a cache of another make, FormError for an operator
    that the extended form cannot express.
    """
    require_form("extended", operator.spec, operator.layout.head_dim)
    missing = [layer for layer in operator.spec.protect_layers if layer >= len(cache.layers)]
    if missing:
        raise UsageError(
            f"The cache has {len(cache.layers)} layers, but layer {missing[-1]} is protected; "
            "build it with DynamicCache(config=model.config)."
        )
    for layer in operator.spec.protect_layers:
        plain = cache.layers[layer]
        if getattr(plain, "is_sliding", False) or isinstance(plain, RepairLayer):
            continue
        if type(plain) is not DynamicLayer:
            raise UsageError(
                f"Layer {layer} of the cache is a {type(plain).__name__}; the extended form keeps its terms in a plain DynamicLayer only. "
                "Leave the cache as it is: attention then computes the terms at every step."
            )
        wide = RepairLayer(operator.layer(layer), starts)
        if plain.get_seq_length():
            given = (checks or {}).get(layer, (None, None))
            with torch.no_grad():
                wide._append(plain.keys, plain.values, {"keys": given[0], "values": given[1]})
        cache.layers[layer] = wide
    return cache
