"""Measuring a repair beside five other defences on the same damaged caches. (specs/medic.md, 2.7, 6.2, 6.3)

    bench = Bench(model, operator, setup, examples)
    for results in bench.measure(event, DEFENCES): ...    # one per defence: example scores, tokens, seconds

A batch is prefilled once, its stored cache is corrupted once for each event, and every defence starts from a fork of that
very state [C5]. Draws are named by (task, type) and example: neither batch, order, epsilon nor defence enters them. With
`inject: inline` (reproduction) an example runs alone in one pass, and corruption and heuristics act in attention.

Letters: B batch, T cached tokens, n tokens of the longest tail, Hkv KV heads, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from cachemedicpp import seeds
from cachemedicpp.evaluation.grid import DEFENCES, REPAIR
from cachemedicpp.evaluation.outcomes import ExampleScore
from cachemedicpp.evaluation.scoring import TailLogits, score_batch
from cachemedicpp.faults.corruption import Corrupted, Corruption, DrawCounter, LayerTensors, corrupt
from cachemedicpp.faults.events import Event
from cachemedicpp.faults.injection import fork_cache, inject_stored, layer_state, stored_starts
from cachemedicpp.inputs.tasks import NEEDLE, PASSKEY, Example, Ids
from cachemedicpp.repair.attention import protecting
from cachemedicpp.repair.cache import Checks, extend_cache
from cachemedicpp.repair.forms import Form
from cachemedicpp.repair.heuristics import HeuristicSettings, defend, region_mask
from cachemedicpp.repair.spec import HEURISTICS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cachemedicpp.repair.operator import RepairOperator

BATCH = 16
"""Examples of one batch; reproduction (`inline`, `gate_rows: last`) takes one."""
KEPT_BYTES = 1 << 30
"""How much clean cache of one task is kept between events; batches beyond it are prefilled again."""
LONG_CONTEXT_TASKS = (NEEDLE, PASSKEY)
"""These are always damaged in their old part, whatever `time_mode` says. [C23]"""


@dataclass(frozen=True)
class Setup:
    """What stays the same over an evaluation.

    mask: where heuristics act, `region` or `oracle` [C24]. form: how the repair runs, None for the form that serves.
    inline: `inject: inline`. batch: examples at once.
    """

    corruption: Corruption
    heuristics: HeuristicSettings = field(default_factory=HeuristicSettings)
    mask: Literal["region", "oracle"] = "region"
    form: Form | None = None
    inline: bool = False
    batch: int = BATCH


@dataclass(frozen=True)
class Measured:
    """One defence in one cell, examples ordered by index.

    tokens: scored. seconds: of the defence and of the scored tails; prefill and corruption, which all share, are not in it.
    gpu_mem_gb: peak in GiB, None on a CPU.
    """

    defence: str
    scores: tuple[ExampleScore, ...]
    tokens: int
    seconds: float
    gpu_mem_gb: float | None


@dataclass(frozen=True)
class Prefilled:
    """A batch and the cache of its prefixes, padded on the left.

    mask: `[B, T]` int64, 1 for real tokens. starts: `[B]` int64, first real token; None where no row is padded.
    """

    examples: tuple[Example, ...]
    cache: Any
    mask: Tensor
    starts: Tensor | None


@dataclass(frozen=True)
class Damaged:
    """What every defence of a cell starts from: a cache after the event, and by layer where it struck. Never written to.

    checks: the checksums kept when the tokens were cached (family D), None without.
    """

    cache: Any
    struck: Mapping[int, Corrupted]
    checks: Checks | None


class Bench:
    """One task on one model: batches, their clean caches, and the six defences. All examples belong to one task."""

    def __init__(self, model: PreTrainedModel, operator: RepairOperator, setup: Setup, examples: Sequence[Example]) -> None:
        self.model, self.operator, self.task = model, operator, examples[0].task
        alone = setup.inline or operator.spec.gate_rows == "last"
        size = 1 if alone else setup.batch
        corruption = setup.corruption
        if self.task in LONG_CONTEXT_TASKS:
            corruption = replace(corruption, axes=replace(corruption.axes, time_mode="old_only"))
        self.setup = replace(setup, corruption=corruption, batch=size)
        ordered = sorted(examples, key=lambda example: (example.length, example.index))  # little padding
        self.batches = [tuple(ordered[first : first + size]) for first in range(0, len(ordered), size)]
        self._kept: dict[int, Prefilled] = {}
        self._kept_bytes = 0

    @torch.no_grad()
    def measure(self, event: Event, defences: Sequence[str] = DEFENCES, between: Callable[[], None] | None = None) -> list[Measured]:
        """Score all examples under `event` with each defence. between: called before every batch of every defence; may raise.

        Raises UsageError when the model's cache cannot be damaged, ConfigError when it cannot be protected.
        """
        scores: dict[str, list[ExampleScore]] = {name: [] for name in defences}
        seconds = dict.fromkeys(defences, 0.0)
        peaks: dict[str, float] = {}
        for number, examples in enumerate(self.batches):
            start = None if self.setup.inline else self._start(number, event)
            for name in defences:
                if between is not None:
                    between()
                began = self._clock(reset=True)
                if start is None:
                    scores[name] += self._inline(examples[0], event, name)
                else:
                    scores[name] += self._stored(*start, event, name)
                seconds[name] += self._clock() - began
                if self.model.device.type == "cuda":
                    peaks[name] = max(peaks.get(name, 0.0), torch.cuda.max_memory_allocated(self.model.device) / 2**30)
        return [
            Measured(
                name, tuple(sorted(found, key=lambda one: one.index)), sum(one.tokens for one in found), seconds[name], peaks.get(name)
            )
            for name, found in scores.items()
        ]

    # --- stored

    def prefilled(self, number: int) -> Prefilled:
        """The clean state of batch `number`, from memory or by a pass of the plain model."""
        if number in self._kept:
            return self._kept[number]
        state = prefill(self.model, self.batches[number])
        size = _bytes(state.cache)
        if self._kept_bytes + size <= KEPT_BYTES:
            self._kept[number], self._kept_bytes = state, self._kept_bytes + size
        return state

    def damaged(self, state: Prefilled, event: Event) -> Damaged:
        """The stored cache of a batch after `event`, in new tensors."""
        protected, gated = self.setup.corruption.protected, self.operator.spec.token_gate
        checks = None
        if gated is not None and gated.checksum:
            checks = {layer: self.operator.checks(layer, *layer_state(state.cache, layer)) for layer in protected}
        cache = fork_cache(state.cache)
        return Damaged(
            cache, inject_stored(cache, self.setup.corruption, event, self._counter(event, state.examples), state.starts), checks
        )

    def defended(self, state: Prefilled, damaged: Damaged, event: Event, name: str) -> Any:
        """A fork of the damaged cache with the defence `name` at work in it; for the repair, its extra terms."""
        cache = fork_cache(damaged.cache)
        if name in HEURISTICS:
            for layer in self.setup.corruption.protected:
                starts = stored_starts(cache, layer, state.starts)
                key, value = layer_state(cache, layer)
                pair = self._defend(name, event, state.examples, layer, key, value, damaged.struck[layer], starts)
                cache.layers[layer].keys, cache.layers[layer].values = pair
        elif name == REPAIR and self.form == "extended":
            extend_cache(cache, self.operator, damaged.checks, state.starts)
        return cache

    @property
    def form(self) -> Form:
        """The form in which the repair runs."""
        return self.setup.form or self.operator.spec.serving_form

    def _start(self, number: int, event: Event) -> tuple[Prefilled, Damaged]:
        state = self.prefilled(number)
        return state, self.damaged(state, event)

    def _stored(self, state: Prefilled, damaged: Damaged, event: Event, name: str) -> list[ExampleScore]:
        cache = self.defended(state, damaged, event, name)
        repairing: AbstractContextManager[None] = nullcontext()
        if name == REPAIR:
            repairing = protecting(self.model, self.operator, self.form, checks=damaged.checks)
        with repairing:
            return score_batch(state.examples, stored_logits(self.model, state, cache))

    # --- inline

    def _inline(self, example: Example, event: Event, name: str) -> list[ExampleScore]:
        """The original's single pass over prefix and tail, one example at a time. [C6]"""
        corruption, counter = self.setup.corruption, self._counter(event, (example,))

        def hook(layer: int, key: Tensor, value: Tensor, starts: Tensor | None) -> LayerTensors:
            struck = corrupt(corruption, event, counter, layer, key, value, starts)
            if name not in HEURISTICS:
                return struck.key, struck.value
            return self._defend(name, event, (example,), layer, struck.key, struck.value, struck, starts)

        def logits(tails: Sequence[Ids]) -> Tensor:
            ids = torch.tensor([example.prefix + tails[0]], device=self.model.device)
            found: Tensor = self.model(input_ids=ids, use_cache=False, logits_to_keep=len(tails[0])).logits
            return found

        repairs = name == REPAIR
        operator, form = (self.operator, self.form) if repairs else (None, None)
        layers = None if repairs else corruption.protected
        with protecting(self.model, operator, form, corrupt=hook, layers=layers):
            return score_batch((example,), logits)

    # --- both

    def _defend(
        self,
        name: str,
        event: Event,
        examples: Sequence[Example],
        layer: int,
        key: Tensor,
        value: Tensor,
        struck: Corrupted,
        starts: Tensor | None,
    ) -> LayerTensors:
        """A heuristic on one layer, where the corruption struck (`oracle`) or in the region it knows; in clean cells too. [C24]"""
        corruption = self.setup.corruption
        batch, heads, length = key.shape[:3]
        mask = struck.mask if self.setup.mask == "oracle" else region_mask(corruption.axes, batch, heads, length, starts)
        counter = self._counter(event, examples)
        settings = self.setup.heuristics
        return defend(name, settings, key, value, mask, seed=corruption.seed, counter=counter, layer=layer, starts=starts)

    def _counter(self, event: Event, examples: Sequence[Example]) -> DrawCounter:
        return DrawCounter(seeds.EVAL, seeds.unit_number(self.task, event.type), tuple(example.index for example in examples))

    def _clock(self, reset: bool = False) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
            if reset:
                torch.cuda.reset_peak_memory_stats(self.model.device)
        return time.perf_counter()


@torch.no_grad()
def prefill(model: PreTrainedModel, examples: Sequence[Example]) -> Prefilled:
    """Run the prefixes of `examples` through the plain model, left-padded, and keep the cache."""
    from transformers import DynamicCache

    longest = max(len(example.prefix) for example in examples)
    missing = torch.tensor([longest - len(example.prefix) for example in examples], device=model.device)
    ids = torch.tensor([(0,) * (longest - len(example.prefix)) + example.prefix for example in examples], device=model.device)
    steps = torch.arange(longest, device=model.device)
    mask = (steps >= missing[:, None]).long()  # [B, T]
    padded = bool(missing.any())
    cache = DynamicCache(config=model.config)
    positions = (steps - missing[:, None]).clamp_min(0)
    options = {"attention_mask": mask} if padded else {}
    model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1, **options)
    return Prefilled(tuple(examples), cache, mask, missing if padded else None)


def stored_logits(model: PreTrainedModel, state: Prefilled, cache: Any) -> TailLogits:
    """The function that scoring asks for: tails, padded on the right, run on forks of `cache`; logits `[B, n, V]`."""
    length = state.mask.sum(dim=1)  # [B], real tokens cached

    def run(tails: Sequence[Ids]) -> Tensor:
        longest = max(map(len, tails))
        ids = torch.tensor([tail + (0,) * (longest - len(tail)) for tail in tails], device=model.device)
        own = torch.tensor([len(tail) for tail in tails], device=model.device)
        steps = torch.arange(longest, device=model.device)
        positions = length[:, None] + torch.minimum(steps, own[:, None] - 1)  # padding keeps within the model's window
        options = {} if state.starts is None else {"attention_mask": torch.cat([state.mask, torch.ones_like(ids)], dim=1)}
        found: Tensor = model(input_ids=ids, position_ids=positions, past_key_values=fork_cache(cache), use_cache=True, **options).logits
        return found

    return run


def tensors_of(cache: Any) -> Iterator[Tensor]:
    """Every key and value tensor that a cache holds."""
    for held in cache.layers:
        for name in ("keys", "values"):
            tensor = getattr(held, name, None)
            if isinstance(tensor, Tensor):
                yield tensor


def _bytes(cache: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(cache))
