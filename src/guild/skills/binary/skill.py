"""The skill `bin`: binary arithmetic in thirty levels. (specs/guild.md 6.1)"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from guild.skills.binary import dialect
from guild.skills.binary import judge as judging
from guild.skills.binary.auxiliary import TASKS, task_answer, task_prompt
from guild.skills.binary.expressions import canonical
from guild.skills.binary.forms import FORMS, Problem, prompt_line, reply
from guild.skills.binary.generator import Drawn, Generator, seeded
from guild.skills.binary.levels import DEFINITIONS, KEYS_FROM, MAX_LEVEL, check_level, level_name, mix, operand_bits
from guild.skills.binary.pools import space
from guild.skills.binary.selfcheck import faults_of
from guild.skills.binary.settings import SMALL, SMALL_OPERATIONS, Settings, checked
from guild.skills.binary.symbols import key_lines
from guild.skills.contract import Sample, Verdict
from modelwright.errors import UsageError

MOST_SAMPLES = 1_000_000
"""In one batch."""
FIXED_SET = 200
"""Length of a level's evaluation set; shorter requests get its beginning."""
_DEFAULT = Settings()


class BinarySkill:
    """Binary arithmetic. The arguments are those of `Settings`; lists are accepted for tuples. Raises ConfigError with every fault.

    A problem is the same problem in every form and with every key, so that `held_out` keeps it out of training in all of them.
    """

    id = "bin"
    name = "Binary arithmetic"
    version = "1.0.0"
    description = "Expressions over binary numbers in circled digits, worked out briefly, with verification, with steps or as a trace."
    max_level = MAX_LEVEL
    generator_id = "bin_api"

    def __init__(
        self,
        *,
        forms: Sequence[str] = _DEFAULT.forms,
        operations: Sequence[str] = _DEFAULT.operations,
        tasks: Sequence[str] = _DEFAULT.tasks,
        auxiliary_share: float = _DEFAULT.auxiliary_share,
        symbol_share: float = _DEFAULT.symbol_share,
        hint_share: float = _DEFAULT.hint_share,
        chains: bool = _DEFAULT.chains,
    ) -> None:
        chosen = Settings(forms, operations, tasks, auxiliary_share, symbol_share, hint_share, chains)  # type: ignore[arg-type]
        self.settings = checked(chosen)
        self._generator = Generator(self.settings)
        self._spaces: dict[int, int | None] = {}

    @classmethod
    def small(cls, operations: Sequence[str] = SMALL_OPERATIONS) -> BinarySkill:
        """Brief form, no keys, no chains, few operations: for models of less than a million parameters."""
        return cls(**{**SMALL._asdict(), "operations": operations})

    def level_info(self, level: int) -> dict[str, Any]:
        """What is asked at a level. Raises UsageError outside 1 to 30."""
        check_level(level)
        settings = self.settings
        return {
            "level": level,
            "name": level_name(level),
            "bits": operand_bits(level),
            "difficulty_mix": mix(level),
            "forms": list(settings.forms),
            "operations": list(settings.operations),
            "tasks": list(settings.tasks),
            "auxiliary_share": settings.auxiliary_share,
            "symbol_share": settings.symbol_share if level >= KEYS_FROM else 0.0,
            "chains": settings.chains,
            "definitions": dict(DEFINITIONS),
        }

    def space(self, level: int) -> int | None:
        """How many distinct training problems a level has, a problem counted once for each form; None when more than a million. Counted
        once and remembered."""
        check_level(level)
        if level not in self._spaces:
            # operands of a level include those of the level before, so a space never shrinks
            larger = level > 1 and any(at < level and count is None for at, count in self._spaces.items())
            self._spaces[level] = None if larger else space(self.settings, level)
        return self._spaces[level]

    def generate(self, level: int, count: int, seed: int) -> list[Sample]:
        """`count` training samples, at most a million. Raises UsageError."""
        check_level(level)
        _check_count(count)
        rng = seeded(self.generator_id, self.version, "training", level, count, seed)
        drawn = self._generator.batch(level, count, rng)
        return [self._sample(f"bin-L{level:02d}-s{seed}-{at:06d}", each, level, rng) for at, each in enumerate(drawn)]

    def evaluation(self, level: int, count: int = 20, seed: int = 0) -> list[Sample]:
        """Held-out samples; the beginning of one fixed set while `count` is at most 200. Raises UsageError."""
        check_level(level)
        _check_count(count)
        whole = max(count, FIXED_SET)
        rng = seeded(self.generator_id, self.version, "evaluation", level, whole, seed)
        drawn = self._generator.batch(level, whole, rng, evaluation=True)[:count]
        return [self._sample(f"bin-eval-L{level:02d}-s{seed}-{at:04d}", each, level, rng) for at, each in enumerate(drawn)]

    def judge(self, sample: Sample, reply: str) -> Verdict:
        """Compare the result field of the reply with the golden one; never raises. Samples of the older dialect, read from files, have
        its own way to find the result."""
        if sample.scenario == dialect.OLD_FORM:
            return dialect.judge(sample.assistant_response, reply)
        return judging.judge(sample, reply)

    def check(self, sample: Sample) -> list[str]:
        """What is untrue in a sample, found by reading its texts back; none when all is true."""
        return faults_of(sample)

    def _sample(self, identity: str, drawn: Drawn, level: int, rng: Random) -> Sample:
        problem = self._generator.dress(drawn, level, rng)
        operation = drawn.call.operation
        chain = drawn.call.nested and operation.name != "compare"
        return Sample(
            identity,
            prompt_of(problem),
            reply_of(problem),
            (
                "binary",
                drawn.form,
                drawn.difficulty,
                operation.name,
                *(("chain",) if chain else ()),
                *(("keyed",) if problem.notation.keyed else ()),
            ),
            judging.RUBRICS[drawn.form],
            drawn.form,
            {"level": level, "bits": operand_bits(level), "difficulty": drawn.difficulty, "problem": canonical(drawn.call)},
        )


def prompt_of(problem: Problem) -> str:
    """The whole prompt: the key, if there is one, and the question."""
    question = prompt_line(problem) if problem.form in FORMS else task_prompt(problem)
    return "\n".join([*key_lines(problem.notation), question])


def reply_of(problem: Problem) -> str:
    """The golden answer."""
    return task_answer(problem) if problem.form in TASKS else reply(problem)


def _check_count(count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_SAMPLES:
        raise UsageError(f"count: found {count!r}; allowed: a whole number from 1 to {MOST_SAMPLES:,}.")
