"""Families about lists."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from random import Random

from guild.evaluation.families.family import WORDS, Family, Problem, comma

_LENGTH = (4, 7, 12)
_MOST = (20, 100, 1000)


def _numbers(rng: Random, rank: int) -> list[int]:
    return rng.sample(range(1, _MOST[rank]), _LENGTH[rank])


def _words(rng: Random, rank: int) -> list[str]:
    return rng.sample(WORDS, (3, 6, 10)[rank])


def _sort_numbers(rng: Random, rank: int) -> Problem:
    numbers = _numbers(rng, rank)
    return Problem(f"Sort these numbers from the smallest to the largest: {comma(numbers)}", comma(sorted(numbers)))


def _sort_words(rng: Random, rank: int) -> Problem:
    words = _words(rng, rank)
    return Problem(f"Sort these words alphabetically: {comma(words)}", comma(sorted(words)))


def _reverse_list(rng: Random, rank: int) -> Problem:
    words = _words(rng, rank)
    return Problem(f"Write this list in reverse order: {comma(words)}", comma(words[::-1]))


def _nth_item(rng: Random, rank: int) -> Problem:
    words = _words(rng, rank)
    at = rng.randrange(len(words))
    place = f"number {at + 1} from the {'end' if rank == 2 else 'beginning'}"
    return Problem(f"Which word is {place} of this list: {comma(words)}?", words[-at - 1] if rank == 2 else words[at])


def _deduplicate(rng: Random, rank: int) -> Problem:
    few = _words(rng, rank)[: (3, 4, 6)[rank]]
    items = [rng.choice(few) for _ in range((5, 8, 14)[rank])]
    return Problem(f"Write each item of this list once, in the order of its first place: {comma(items)}", comma(list(dict.fromkeys(items))))


def _filter_numbers(rng: Random, rank: int) -> Problem:
    numbers = _numbers(rng, rank)
    limit = sorted(numbers)[len(numbers) // 2]
    if rank == 0:
        return Problem(
            f"Which of these numbers are larger than {limit - 1}, in their order: {comma(numbers)}?", comma(_from(numbers, limit))
        )
    even = [number for number in numbers if number % 2 == 0 and (rank == 1 or number >= limit)]
    if not even:
        return _filter_numbers(rng, rank)
    more = "" if rank == 1 else f" and larger than {limit - 1}"
    return Problem(f"Which of these numbers are even{more}, in their order: {comma(numbers)}?", comma(even))


def _from(numbers: list[int], limit: int) -> list[int]:
    return [number for number in numbers if number >= limit]


def _running_total(rng: Random, rank: int) -> Problem:
    numbers = [rng.randint(1, (9, 30, 200)[rank]) for _ in range((3, 5, 7)[rank])]
    return Problem(f"Write the running totals of this list, one for each number: {comma(numbers)}", comma(list(accumulate(numbers))))


def _most_frequent(rng: Random, rank: int) -> Problem:
    few = _words(rng, rank)[: (2, 3, 5)[rank]]
    while True:
        items = [rng.choice(few) for _ in range((5, 9, 17)[rank])]
        counted = Counter(items).most_common(2)
        if len(counted) == 1 or counted[0][1] > counted[1][1]:
            return Problem(f"Which word stands most often in this list: {comma(items)}?", counted[0][0])


def _extremes(rng: Random, rank: int) -> Problem:
    numbers = _numbers(rng, rank)
    if rank < 2:
        largest = rng.random() < 0.5
        asked = "largest" if largest else "smallest"
        return Problem(f"Which is the {asked} of these numbers: {comma(numbers)}?", str(max(numbers) if largest else min(numbers)))
    return Problem(f"Which is the second largest of these numbers: {comma(numbers)}?", str(sorted(numbers)[-2]))


FAMILIES = (
    Family("sort_numbers", "list", _sort_numbers),
    Family("sort_words", "list", _sort_words),
    Family("reverse_list", "list", _reverse_list),
    Family("nth_item", "word", _nth_item),
    Family("deduplicate", "list", _deduplicate),
    Family("filter_numbers", "list", _filter_numbers),
    Family("running_total", "list", _running_total),
    Family("most_frequent", "word", _most_frequent),
    Family("extremes", "number", _extremes),
)
