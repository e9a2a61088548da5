"""Batches for training: every step's rows are a function of the seed and the step alone, which makes resuming exact.

A batch is `[B, T]` token ids and `[B, T]` loss weights: 0 for a token that carries no loss, 1 for text,
`ANSWER_WEIGHT` for answers, of which there are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from modelwright.tiny import dialogues, rows
from modelwright.tiny.recipe import Stage
from modelwright.tiny.rows import Encode, Piece

if TYPE_CHECKING:
    import torch


ANSWER_WEIGHT = 4.0


@dataclass(frozen=True, repr=False)
class TrainingData:
    """What rows are made from: the training half as one token stream and as texts, the encoder, and the ids that
    matter.

    `stream` is `[N]` int32, files separated by `end_of_text`; ids from `first_plain` up are ordinary text.
    """

    stream: torch.Tensor
    sources: Sequence[str]
    encode: Encode
    vocabulary_size: int
    first_plain: int
    pad: int


def make_batch(data: TrainingData, stage: Stage, seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch of one step: ids `[B, T]` int64 and loss weights `[B, T]` float32, the first column always 0."""
    import torch

    rng = Random(f"batch-{seed}-{step}")
    ids = torch.full((stage.rows, stage.length), data.pad, dtype=torch.int64)
    weights = torch.zeros((stage.rows, stage.length))
    kinds, shares = zip(*stage.mixture, strict=True)
    for row in range(stage.rows):
        kind = rng.choices(kinds, shares)[0]
        if kind == "text":
            start = rng.randrange(len(data.stream) - stage.length)
            ids[row] = data.stream[start : start + stage.length]
            weights[row] = 1.0
            continue
        tokens, answers = _synthetic_row(data, kind, rng, stage.length)
        count = min(len(tokens), stage.length)
        ids[row, :count] = torch.tensor(tokens[:count])
        weights[row, :count] = torch.tensor(answers[:count]) * (1.0 if kind == "repeat" else ANSWER_WEIGHT)
    weights[:, 0] = 0.0
    return ids, weights


def _synthetic_row(data: TrainingData, kind: str, rng: Random, length: int) -> tuple[list[int], list[bool]]:
    if kind == "repeat":
        return repeated_tokens(rng, length, data.first_plain, data.vocabulary_size)
    if kind == "recall":
        pieces = rows.recall_pieces(rng, length if rng.random() < 0.8 else rng.randint(length // 2, length), data.encode, data.sources)
    elif kind == "lookup":
        pieces = rows.lookup_pieces(rng, length, data.encode)
    elif kind == "instruction":
        pieces = dialogues.instruction_pieces(rng, length, data.encode)
    elif kind == "sentiment":
        pieces = dialogues.sentiment_pieces(rng, length, data.encode)
    else:
        raise ValueError(f"row kind is {kind!r}; allowed are text, repeat, recall, lookup, instruction, sentiment")
    return tokenise(pieces, data.encode)


def tokenise(pieces: Sequence[Piece], encode: Encode) -> tuple[list[int], list[bool]]:
    """Token ids of a row and, for each, whether it is part of an answer."""
    tokens: list[int] = []
    answers: list[bool] = []
    for text, answer in pieces:
        encoded = encode(text)
        tokens.extend(encoded)
        answers.extend([answer] * len(encoded))
    return tokens, answers


def repeated_tokens(rng: Random, length: int, low: int, high: int) -> tuple[list[int], list[bool]]:
    """A random run of ids in `low..high-1`, repeated to fill the row, with a loss on every repetition: what induction
    heads learn from.
    """
    period = rng.randint(4, max(5, length // 2))
    run = [rng.randrange(low, high) for _ in range(period)]
    tokens = [run[position % period] for position in range(length)]
    return tokens, [position > period for position in range(length)]
