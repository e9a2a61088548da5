"""What each defence costs in serving: prefill and decoding timed apart, each defence alone. (specs/medic.md, 6.6 [C26])

Prompts of one length, one batch; a heuristic works once on the stored cache after the prefill, a repair in every pass. The
materialised form is measured as the reference that never serves. Times are medians of `REPEATS` after a warm-up,
synchronised on a GPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from cachemedicpp.evaluation.defences import Setup, tensors_of
from cachemedicpp.evaluation.grid import NO_DEFENCE
from cachemedicpp.faults.corruption import DrawCounter
from cachemedicpp.faults.injection import layer_state
from cachemedicpp.repair.attention import protecting
from cachemedicpp.repair.cache import extend_cache
from cachemedicpp.repair.forms import Form, FormError, require_form
from cachemedicpp.repair.heuristics import defend, region_mask
from cachemedicpp.repair.spec import HEURISTICS
from cachemedicpp.seeds import BENCHMARK

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cachemedicpp.repair.operator import RepairOperator

REPEATS, WARM_UP = 20, 2
PROMPT_TOKENS, BATCH = 128, 4


@torch.no_grad()
def decode_overhead(
    model: PreTrainedModel,
    operator: RepairOperator,
    setup: Setup,
    longest: int,
    between: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """One row for no defence, each heuristic and each form that expresses `operator`.

    longest: tokens that prompt and answer may have together. between: called before every row; may raise.
    """
    tokens = max(1, min(PROMPT_TOKENS, longest - REPEATS - WARM_UP))
    generator = torch.Generator().manual_seed(setup.corruption.seed)
    size = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    prompt = torch.randint(0, int(size), (BATCH, tokens), generator=generator).to(model.device)
    rows = []
    for name, form in _variants(operator):
        if between is not None:
            between()
        rows.append(
            {"defense": name, "form": form, "batch": BATCH, "prompt_tokens": tokens, **_row(model, operator, setup, prompt, name, form)}
        )
    return rows


def _variants(operator: RepairOperator) -> Iterator[tuple[str, Form | None]]:
    for name in (NO_DEFENCE, *HEURISTICS):
        yield name, None
    for form in get_args(Form):
        try:
            require_form(form, operator.spec, operator.layout.head_dim)
        except FormError:  # this form cannot express the operator, so it has no row
            continue
        yield "cachemedic", form


def _row(model: PreTrainedModel, operator: RepairOperator, setup: Setup, prompt: Tensor, name: str, form: Form | None) -> dict[str, Any]:
    from transformers import DynamicCache

    gpu = model.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(model.device)

    def prefilled() -> Any:
        cache = DynamicCache(config=model.config)
        if form == "extended":
            extend_cache(cache, operator)
        model(input_ids=prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
        if name in HEURISTICS:
            _work_on(cache, setup, name)
        return cache

    repairing: AbstractContextManager[None] = nullcontext() if form is None else protecting(model, operator, form)
    with repairing:
        prefill, cache = _median(prefilled, gpu)
        kept = cache_bytes(cache) / prompt.numel()
        token = prompt[:, -1:]
        decode, _ = _median(lambda: model(input_ids=token, past_key_values=cache, use_cache=True), gpu)
    return {
        "prefill_ms": 1e3 * prefill,
        "prefill_tokens_per_sec": prompt.numel() / prefill,
        "decode_ms_per_token": 1e3 * decode,
        "decode_tokens_per_sec": prompt.shape[0] / decode,
        "peak_gpu_mem_gb": torch.cuda.max_memory_allocated(model.device) / 2**30 if gpu else None,
        "cache_bytes_per_token": kept,
        "repeats": REPEATS,
    }


def _work_on(cache: Any, setup: Setup, name: str) -> None:
    """A heuristic on the whole stored cache, in the region it knows."""
    corruption = setup.corruption
    for layer in corruption.protected:
        key, value = layer_state(cache, layer)
        batch, heads, length = key.shape[:3]
        mask = region_mask(corruption.axes, batch, heads, length)
        counter = DrawCounter(BENCHMARK, 0, tuple(range(batch)))
        pair = defend(name, setup.heuristics, key, value, mask, seed=corruption.seed, counter=counter, layer=layer)
        cache.layers[layer].keys, cache.layers[layer].values = pair


def cache_bytes(cache: Any) -> int:
    """Bytes of all stored keys and values, with what an extended cache keeps beside them."""
    plain = sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(cache))
    extra = 0
    for held in cache.layers:
        count = getattr(held, "extra_values_per_token", None)
        if count is not None:
            extra += sum(count().values()) * held.keys[..., 0].numel() * held.keys.element_size()
    return plain + extra


def _median(action: Callable[[], Any], gpu: bool) -> tuple[float, Any]:
    """Median seconds of `action` and what its last call returned."""
    seconds, result = [], None
    for number in range(WARM_UP + REPEATS):
        if gpu:
            torch.cuda.synchronize()
        began = time.perf_counter()
        result = action()
        if gpu:
            torch.cuda.synchronize()
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), result
