"""The long-context tasks: a needle in generated filler, and the kernel's passkey. (specs/medic.md, 6.1)

Both are choices among four candidates of equal token count, so no candidate wins by being short, and both keep what is
asked for inside the cached prefix: lengths count tokens and are capped at `eval.max_seq_len` [C22].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Literal

from cachemedicpp.inputs.tasks import NEEDLE, PASSKEY, Example, Ids, continuation_ids, prompt_ids, split_ids
from modelwright.errors import UsageError
from modelwright.probes.keys import PROBE_KEY_MAX, PROBE_KEY_MIN, is_probe_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cachemedicpp.config.sections import LongContextSettings

CANDIDATES = 4
CHANCE = 1 / CANDIDATES
Values = Literal["drawn", "fixed"]

_WORDS = ("river", "stone", "lantern", "meadow", "wagon", "harvest", "winter", "copper", "window", "garden", "thunder", "candle", "bridge")
_SPEC_DISTRACTORS = ("unknown", "none", "violet-6")
_ATTEMPTS = 4000


@dataclass(frozen=True)
class NeedlePrompt:
    """A prompt and its parts. `value` is the true one, `context` ends before the question, `depth` is 0 (start) to 1."""

    context: str
    question: str
    needle: str
    value: str
    depth: float

    @property
    def text(self) -> str:
        return f"{self.context}\n{self.question}"


def needle_examples(
    tokenizer: PreTrainedTokenizerBase,
    settings: LongContextSettings,
    count: int,
    max_seq_len: int,
    *,
    values: Values = "drawn",
    listed: Sequence[str] | None = None,
) -> list[Example]:
    """`count` examples of `needle_long_context`.

    The context has at most `settings.context_len` tokens, and prompt and candidate fit `max_seq_len`. The candidates are
    `settings.needle_value` and three others of the same token count. values: `drawn` states one of the four, drawn per
    example, so a model that never looks is right one time in four; `fixed` always states `needle_value`, as the original
    does. listed: in place of both, each example states one of these, drawn, beside three others of the list of as many
    tokens. Raises UsageError when the question and one sentence do not fit, or no equal candidates are found.
    """
    alike = None if listed is None else _alike(tokenizer, settings, listed)
    usual = needle_candidates(tokenizer, settings, Random(f"medic-needle-{settings.seed}")) if alike is None else ()
    examples = []
    for index in range(count):
        rng = Random(f"medic-needle-{settings.seed}-{index}")
        if alike is None:
            candidates, answer = usual, rng.randrange(CANDIDATES) if values == "drawn" else 0
        else:
            stated = rng.choice(list(alike))
            candidates, answer = (stated, *rng.sample(alike[stated], CANDIDATES - 1)), 0
        prompt = needle_prompt(tokenizer, settings, index, candidates[answer], max_seq_len)
        prefix, lead = split_ids(tokenizer, prompt.context, prompt.text)
        scored = tuple(continuation_ids(tokenizer, prompt.text, f" {candidate}") for candidate in candidates)
        examples.append(Example(NEEDLE, index, index, prefix, lead, scored, answer))
    return examples


def needle_prompt(
    tokenizer: PreTrainedTokenizerBase, settings: LongContextSettings, index: int, value: str, max_seq_len: int
) -> NeedlePrompt:
    """Prompt number `index`: filler sentences of 7 to 16 words drawn from `Random(seed + index)`, the needle at sentence
    `int(position_frac * n)`, then the question. Grown sentence by sentence to the largest that fits.
    """
    rng = Random(settings.seed + index)
    question = _question(settings)
    needle = f"NEEDLE: {settings.needle_token} = {value}."

    def built(sentences: list[str]) -> NeedlePrompt:
        place = int(settings.position_frac * len(sentences))
        context = " ".join([*sentences[:place], needle, *sentences[place:]])
        return NeedlePrompt(context, question, needle, value, place / max(1, len(sentences)))

    def fits(prompt: NeedlePrompt) -> bool:
        whole = len(prompt_ids(tokenizer, f"{prompt.text} {value}"))
        return whole <= max_seq_len and len(prompt_ids(tokenizer, prompt.context)) <= settings.context_len

    sentences: list[str] = []
    best = built(sentences)
    if not fits(best):
        raise UsageError(
            f"The needle and its question take {len(prompt_ids(tokenizer, f'{best.text} {value}'))} tokens; allowed are "
            f"data.long_context.context_len {settings.context_len} and eval.max_seq_len {max_seq_len}. Raise them or shorten the question."
        )
    while True:
        sentences.append(_sentence(rng))
        grown = built(sentences)
        if not fits(grown):
            return best
        best = grown


def needle_candidates(tokenizer: PreTrainedTokenizerBase, settings: LongContextSettings, rng: Random) -> tuple[str, ...]:
    """`settings.needle_value` and three others whose ids behind the question are as many and differ.

    First the original's own, where they have the length; then the value with other digits and letters in the same places.
    Raises UsageError when there are not three.
    """
    prompt = _question(settings)
    return _equal_candidates(tokenizer, prompt, settings.needle_value, [*_SPEC_DISTRACTORS], lambda: _respelt(rng, settings.needle_value))


def passkey_examples(tokenizer: PreTrainedTokenizerBase, count: int, max_seq_len: int, seed: int, *, chat: bool = False) -> list[Example]:
    """`count` examples of the kernel's passkey probe, `max_seq_len` tokens long, answer included.

    The text is cached, the question leads; three other keys of the same token count are the wrong candidates. Raises
    UsageError for a length below the probe's smallest.
    """
    from modelwright.probes.passkey import LEAD_IN, QUESTION, Passkey

    probe = Passkey()
    if max_seq_len < probe.min_length:
        raise UsageError(f"The passkey probe needs at least {probe.min_length} tokens; eval.max_seq_len is {max_seq_len}.")
    examples = []
    question = tokenizer(QUESTION + LEAD_IN, add_special_tokens=False, verbose=False)["input_ids"]
    for index, item in enumerate(probe.build(tokenizer, max_seq_len, count, seed, "chat" if chat else "raw")):
        rng = Random(f"medic-passkey-{seed}-{index}")
        keys = _equal_candidates(tokenizer, LEAD_IN, item.answer, [], lambda rng=rng: str(_key(rng)))  # type: ignore[misc]
        scored = tuple(continuation_ids(tokenizer, LEAD_IN, f" {key}") for key in keys)
        cut = len(item.input_ids) - len(question)
        examples.append(Example(PASSKEY, index, index, item.input_ids[:cut], item.input_ids[cut:], scored, 0))
    return examples


def _alike(tokenizer: PreTrainedTokenizerBase, settings: LongContextSettings, listed: Sequence[str]) -> dict[str, list[str]]:
    """Each listed value with the others of as many ids behind the question. Raises UsageError where they are fewer than three."""
    ids = {value: continuation_ids(tokenizer, _question(settings), f" {value}") for value in listed}
    alike = {value: [other for other in listed if ids[other] != own and len(ids[other]) == len(own)] for value, own in ids.items()}
    for value, others in alike.items():
        if len(others) < CANDIDATES - 1:
            raise UsageError(
                f"eval.needle_values: {value!r} has {len(ids[value])} tokens with this tokenizer, and {len(others)} other values of the "
                f"list have as many; give it at least {CANDIDATES - 1}, so that no candidate wins by being short."
            )
    return alike


def _question(settings: LongContextSettings) -> str:
    return settings.question_template.format(needle_token=settings.needle_token)


def _equal_candidates(
    tokenizer: PreTrainedTokenizerBase, prompt: str, value: str, first: list[str], draw: Callable[[], str]
) -> tuple[str, ...]:
    def ids(candidate: str) -> Ids:
        return continuation_ids(tokenizer, prompt, f" {candidate}")

    found = {value: ids(value)}
    wanted = len(found[value])

    def proposals() -> Iterator[str]:
        yield from first
        for _ in range(_ATTEMPTS):
            yield draw()

    for candidate in proposals():
        if len(found) == CANDIDATES:
            break
        own = ids(candidate)
        if len(own) == wanted and candidate not in found and own not in found.values():
            found[candidate] = own
    if len(found) < CANDIDATES:
        raise UsageError(
            f"There are not three other values of {wanted} tokens beside {value!r} with this tokenizer; "
            "choose a data.long_context.needle_value with more letters or digits."
        )
    return tuple(found)


def _respelt(rng: Random, value: str) -> str:
    """`value` with some of its digits exchanged; half of the time, and when it has none, some of its digits and letters."""
    digits = [at for at, character in enumerate(value) if character.isdigit()]
    places = digits if digits and rng.random() < 0.5 else [at for at, character in enumerate(value) if character.isalnum()]
    if not places:
        return value
    characters = list(value)
    for at in rng.sample(places, rng.randint(1, len(places))):
        characters[at] = rng.choice("0123456789") if value[at].isdigit() else rng.choice("abcdefghijklmnopqrstuvwxyz")
    return "".join(characters)


def _sentence(rng: Random) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(rng.randint(7, 16))).capitalize() + "."


def _key(rng: Random) -> int:
    while True:
        key = rng.randint(PROBE_KEY_MIN, PROBE_KEY_MAX)
        if is_probe_key(key):
            return key
