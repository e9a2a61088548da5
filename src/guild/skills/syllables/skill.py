"""The skill `sy`: syllable puzzles in fifty levels, or in ten. (specs/guild.md 6.2)"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from guild.skills.contract import Sample, Verdict, held_out
from guild.skills.syllables.choosing import Pool, choose_red_herrings, choose_words, pool_of, sets_of
from guild.skills.syllables.external_lexicon import EXTERNAL, external_lexicon
from guild.skills.syllables.judge import RUBRIC, judge_reply
from guild.skills.syllables.levels import EDITIONS, Rules, rules_of
from guild.skills.syllables.lexicon import FALLBACK, Lexicon, Word, fallback_lexicon
from guild.skills.syllables.puzzles import canonical, make_puzzle, shape_of, shapes_of
from guild.skills.syllables.selfcheck import faults_of
from modelwright.errors import ConfigError, Fault, ModelwrightError, UsageError

MOST_SAMPLES = 1_000_000
"""In one batch."""
LEXICONS = (FALLBACK, EXTERNAL)
_DRAWS = 2000
"""Draws in a row without a new puzzle after which a level counts as exhausted."""


class SyllableSkill:
    """Syllable puzzles.

    edition: 50 levels, or the 10 of the plain table. lexicon: `fallback` (our own words) or `external` (wordfreq, pyphen and WordNet,
    which must be installed); nothing is chosen in place of the other. Raises ConfigError with every fault.

    A puzzle is the same problem with the same words, whatever its clues, bank order and shape, so that `held_out` keeps the word set
    out of training on all levels.
    """

    id = "sy"
    name = "Syllable puzzles"
    version = "1.0.0"
    description = "Words rebuilt from clues and a shuffled bank of syllables, with red herrings and twenty shapes of answer."
    generator_id = "syllo_api"

    def __init__(self, *, edition: int = 50, lexicon: str = FALLBACK) -> None:
        faults = []
        if edition not in EDITIONS:
            faults.append(Fault("edition", repr(edition), "10 or 50"))
        if lexicon not in LEXICONS:
            faults.append(Fault("lexicon", repr(lexicon), " or ".join(LEXICONS)))
        if faults:
            raise ConfigError(faults)
        self.edition = self.max_level = edition
        self.lexicon_name = lexicon
        self._pools: dict[int, Pool] = {}
        self._spaces: dict[int, int | None] = {}

    @cached_property
    def lexicon(self) -> Lexicon:
        """The words, read at first use. Raises ModelwrightError when the external ones are not installed."""
        return fallback_lexicon() if self.lexicon_name == FALLBACK else external_lexicon()

    def info(self) -> dict[str, Any]:
        """What is used here, for the server's `/info`."""
        return {
            "edition": self.edition,
            "lexicon": self.lexicon.name,
            "lexicon_words": len(self.lexicon.words),
            "zipf": "counted" if self.lexicon.counted else "estimated",
            "shapes": list(shapes_of(self.edition)),
        }

    def level_info(self, level: int) -> dict[str, Any]:
        """What is asked at a level; see `levels` for how fifty levels lie on the ten rows. Raises UsageError outside."""
        rules = self._rules(level)
        return {
            **rules.as_dict(),
            "name": f"{rules.difficulty} puzzles, row {rules.number} of 10",
            "edition": self.edition,
            "lexicon": self.lexicon_name,
            "hint_weights": dict(zip(("strong", "medium", "weak", "minimal"), rules.row.strengths, strict=True)),
            "shapes": list(shapes_of(self.edition)),
        }

    def space(self, level: int) -> int | None:
        """About how many distinct training puzzles a level has, None when more than a million: the combinations of its words, times the
        share of 200 random ones that obey the rules, without the held-out part."""
        rules = self._rules(level)
        if level not in self._spaces:
            count = round(0.8 * sets_of(self.lexicon, self._pool(rules), rules))
            self._spaces[level] = None if count > 1_000_000 else count
        return self._spaces[level]

    def generate(self, level: int, count: int, seed: int) -> list[Sample]:
        """`count` training samples, at most a million; a longer batch of the same seed begins with the shorter one. Raises UsageError."""
        return self._batch(level, count, seed, "training", f"sy-L{level:02}-s{seed}" if isinstance(level, int) else "sy")

    def evaluation(self, level: int, count: int = 20, seed: int = 0) -> list[Sample]:
        """Held-out samples: the beginning of the one fixed set that a level has for a seed. Raises UsageError."""
        return self._batch(level, count, seed, "evaluation", f"sy-eval-L{level:02}-s{seed}" if isinstance(level, int) else "sy")

    def judge(self, sample: Sample, reply: str) -> Verdict:
        """The verdict on a reply; never raises."""
        return judge_reply(sample.metadata["puzzle"], reply)

    def check(self, sample: Sample) -> list[str]:
        """What is untrue in a sample, found by reading its texts back; none when all is true."""
        return faults_of(sample)

    def _rules(self, level: int) -> Rules:
        return rules_of(level, self.edition)

    def _pool(self, rules: Rules) -> Pool:
        if rules.number not in self._pools:
            self._pools[rules.number] = pool_of(self.lexicon, rules)
        return self._pools[rules.number]

    def _batch(self, level: int, count: int, seed: int, purpose: str, stem: str) -> list[Sample]:
        rules = self._rules(level)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MOST_SAMPLES:
            raise UsageError(f"count: found {count!r}; allowed: a whole number from 0 to {MOST_SAMPLES}.")
        rng = seeded(self.generator_id, self.version, self.lexicon_name, self.edition, level, purpose, seed)
        sets = self._word_sets(rules, purpose == "evaluation", rng)
        drawn: list[tuple[tuple[Word, ...], tuple[str, ...]]] = []
        samples = []
        for at in range(count):
            new = next(sets, None)
            if new is not None:
                drawn.append(new)
            elif purpose == "evaluation":
                break
            elif not drawn:
                raise ModelwrightError(f"level {level}: the lexicon {self.lexicon_name!r} allows no puzzle; use a larger one.")
            words, herrings = new or drawn[at % len(drawn)]
            puzzle = make_puzzle(f"{stem}-{at:06d}", words, herrings, rules, self.lexicon, rng)
            samples.append(sample_of(puzzle))
        return samples

    def _word_sets(self, rules: Rules, held: bool, rng: random.Random) -> Iterator[tuple[tuple[Word, ...], tuple[str, ...]]]:
        """Distinct word sets with their red herrings, held out or not, until the level seems to have no more."""
        pool = self._pool(rules)
        seen: set[str] = set()
        idle = 0
        while idle < _DRAWS:
            idle += 1
            words = choose_words(self.lexicon, pool, rules, rng)
            if words is None:
                continue
            problem = canonical(words)
            if problem in seen or held_out(problem) != held:
                continue
            herrings = choose_red_herrings(self.lexicon, pool, words, rules, rng)
            if herrings is not None:
                seen.add(problem)
                idle = 0
                yield words, herrings


def sample_of(puzzle: dict[str, Any]) -> Sample:
    """The sample that carries a puzzle: `metadata` holds its level and, as `puzzle`, the whole of it."""
    shape = shape_of(puzzle)
    return Sample(
        id=puzzle["puzzle_id"],
        user_prompt=puzzle["prompt"],
        assistant_response=puzzle["solution_text"],
        tags=("syllables", puzzle["difficulty"], shape.name, shape.notation),
        rubric=RUBRIC,
        scenario=shape.name,
        metadata={"level": puzzle["level"], "puzzle": puzzle},
    )


def seeded(*parts: object) -> random.Random:
    """A generator whose stream depends on the named parts and on nothing else."""
    return random.Random(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest())
