"""Five checks of a few collated batches, before the first step: is the answer trained, all of it and nothing else? (specs/guild.md 5.3)

They look at what the model will really get and share no code with what made it. Training starts only with every check passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from guild.training.chat_template import ChatMarks
from guild.training.masked_rows import AnswerFinder, Row, rows_of
from guild.training.masking_limits import DEFAULT, MaskingLimits
from modelwright.errors import ModelwrightError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORBIDDEN = (
    "<|im_start|>user",
    "<|im_start|>system",
    "user:",
    "system:",
    "You are a",
    "You are an",
    "helpful assistant",
    "AI assistant",
    "Output contract",
    "Return your answer",
    "Rules:",
    "Instructions:",
)
"""Texts of prompts, which no trained token may spell (in any case of letters)."""
SAMPLED = 100
CONTEXT = 8
"""Trained tokens on each side of a sampled one that are read with it."""
LEAST_TRAINED = 0.90


@dataclass(frozen=True)
class ValidationResult:
    """What one validator says. message: a sentence. details: its figures."""

    passed: bool
    validator_name: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


class MaskingValidationError(ModelwrightError):
    """Labels that must not be trained on; one line per failed check. `results`: of all checks."""

    def __init__(self, results: Sequence[ValidationResult]) -> None:
        self.results = tuple(results)
        failed = [result for result in self.results if not result.passed]
        super().__init__("\n".join(f"Masking check {result.validator_name} failed: {result.message}" for result in failed))


@dataclass(frozen=True)
class Sample:
    """What a validator gets: rows without padding, the finder of answers, the limits, whether rows are packed, a seed."""

    rows: Sequence[Row]
    finder: AnswerFinder
    limits: MaskingLimits
    packing: bool
    seed: int


Validator = Callable[[Sample], ValidationResult]


def masking_ratio(sample: Sample) -> ValidationResult:
    """MaskingRatio: the masked share of all tokens that are no padding lies within the limits."""
    tokens = sum(row.tokens for row in sample.rows)
    share = 1 - sum(row.trained for row in sample.rows) / tokens if tokens else 1.0
    low, high = sample.limits.lowest, sample.limits.highest
    shares = [1 - row.trained / row.tokens for row in sample.rows if row.tokens]
    return ValidationResult(
        bool(tokens) and low <= share <= high,
        "MaskingRatio",
        f"found {share:.1%} of {tokens} tokens masked; allowed: {low:.0%} to {high:.0%}.",
        {"masked_share": share, "tokens": tokens, "lowest_row": min(shares, default=1.0), "highest_row": max(shares, default=1.0)},
    )


def response_template_count(sample: Sample) -> ValidationResult:
    """ResponseTemplateCount: a row has as many beginnings of training as openings of an answer (plain text: as documents)."""
    wrong = []
    for number, row in enumerate(sample.rows):
        openings = sum(len(sample.finder.regions(d)) if sample.limits.conversation else 1 for d in row.documents)
        if openings != row.starts:
            wrong.append({"row": number, "openings": openings, "starts": row.starts})
    first = f"; row {wrong[0]['row']} has {wrong[0]['openings']} answers and trains from {wrong[0]['starts']} places" if wrong else ""
    return ValidationResult(
        not wrong,
        "ResponseTemplateCount",
        f"found {len(wrong)} of {len(sample.rows)} rows whose answers and beginnings of training differ in number{first}; allowed: 0.",
        {"rows": wrong},
    )


def trained_token_content(sample: Sample) -> ValidationResult:
    """TrainedTokenContent: a hundred trained tokens, read with their trained neighbours, spell no prompt; and there are some."""
    places = [(d, at) for row in sample.rows for d in row.documents for at, trained in enumerate(d.trained) if trained]
    if not places:
        return ValidationResult(False, "TrainedTokenContent", "found no trained token at all; allowed: at least one.", {"sampled": 0})
    chosen = Random(f"masking:{sample.seed}").sample(places, min(SAMPLED, len(places)))
    found: dict[str, str] = {}
    for document, at in chosen:
        begin = end = at
        while begin > 0 and at - begin < CONTEXT and document.trained[begin - 1]:
            begin -= 1
        while end + 1 < len(document.ids) and end - at < CONTEXT and document.trained[end + 1]:
            end += 1
        text = sample.finder.decode(document.ids[begin : end + 1])
        found.update({words: text for words in FORBIDDEN if words.lower() in text.lower()})
    shown = "; ".join(f"{words!r} in {text!r}" for words, text in list(found.items())[:3])
    return ValidationResult(
        not found,
        "TrainedTokenContent",
        f"found {shown or 'no words of a prompt'} among {len(chosen)} trained tokens; allowed: words of answers alone.",
        {"sampled": len(chosen), "found": sorted(found)},
    )


def packed_sequence(sample: Sample) -> ValidationResult:
    """PackedSequence: in packed rows, every answer is trained in at least 90 % of its tokens, its end mark counted."""
    name = "PackedSequence"
    if not sample.packing or not sample.limits.conversation:
        why = "packing is off" if not sample.packing else "rows are plain text"
        return ValidationResult(True, name, f"not applicable: {why}.", {"answers": 0})
    shares = []
    for number, row in enumerate(sample.rows):
        for document in row.documents:
            for region in sample.finder.regions(document):
                shares.append((sum(document.trained[at] for at in region) / len(region) if region else 0.0, number))
    low = [(share, row) for share, row in shares if share < LEAST_TRAINED]
    worst = f"; the worst is {min(low)[0]:.0%} in row {min(low)[1]}" if low else ""
    return ValidationResult(
        not low,
        name,
        f"found {len(low)} of {len(shares)} answers with less than {LEAST_TRAINED:.0%} of their tokens trained{worst}; allowed: 0.",
        {"answers": len(shares), "failed": len(low)},
    )


def label_distribution(sample: Sample) -> ValidationResult:
    """LabelDistribution: no row is all masked, all trained, or without a change from masked to trained."""
    wrong = {
        "all masked": [n for n, row in enumerate(sample.rows) if not row.trained],
        "all trained": [n for n, row in enumerate(sample.rows) if row.trained and row.trained == row.tokens],
        "without transition": [n for n, row in enumerate(sample.rows) if 0 < row.trained < row.tokens and not row.starts],
    }
    shown = ", ".join(f"{len(rows)} {what}" for what, rows in wrong.items() if rows)
    return ValidationResult(
        not shown and bool(sample.rows),
        "LabelDistribution",
        f"found {shown or 'none wrong'} of {len(sample.rows)} rows; allowed: rows with masked and trained tokens.",
        {what.replace(" ", "_"): rows for what, rows in wrong.items()},
    )


VALIDATORS: tuple[Validator, ...] = (masking_ratio, response_template_count, trained_token_content, packed_sequence, label_distribution)


def validate_masking(
    batches: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    marks: ChatMarks,
    pad_id: int,
    limits: MaskingLimits = DEFAULT,
    packing: bool = True,
    strict: bool = True,
    seed: int = 0,
) -> tuple[ValidationResult, ...]:
    """All five results for a few collated batches. With `strict`, which training uses, raises MaskingValidationError when one failed."""
    sample = Sample(rows_of(batches, pad_id), AnswerFinder(tokenizer, marks), limits, packing, seed)
    results = tuple(validator(sample) for validator in VALIDATORS)
    if strict and not all(result.passed for result in results):
        raise MaskingValidationError(results)
    return results
