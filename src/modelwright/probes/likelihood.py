"""Token losses of a causal LM over a long row, without ever holding the logits of the whole row.

The trunk runs once and leaves hidden states [T, hidden]; the output head then runs over a few hundred positions at a
time. A model whose logits are more than its head (soft caps, logit scales) is noticed by comparing on the first
positions, and then its own forward pass is asked for a few positions at a time: slower, always right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelwright.probes.quiet import start_afresh

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_COMPARED = 8  # positions


def token_losses(model: PreTrainedModel, ids: list[int], scored: int, chunk: int) -> torch.Tensor:
    """Negative log-likelihoods in nats of the last `scored` tokens of `ids`, each given all tokens before it: float32
    [scored].

    `chunk` is how many positions have logits at once. Call inside `undisturbed` (eval mode, no gradients).
    """
    import torch

    row = torch.tensor([ids], device=model.device)
    first = len(ids) - 1 - scored  # the position that predicts the first scored token
    losses = []
    start_afresh(model)
    hidden = _trunk_output(model, row, first)
    for at in range(first, len(ids) - 1, chunk):
        positions = torch.arange(at, min(at + chunk, len(ids) - 1), device=row.device)
        if hidden is None:
            logits = model(input_ids=row, use_cache=False, logits_to_keep=positions).logits[0]
        else:
            logits = model.get_output_embeddings()(hidden[positions - first])
        targets = row[0, positions + 1]
        losses.append(torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none"))
    return torch.cat(losses)


def _trunk_output(model: PreTrainedModel, row: torch.Tensor, first: int) -> torch.Tensor | None:
    """Hidden states [T - first, hidden] that the head takes, from position `first` on; None when the head alone does
    not
    make the logits.
    """
    import torch

    causal: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    trunk, head = causal.get_decoder(), causal.get_output_embeddings()
    # An adapter that adds tokens in front (prefix tuning) works outside the trunk, so the trunk alone would ignore it.
    if trunk is causal or head is None or getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return None
    sample = row[:, :_COMPARED]
    expected = model(input_ids=sample, use_cache=False).logits
    start_afresh(model)
    found = head(trunk(input_ids=sample, use_cache=False).last_hidden_state)
    if not torch.equal(found, expected):  # the same computation twice is bit-equal, so any difference is a real one
        return None
    return trunk(input_ids=row, use_cache=False).last_hidden_state[0, first:]  # type: ignore[no-any-return]
