"""Tokens per second of a whole model that decodes greedily over a long context, with the repair on and off in turns."""

from __future__ import annotations

import copy
import time
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from cachemedicpp.repair.attention import protecting
from cachemedicpp.repair.cache import extend_cache
from cachemedicpp.repair.operator import RepairOperator, layout_of
from cachemedicpp.repair.spec import OperatorSpec

WAYS = ("off", "collapsed A", "extended D")


def load_model(name: str, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A packaged model by its name, or a model folder, ready to decode."""
    from transformers import AutoModelForCausalLM

    from modelwright.tiny import PREFIX, tiny_model_path

    path = tiny_model_path(name) if name.startswith(PREFIX) else name
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return model.to(device).eval()  # type: ignore[arg-type]


@torch.no_grad()
def measure_generation(model: PreTrainedModel, context: int, tokens: int, blocks: int, rank: int) -> list[dict[str, Any]]:
    """Rows with the median tokens/s of `blocks` blocks of `tokens` steps, all layers protected, batch 1.

    ratio: tokens/s over those without repair, the median over the blocks that stand side by side. Every block starts from a
    copy of one prefilled cache of `context` random tokens; copying it is not timed, and one block of each is not counted.
    """
    layers = tuple(range(model.config.num_hidden_layers))
    ids = torch.randint(0, model.config.vocab_size, (1, context), generator=torch.Generator().manual_seed(0)).to(model.device)
    prefilled = DynamicCache(config=model.config)
    first = model(ids, past_key_values=prefilled, logits_to_keep=1).logits[:, -1:].argmax(-1)
    operators: dict[str, RepairOperator | None] = {"off": None}
    caches = {"off": prefilled, "collapsed A": prefilled}
    for way, family in (("collapsed A", "A"), ("extended D", "D")):
        spec = OperatorSpec(family=family, rank=rank, protect_layers=layers)  # type: ignore[arg-type]
        operators[way] = operator = RepairOperator(spec, layout_of(model)).to(model.device)
        if way == "extended D":
            caches[way] = extend_cache(copy.deepcopy(prefilled), operator)
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for block in range(-1, blocks):
        for way in WAYS:
            cache, operator_of_way = copy.deepcopy(caches[way]), operators[way]
            with nullcontext() if operator_of_way is None else protecting(model, operator_of_way):
                speed = _tokens_per_second(model, first, cache, tokens)
            if block >= 0:
                speeds[way].append(speed)
    return [
        {
            "way": way,
            "tokens_per_s": round(median(found), 2),
            "ratio": round(median(own / off for own, off in zip(found, speeds["off"], strict=True)), 4),
            "blocks": len(found),
        }
        for way, found in speeds.items()
    ]


def _tokens_per_second(model: PreTrainedModel, token: torch.Tensor, cache: DynamicCache, steps: int) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    started = time.perf_counter()
    for _ in range(steps):
        token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
    token.item()
    return steps / (time.perf_counter() - started)
