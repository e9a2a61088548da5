"""Families about letters and words."""

from __future__ import annotations

from random import Random
from string import ascii_lowercase

from guild.evaluation.families.family import WORDS, Family, Problem


def _letters(rng: Random, count: int) -> str:
    return "".join(rng.choice(ascii_lowercase) for _ in range(count))


def _copy(rng: Random, rank: int) -> Problem:
    text = " ".join(_letters(rng, rng.randint(3, 6)) for _ in range((1, 3, 8)[rank]))
    return Problem(f"Write this text again: {text}", text)


def _reverse(rng: Random, rank: int) -> Problem:
    text = rng.choice(WORDS) if rank == 0 else _letters(rng, (7, 14)[rank - 1])
    return Problem(f"Write these letters in reverse order: {text}", text[::-1])


def _count_letter(rng: Random, rank: int) -> Problem:
    text = " ".join(rng.sample(WORDS, (1, 3, 7)[rank]))
    letter = rng.choice(sorted(set(text.replace(" ", ""))))
    return Problem(f'How often does the letter "{letter}" stand in: {text}?', str(text.count(letter)))


def _slice(rng: Random, rank: int) -> Problem:
    text = _letters(rng, (6, 10, 18)[rank])
    first = rng.randint(1, len(text) - 3)
    last = rng.randint(first + 1, min(len(text), first + (2, 4, 9)[rank]))
    return Problem(f"Write the letters {first} to {last} of {text}, counted from 1, both included.", text[first - 1 : last])


def _replace_letter(rng: Random, rank: int) -> Problem:
    text = " ".join(rng.sample(WORDS, (1, 2, 4)[rank]))
    old = rng.choice(sorted(set(text.replace(" ", ""))))
    new = rng.choice([letter for letter in ascii_lowercase if letter != old])
    return Problem(f'Write this with every "{old}" changed to "{new}": {text}', text.replace(old, new))


def _letter_shift(rng: Random, rank: int) -> Problem:
    text, by = _letters(rng, (3, 5, 8)[rank]), (1, rng.randint(1, 3), rng.randint(3, 12))[rank]
    moved = "".join(ascii_lowercase[(ascii_lowercase.index(letter) + by) % 26] for letter in text)
    return Problem(f"Move every letter of {text} forward by {by} in the alphabet; after z comes a.", moved)


def _vowel_count(rng: Random, rank: int) -> Problem:
    text = " ".join(rng.sample(WORDS, (2, 4, 7)[rank]))
    return Problem(f"How many of the letters a, e, i, o and u stand in: {text}?", str(sum(letter in "aeiou" for letter in text)))


FAMILIES = (
    Family("copy", "text", _copy),
    Family("reverse", "text", _reverse),
    Family("count_letter", "number", _count_letter),
    Family("slice", "text", _slice),
    Family("replace_letter", "text", _replace_letter),
    Family("letter_shift", "text", _letter_shift),
    Family("vowel_count", "number", _vowel_count),
)
