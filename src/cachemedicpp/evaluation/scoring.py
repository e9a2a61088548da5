"""From logits on a (damaged) cache to the score of every example, and to greedy answers. (specs/medic.md, 6.1 and [C25])

The caller gives one function, `TailLogits`: it runs one tail per example on that example's cache and returns the logits.
It is called several times per batch and must start from the same cache each time (fork it). All numbers are taken from
float32 logits.

    scores = score_batch(examples, tail_logits)
    value = task_value("sst2_prompted", scores)
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from cachemedicpp.evaluation.outcomes import ExampleScore
from cachemedicpp.inputs.tasks import Example, Ids
from modelwright.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TailLogits = Callable[[Sequence[Ids]], torch.Tensor]
"""Tails of the batch's examples, in order → logits `[B, n, V]` of any float type, `n` the longest tail; row `i` has its
own tail at positions `0 .. len(tail) - 1`, what stands behind is ignored (so pad tails on the right)."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def score_batch(examples: Sequence[Example], tail_logits: TailLogits) -> list[ExampleScore]:
    """The score of every example of one batch; all must have equally many continuations.

    A choice is right when the answer is strictly more probable than every other candidate (where `tie_wins`, at least as
    probable). A NaN is never right. Raises UsageError for mixed examples or logits of a wrong shape.
    """
    counts = {len(example.continuations) for example in examples}
    if len(counts) != 1:
        raise UsageError(f"A batch holds examples with {sorted(counts)} continuations; score one task at a time.")
    held: dict[tuple[Ids, ...], torch.Tensor] = {}  # one-token labels share one tail, which then runs once
    columns = []
    for number in range(counts.pop()):
        tails = tuple(example.tail(number) for example in examples)
        if tails not in held:
            held = {tails: _checked(tail_logits(tails), tails)}
        columns.append([_log_probability(example, number, row) for example, row in zip(examples, held[tails], strict=True)])
    return [_scored(example, sums) for example, sums in zip(examples, zip(*columns, strict=True), strict=True)]


def greedy_answers(examples: Sequence[Example], tail_logits: TailLogits, max_new_tokens: int) -> list[list[int]]:
    """Greedy continuations (token ids) of prefix and lead, `max_new_tokens` each.

    Every token runs lead and answer so far anew on the same cache, so damage is read again as in real decoding and the
    caller needs no second function; meant for answers of a few tokens. The first of equal maxima wins.
    """
    answers: list[list[int]] = [[] for _ in examples]
    for _ in range(max_new_tokens):
        tails = tuple(example.lead + tuple(answer) for example, answer in zip(examples, answers, strict=True))
        logits = _checked(tail_logits(tails), tails)
        for answer, tail, row in zip(answers, tails, logits, strict=True):
            answer.append(int(row[len(tail) - 1].float().argmax()))
    return answers


def exact_matches(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], answers: Sequence[Sequence[int]]) -> list[bool]:
    """Whether each greedy answer says the right continuation: its first words, compared in lower case without punctuation.

    Only as many words count as the right continuation has. Raises UsageError for an example without an answer.
    """
    return [_says(tokenizer, example, answer) for example, answer in zip(examples, answers, strict=True)]


def normalised_answer(text: str) -> str:
    """`text` in lower case, without punctuation, words parted by single blanks."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def answer_tokens(examples: Sequence[Example]) -> int:
    """How many tokens `greedy_answers` must make: those of the longest candidate, and one that ends its last word."""
    return max(len(continuation) for example in examples for continuation in example.continuations) + 1


def _says(tokenizer: PreTrainedTokenizerBase, example: Example, answer: Sequence[int]) -> bool:
    if example.answer is None:
        raise UsageError(f"Example {example.index} of {example.task} has no right answer to compare with; exact match is for choices.")
    wanted = normalised_answer(str(tokenizer.decode(list(example.continuations[example.answer]), skip_special_tokens=True))).split()
    found = normalised_answer(str(tokenizer.decode(list(answer), skip_special_tokens=True))).split()
    return bool(wanted) and found[: len(wanted)] == wanted


def _checked(logits: torch.Tensor, tails: Sequence[Ids]) -> torch.Tensor:
    longest = max(map(len, tails))
    if logits.ndim != 3 or logits.shape[0] != len(tails) or logits.shape[1] < longest:
        raise UsageError(f"The logits have the shape {list(logits.shape)}; needed is [{len(tails)}, {longest}, vocabulary].")
    return logits


def _log_probability(example: Example, number: int, logits: torch.Tensor) -> float:
    """Sum of the log-probabilities (nats) of a continuation's tokens; logits `[n, V]` of the row. Float32, summed in float64."""
    targets = torch.tensor(example.continuations[number], device=logits.device)
    first = len(example.lead) - 1
    rows = logits[first : first + len(targets)].float()
    chosen = rows.gather(1, targets[:, None]).squeeze(1) - rows.logsumexp(dim=1)
    return chosen.detach().double().sum().item()


def _scored(example: Example, sums: Sequence[float]) -> ExampleScore:
    correct: bool | None = None
    if example.answer is not None:
        own = sums[example.answer]
        others = [value for number, value in enumerate(sums) if number != example.answer]
        correct = all(own > other or (example.tie_wins and own == other) for other in others)
    return ExampleScore(
        task=example.task,
        index=example.index,
        item=example.item,
        tokens=sum(map(len, example.continuations)),
        loss=-sums[0] if example.answer is None else -sums[example.answer],
        correct=correct,
        log_probabilities=tuple(value if math.isfinite(value) else None for value in sums),
    )
