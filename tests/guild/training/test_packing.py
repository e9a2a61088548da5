"""Windows and batches: nothing lost, documents isolated on numbers, padding never trained."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from guild.training.chat_template import CHATML_MARKS
from guild.training.collator import Collator
from guild.training.encoding import encode_rows
from guild.training.packing import TrainingWindows, packing_enabled, training_windows
from helpers.guild_tokenizers import conversation, tiny_tokenizer
from helpers.tiny_random import random_llama
from modelwright.data.encoding import IGNORED
from modelwright.errors import UsageError
from modelwright.tiny import tiny_model_path

LENGTH = 256
TOLERANCE = 2e-4
TINY = tiny_tokenizer()
PAD = TINY.pad_token_id


def _windows(count: int = 24, *, packing: bool = True, seed: int = 0) -> TrainingWindows:
    rows = [conversation(f"say {n} " + "and more " * (n % 7), f"{n} " * (1 + n % 5), index=n) for n in range(count)]
    encoded = encode_rows(rows, TINY, marks=CHATML_MARKS, max_length=LENGTH)
    return training_windows(encoded.documents, LENGTH, pad_id=PAD, seed=seed, packing=packing)


def _documents(windows: TrainingWindows) -> list[tuple[int, ...]]:
    found = []
    for at in range(len(windows)):
        item = windows[at]
        starts = [i for i, position in enumerate(item["position_ids"]) if position == 0]
        found += [tuple(item["input_ids"][a:b]) for a, b in pairwise([*starts, len(item["input_ids"])])]
    return found


@pytest.mark.parametrize("packing", [True, False])
def test_every_document_is_in_exactly_one_window_whole(packing: bool) -> None:
    windows = _windows(packing=packing)
    alone = _windows(packing=False)
    assert sorted(_documents(windows)) == sorted(_documents(alone))
    assert len(_documents(windows)) == 24
    assert all(len(windows[at]["input_ids"]) <= LENGTH for at in range(len(windows)))
    assert windows.tokens == sum(map(len, _documents(windows)))
    assert (len(windows) < 24) is packing


@pytest.mark.parametrize("packing", [True, False])
def test_the_order_is_the_seeds(packing: bool) -> None:
    first, again, other = (_windows(packing=packing, seed=seed) for seed in (0, 0, 1))
    assert _documents(first) == _documents(again) != _documents(other)


def test_packing_fills_windows_well() -> None:
    assert _windows(200).efficiency > 0.9


def _isolation_error(model: PreTrainedModel, batch: dict[str, Any]) -> float:
    """Largest difference between a packed document's logits and its logits alone, padding left out."""
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    worst = 0.0
    for row, (ids, positions) in enumerate(zip(batch["input_ids"], batch["position_ids"], strict=True)):
        starts = [*(positions == 0).nonzero().flatten().tolist(), len(ids)]
        for begin, end in pairwise(starts):
            if (ids[begin:end] == PAD).all():
                continue
            alone = model(input_ids=ids[None, begin:end]).logits[0]
            worst = max(worst, float((logits[row, begin:end] - alone).abs().max()))
    return worst


@pytest.fixture(params=["trained", "random"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    if request.param == "random":
        return random_llama(vocab_size=len(TINY))
    return AutoModelForCausalLM.from_pretrained(tiny_model_path("modelwright/tiny-0.4m")).eval()


@torch.no_grad()
@pytest.mark.parametrize("explicit_mask", [False, True])
def test_item_15_documents_of_a_collated_batch_do_not_see_each_other(model: PreTrainedModel, explicit_mask: bool) -> None:
    windows = _windows()
    batch = Collator(PAD, explicit_mask=explicit_mask)([windows[0], windows[1], windows[len(windows) - 1]])
    assert int((batch["position_ids"] == 0).sum()) > 4
    assert _isolation_error(model, batch) < TOLERANCE


@torch.no_grad()
def test_the_measure_of_isolation_sees_a_leak(model: PreTrainedModel) -> None:
    windows = _windows()
    batch = Collator(PAD)([windows[0], windows[1]])
    leaking = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
    assert _isolation_error(model, leaking) > 50 * TOLERANCE


def test_gradients_of_a_packed_batch_are_those_of_its_documents_alone() -> None:
    model = random_llama(vocab_size=len(TINY)).double()
    packed, alone = _windows(6), _windows(6, packing=False)

    def gradient(windows: TrainingWindows) -> list[torch.Tensor]:
        model.zero_grad()
        batch = Collator(PAD)([windows[at] for at in range(len(windows))])
        model(**batch).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    for one, other in zip(gradient(packed), gradient(alone), strict=True):
        assert torch.allclose(one, other, atol=1e-9)


def test_a_batch_is_padded_to_a_multiple_and_padding_is_never_trained() -> None:
    windows = _windows(5, packing=False)
    items = [windows[at] for at in range(5)]
    batch = Collator(PAD, multiple=16)(items)
    longest = max(len(item["input_ids"]) for item in items)
    assert batch["input_ids"].shape == (5, -(-longest // 16) * 16)
    assert batch["use_cache"] is False and "attention_mask" not in batch
    for row, item in enumerate(items):
        size = len(item["input_ids"])
        assert batch["input_ids"][row, :size].tolist() == list(item["input_ids"])
        assert batch["labels"][row, :size].tolist() == list(item["labels"])
        assert (batch["labels"][row, size:] == IGNORED).all() and (batch["input_ids"][row, size:] == PAD).all()
        assert batch["position_ids"][row, size:].tolist() == list(range(batch["input_ids"].shape[1] - size))


def test_a_document_longer_than_a_window_is_refused() -> None:
    encoded = encode_rows([conversation("a", "b " * 50)], TINY, marks=CHATML_MARKS, max_length=LENGTH)
    with pytest.raises(ValueError, match="row 0 has"):
        training_windows(encoded.documents, 16, pad_id=PAD, seed=0)


def test_the_variable_that_turns_packing_off() -> None:
    assert [packing_enabled({}), packing_enabled({"ENABLE_PACKING": "1"}), packing_enabled({"ENABLE_PACKING": "0"})] == [True, True, False]
    assert packing_enabled({}, default=False) is False
    with pytest.raises(UsageError, match="ENABLE_PACKING: found 'yes'"):
        packing_enabled({"ENABLE_PACKING": "yes"})
