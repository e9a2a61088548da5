"""Cross-entropy of a language model that never holds all logits at once.

At 64K tokens and a vocabulary of 32K the logits alone are 7.8 GiB in float32, and their gradient as much again. Here
the output projection runs over a few hundred positions at a time, and the gradients with respect to hidden states and
weight are taken while a chunk's probabilities are still there: nothing is computed twice, peak memory is one chunk of
logits, and positions that carry no label cost nothing. Loss and gradients are those of the plain formula.

`chunked_cross_entropy` is the arithmetic; `causal_lm_loss` applies it to a Hugging Face causal language model.
`why_not_chunked` says, once before training, whether a model's output head allows it.

Letters: B batch, T positions, H hidden width, V vocabulary, N = B T.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from modelwright.errors import UsageError

CPU_CHUNK_BYTES = 16 * 2**20
ACCELERATOR_CHUNK_BYTES = 256 * 2**20
"""Size of one chunk of float32 logits when the caller names no chunk length: on a CPU small enough to stay near the
caches (fastest of 8 to 64 MiB when measured), elsewhere large enough to keep a matrix unit busy."""

HEAD_TOLERANCE = 1e-2
"""Largest relative difference of logits that still counts as the same head; a scale or a cap differs by far more."""


class UnsupportedHeadError(UsageError):
    """The model turns hidden states into logits by something else than one plain linear layer."""


def default_chunk_tokens(vocabulary: int, device: str = "cpu") -> int:
    """Positions per chunk so that its float32 logits take about 16 MiB (256 MiB on an accelerator), at least 64."""
    return max(64, (CPU_CHUNK_BYTES if device == "cpu" else ACCELERATOR_CHUNK_BYTES) // (4 * vocabulary))


def chunked_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    chunk_tokens: int | None = None,
    ignore_index: int = -100,
    num_items: Tensor | int | None = None,
    softcap: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of `softmax(hidden @ weight.T + bias)` against `labels`, chunk by chunk.

    hidden: [B, T, H] or [N, H]. weight: [V, H]. bias: [V] or None. labels: [B, T] or [N], int64, ALREADY aligned: the
    hidden state at a position is scored against the label at the same position (`shift_labels` aligns them). Positions
    whose label is `ignore_index` are skipped before any arithmetic.

    num_items: divide the summed loss by this (gradient accumulation); None divides by the number of labelled positions,
    which gives NaN when there is none, as torch does. softcap: logits become `c tanh(logits / c)`.

    Differentiable once, in hidden, weight and bias. Logits are taken to float32 (float64 stays) as transformers does;
    under autocast the projection runs in the autocast type. Returns a scalar.
    """
    if hidden.shape[:-1] != labels.shape:
        raise ValueError(f"hidden states of {tuple(hidden.shape[:-1])} positions cannot be scored against labels {tuple(labels.shape)}")
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}, it must be at least 1")
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
        hidden, weight, bias = hidden.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
    elif hidden.dtype != weight.dtype:
        hidden = hidden.to(weight.dtype)
    flat = hidden.reshape(-1, hidden.shape[-1])  # [N, H]
    targets = labels.reshape(-1).to(hidden.device)  # [N]
    rows = (targets != ignore_index).nonzero().squeeze(1)  # [K] positions with a label
    divisor = rows.numel() if num_items is None else num_items
    chunk = chunk_tokens or default_chunk_tokens(weight.shape[0], device)
    with torch.autocast(device, enabled=False):
        total: Tensor = _ChunkedSum.apply(flat, weight, bias, targets, rows, chunk, softcap, torch.is_grad_enabled())
        return total / torch.as_tensor(divisor, dtype=total.dtype, device=total.device)


def shift_labels(labels: Tensor, ignore_index: int = -100) -> Tensor:
    """Labels aligned with the positions that predict them: [B, T] -> [B, T], the last column ignored."""
    return nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]


class _ChunkedSum(torch.autograd.Function):
    """Summed cross-entropy; the gradients for an output gradient of 1 are made in the forward pass and scaled in
    backward.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        flat: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        rows: Tensor,
        chunk: int,
        softcap: float | None,
        differentiate: bool,
    ) -> Tensor:
        wants = [differentiate and needed for needed in ctx.needs_input_grad[:3]]
        wide = torch.float64 if flat.dtype == torch.float64 else torch.float32
        grad_flat = torch.zeros_like(flat) if wants[0] else None
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if wants[1] else None
        grad_bias = torch.zeros(bias.shape, dtype=wide, device=weight.device) if wants[2] and bias is not None else None
        total = torch.zeros((), dtype=wide, device=flat.device)
        for some in rows.split(chunk):  # [C]
            states = flat.index_select(0, some)  # [C, H]
            logits = states @ weight.T if bias is None else torch.addmm(bias, states, weight.T)  # [C, V]
            loss, grad = _loss_and_gradient(logits.to(wide), targets.index_select(0, some), softcap, any(wants))
            total += loss
            del logits  # else the next chunk would be made while this one is still held
            if grad is None:
                continue
            narrow = grad.to(weight.dtype)
            if grad_flat is not None:
                grad_flat.index_copy_(0, some, narrow @ weight)
            if grad_weight is not None:
                if narrow.dtype == wide:
                    grad_weight.addmm_(narrow.T, states)
                else:
                    grad_weight += narrow.T @ states
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            del grad, narrow
        ctx.save_for_backward(grad_flat, grad_weight, grad_bias)
        ctx.kinds = (flat.dtype, weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grads = [
            None if grad is None else (grad * output.to(grad.dtype)).to(kind)
            for grad, kind in zip(ctx.saved_tensors, ctx.kinds, strict=True)
        ]
        return (*grads, None, None, None, None, None)


def _loss_and_gradient(logits: Tensor, targets: Tensor, softcap: float | None, differentiate: bool) -> tuple[Tensor, Tensor | None]:
    """Summed loss of one chunk and its gradient by the logits, which it overwrites. [C, V], [C] -> scalar, [C, V]."""
    slope = None
    if softcap is not None:
        logits = torch.tanh_(logits / softcap)
        if differentiate:
            slope = 1.0 - logits.square()  # [C, V]
        logits = logits.mul_(softcap)
    chosen = targets.unsqueeze(1)  # [C, 1]
    logits -= logits.amax(1, keepdim=True)
    score = logits.gather(1, chosen)  # [C, 1]
    weights = logits.exp_()  # [C, V]
    mass = weights.sum(1, keepdim=True)  # [C, 1]
    loss = (mass.log() - score).sum()
    if not differentiate:
        return loss, None
    grad = weights.div_(mass)
    grad.scatter_add_(1, chosen, torch.full_like(score, -1.0))
    return loss, grad if slope is None else grad.mul_(slope)


@dataclass(frozen=True)
class Head:
    """How a model turns the hidden state into logits: `softcap(scale * hidden @ weight.T + bias)`."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None


def causal_lm_loss(
    model: nn.Module,
    inputs: Mapping[str, Any],
    num_items_in_batch: Tensor | int | None = None,
    chunk_tokens: int | None = None,
) -> Tensor:
    """The loss `model(**inputs).loss` without ever holding the logits.

    model: a transformers causal language model, or a PeftModel around one, in its current mode and adapters. inputs:
    what its forward takes, with `labels` [B, T] (unshifted, -100 where nothing is to be learnt) or `shift_labels`
    (aligned). num_items_in_batch: labelled tokens of the whole accumulated batch, as the Trainer counts them.

    The model's own forward runs, so adapters, autocast and checkpointing act as always; a hook at the output head takes
    the hidden states and hands on none. Raises UnsupportedHeadError when the head is not a plain linear layer.
    """
    given = {key: value for key, value in inputs.items() if key not in ("labels", "shift_labels")}
    aligned = inputs.get("shift_labels")
    labels = shift_labels(inputs["labels"]) if aligned is None else aligned
    head = head_of(model)
    hidden = hidden_before_head(model, {"use_cache": False, **given})
    return chunked_cross_entropy(
        hidden if head.scale == 1.0 else hidden * head.scale,
        head.weight,
        labels,
        chunk_tokens=chunk_tokens,
        num_items=num_items_in_batch,
        softcap=head.softcap,
        bias=head.bias,
    )


def hidden_before_head(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """Run the model and return what its output head was given, [B, T, H]; the head itself sees no position."""
    taken: list[Tensor] = []

    def take(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        taken.append(args[0])
        return (args[0][:, :0], *args[1:])

    hook = _head_module(model).register_forward_pre_hook(take)
    try:
        model(**inputs)
    finally:
        hook.remove()
    if len(taken) != 1:
        raise UnsupportedHeadError(f"The output head of {_name(model)} ran {len(taken)} times in one forward pass instead of once.")
    return taken[0]


def head_of(model: nn.Module) -> Head:
    """The output head of a model as it is used now: the trained copy of it when an adapter holds one.

    Raises UnsupportedHeadError, naming what is in the way: a LoRA or quantised head, virtual tokens, an auxiliary loss.
    """
    module = _used_module(_head_module(model))
    config = _base(model).config
    if type(module) is not nn.Linear:
        raise UnsupportedHeadError(
            f"The output head of {_name(model)} is a {type(module).__name__}, not a plain linear layer: train without "
            "chunked loss, "
            "or leave the head out of the adapter's target modules."
        )
    peft = getattr(model, "active_peft_config", None)
    if getattr(peft, "is_prompt_learning", False):
        raise UnsupportedHeadError(f"{_name(model)} prepends virtual tokens, which the labels do not have: train without chunked loss.")
    if getattr(config, "output_router_logits", False):
        raise UnsupportedHeadError(f"{_name(model)} adds a router loss of its own: set output_router_logits to false to train it.")
    scale = getattr(config, "logit_scale", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0
    return Head(module.weight, module.bias, float(scale), getattr(config, "final_logit_softcapping", None))


def why_not_chunked(model: nn.Module) -> str:
    """One sentence on why this model's loss cannot be chunked, or "" when it can.

    Beside the head's type it compares, on three tokens in evaluation mode, the model's own logits with those of
    `head_of`, so that an architecture that treats its logits in a way of its own is found here and not in a wrong loss.
    """
    try:
        head = head_of(model)
    except UnsupportedHeadError as error:
        return str(error)
    tokens = torch.arange(3, device=head.weight.device).unsqueeze(0) % head.weight.shape[0]  # [1, 3]
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            theirs = model(input_ids=tokens, use_cache=False).logits.float()  # [1, 3, V]
            hidden = hidden_before_head(model, {"input_ids": tokens, "use_cache": False})
            ours = nn.functional.linear((hidden * head.scale).to(head.weight.dtype), head.weight, head.bias).float()
            if head.softcap is not None:
                ours = head.softcap * torch.tanh(ours / head.softcap)
    finally:
        for module, mode in training.items():
            module.training = mode
    worst = float((theirs - ours).abs().max() / theirs.abs().max().clamp_min(1e-12))
    if worst <= HEAD_TOLERANCE:
        return ""
    return f"{_name(model)} changes its logits after the output head (relative difference {worst:.2g}): train without chunked loss."


def _base(model: nn.Module) -> Any:
    """The transformers model inside a PeftModel, or the model itself."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


def _name(model: nn.Module) -> str:
    return type(_base(model)).__name__


def _head_module(model: nn.Module) -> nn.Module:
    base = _base(model)
    getter = getattr(base, "get_output_embeddings", None)
    head = getter() if callable(getter) else None
    if not isinstance(head, nn.Module):
        raise UnsupportedHeadError(f"{_name(model)} has no output head: a causal language model is needed.")
    return head


def _used_module(head: nn.Module) -> nn.Module:
    """Look through PEFT's wrapper of a fully trained module: its active copy, or the original with adapters off."""
    copies = getattr(head, "modules_to_save", None)
    if copies is None:
        return head
    active = [name for name in getattr(head, "active_adapters", []) if name in copies]
    if getattr(head, "disable_adapters", False) or not active:
        return head.original_module  # type: ignore[return-value]
    if len(active) > 1:
        raise UnsupportedHeadError(f"The output head is trained by several adapters at once ({', '.join(active)}): activate one.")
    return copies[active[0]]  # type: ignore[index,no-any-return]
