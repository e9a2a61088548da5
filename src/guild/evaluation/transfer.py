"""Measuring a model on the transfer benchmarks: each family of primitives and each kind of story, saved as it goes. (specs/guild.md 3.7)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guild.errors import RefusedError
from guild.evaluation import answers
from guild.evaluation.answerers import MAX_NEW_TOKENS, Answerer
from guild.evaluation.baselines import CATEGORIES, MODES, Category, Growing, Mode, begin
from guild.evaluation.measuring import NoResultError, answer_limit, measure
from guild.evaluation.prompting import profile_prompt, prompt_day
from guild.evaluation.questions import row_questions, skills_of, spread
from guild.evaluation.rows import Row
from guild.evaluation.sets import make_sets
from guild.evaluation.stored_sets import OF_SKILLS, read_set, set_digest
from guild.naming import checkpoint_step
from guild.places import Places
from guild.training.profiles import get_profile
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.errors import MissingFileError, UsageError
from modelwright.files import read_json

SAMPLES = 30
"""Problems of each kind."""


class UnfinishedError(RefusedError):
    """A baseline that ended before its time. `path`: where its part is saved, None when nothing was measured."""

    def __init__(self, reason: str, path: Path | None, done: int, wanted: int) -> None:
        self.path = path
        kept = f"{done} of {wanted} kinds are saved in {path}; the same command goes on with them." if path else "Nothing was written."
        super().__init__(f"{reason} {kept}")


@dataclass(frozen=True)
class Plan:
    """What is to be measured. samples: problems of each kind. max_new_tokens: of an answer at most."""

    tag: str
    mode: Mode = "both"
    samples: int = SAMPLES
    max_new_tokens: int = MAX_NEW_TOKENS


def run_baseline(
    places: Places,
    plan: Plan,
    answerer: Answerer,
    *,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda line: None,
    clock: Clock = SYSTEM_CLOCK,
) -> Path:
    """Measure every kind that is missing and return the finished document's path; the missing validation sets are made first.

    Raises UnfinishedError when it was stopped or a kind had too few results: what was measured is saved. Raises what reading the sets
    and loading the model raise.
    """
    make_sets(places, only=CATEGORIES)  # all, whatever is asked now: the digests of all stand in the document
    kinds = {name: (category, rows) for category in MODES[plan.mode] for name, rows in _kinds(places, category).items()}
    wanted = {name: category for name, (category, _) in kinds.items()}
    growing = begin(places, plan.tag, _settings(places, plan, answerer), wanted, clock, answerer.system_prompt)
    for name in growing.missing():
        if stop():
            raise _unfinished("It was asked to stop.", growing)
        category, rows = kinds[name]
        try:
            _ask(places, plan, answerer, name, category, rows, growing.add, say)
        except NoResultError as error:
            raise _unfinished(f"{name}: {error}", growing) from error
    return growing.finish()


def _kinds(places: Places, category: Category) -> dict[str, list[Row]]:
    """What is measured each by itself: families and kinds of stories by name, problems of a skill by difficulty or level."""
    found = read_set(places, category)
    if category not in OF_SKILLS:
        return found
    parts: dict[str, list[Row]] = {}
    for row in (row for rows in found.values() for row in rows):
        parts.setdefault(f"{category}/{row.difficulty}", []).append(row)
    return parts


def _ask(
    places: Places,
    plan: Plan,
    answerer: Answerer,
    name: str,
    category: Category,
    rows: Sequence[Row],
    add: Callable[..., None],
    say: Callable[[str], None],
) -> None:
    some = spread(rows, plan.samples)
    questions = row_questions(some, skills_of(places, some))
    limit = answer_limit(answerer, questions, plan.max_new_tokens)
    measured = measure(answerer, questions, max_new_tokens=limit, profile=getattr(answerer, "profile", "none")).checked()
    add(name, category, measured)
    say(f"{category:<10}  {name:<22} {measured.correct:>3} of {measured.total}")


def _settings(places: Places, plan: Plan, answerer: Answerer) -> dict[str, Any]:
    """What two runs must share to be one."""
    return {
        "model": answerer.model,
        "samples": plan.samples,
        "sets": {category: set_digest(places, category) for category in CATEGORIES if (places.validation_data / category).is_dir()},
        "judge": answers.VERSION,
        "profile": getattr(answerer, "profile", "none"),
        "max_new_tokens": plan.max_new_tokens,
    }


def _unfinished(reason: str, growing: Growing) -> UnfinishedError:
    wanted = len(growing.wanted)
    done = wanted - len(growing.missing())
    return UnfinishedError(reason, growing.path if done else None, done, wanted)


def model_tag(step: int | None, model: str) -> str:
    """`trained_<step>`. Raises UsageError for a model that has no step: what it is to be called must be said."""
    if step is None:
        raise UsageError(f"--tag: found nothing, and {model} tells no training step; allowed: a name, base_… for a base model.")
    return f"trained_{step}"


def local_step(model: str) -> int | None:
    """The training step of a folder: its name's, else its trainer state's; None for what is no checkpoint."""
    path = Path(model).expanduser()
    step = checkpoint_step(path.resolve().name)
    if step is not None or not path.is_dir():
        return step
    try:
        state = read_json(path / "trainer_state.json")
    except MissingFileError:
        return None
    found = state.get("global_step") if isinstance(state, dict) else None
    return found if isinstance(found, int) else None


def chosen_mode(mode: Mode | None, primitives_only: bool, babi_only: bool) -> Mode:
    """The mode that the flags mean. Raises UsageError when they contradict each other."""
    old: list[Mode] = [*(["primitives"] if primitives_only else []), *(["benchmarks"] if babi_only else [])]  # type: ignore[list-item]
    if len({*old, *([mode] if mode else [])}) > 1:
        raise UsageError("--mode, --primitives-only and --babi-only: found several that differ; allowed: one of them.")
    return mode or (old[0] if old else "both")


def baseline_prompt(profile: str, clock: Clock, folder: str | None = None) -> str:
    """The system prompt under which a baseline is asked: that of the profile, of the day that the checkpoint in `folder` was trained with,
    or today. Raises UnknownProfileError."""
    today = clock.now().date()
    path = None if folder is None else Path(folder).expanduser()
    day = prompt_day(path, today) if path is not None and path.is_dir() else today
    return profile_prompt(get_profile(profile), day)
