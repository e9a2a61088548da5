"""The tasks of the evaluation as token ids: what is cached and may be damaged, and what is scored on it. (specs/medic.md, 6.1)

    prefix         prefilled; its cache is what corruption strikes and what defences work on
    lead           at least one token, run on the (damaged) cache and not scored: the question, or the token before the tail
    continuations  scored behind the lead, each alone; one for a perplexity, one per candidate for a choice

With `inject: inline` the same example runs as one pass over prefix, lead and continuation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachemedicpp.config.rules import text_slot
from cachemedicpp.inputs.sources import Review
from modelwright.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]

WIKITEXT, SST2, NEEDLE, PASSKEY = "wikitext2_ppl", "sst2_prompted", "needle_long_context", "passkey"
TAIL_SHARE = 0.25
"""The share of a text that is scored on the cache of the rest."""


@dataclass(frozen=True)
class Example:
    """One example of a task.

    index: its number in the task, equal in all units, which names its random draws. item: the number of the line, review
    or needle it is made from; examples that wrap around share it. answer: the right continuation, None for a perplexity.
    tie_wins: whether the answer also counts as chosen when another candidate is exactly as probable.
    """

    task: str
    index: int
    item: int
    prefix: Ids
    lead: Ids
    continuations: tuple[Ids, ...]
    answer: int | None = None
    tie_wins: bool = False

    def __post_init__(self) -> None:
        if not self.prefix or not self.lead or not self.continuations or not all(self.continuations):
            raise UsageError(
                f"Example {self.index} of {self.task} has {len(self.prefix)} cached, {len(self.lead)} leading and "
                f"{min(map(len, self.continuations), default=0)} scored tokens; each needs at least one. Raise eval.max_seq_len."
            )

    @property
    def length(self) -> int:
        """Tokens of the longest sequence: prefix, lead and the longest continuation."""
        return len(self.prefix) + len(self.lead) + max(map(len, self.continuations))

    def tail(self, number: int) -> Ids:
        """What runs on the cache for continuation `number`: the lead and all of the continuation but its last token."""
        return self.lead + self.continuations[number][:-1]


@dataclass(frozen=True)
class Wording:
    """How a review is asked about: what is cached, with {text} in it, the end of the prompt behind it, and the two labels.

    opening: other braces are doubled. closing: as it is. labels: the continuation for negative and for positive.
    """

    name: str
    opening: str
    closing: str
    labels: tuple[str, str]


PLAIN = Wording("plain", "Review: {text}", "\nSentiment:", (" negative", " positive"))
"""The wording of the specification."""
TINY_LINE = Wording("tiny_line", "Review: {text}", "\nSentiment:", (" ⓪", " ①"))
TINY_CHAT = Wording(
    "tiny_chat", "<|im_start|>user\nLabel this review.\n{text}", "<|im_end|>\n<|im_start|>assistant\n", ("⓪", "①")
)  # fmt: skip
"""How the tiny models were taught: ChatML, and labels that are one token each."""
WORDINGS = {wording.name: wording for wording in (PLAIN, TINY_LINE, TINY_CHAT)}


def wording_for(tokenizer: PreTrainedTokenizerBase, name: str = "auto") -> Wording:
    """The wording called `name`, or the one of a template with `{text}`.

    `auto` takes the tiny models' own where the tokenizer has their label tokens, else `plain`. A template is cached up to
    the review and leads with what stands behind it; its labels are those of `plain`, without their blank where the template
    ends in white space. Raises UsageError for another text.
    """
    if name == "auto":
        vocabulary = tokenizer.get_vocab()
        return TINY_CHAT if all(label in vocabulary for label in TINY_CHAT.labels) else PLAIN
    if name in WORDINGS:
        return WORDINGS[name]
    parts = text_slot(name)
    if parts is None:
        raise UsageError(f"The wording {name!r} is unknown; allowed are auto, {', '.join(WORDINGS)}, or a template with {{text}} once.")
    before, behind = parts
    negative, positive = (label.lstrip() if name[-1].isspace() else label for label in PLAIN.labels)
    return Wording(name, before.replace("{", "{{").replace("}", "}}") + "{text}", behind, (negative, positive))


def perplexity_examples(
    tokenizer: PreTrainedTokenizerBase,
    lines: Sequence[str],
    count: int,
    max_seq_len: int,
    *,
    tail_share: float = TAIL_SHARE,
    single_pass: bool = False,
) -> list[Example]:
    """`count` examples of `wikitext2_ppl` from `lines`, wrapping around.

    A line is cut to `max_seq_len + 1` tokens and skipped when it has fewer than three (one cached, one leading, one
    scored). The last `tail_share` of it is scored on the cache of what stands before. single_pass: everything behind the
    second token is scored, for `inject: inline`, where nothing is cached first. Raises UsageError when no line is long
    enough.
    """
    rows = [(item, _plain_ids(tokenizer, line)[: max_seq_len + 1]) for item, line in enumerate(lines)]
    usable = [(item, ids) for item, ids in rows if len(ids) >= 3]
    if not usable:
        raise UsageError(f"None of the {len(lines)} lines has three tokens, so no perplexity can be measured; give longer text.")
    examples = []
    for index in range(count):
        item, ids = usable[index % len(usable)]
        scored = len(ids) - 2 if single_pass else max(1, min(len(ids) - 2, round(len(ids) * tail_share)))
        cut = len(ids) - scored
        examples.append(Example(WIKITEXT, index, item, ids[: cut - 1], ids[cut - 1 : cut], (ids[cut:],)))
    return examples


def sentiment_examples(
    tokenizer: PreTrainedTokenizerBase, reviews: Sequence[Review], count: int, max_seq_len: int, wording: Wording = PLAIN
) -> list[Example]:
    """`count` examples of `sst2_prompted` from `reviews`, wrapping around; the review is cached, the end of the prompt leads.

    Continuation 0 is negative, 1 positive; an exact tie counts as positive. Prompts too long keep their tail.
    """
    examples = []
    for index in range(count):
        item = index % len(reviews)
        review = reviews[item]
        opening = wording.opening.format(text=review.text)
        prompt = opening + wording.closing
        prefix, lead = split_ids(tokenizer, opening, prompt)
        labels = tuple(continuation_ids(tokenizer, prompt, label) for label in wording.labels)
        prefix = keep_tail(prefix, lead, labels, max_seq_len)
        examples.append(Example(SST2, index, item, prefix, lead, labels, review.label, tie_wins=review.label == 1))
    return examples


# ---------------------------------------------------------------------- token ids


def prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Ids:
    """The ids of a text that goes on: with the tokenizer's own opening token, without a closing one."""
    ids: list[int] = list(tokenizer(text, verbose=False)["input_ids"])
    return tuple(ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id and not _ends_with_eos(tokenizer, text) else ids)


def split_ids(tokenizer: PreTrainedTokenizerBase, opening: str, prompt: str) -> tuple[Ids, Ids]:
    """The ids of `prompt`, cut where they begin to differ from those of `opening` (a start of it); both parts non-empty.

    The cut may stand a token before the end of `opening`, when the tokenizer merges across it.
    """
    whole, start = prompt_ids(tokenizer, prompt), prompt_ids(tokenizer, opening)
    cut = next((at for at, (a, b) in enumerate(zip(whole, start, strict=False)) if a != b), min(len(whole), len(start)))
    cut = min(cut, len(whole) - 1)
    return whole[:cut], whole[cut:]


def continuation_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, continuation: str) -> Ids:
    """The ids that `continuation` adds behind `prompt`; its own ids where the tokenizer merges it with the prompt."""
    before, whole = prompt_ids(tokenizer, prompt), prompt_ids(tokenizer, prompt + continuation)
    if whole[: len(before)] == before and len(whole) > len(before):
        return whole[len(before) :]
    return tuple(tokenizer(continuation, add_special_tokens=False, verbose=False)["input_ids"])


def keep_tail(prefix: Ids, lead: Ids, continuations: Iterable[Ids], max_seq_len: int) -> Ids:
    """`prefix` without what exceeds `max_seq_len + 1` tokens in all, cut on the left, its first token kept.

    The first token is the tokenizer's opening token or one that models lean on just as much. Empty when the lead and
    the continuations alone take all the room.
    """
    room = max_seq_len + 1 - len(lead) - max(map(len, continuations))
    if len(prefix) <= room:
        return prefix
    return () if room < 2 else prefix[:1] + prefix[len(prefix) - room + 1 :]


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Ids:
    return prompt_ids(tokenizer, text)


def _ends_with_eos(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    return bool(tokenizer.eos_token) and text.endswith(str(tokenizer.eos_token))
