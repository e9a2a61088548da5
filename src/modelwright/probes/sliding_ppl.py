"""Perplexity by length, under two protocols that are named in every result.

* `truncated`: each document is cut to the length and read in one pass, the beginning-of-text token in front when the
  tokenizer has one (it counts towards the length). The protocol behind the perplexity tables of YaRN (Peng et al.
  2024).
* `sliding`: a window of the length moves over the whole document by `stride` tokens; the first window scores all its
  tokens, each later one only its last `stride`, which then have at least length - stride tokens of context (Press et
  al. 2022, section on sliding windows).

Where a document fits one window both are the same number. Two averages are given: over tokens, and the mean of window
losses without weights, which published code uses. Bits per byte divides by UTF-8 bytes, so tokenizers can be
compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from modelwright.errors import LoadError, UsageError
from modelwright.probes.likelihood import token_losses
from modelwright.probes.quiet import undisturbed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Protocol = Literal["truncated", "sliding"]
PROTOCOLS: tuple[Protocol, ...] = ("truncated", "sliding")
DEFAULT_STRIDE = 256


@dataclass(frozen=True)
class PerplexityResult:
    """Perplexity of some documents at one length. `nll` is the total negative log-likelihood in nats over `tokens`
    scored tokens.
    """

    name: str
    protocol: Protocol
    length: int
    stride: int | None
    bos: bool
    documents: int
    skipped_documents: int
    windows: int
    tokens: int
    bytes: int
    nll: float
    perplexity: float
    perplexity_window_mean: float
    bits_per_byte: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return asdict(self)


class PerplexityStopped(Exception):
    """`should_stop` said so between two windows; nothing is reported for the unfinished length."""


@dataclass(frozen=True)
class _Text:
    """Token ids with the number of UTF-8 bytes of text up to and including each (0 for a token put in front)."""

    ids: list[int]
    bytes_to: list[int]


@dataclass(frozen=True)
class _Window:
    """A stretch of a document; only its last `scored` tokens count."""

    ids: list[int]
    scored: int


def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    length: int,
    *,
    protocol: Protocol = "truncated",
    stride: int = DEFAULT_STRIDE,
    full_only: bool = False,
    logits_chunk: int = 512,
    should_stop: Callable[[], bool] = lambda: False,
) -> PerplexityResult:
    """Perplexity of `texts` at `length` tokens.

    `full_only` leaves out documents shorter than `length`, so that a curve over lengths compares the same documents
    when the longest length decides. `logits_chunk` is the number of positions whose logits are held at once. The
    model is left as it was found. Raises UsageError for a wrong argument, LoadError when no document is left,
    PerplexityStopped.
    """
    _check(protocol, length, stride, logits_chunk)
    start = time.perf_counter()
    documents = [_encode(text, tokenizer) for text in texts]
    usable = [document for document in documents if len(document.ids) >= (length if full_only else 2)]
    if not usable:
        raise LoadError(f"No text can be scored at {length} tokens: {len(documents)} were given and all are too short.")
    total = window_losses = 0.0
    windows = tokens = covered = 0
    with undisturbed(model):
        for document in usable:
            ids = document.ids[:length] if protocol == "truncated" else document.ids
            covered += document.bytes_to[len(ids) - 1] - document.bytes_to[0]
            for window in _windows(ids, length, stride):
                if should_stop():
                    raise PerplexityStopped("the perplexity measurement was stopped between two windows")
                losses = token_losses(model, window.ids, window.scored, logits_chunk).double()
                total += float(losses.sum())
                window_losses += float(losses.mean())
                windows += 1
                tokens += window.scored
    return PerplexityResult(
        name=f"sliding_ppl_{protocol}",
        protocol=protocol,
        length=length,
        stride=stride if protocol == "sliding" else None,
        bos=tokenizer.bos_token_id is not None,
        documents=len(usable),
        skipped_documents=len(documents) - len(usable),
        windows=windows,
        tokens=tokens,
        bytes=covered,
        nll=total,
        perplexity=_exp(total / tokens),
        perplexity_window_mean=_exp(window_losses / windows),
        bits_per_byte=total / math.log(2) / max(covered, 1),
        seconds=time.perf_counter() - start,
    )


def doubling_lengths(shortest: int, longest: int) -> list[int]:
    """The lengths of a curve: `shortest`, doubled while below `longest`, then `longest`."""
    lengths = []
    length = shortest
    while length < longest:
        lengths.append(length)
        length *= 2
    return [*lengths, longest]


def _windows(ids: Sequence[int], length: int, stride: int) -> Iterator[_Window]:
    """The windows over one document. The very first token has no context and is never scored."""
    end = min(length, len(ids))
    yield _Window(list(ids[:end]), end - 1)
    while end < len(ids):
        new_end = min(end + stride, len(ids))
        yield _Window(list(ids[max(0, new_end - length) : new_end]), new_end - end)
        end = new_end


def _encode(text: str, tokenizer: PreTrainedTokenizerBase) -> _Text:
    if tokenizer.is_fast:
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = list(encoding["input_ids"])
        ends = [end for _, end in encoding["offset_mapping"]]
        sizes = _byte_positions(text)
        bytes_to = [sizes[end] for end in ends]
    else:
        ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        whole = len(text.encode())  # without offsets, bytes are spread evenly over the tokens
        bytes_to = [round(whole * (i + 1) / len(ids)) for i in range(len(ids))]
    if tokenizer.bos_token_id is not None:
        ids, bytes_to = [tokenizer.bos_token_id, *ids], [0, *bytes_to]
    return _Text(ids, bytes_to)


def _byte_positions(text: str) -> list[int]:
    """UTF-8 bytes before each character position, the end included."""
    if text.isascii():
        return list(range(len(text) + 1))
    positions = [0]
    for character in text:
        positions.append(positions[-1] + len(character.encode("utf-8", "surrogatepass")))
    return positions


def _exp(value: float) -> float:
    """exp, infinite instead of an error where it is too large."""
    return math.exp(value) if value < 700 else math.inf


def _check(protocol: str, length: int, stride: int, logits_chunk: int) -> None:
    if protocol not in PROTOCOLS:
        raise UsageError(f"The perplexity protocol is {protocol!r}; allowed are {', '.join(PROTOCOLS)}.")
    if length < 2 or logits_chunk < 1:
        raise UsageError(f"The length is {length} and logits_chunk {logits_chunk}; at least 2 and 1 are needed.")
    if protocol == "sliding" and not 1 <= stride <= length:
        raise UsageError(f"The stride is {stride}; it must lie between 1 and the length ({length}).")
