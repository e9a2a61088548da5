"""What a profile does while a model generates: callables for transformers' `generate`, which need no torch import. (specs/guild.md 2.2.1)

Notation: B rows, T tokens so far (prompt included), V vocabulary entries. A processor serves one generation; it takes the first call's
tokens as the prompt, and begins anew when a call comes with no more tokens than the last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from guild.training.profiles.emoji_think import STOP, STOP_REQUEST, STOP_TIMES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

THINK_PENALTY = 80.0
THINK_SCHEDULE = ((4, 8.0), (4, 2.0), (4, 1.5))
"""(steps, factor) one after another; the factor is 1 afterwards."""
STOP_PENALTY = 100.0
STOP_GROWTH = 10.0
END_REWARD = 50.0
_MOST_GROWTH = 30  # 100 · 10³⁰ still fits a float32
_THINK_TOKEN = re.compile(r"</?think(?:ing)?>?", re.IGNORECASE)
_TIMES = {words: count for count, words in STOP_TIMES.items()}


class _Prompt:
    """Where the prompt ends: `generated` answers how many tokens stand behind it."""

    def __init__(self) -> None:
        self.length = self._last = 0

    def generated(self, total: int) -> int:
        if total <= self._last or not self._last:
            self.length = total
        self._last = total
        return total - self.length


class ThinkTagPenalty:
    """Lowers the scores of think-tag tokens: by 80 times the schedule's factor. A tokenizer that has no such token is left alone."""

    def __init__(
        self, tokens: Collection[int], penalty: float = THINK_PENALTY, schedule: Sequence[tuple[int, float]] = THINK_SCHEDULE
    ) -> None:
        self.tokens, self.penalty, self.schedule = sorted(tokens), penalty, tuple(schedule)
        self._prompt = _Prompt()

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> ThinkTagPenalty:
        """With the tokens of a vocabulary that are a think tag, or its beginning with the bracket."""
        return cls([i for text, i in tokenizer.get_vocab().items() if _THINK_TOKEN.fullmatch(text.strip())])

    def at(self, step: int) -> float:
        """The penalty at a step of the generation, from 0."""
        for steps, factor in self.schedule:
            if step < steps:
                return self.penalty * factor
            step -= steps
        return self.penalty

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = self._prompt.generated(input_ids.shape[1])
        tokens = [token for token in self.tokens if token < scores.shape[1]]
        if not tokens:
            return scores
        scores = scores.clone()
        scores[:, tokens] -= self.at(step)
        return scores


class StopEmojiHandling:
    """Ends an answer behind its stop emoji: every token but the end of turn loses 100, then ten times more per token, and the end of turn
    gains 50.

    The sequence is complete at the count that the prompt asks for; where it asks for none, at two of the same stop emoji.
    """

    def __init__(self, decode: Callable[[list[int]], str], ends: Collection[int], emojis: Sequence[str] = STOP) -> None:
        self.decode, self.ends, self.emojis = decode, sorted(ends), tuple(emojis)
        self._prompt = _Prompt()
        self._wanted: list[tuple[str, ...]] = []

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> StopEmojiHandling:
        """With a tokenizer's decoder and its end of turn: its end-of-text token and, where it has one, `<|im_end|>`."""
        vocabulary = tokenizer.get_vocab()
        ends = {tokenizer.eos_token_id, vocabulary.get("<|im_end|>")} - {None}
        return cls(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False)), [int(token) for token in ends])

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        generated = self._prompt.generated(input_ids.shape[1])
        rows = input_ids.tolist()
        if not generated:
            self._wanted = [self.wanted(self.decode(row)) for row in rows]
            return scores
        changed = None
        for at, row in enumerate(rows):
            behind = self.tokens_behind(row[self._prompt.length :], self._wanted[at])
            if behind is None:
                continue
            changed = scores.clone() if changed is None else changed
            kept = changed[at, self.ends] + END_REWARD
            changed[at] -= STOP_PENALTY * STOP_GROWTH ** min(behind, _MOST_GROWTH)
            changed[at, self.ends] = kept
        return scores if changed is None else changed

    def wanted(self, prompt: str) -> tuple[str, ...]:
        """The texts one of which completes an answer to this prompt."""
        asked = STOP_REQUEST.findall(prompt)
        return (asked[-1][0] * _TIMES[asked[-1][1]],) if asked else tuple(emoji * 2 for emoji in self.emojis)

    def tokens_behind(self, generated: Sequence[int], wanted: Sequence[str]) -> int | None:
        """How many tokens were generated behind the complete stop sequence; None while it is not complete."""
        count = len(generated)
        while count and any(text in self.decode(list(generated[:count])) for text in wanted):
            count -= 1
        behind = len(generated) - count - 1
        return behind if behind >= 0 else None
