"""The gate before the first step: it passes what the collator makes, and each validator has a batch that it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from guild.skills.binary.skill import BinarySkill
from guild.training.chat_template import CHATML_MARKS, ChatMarks, marks_of
from guild.training.collator import Collator
from guild.training.encoding import encode_rows
from guild.training.masking_limits import DEFAULT, LIMITS, MaskingLimits, limits_for
from guild.training.masking_validators import VALIDATORS, MaskingValidationError, validate_masking
from guild.training.packing import training_windows
from helpers.guild_tokenizers import THINKING_TEMPLATE, conversation, header_tokenizer, tiny_tokenizer
from modelwright.data.encoding import IGNORED

TINY = tiny_tokenizer()
PAD = TINY.pad_token_id
NAMES = ("MaskingRatio", "ResponseTemplateCount", "TrainedTokenContent", "PackedSequence", "LabelDistribution")
Batch = dict[str, Any]


def _batch(rows: list[dict[str, Any]], tokenizer: Any = TINY, *, packing: bool = True, max_length: int = 512) -> Batch:
    encoded = encode_rows(rows, tokenizer, marks=marks_of(tokenizer), max_length=max_length)
    windows = training_windows(encoded.documents, max_length, pad_id=tokenizer.pad_token_id, seed=0, packing=packing)
    return Collator(tokenizer.pad_token_id)([windows[at] for at in range(len(windows))])


def _good(**options: Any) -> Batch:
    return _batch(
        [conversation(f"Compute {n}", f"The answer to this one is {n}.", "more", "and so on", index=n) for n in range(12)], **options
    )


def _failed(batch: Batch, *, packing: bool = True, limits: MaskingLimits = DEFAULT, marks: ChatMarks = CHATML_MARKS) -> set[str]:
    results = validate_masking([batch], TINY, marks=marks, pad_id=PAD, limits=limits, packing=packing, strict=False)
    assert tuple(result.validator_name for result in results) == NAMES
    assert len(VALIDATORS) == 5
    failed = {result.validator_name for result in results if not result.passed}
    if failed:
        with pytest.raises(MaskingValidationError) as caught:
            validate_masking([batch], TINY, marks=marks, pad_id=PAD, limits=limits, packing=packing, strict=True)
        assert {line.split()[2] for line in str(caught.value).splitlines()} == failed
        assert len(caught.value.results) == 5
    return failed


@pytest.mark.parametrize("packing", [True, False])
def test_item_15_what_the_collator_makes_passes_all_five(packing: bool) -> None:
    assert _failed(_good(packing=packing), packing=packing) == set()


def test_item_15_masking_ratio_refuses_too_much_and_counts_no_padding() -> None:
    assert _failed(_batch([conversation("x " * 150, "no")])) == {"MaskingRatio"}
    # one short row in a window of mostly padding: the share is over its own tokens
    batch = _batch([conversation("Compute 1", "The answer to this one is 1, and that is all there is.")])
    wide = 2048
    room = wide - batch["input_ids"].shape[1]
    padded = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, room), value=PAD),
        "labels": torch.nn.functional.pad(batch["labels"], (0, room), value=IGNORED),
        "position_ids": torch.cat([batch["position_ids"], torch.arange(room)[None]], 1),
    }
    assert (padded["labels"] == IGNORED).float().mean() > 0.95
    assert _failed(padded) == set()


def test_item_15_masking_ratio_refuses_too_little() -> None:
    assert "MaskingRatio" in _failed(_batch([conversation("x", "yes and no " * 40)]))


def test_item_15_response_template_count_refuses_an_answer_that_is_not_trained() -> None:
    batch = _good(packing=False)
    labels = batch["labels"].clone()
    row = labels[0]
    trained = (row != IGNORED).nonzero().flatten()
    gap = int(trained[(trained.diff() > 1).nonzero()[0, 0]])
    row[: gap + 1] = IGNORED
    assert _failed({**batch, "labels": labels}, packing=False) == {"ResponseTemplateCount"}
    assert _failed({**batch, "labels": labels}, packing=True) == {"ResponseTemplateCount", "PackedSequence"}


def test_item_15_trained_token_content_refuses_trained_prompts_and_nothing_trained() -> None:
    batch = _good()
    everything = torch.where(batch["input_ids"] == PAD, IGNORED, batch["input_ids"])
    assert "TrainedTokenContent" in _failed({**batch, "labels": everything})
    nothing = torch.full_like(batch["labels"], IGNORED)
    assert {"TrainedTokenContent", "LabelDistribution", "MaskingRatio"} <= _failed({**batch, "labels": nothing})
    assert _failed(_batch([conversation("Compute", "I am a Helpful ASSISTANT and I know the answer very well")])) == {"TrainedTokenContent"}


def test_item_15_packed_sequence_refuses_answers_that_are_trained_in_part() -> None:
    batch = _good()
    labels = batch["labels"].clone()
    for row, ids in zip(labels, batch["input_ids"], strict=True):
        ends = (ids == TINY.eos_token_id).nonzero().flatten().tolist()
        for end in ends:
            row[max(0, end - 2) : end + 1] = IGNORED
    assert _failed({**batch, "labels": labels}, limits=MaskingLimits(0.3, 0.99)) == {"PackedSequence"}
    assert "PackedSequence" not in _failed({**batch, "labels": labels}, packing=False, limits=MaskingLimits(0.3, 0.99))


def test_item_15_label_distribution_refuses_rows_of_one_kind() -> None:
    good = _batch([conversation("Compute", "It is five and twenty, as I see it now.")], packing=False)
    size = int((good["input_ids"] != PAD).sum())
    for labels in (torch.full_like(good["labels"], IGNORED), good["input_ids"].clone()):
        labels[:, size:] = IGNORED
        assert "LabelDistribution" in _failed({**good, "labels": labels}, packing=False)
    head = good["input_ids"].clone()
    head[:, size // 2 :] = IGNORED  # trained from the first token on: no transition
    assert "LabelDistribution" in _failed({**good, "labels": head}, packing=False)


def test_labels_shifted_by_one_do_not_pass() -> None:
    batch = _good()
    shifted = torch.roll(batch["labels"], -3, dims=1)
    assert _failed({**batch, "labels": shifted})


def test_a_leading_newline_that_shares_a_token_with_the_opening_is_no_fault() -> None:
    rows = [conversation(f"Compute {n}", f"\n\nThe answer to this one is {n}.", index=n) for n in range(4)]
    assert _failed(_batch(rows)) == set()


def test_cut_rows_pass() -> None:
    rows = [conversation("a", "the first answer of this row", "b " * 30, "the second answer " * 10, index=n) for n in range(6)]
    whole = encode_rows(rows[:1], TINY, marks=CHATML_MARKS, max_length=4096).report.longest
    for length in range(70, whole, 9):
        assert _failed(_batch(rows, max_length=length), limits=MaskingLimits(0.0, 1.0)) == set()


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(THINKING_TEMPLATE), header_tokenizer()])
def test_other_templates_pass(tokenizer: Any) -> None:
    batch = _batch(
        [conversation(f"Compute {n}", f"The answer to this one is {n}.", "more", "and more of it", index=n) for n in range(8)], tokenizer
    )
    assert all(r.passed for r in validate_masking([batch], tokenizer, marks=marks_of(tokenizer), pad_id=tokenizer.pad_token_id))


def test_texts_have_limits_of_their_own() -> None:
    row = {"text": "once upon a time there was a tower " * 30, "preface": "You are happy. You enjoy helping others.", "index": 0}
    encoded = encode_rows([row], TINY, marks=CHATML_MARKS, max_length=128)
    windows = training_windows(encoded.documents, 128, pad_id=PAD, seed=0)
    batch = Collator(PAD)([windows[at] for at in range(len(windows))])
    assert _failed(batch, limits=limits_for("completion_v1")) == set()
    assert "ResponseTemplateCount" in _failed(batch, limits=MaskingLimits(0, 1))


def test_limits_are_those_of_the_most_specific_name() -> None:
    assert limits_for(None, "emoji_think", "chat_sft_v1") == DEFAULT == MaskingLimits(0.30, 0.85)
    assert limits_for("sparring", None, "chat_sft_v1") == LIMITS["sparring"]
    assert (LIMITS["sparring"].lowest, LIMITS["sparring"].highest) == (0.30, 0.97)
    assert limits_for("manual") == DEFAULT
    assert limits_for("manual", "regime3", "chat_sft_v1") == LIMITS["regime3"]
    assert all(0 <= limits.lowest < limits.highest < 1 for limits in LIMITS.values())


@pytest.mark.parametrize("form", ["brief", "verify", "show-work", "trace"])
@pytest.mark.parametrize("level", [1, 28])
def test_real_rows_of_every_form_of_binary_arithmetic_pass(form: str, level: int) -> None:
    samples = BinarySkill(forms=(form,), tasks=(), auxiliary_share=0).generate(level, 20, seed=1)
    rows = [conversation(sample.user_prompt, sample.assistant_response, index=n) for n, sample in enumerate(samples)]
    assert _failed(_batch(rows, max_length=2048), limits=limits_for("bin_api", "none", "chat_sft_v1")) == set()


def test_sparring_verdicts_pass_with_their_limits_and_not_with_the_default() -> None:
    rows = [
        conversation("Compute: add(①⓪, ①)\n\nHere is an attempt:\nadd(①⓪, ①) = ①⓪⓪\n\nIs it correct?", "It is incorrect.", index=n)
        for n in range(4)
    ]
    batch = _batch(rows)
    assert _failed(batch, limits=limits_for("sparring", "chat_sft_v1")) == set()
    assert _failed(batch) == {"MaskingRatio"}
