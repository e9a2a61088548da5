"""The examples of the evaluated tasks, and the record of where their text came from. (specs/medic.md, 6.1; [C11] [C31])

Everything that is scored comes from the split `test`. Needs torch only through the tokenizer it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachemedicpp.inputs.needle import needle_examples, passkey_examples
from cachemedicpp.inputs.tasks import NEEDLE, SST2, WIKITEXT, Example, perplexity_examples, sentiment_examples, wording_for
from cachemedicpp.inputs.texts import load_reviews, load_text, training_line_count

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cachemedicpp.config.sections import RunConfig


def task_examples(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, list[Example]], dict[str, Any]]:
    """The examples of every task of `eval.tasks` in order, and the provenance of each by task name.

    Raises DataUnavailableError when text cannot be had (nothing else takes its place), UsageError when it is too short.
    """
    examples: dict[str, list[Example]] = {}
    sources: dict[str, Any] = {}
    for task in config.eval.tasks:
        examples[task.name], sources[task.name] = _one(config, tokenizer, task.name, task.num_examples)
    return examples, sources


def text_splits(config: RunConfig) -> dict[str, Any]:
    """Line ranges and hashes of the training and validation text, which share nothing with the test text. [C11]"""
    limit = training_line_count(config.train.steps)
    return {
        "train": load_text(config.data, "train", limit=limit).provenance.as_dict(),
        "validation": load_text(config.data, "validation").provenance.as_dict(),
    }


def _one(config: RunConfig, tokenizer: PreTrainedTokenizerBase, name: str, count: int) -> tuple[list[Example], dict[str, Any]]:
    data, longest = config.data, config.eval.max_seq_len
    if name == WIKITEXT:
        lines = load_text(data, "test")
        inline = config.corruption.inject == "inline"
        return perplexity_examples(tokenizer, lines.items, count, longest, single_pass=inline), lines.provenance.as_dict()
    if name == SST2:
        reviews, wording = load_reviews(data, "test", limit=count), wording_for(tokenizer, config.eval.sst2_wording)
        examples = sentiment_examples(tokenizer, reviews.items, count, longest, wording)
        return examples, {**reviews.provenance.as_dict(), "wording": wording.name}
    seed = data.long_context.seed
    if name == NEEDLE:
        examples = needle_examples(tokenizer, data.long_context, count, longest, listed=config.eval.needle_values)
    else:
        examples = passkey_examples(tokenizer, count, longest, seed)
    return examples, {"kind": "generated", "source": name, "seed": seed, "items": count}
