"""How probable a model finds tokens: those that it chose, and those of a golden answer. Torch is imported inside functions.

Notation: B rows, T tokens of the longest row, A tokens of the longest answer, V vocabulary entries. Logarithms are natural.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LOGITS_BYTES = 512 * 2**20
"""Of the scores of one forward pass at most, by which its rows are limited: a row of 300 tokens over 150,000 entries has 180 MB."""


class ChosenProbabilities:
    """A processor for `generate` that changes no score and remembers the log-probability of every token that was chosen.

    As the first processor it sees the model's own distribution, before a profile forbids or favours anything.
    """

    def __init__(self) -> None:
        self._scores_BV: torch.Tensor | None = None
        self._chosen: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._choose(input_ids[:, -1])
        self._scores_BV = scores.float().log_softmax(-1)
        return scores

    def finish(self, made_BT: torch.Tensor) -> list[list[float]]:
        """One log-probability for each generated token `[B, T]`, those behind an answer's end too. made_BT: what was generated, with or
        without the prompt."""
        import torch

        self._choose(made_BT[:, -1])
        found = torch.stack(self._chosen, dim=1).tolist() if self._chosen else [[] for _ in made_BT]
        self._scores_BV, self._chosen = None, []
        return found

    def _choose(self, token_B: torch.Tensor) -> None:
        if self._scores_BV is not None:
            self._chosen.append(self._scores_BV.gather(-1, token_B[:, None].to(self._scores_BV.device))[:, 0])


def rows_at_once(answer_tokens: int, vocabulary: int, most: int) -> int:
    """How many rows with answers of so many tokens one forward pass takes: `most`, or as many as `LOGITS_BYTES` hold in 32 bits."""
    return max(1, min(most, LOGITS_BYTES // (4 * vocabulary * (answer_tokens + 1))))


def answer_losses(model: PreTrainedModel, rows: Sequence[Sequence[int]], answers: Sequence[int], pad: int) -> list[float]:
    """Mean negative log-likelihood of the end of each row, nats per token, by one teacher-forced forward pass.

    rows: token ids, prompt and answer. answers: how many of a row's last tokens are the answer, at least one and fewer than all. pad: an
    id that is masked. Rows are padded on the left, so that the answers end in one column and scores are made for these columns alone.
    """
    import torch

    width, longest = max(map(len, rows)), max(answers)
    ids_BT = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=model.device)
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
    optional: dict[str, Any] = {"position_ids": positions_BT, "logits_to_keep": longest + 1, "use_cache": False}
    known = inspect.signature(model.forward).parameters
    with torch.inference_mode():
        scores_BTV = model(ids_BT, attention_mask=mask_BT, **{name: value for name, value in optional.items() if name in known}).logits
        scores_BAV = scores_BTV[:, -longest - 1 : -1]  # the scores at a token are those of the next one
        losses = [
            torch.nn.functional.cross_entropy(scores_AV[-count:].float(), ids_T[-count:])
            for scores_AV, ids_T, count in zip(scores_BAV, ids_BT, answers, strict=True)
        ]
        return [float(loss) for loss in torch.stack(losses).tolist()]
