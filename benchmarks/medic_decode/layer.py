"""One decode step of one protected layer: append a token to the cache, then attend; the ways take turns in every round.

The baseline is the hardest to meet: plain attention over keys and values in preallocated tensors, so that it never copies
its cache, as the library's `DynamicCache` does at every step. Materialised and collapsed attend over such tensors too; the
extended forms keep theirs in the cache layer that serves them, and pay for the terms of the new token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cachemedicpp.repair.cache import RepairLayer
from cachemedicpp.repair.forms import extended_stored, materialised, sdpa_kernel, wide_attention
from cachemedicpp.repair.operator import LayerRepair, RepairOperator
from cachemedicpp.repair.row_plan import collapsed_rows, extended_rows
from cachemedicpp.repair.spec import HeadLayout, OperatorSpec

SHAPES = {"small": HeadLayout(head_dim=32, kv_heads=3, query_heads=6), "medium": HeadLayout(head_dim=64, kv_heads=16, query_heads=16)}
WAYS = ("plain", "materialised A", "extended A", "collapsed A", "extended D")
WARM_UP = 5


class Setting(NamedTuple):
    """Heads, rank, batch, and where and in which numbers the cache lies."""

    layout: HeadLayout
    rank: int
    batch: int
    device: torch.device
    dtype: torch.dtype


class Step(NamedTuple):
    """run: one decode step. cache_bytes: what is held for each token of a sequence."""

    run: Callable[[], Tensor]
    cache_bytes: float


def steps_at(setting: Setting, tokens: int, spare: int) -> dict[str, Step]:
    """A step of every way over the same `tokens` random cached tokens, which may run `spare` times."""
    generator = torch.Generator().manual_seed(0)
    d, kv_heads = setting.layout.head_dim, setting.layout.kv_heads

    def draw(heads: int, length: int) -> Tensor:
        return torch.randn(setting.batch, heads, length, d, generator=generator).to(setting.device, setting.dtype)

    query, key, value = draw(setting.layout.query_heads, 1), draw(kv_heads, tokens), draw(kv_heads, tokens)
    new, scale = (draw(kv_heads, 1), draw(kv_heads, 1)), d**-0.5
    uniform, gated = (_repair(setting, family) for family in ("A", "D"))

    def attend_collapsed(key: Tensor, value: Tensor) -> Tensor:
        plan = uniform.row_plan()
        assert plan is not None
        return collapsed_rows(query, key, value, None, scale, plan, sdpa_kernel)

    def over_tensors(attend: Callable[[Tensor, Tensor], Tensor]) -> Step:
        rooms = [torch.cat([x, x.new_empty(*x.shape[:2], spare, d)], dim=2) for x in (key, value)]
        length = tokens

        def run() -> Tensor:
            nonlocal length
            for room, x in zip(rooms, new, strict=True):
                room[:, :, length : length + 1] = x
            length += 1
            return attend(rooms[0][:, :, :length], rooms[1][:, :, :length])

        return Step(run, 2 * kv_heads * d * key.element_size())

    def over_terms(repair: LayerRepair) -> Step:
        layer, attend = RepairLayer(repair), partial(wide_attention, kernel=sdpa_kernel)
        held = layer.update(key, value)
        size = sum(x.numel() * x.element_size() for x in held) / (setting.batch * tokens)

        def run() -> Tensor:
            keys, values = layer.update(*new)
            plan = repair.row_plan("extended")
            if plan is None:
                return extended_stored(query, keys, values, None, scale, repair.coefficients(query))
            return extended_rows(query, keys, values, None, scale, plan, repair.spec.token_gate is not None, attend)

        return Step(run, size)

    return {
        "plain": over_tensors(lambda key, value: sdpa_kernel(query, key, value, None, scale)),
        "materialised A": over_tensors(lambda key, value: materialised(query, key, value, None, scale, uniform.coefficients(query))),
        "extended A": over_terms(uniform),
        "collapsed A": over_tensors(attend_collapsed),
        "extended D": over_terms(gated),
    }


def measure_layer(setting: Setting, lengths: list[int], repeats: int, slow_repeats: int) -> list[dict[str, Any]]:
    """Rows with median and best microseconds, and the ratio to plain: the median of the ratios within a round.

    slow_repeats: rounds of the materialised form at 16,384 tokens and beyond.
    """
    rows = []
    for tokens in lengths:
        slow = slow_repeats if tokens >= 16384 else repeats
        with torch.no_grad():
            steps = steps_at(setting, tokens, spare=2 * (repeats + WARM_UP))
            runs = {way: step.run for way, step in steps.items()}
            materialised_run = runs.pop("materialised A")
            times = alternate(runs, repeats, setting.device)
            # In rounds of its own: a step that takes a hundred times as long leaves cold caches to the one after it.
            beside = alternate({"plain": runs["plain"], "materialised A": materialised_run}, slow, setting.device)
        times["materialised A"] = beside["materialised A"]
        for way in WAYS:
            base = beside["plain"] if way == "materialised A" else times["plain"]
            ratio = median(own / plain for own, plain in zip(times[way], base, strict=True))
            rows.append(
                {
                    "tokens": tokens,
                    "way": way,
                    "median_us": round(1e6 * median(times[way]), 1),
                    "best_us": round(1e6 * min(times[way]), 1),
                    "ratio": round(ratio, 3),
                    "repeats": len(times[way]),
                    "cache_bytes_per_token": round(steps[way].cache_bytes, 1),
                }
            )
    return rows


def alternate(runs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every run in `rounds` rounds that take each once, another one first every time; warm-up rounds go before."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(-min(WARM_UP, rounds), rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            _wait_for(device)
            started = time.perf_counter()
            runs[name]()
            _wait_for(device)
            if turn >= 0:
                times[name].append(time.perf_counter() - started)
    return times


def _repair(setting: Setting, family: str) -> LayerRepair:
    spec = OperatorSpec(family=family, rank=setting.rank, protect_layers=(0,))  # type: ignore[arg-type]
    return RepairOperator(spec, setting.layout).to(setting.device).layer(0)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
