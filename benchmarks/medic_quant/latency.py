"""What reading a quantised cache costs at a decode step: append, read back, attend, in every layer; the ways take turns.

Ways: without repair; with D whose terms are computed from all that was read; with D whose terms are kept and computed anew only
for tokens whose stored form has changed (the new token, and a block when it is quantised; specs/medic.md, 12.3 rule 7). All ways use the
model's real keys and values. The rest of the model (projections, feed-forward) is not in the figures, it costs the same in all.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from benchmarks.medic_common.subjects import Pair, Pairs, Subject
from benchmarks.medic_decode.layer import alternate
from torch import Tensor

from cachemedicpp.repair.cache import Name, layer_term
from cachemedicpp.repair.forms import extend, extended_stored, sdpa_kernel
from cachemedicpp.repair.operator import LayerRepair, RepairOperator
from modelwright.kv.settings import KVQuantisation
from modelwright.kv.store import TensorStore

PLAIN = "plain"


class StoredLayer:
    """One layer's quantised cache. repair: None for plain attention. kept: keep the terms between steps, else compute them all."""

    def __init__(self, settings: KVQuantisation, pair: Pair, repair: LayerRepair | None, kept: bool) -> None:
        """pair: keys and values of the prefix, `[B, Hkv, T, d]`."""
        head_dim = pair[0].shape[-1]
        self.stores: dict[Name, TensorStore] = {
            "keys": TensorStore(settings.format("key", head_dim)),
            "values": TensorStore(settings.format("value", head_dim)),
        }
        self.repair, self.kept = repair, kept
        self._terms: dict[Name, Tensor] = {}
        self._quantised: dict[Name, int] = {}
        self.append(pair)

    @property
    def nbytes(self) -> int:
        """Bytes in use: codes, scales and window, and the terms that are kept."""
        return sum(store.nbytes for store in self.stores.values()) + sum(term.nbytes for term in self._terms.values())

    def append(self, pair: Pair) -> None:
        """Add tokens `[B, Hkv, n, d]`."""
        for store, x in zip(self.stores.values(), pair, strict=True):
            store.append(x)

    def attend(self, query: Tensor) -> Tensor:
        """The attention output of query `[B, Hq, 1, d]` (float32) over all stored tokens."""
        scale = query.shape[-1] ** -0.5
        read: dict[Name, Tensor] = {name: store.read().to(query.dtype) for name, store in self.stores.items()}
        if self.repair is None:
            return sdpa_kernel(query, read["keys"], read["values"], None, scale)
        wide = {name: extend(x, self._terms_of(self.repair, name, x)) for name, x in read.items()}
        return extended_stored(query, wide["keys"], wide["values"], None, scale, self.repair.coefficients(query))

    def _terms_of(self, repair: LayerRepair, name: Name, x: Tensor) -> Tensor:
        if not self.kept:
            return layer_term(repair, name, x)
        held, quantised = self._terms.get(name), self.stores[name].quantised_tokens
        before = self._quantised.get(name, 0)
        first = 0 if held is None else before if quantised > before else held.shape[2]
        new = layer_term(repair, name, x[:, :, first:]).half()
        term = new if held is None else torch.cat([held[:, :, :first], new], dim=2)
        self._terms[name], self._quantised[name] = term, quantised
        return term


@torch.no_grad()
def step_times(
    subject: Subject, pairs: Pairs, settings: KVQuantisation, operator: RepairOperator | None, rounds: int
) -> dict[str, dict[str, Any]]:
    """By way (`plain`, `recomputed`, `kept`): `ms` for a token, median over `rounds`, and `nbytes` of all layers before the first step.

    pairs: keys and values of one text, `[1, Hkv, T, d]`. operator: None measures the plain way alone.
    """
    halves = [(key.half(), value.half()) for key, value in pairs]
    ways: dict[str, list[StoredLayer]] = {PLAIN: [StoredLayer(settings, pair, None, False) for pair in halves]}
    if operator is not None:
        for way, kept in (("recomputed", False), ("kept", True)):
            ways[way] = [StoredLayer(settings, pair, operator.layer(layer), kept) for layer, pair in enumerate(halves)]
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, subject.layout.query_heads, 1, subject.layout.head_dim, generator=generator).to(subject.model.device)
    new = [(key[:, :, -1:], value[:, :, -1:]) for key, value in halves]
    for layers in ways.values():
        for layer in layers:
            layer.attend(query)  # the terms of the prefix belong to the prefill
    sizes = {way: sum(layer.nbytes for layer in layers) for way, layers in ways.items()}

    def step(layers: list[StoredLayer]) -> Callable[[], None]:
        def run() -> None:
            for layer, pair in zip(layers, new, strict=True):
                layer.append(pair)
                layer.attend(query)

        return run

    times = alternate({way: step(layers) for way, layers in ways.items()}, rounds, query.device)
    return {way: {"ms": 1e3 * median(found), "nbytes": sizes[way]} for way, found in times.items()}
