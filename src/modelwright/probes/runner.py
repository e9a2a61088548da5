"""Run a probe on a model at several lengths, greedily, inside or outside training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from modelwright.errors import UsageError
from modelwright.probes.protocol import DEFAULT_SAMPLES, VARIANTS, Probe, ProbeItem, ProbeResult, Score, Variant
from modelwright.probes.quiet import dynamic_rope_modules, start_afresh, undisturbed

if TYPE_CHECKING:
    from transformers import GenerationConfig, GenerationMixin, PreTrainedTokenizerBase

BATCH_TOKENS = 8192
"""Prompt tokens in one batch unless the caller says how many rows; bounds memory at any length."""


@dataclass(frozen=True)
class ProbeProgress:
    """Told after every batch: items done of all items over all lengths, and the length at work."""

    done: int
    total: int
    length: int


class ProbeStopped(Exception):
    """`should_stop` said so between two batches. `results` holds the lengths that were finished."""

    def __init__(self, results: Sequence[ProbeResult]) -> None:
        super().__init__(f"the probe was stopped after {len(results)} finished lengths")
        self.results = tuple(results)


def run_probe(
    model: GenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
    probe: Probe,
    lengths: Sequence[int],
    *,
    n: int = DEFAULT_SAMPLES,
    seed: int = 0,
    variant: Variant = "raw",
    batch_size: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[ProbeProgress], None] = lambda _: None,
) -> list[ProbeResult]:
    """Probe `model` at each of `lengths` (tokens), one result per length in the given order.

    Decoding is greedy, with a KV cache, except for RoPE whose frequencies follow the sequence length (dynamic NTK,
    LongRoPE): there cached keys would carry stale angles, so every token comes from a full forward pass, and the
    result says `cache: prefill`. `batch_size` is rows per batch, by default as many as fit BATCH_TOKENS. A generation
    that fails (out of memory, a position the model does not have) scores 0 and leaves a sentence in `failures`. The
    model is left exactly as it was found, training mode and random states included. Raises UsageError for a wrong
    argument, ProbeStopped when `should_stop` returned true.
    """
    _check(probe, lengths, n, variant)
    cached = not dynamic_rope_modules(model)
    results: list[ProbeResult] = []
    with undisturbed(model):
        for position, length in enumerate(lengths):
            start = time.perf_counter()
            items = probe.build(tokenizer, length, n, seed, variant)
            scores: list[Score] = []
            failures: list[str] = []
            for batch in _batches(items, batch_size or max(1, BATCH_TOKENS // length)):
                if should_stop():
                    raise ProbeStopped(results)
                outputs = _answers(model, tokenizer, batch, cached, failures)
                scores += [
                    Score(0.0 if out is None else probe.score(item, out), item.depth) for item, out in zip(batch, outputs, strict=True)
                ]
                progress(ProbeProgress(position * n + len(scores), len(lengths) * n, length))
            results.append(
                probe.aggregate(scores, length).ran(
                    seconds=time.perf_counter() - start,
                    prompt_variant=variant,
                    seed=seed,
                    cache="kv" if cached else "prefill",
                    failures=tuple(failures),
                )
            )
    return results


def greedy(
    model: GenerationMixin, rows: Sequence[Sequence[int]], max_new_tokens: int, pad_id: int, *, cached: bool = True
) -> list[list[int]]:
    """Greedy continuations (token ids) of `rows`, which may differ in length: shorter ones are padded on the left and
    masked.

    Among rows of equal length the mask is all ones, which lets attention take its fast causal path. Call inside
    `undisturbed`.
    """
    import torch
    from transformers import GenerationConfig

    longest = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (longest - len(row)) + list(row) for row in rows], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_id,
        eos_token_id=model.generation_config.eos_token_id,
        use_cache=cached,
    )
    start_afresh(model)
    with _own_generation_config(model, settings):
        out: Any = model.generate(ids, attention_mask=mask, generation_config=settings)
    return [row[longest:].tolist() for row in out]


def _answers(
    model: GenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
    batch: Sequence[ProbeItem],
    cached: bool,
    failures: list[str],
) -> list[str | None]:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    try:
        rows = greedy(model, [item.input_ids for item in batch], max(item.max_new_tokens for item in batch), pad, cached=cached)
    except (RuntimeError, IndexError, MemoryError) as error:
        failures.append(f"{len(batch)} prompts of length {batch[0].length} gave no answer: {type(error).__name__}: {error}")
        return [None] * len(batch)
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in rows]


@contextmanager
def _own_generation_config(model: GenerationMixin, settings: GenerationConfig) -> Iterator[None]:
    """Put `settings` in the place of the model's own defaults (and of the model inside a PEFT model), and the defaults
    back afterwards.

    The library fills what a passed config leaves open from the model's defaults, so a chat model's repetition penalty
    would bend greedy decoding.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    holders = [(holder, holder.generation_config) for holder in {id(model): model, id(inner): inner}.values()]
    try:
        for holder, _ in holders:
            holder.generation_config = settings
        yield
    finally:
        for holder, before in holders:
            holder.generation_config = before


def _batches(items: Sequence[ProbeItem], size: int) -> Iterator[list[ProbeItem]]:
    """Batches of prompts of equal length where there are enough of them; what is left over is batched with padding."""
    by_length = sorted(items, key=lambda item: len(item.input_ids))
    left: list[ProbeItem] = []
    for _, group in groupby(by_length, key=lambda item: len(item.input_ids)):
        same = list(group)
        whole = len(same) - len(same) % size
        for at in range(0, whole, size):
            yield same[at : at + size]
        left += same[whole:]
    for at in range(0, len(left), size):
        yield left[at : at + size]


def _check(probe: Probe, lengths: Sequence[int], n: int, variant: str) -> None:
    if variant not in VARIANTS:
        raise UsageError(f"The prompt variant is {variant!r}; allowed are {', '.join(VARIANTS)}.")
    if n < 1:
        raise UsageError(f"The probe was asked for {n} samples; at least 1 is needed.")
    short = [length for length in lengths if length < probe.min_length]
    if short:
        raise UsageError(
            f"The probe {probe.name} needs at least {probe.min_length} tokens; found the lengths {', '.join(map(str, short))}."
        )
