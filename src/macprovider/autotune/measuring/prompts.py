"""Prompts of a wanted length that each begin differently: filler prose and a fixed question. Pure. (specs/autotune.md, 5.3)"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice

CHARACTERS_PER_TOKEN = 4.0
"""The guess before the first answer tells better."""
WARM_UP_SHARE = 0.75
AIM = 0.95
"""Share of the ceiling that a measured prompt aims at: at least 0.9 must be reached, 1 must never be passed."""
MARGIN = 8
"""Tokens that a measured prompt stays below the ceiling: openings take more tokens for their length than filler, which a prompt of
less than 160 tokens feels."""
QUESTION = "Write a long and detailed story that visits every one of these places."
"""Asks for more than `--max-tokens` holds: answers of equal length make throughputs comparable."""
_SUBJECTS = (
    "harbour", "orchard", "library", "railway", "workshop", "lighthouse", "market", "garden", "observatory", "bakery", "theatre",
    "quarry", "vineyard", "museum", "mill", "foundry", "school", "printing house", "ferry", "greenhouse", "archive", "clinic", "tannery",
    "post office", "reservoir", "chapel", "brewery", "dairy", "sawmill", "boatyard", "windmill",
)  # fmt: skip
_SENTENCES = (
    "The {} opened again in spring after a long winter of repairs.",
    "Two people keep the {} running, and both write everything down.",
    "Visitors to the {} often ask why the old clock still works.",
    "Nobody at the {} remembers who painted the door green.",
    "Last year the {} was given a new roof and a better pump.",
    "Every evening somebody at the {} counts what is left and what is missing.",
    "A letter about the {} arrived late, and nobody has answered it yet.",
)
_LINES = tuple(_SENTENCES[place % len(_SENTENCES)].format(subject) for place, subject in enumerate(_SUBJECTS * len(_SENTENCES)))
"""Every subject in every sentence: the counts of both have no common factor."""


@dataclass(frozen=True)
class Sizing:
    """How long a model's prompts must be. characters_per_token: of the whole message, the chat template's own tokens included."""

    characters_per_token: float = CHARACTERS_PER_TOKEN
    measured: bool = False

    def corrected(self, characters: int, prompt_tokens: int | None) -> Sizing:
        """After a warm-up of so many characters that the server counted as so many tokens; once only."""
        if self.measured or not prompt_tokens or prompt_tokens <= 0:
            return self
        return Sizing(characters / prompt_tokens, True)


def ceiling(target_context: int, max_tokens: int) -> int:
    """The most prompt tokens that leave room for the answer."""
    return max(1, target_context - max_tokens)


def warm_up_prompt(number: int, sizing: Sizing, target_context: int, max_tokens: int, scale: float = 1.0) -> str:
    """The disposable prompt. scale: below 1 after the server said that it was too long."""
    return prompt(number, int(WARM_UP_SHARE * scale * ceiling(target_context, max_tokens) * sizing.characters_per_token))


def measured_prompt(number: int, sizing: Sizing, target_context: int, max_tokens: int) -> str:
    """A prompt that fills the target context but for the answer."""
    most = ceiling(target_context, max_tokens)
    tokens = min(AIM * most, max(1, most - MARGIN)) if sizing.measured else WARM_UP_SHARE * most
    return prompt(number, int(tokens * sizing.characters_per_token))


def prompt(number: int, characters: int) -> str:
    """About so many characters, never more than a word over, beginning differently for every number."""
    opening = _opening(number)
    room = characters - len(QUESTION) - len(opening) - 2
    start = number * 37 % len(_LINES)
    if room <= 0:  # no question then: the length comes first
        filler = " ".join(islice(_words(start), max(1, characters)))
        return f"{opening} {filler}"[: max(1, characters)]
    words: list[str] = []
    length = 0
    for word in _words(start):
        length += len(word) + 1
        if length > room:
            break
        words.append(word)
    return f"{opening} {' '.join(words)} {QUESTION}"


def _opening(number: int) -> str:
    """A few words that differ from the first one on."""
    first, second = _SUBJECTS[number % len(_SUBJECTS)], _SUBJECTS[number // len(_SUBJECTS) % len(_SUBJECTS)]
    return f"{first.capitalize()} and {second}, page {number}."


def _words(start: int) -> Iterator[str]:
    for line in cycle(islice(cycle(_LINES), start, start + len(_LINES))):
        yield from line.split()
