"""The prompts of the stability metrics: lines of the test text that are long enough to be perturbed. (specs/medic.md, 5.1; [C11] [C20])

Everything but the last token of a prompt is cached and perturbed; the last token is decoded on that cache. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelwright.errors import ConfigError, Fault, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cachemedicpp.config.sections import RunConfig, StabilitySettings

MARGIN = 16
"""A prompt has at least `N_recent` + 16 tokens."""


@dataclass(frozen=True)
class Prompt:
    """One prompt. index: its number, which names its draws. item: the number of its line, from 0. ids: its tokens."""

    index: int
    item: int
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Prompts:
    """The prompts in order of their index.

    skipped: lines passed over because they are too short. source: where the lines came from, as metrics record it.
    """

    prompts: tuple[Prompt, ...]
    skipped: int
    source: dict[str, Any]

    @property
    def distinct(self) -> int:
        """How many different lines the prompts are."""
        return len({prompt.item for prompt in self.prompts})


def shortest_prompt(stability: StabilitySettings) -> int:
    """The fewest tokens a prompt may have: `N_recent + 16`, and enough for the window to reach what is cached."""
    reached = stability.window[0] + 2 if stability.time_mode == "window" and stability.window else 0
    return max(stability.N_recent + MARGIN, reached)


def check_lengths(config: RunConfig) -> None:
    """Raise ConfigError when no prompt of `eval.max_seq_len` tokens could be perturbed."""
    needed, longest = shortest_prompt(config.stability), config.eval.max_seq_len
    if needed > longest:
        key = "stability.window" if needed > config.stability.N_recent + MARGIN else "stability.N_recent"
        found = f"a region that needs prompts of {needed} tokens"
        raise ConfigError([Fault(key, found, f"at most eval.max_seq_len, {longest} tokens", "lower it, or raise eval.max_seq_len")])


def load_prompts(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> Prompts:
    """`stability.num_prompts` prompts from the split `test`. Raises DataUnavailableError, and UsageError when no line is long enough."""
    from cachemedicpp.inputs.texts import load_text

    lines = load_text(config.data, "test")

    def encode(line: str) -> Sequence[int]:
        ids: list[int] = tokenizer(line, add_special_tokens=False)["input_ids"]
        return ids

    settings = config.stability
    prompts, skipped = choose_prompts(lines.items, encode, settings.num_prompts, shortest_prompt(settings), config.eval.max_seq_len)
    return Prompts(prompts, skipped, lines.provenance.as_dict())


def choose_prompts(
    lines: Sequence[str], encode: Callable[[str], Sequence[int]], count: int, shortest: int, longest: int
) -> tuple[tuple[Prompt, ...], int]:
    """`count` prompts, each a line cut to `longest` tokens, and how many lines of fewer than `shortest` were passed over.

    Lines are read until there are enough; where the text ends before, the first prompt is repeated (its draws differ).
    Raises UsageError when no line is long enough.
    """
    chosen: list[Prompt] = []
    skipped = 0
    for item, line in enumerate(lines):
        if len(chosen) == count:
            break
        ids = tuple(encode(line)[:longest])
        if len(ids) < shortest:
            skipped += 1
        else:
            chosen.append(Prompt(len(chosen), item, ids))
    if not chosen:
        raise UsageError(
            f"None of the {len(lines)} test lines has {shortest} tokens (stability.N_recent + {MARGIN}, or the start of stability.window), "
            "so nothing old can be perturbed; lower N_recent or give longer text."
        )
    first = chosen[0]
    chosen += [Prompt(index, first.item, first.ids) for index in range(len(chosen), count)]
    return tuple(chosen), skipped
