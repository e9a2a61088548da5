"""The passkey probe: a number stated twice in one line of a long, empty text, asked for at the end.

Lineage: the passkey task of landmark attention (Mohtashami and Jaggi 2023). The wording here is our own and no
training row shares it; the keys are only those that training rows never hold (`keys.is_probe_key`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import TYPE_CHECKING

from modelwright.errors import UsageError
from modelwright.probes.keys import PROBE_KEY_MAX, PROBE_KEY_MIN, is_probe_key
from modelwright.probes.protocol import (
    LENGTH_TOLERANCE,
    ProbeItem,
    ProbeResult,
    Score,
    Variant,
    mean_result,
    stratified_depths,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_NEW_TOKENS = 10
PASSING_ACCURACY = 0.8
OPENING = "One line of this text holds a pass key.\n"
# Each sentence is shorter than 64 characters, so with any tokenizer a prompt of whole sentences falls less than 64
# tokens short.
FILLER = (
    "The road bends north past the mill. ",
    "Grey clouds drift over the low hills. ",
    "A cart waits by the gate until noon. ",
    "Someone has swept the yard again. ",
    "The river is slow and brown today. ",
    "Two crows sit on the long fence. ",
)
KEY_LINE = "\nNote this: the pass key is {key}. Once more, the pass key is {key}.\n"
QUESTION = "\nWhich pass key did the text hold?\n"
LEAD_IN = "The pass key is"
_INTEGER = re.compile(r"\d+")


@dataclass(frozen=True)
class Passkey:
    """Find one integer; accuracy is the share of items whose first generated integer is the key."""

    name: str = "passkey"
    metric: str = "accuracy"
    higher_is_better: bool = True
    min_length: int = 128
    max_new_tokens: int = MAX_NEW_TOKENS

    def build(self, tokenizer: PreTrainedTokenizerBase, length: int, n: int, seed: int, variant: Variant = "raw") -> list[ProbeItem]:
        """See `Probe.build`. Raises UsageError for a length too short for the fixed lines, or a chat variant without a
        chat template.
        """
        if variant == "chat" and not tokenizer.chat_template:
            raise UsageError("The chat variant of the passkey probe needs a tokenizer with a chat template; use the raw variant.")
        rng = Random(f"passkey:{length}:{seed}")
        depths = stratified_depths(n, rng)
        budget = length - self.max_new_tokens
        return [self._item(tokenizer, _draw_key(rng), depth, rng.randrange(len(FILLER)), budget, variant) for depth in depths]

    def score(self, item: ProbeItem, output: str) -> float:
        """1 when the first integer in `output` is the key, else 0."""
        found = _INTEGER.search(output)
        return float(found is not None and int(found.group()) == int(item.answer))

    def aggregate(self, scores: Sequence[Score], length: int) -> ProbeResult:
        """Mean accuracy with interval and depth table."""
        return mean_result(self, scores, length)

    def _item(self, tokenizer: PreTrainedTokenizerBase, key: int, depth: float, first: int, budget: int, variant: Variant) -> ProbeItem:
        @cache
        def encode(sentences: int, words: int = 0) -> tuple[int, ...]:
            return tuple(_encode(tokenizer, _prompt(key, depth, first, sentences, words), variant))

        fixed = len(encode(0))
        per_cycle = len(tokenizer("".join(FILLER), add_special_tokens=False)["input_ids"])
        guess = max(0, (budget - fixed) * len(FILLER) // per_cycle)
        sentences = _largest(lambda count: len(encode(count)), budget, guess)
        if sentences < 0 or budget - len(encode(sentences)) > LENGTH_TOLERANCE:
            raise UsageError(
                f"A passkey prompt cannot be built to {budget + self.max_new_tokens} tokens with this tokenizer: "
                "its fixed lines alone take "
                f"{fixed}, and {self.max_new_tokens} are kept for the answer."
            )
        words = _largest(lambda count: len(encode(sentences, count)), budget, 0)
        return ProbeItem(encode(sentences, words), str(key), depth, budget + self.max_new_tokens, self.max_new_tokens)


def passkey_summary(results: Iterable[ProbeResult]) -> dict[str, float | int | None]:
    """`passkey_context`: the longest tested length with accuracy of at least 0.8 (tokens, None when there is none);
    `passkey_accuracy`: the mean over the tested lengths up to it.
    """
    passed = sorted((result.length, result.mean) for result in results if result.name == "passkey")
    context = max((length for length, mean in passed if mean >= PASSING_ACCURACY), default=None)
    if context is None:
        return {"passkey_context": None, "passkey_accuracy": None}
    means = [mean for length, mean in passed if length <= context]
    return {"passkey_context": context, "passkey_accuracy": sum(means) / len(means)}


def _draw_key(rng: Random) -> int:
    while True:
        key = rng.randint(PROBE_KEY_MIN, PROBE_KEY_MAX)
        if is_probe_key(key):
            return key


def _prompt(key: int, depth: float, first: int, sentences: int, words: int) -> str:
    """The text without its lead-in: `sentences` of filler around the key line, then the first `words` words of the next
    sentence.
    """
    filler = [FILLER[(first + i) % len(FILLER)] for i in range(sentences)]
    before = round(depth * sentences)
    rest = " ".join(FILLER[(first + sentences) % len(FILLER)].split()[:words])
    return "".join([OPENING, *filler[:before], KEY_LINE.format(key=key), *filler[before:], rest, QUESTION])


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: str, variant: Variant) -> list[int]:
    """Token ids of the prompt with its lead-in; in the chat variant the lead-in opens the assistant's turn."""
    if variant == "raw":
        ids = list(tokenizer(prompt + LEAD_IN, verbose=False)["input_ids"])
        return ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids  # a closed text is not continued
    turn = [{"role": "user", "content": prompt.strip()}]
    text = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    return list(tokenizer(text + LEAD_IN, add_special_tokens=False, verbose=False)["input_ids"])


def _largest(size: Callable[[int], int], budget: int, guess: int) -> int:
    """The largest count with `size(count) <= budget`, searched outwards from `guess`; -1 when not even 0 fits.

    A size that stops growing (the words of the one last sentence) ends the search.
    """
    low, step = guess, 1
    while low >= 0 and size(low) > budget:
        low, step = low - step, step * 2
    if low < 0:
        if size(0) > budget:
            return -1
        low = 0
    high, step = low + 1, 1
    while size(high) <= budget:
        if size(high) == size(low) and high > low:
            return low
        low, high, step = high, high + step, step * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= budget else (low, middle)
    return low
