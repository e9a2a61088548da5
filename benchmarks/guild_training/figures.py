"""The arithmetic of the figures: arithmetic operations of a token, bytes of an optimizer's state, a memory forecast, rates from step ends.

No torch here.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from modelwright.memory import MARGIN, MemoryRequest, forecast
from modelwright.model_shape import ModelShape

QUANTISED_BLOCK = 256  # numbers that share one scale in bitsandbytes' 8-bit states
WARM = 1  # gaps between step ends that are left out at the beginning of every call
WEIGHT_BYTES = {"fp32": 4, "bf16_mixed": 4, "bf16": 2}
FLOP_FORMULA = "6 N + 3 A per token; N parameters in matrix products, A = 2 x layers x length x query width"


def matmul_parameters(shape: ModelShape) -> int:
    """Parameters that multiply every token: all but norms and a table that is only looked up in."""
    looked_up = 0 if shape.tied else shape.vocabulary * shape.hidden
    return shape.parameters() - shape.norm_parameters() - looked_up


def flop_per_token(shape: ModelShape, length: float, *, recomputed: bool = False) -> float:
    """Arithmetic operations of training every weight on one token in windows of `length` tokens: 6 N + 3 A, and 8 N + 4 A with the second
    forward pass of recomputed activations. Attention is counted as causal."""
    attention = 2 * shape.layers * length * shape.query_width
    return (8 if recomputed else 6) * matmul_parameters(shape) + (4 if recomputed else 3) * attention


def utilisation(shape: ModelShape, length: float, tokens_per_s: float, matmul_flop_per_s: float) -> float:
    """Model FLOP utilisation: what the tokens need, over what the device does in one large matrix product, measured in the same run."""
    return flop_per_token(shape, length) * tokens_per_s / matmul_flop_per_s


def state_bytes(kind: str, shape: ModelShape, weight_bytes: int) -> int:
    """Bytes that an optimizer keeps, by its type: AdamW two numbers for a parameter, Muon one for a hidden matrix, 8-bit AdamW two bytes
    and their scales; embeddings and norms keep 32-bit states beside 8-bit ones."""
    count, tables, norms = shape.parameters(), shape.embedding_parameters(), shape.norm_parameters()
    matrices = count - tables - norms
    if kind == "adamw":
        return 2 * weight_bytes * count
    if kind == "muon":
        return weight_bytes * (matrices + 2 * (tables + norms))
    if kind in ("adamw_8bit", "paged_adamw_8bit"):
        return 2 * matrices + 2 * 4 * matrices // QUANTISED_BLOCK + 8 * (tables + norms)
    raise ValueError(f"no formula for the state of {kind}")


def memory_forecast(
    shape: ModelShape,
    kind: str,
    *,
    precision: str,
    length: int,
    recomputed: bool,
    fused_loss: bool,
    device: str,
    held: int,
) -> dict[str, int]:
    """The kernel's forecast for training every weight, batch 1, with its optimizer part put right for this optimizer.

    held: bytes of the process before the model (a processor's; 0 on a GPU). `kernel_bytes` is the kernel's own word, for AdamW with 32-bit
    moments; `bytes` has gradients and states of this optimizer. A fused loss never holds more than a few tokens' logits.
    """
    weight = WEIGHT_BYTES[precision]
    request = MemoryRequest(
        shape=shape,
        length=length,
        weight_format="float32" if weight == 4 else "bfloat16",
        compute_format="float32" if precision == "fp32" else "bfloat16",
        train_all=True,
        checkpointing=recomputed,
        loss_chunk=16 if fused_loss else None,
        keeps_freed=device == "cpu",
        runtime_bytes=held if device == "cpu" else 0,
    )
    plan = forecast(request)
    parts = {part.name: part.bytes for part in plan.parts}
    own = weight * shape.parameters() + state_bytes(kind, shape, weight)
    total = (sum(parts.values()) - parts["margin"] - parts["optimizer"] + own) * (1 + MARGIN)
    return {"bytes": round(total), "kernel_bytes": plan.total_bytes, "state_bytes": state_bytes(kind, shape, weight)}


def rates(calls: Sequence[tuple[Sequence[float], Sequence[int]]]) -> dict[str, Any]:
    """Tokens per second and milliseconds per step, from calls of (begin and step ends in seconds, tokens of every step).

    A gap from one step's end to the next holds everything a step costs. The first step of a call, and `WARM` gaps behind it, are left out.
    """
    gaps: list[float] = []
    tokens = 0
    for ends, counts in calls:
        timed = [after - before for before, after in pairwise(ends)][1 + WARM :]
        gaps += timed
        tokens += sum(counts[1 + WARM :])
    if not gaps:
        return {"timed_steps": 0, "tokens_per_s": None, "ms_per_step": None}
    return {
        "timed_steps": len(gaps),
        "tokens_per_s": round(tokens / sum(gaps), 1),
        "ms_per_step": round(1000 * statistics.median(gaps), 2),
    }


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The largest difference of two curves at the same step; None without a common step."""
    return max((abs(a - b) for a, b in zip(one, other, strict=False)), default=None)


def middle(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of several measurements of one thing, that of the median speed, with the speeds of all beside it."""
    ordered = sorted(rounds, key=lambda row: row.get("tokens_per_s") or 0.0)
    chosen = dict(ordered[len(ordered) // 2])
    return chosen | {"rounds": [row.get("tokens_per_s") for row in rounds]}
