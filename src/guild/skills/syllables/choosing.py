"""Which words and tiles make a puzzle, so that the bank decides it. (specs/guild.md 6.2)

A bank is *closed* when the words of the lexicon that can be spelled from it are exactly those of the puzzle: then no tile can go into
another word, and even a clue that says little has one answer. Red herrings keep it closed. Words that mean the same never meet in one
puzzle.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from guild.skills.syllables.levels import Rules
from guild.skills.syllables.lexicon import Lexicon, Word, related
from modelwright.errors import ModelwrightError

FEWEST_WORDS = 60
"""Words that a level needs at least."""
_TRIES = 40


@dataclass(frozen=True)
class Pool:
    """The words that a level may use, those with a given syllable, and all their syllables."""

    words: tuple[Word, ...]
    by_syllable: Mapping[str, tuple[Word, ...]]
    syllables: tuple[str, ...]


def pool_of(lexicon: Lexicon, rules: Rules) -> Pool:
    """The pool of a level. Raises ModelwrightError when the lexicon has too few words for it."""
    least, most = rules.row.syllables
    words = tuple(word for word in lexicon.words if least <= len(word.syllables) <= most and word.zipf >= rules.min_zipf - 1e-9)
    if len(words) < FEWEST_WORDS:
        raise ModelwrightError(
            f"level {rules.level}: the lexicon {lexicon.name!r} has {len(words)} words of {least} to {most} syllables with a Zipf of "
            f"at least {rules.min_zipf}; allowed: at least {FEWEST_WORDS}. Use a larger lexicon or the fallback one."
        )
    index: dict[str, list[Word]] = {}
    for word in words:
        for syllable in word.tiles:
            index.setdefault(syllable, []).append(word)
    return Pool(words, {syllable: tuple(found) for syllable, found in index.items()}, tuple(sorted(index)))


def overlap(words: Iterable[Word]) -> float:
    """Share of the needed tiles whose syllable is needed more than once, in percent."""
    tiles = _tiles(words)
    return 100 * _repeated(tiles) / sum(tiles.values())


def closed(lexicon: Lexicon, bank: Mapping[str, int], words: int) -> bool:
    """Whether no more words can be spelled from a bank than the `words` it is made for."""
    return len(lexicon.spellable(bank)) == words


def choose_words(lexicon: Lexicon, pool: Pool, rules: Rules, rng: random.Random) -> tuple[Word, ...] | None:
    """The words of one puzzle in the order of its clues; None when this draw led nowhere."""
    count = rng.randint(*rules.row.words)
    limit = rules.row.max_overlap / 100
    aim = rng.uniform(limit / 2, limit)
    most_repeated = limit * count * rules.row.syllables[1]
    chosen: list[Word] = []
    tiles: dict[str, int] = {}
    while len(chosen) < count:
        for _ in range(_TRIES):
            word = _candidate(pool, tiles, aim, rng)
            both = _with(tiles, word)
            if _repeated(both) <= most_repeated and _may_join(lexicon, chosen, both, word):
                chosen.append(word)
                tiles = both
                break
        else:
            return None
    rng.shuffle(chosen)
    return tuple(chosen) if overlap(chosen) <= rules.row.max_overlap else None


def choose_red_herrings(lexicon: Lexicon, pool: Pool, words: tuple[Word, ...], rules: Rules, rng: random.Random) -> tuple[str, ...] | None:
    """Syllables that no word of the puzzle has and that let no other word be spelled, all different; None when this draw led nowhere."""
    count = rng.randint(*rules.row.red_herrings)
    bank = _tiles(words)
    found: list[str] = []
    for _ in range(_TRIES * (count + 1)):
        if len(found) == count:
            return tuple(found)
        tile = rng.choice(pool.syllables)
        if tile not in bank and closed(lexicon, bank + Counter([tile]), len(words)):
            bank[tile] += 1
            found.append(tile)
    return None


def sets_of(lexicon: Lexicon, pool: Pool, rules: Rules, walks: int = 30, draws: int = 30) -> float:
    """About how many word sets of the smallest size obey the rules of a level. Random walks that add one good word after another: the
    mean, over walks, of the product of the numbers of good next words, over the number of orders (Knuth, 1975: Estimating the
    efficiency of backtrack programs). The number of good next words is judged by `draws` random ones."""
    count = rules.row.words[0]
    rng = random.Random(0)
    total = 0.0
    for _ in range(walks):
        chosen: list[Word] = []
        weight = 1.0
        while weight and len(chosen) < count:
            tiles = _tiles(chosen)
            drawn = [rng.choice(pool.words) for _ in range(draws)]
            good = [word for word in drawn if _may_join(lexicon, chosen, _with(tiles, word), word)]
            weight *= len(pool.words) * len(good) / draws
            if good:
                chosen.append(rng.choice(good))
        if weight and overlap(chosen) <= rules.row.max_overlap:
            total += weight
    return total / walks / math.factorial(count)


def _may_join(lexicon: Lexicon, chosen: list[Word], both: Mapping[str, int], word: Word) -> bool:
    """Whether a word may stand in a puzzle with those chosen; `both`: the tiles of them all."""
    if any(word.text == other.text or related(word, other) for other in chosen):
        return False
    return closed(lexicon, both, len(chosen) + 1)


def _candidate(pool: Pool, tiles: Mapping[str, int], aim: float, rng: random.Random) -> Word:
    """A random word; the higher the overlap aimed at, the more often one that shares syllables with the tiles so far."""
    if not tiles or rng.random() >= aim:
        return rng.choice(pool.words)
    syllable = rng.choice(tuple(tiles))
    sharing = pool.by_syllable.get(syllable) or pool.words
    drawn = [rng.choice(sharing) for _ in range(1 + round(8 * aim))]
    return max(drawn, key=lambda word: sum(tile in tiles for tile in word.syllables) / len(word.syllables))


def _with(tiles: Mapping[str, int], word: Word) -> dict[str, int]:
    """The tiles and those of one more word."""
    both = dict(tiles)
    for tile, count in word.tiles.items():
        both[tile] = both.get(tile, 0) + count
    return both


def _tiles(words: Iterable[Word]) -> Counter[str]:
    return Counter(tile for word in words for tile in word.syllables)


def _repeated(tiles: Mapping[str, int]) -> int:
    return sum(count for count in tiles.values() if count > 1)
