"""What training reads: all lines as one stream of tokens, and prefixes cut from it at random. (specs/medic.md, 4.1)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from cachemedicpp import seeds
from modelwright.errors import LoadError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_stream(tokenizer: PreTrainedTokenizerBase, lines: Sequence[str]) -> torch.Tensor:
    """The ids of all lines, one EOS token between two of them: int64 `[N]` on CPU. Raises LoadError without an EOS token."""
    if tokenizer.eos_token_id is None:
        raise LoadError("The tokenizer has no EOS token, which stands between two training texts; use the model's own tokenizer.")
    ids: list[int] = []
    for line in lines:
        if ids:
            ids.append(int(tokenizer.eos_token_id))
        ids += tokenizer(line, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.int64)


def draw_prefixes(stream: torch.Tensor, length: int, *, seed: int, step: int, batch: int) -> torch.Tensor:
    """`batch` stretches of `length` tokens for one training step, their starts uniform: int64 `[batch, length]`.

    seed: the run's. Row `i` of step `s` is the same in every batch size and after every resume. Raises UsageError when
    the stream is shorter than a prefix.
    """
    starts = stream.numel() - length + 1
    if starts < 1:
        raise UsageError(f"The training text has {stream.numel()} tokens, fewer than train.prefix_len {length}; give more text.")
    rows = []
    for row in range(batch):
        generator = seeds.generator(seed + seeds.TRAINING_DATA_OFFSET, seeds.TRAINING_TEXT, seeds.TRAIN, step, row)
        first = int(torch.randint(starts, (), generator=generator))
        rows.append(stream[first : first + length])
    return torch.stack(rows)
