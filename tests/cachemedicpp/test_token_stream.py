"""The training text as a stream, and the prefixes drawn from it."""

from __future__ import annotations

import pytest
import torch

from cachemedicpp.inputs.token_stream import draw_prefixes, token_stream
from helpers.tiny_random import byte_tokenizer
from modelwright.errors import UsageError


def test_lines_are_joined_by_the_closing_token() -> None:
    tokenizer = byte_tokenizer()
    stream = token_stream(tokenizer, ["ab", "c"])
    assert tokenizer.decode(stream) == "ab<|im_end|>c" and stream.shape == (4,)


def test_prefixes_depend_on_seed_step_and_row_alone() -> None:
    stream = torch.arange(500)
    drawn = draw_prefixes(stream, 20, seed=3, step=7, batch=4)
    assert drawn.shape == (4, 20) and torch.equal(drawn - drawn[:, :1], torch.arange(20).expand(4, 20))
    assert torch.equal(drawn[:2], draw_prefixes(stream, 20, seed=3, step=7, batch=2))
    assert len({int(row[0]) for row in drawn}) > 1
    for other in ({"seed": 4, "step": 7}, {"seed": 3, "step": 8}):
        assert not torch.equal(drawn, draw_prefixes(stream, 20, batch=4, **other))


def test_starts_cover_the_whole_stream_and_no_more() -> None:
    stream = torch.arange(12)
    starts = {int(draw_prefixes(stream, 10, seed=0, step=step, batch=1)[0, 0]) for step in range(60)}
    assert starts == {0, 1, 2}
    assert torch.equal(draw_prefixes(stream, 12, seed=0, step=0, batch=1)[0], stream)
    with pytest.raises(UsageError, match=r"12 tokens, fewer than train\.prefix_len 13"):
        draw_prefixes(stream, 13, seed=0, step=0, batch=1)
