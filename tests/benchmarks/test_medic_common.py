"""What the studies of damaged caches share, on the smallest packaged model. No time is asserted."""

from __future__ import annotations

import math

import pytest
import torch
from benchmarks.medic_common.measures import agreement, nats_per_token, paired_kl, recall_scores, same_continuation
from benchmarks.medic_common.subjects import (
    Pair,
    Subject,
    continuations,
    damaged,
    load_subject,
    prefill,
    recall_prompts,
    tail_logits,
    text_stream,
    texts,
)
from benchmarks.medic_common.training import Training, lessons, new_operator, train_operator
from torch import Tensor

from cachemedicpp.inputs.sources import SPLITS
from modelwright.errors import UsageError

SHORT = Training(steps=2, seed=3, batch=2, prefix_tokens=24, tail_tokens=8, clean_share=0.0)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load_subject("modelwright/tiny-0.4m")


def noise(key: Tensor, value: Tensor, layer: int, draw: int) -> Pair:
    generator = torch.Generator().manual_seed(100 * draw + layer)
    return key + 0.5 * torch.randn(key.shape, generator=generator), value + 0.5 * torch.randn(value.shape, generator=generator)


def test_a_cache_of_the_prefix_gives_the_logits_of_the_whole_text(subject: Subject) -> None:
    ids = texts(subject, "test", 2, 40)
    with torch.no_grad():
        whole = subject.model(input_ids=ids).logits[:, 32:]
    found = tail_logits(subject, ids[:, 32:], prefill(subject, ids[:, :32]))
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)


def test_a_new_operator_of_any_family_changes_nothing(subject: Subject) -> None:
    ids = texts(subject, "test", 2, 40)
    pairs, tail = prefill(subject, ids[:, :32]), ids[:, 32:]
    clean, answer = tail_logits(subject, tail, pairs), continuations(subject, tail, pairs, 4)
    for family in ("A", "B", "C", "D"):
        operator = new_operator(subject, Training(family=family))  # type: ignore[arg-type]
        torch.testing.assert_close(tail_logits(subject, tail, pairs, operator), clean, rtol=0, atol=1e-5)
        assert torch.equal(continuations(subject, tail, pairs, 4, operator), answer)


def test_a_damage_reaches_the_keys_and_values_of_every_layer_and_leaves_the_clean_cache_alone(subject: Subject) -> None:
    ids = texts(subject, "test", 1, 40)
    pairs = prefill(subject, ids[:, :32])
    kept = [(key.clone(), value.clone()) for key, value in pairs]
    struck = damaged(pairs, noise, draw=1)
    clean = tail_logits(subject, ids[:, 32:], pairs)
    for layer in range(subject.layers):
        assert not torch.equal(struck[layer][0], pairs[layer][0]) and not torch.equal(struck[layer][1], pairs[layer][1])
        one = [struck[other] if other == layer else pairs[other] for other in range(subject.layers)]
        assert float(paired_kl(clean, tail_logits(subject, ids[:, 32:], one)).min()) > 0, "the model reads what is stored"
        assert all(torch.equal(now, before) for now, before in zip(pairs[layer], kept[layer], strict=True))


def test_texts_are_drawn_without_overlap_from_splits_that_share_no_stretch(subject: Subject) -> None:
    seen: dict[str, set[tuple[int, ...]]] = {}
    for split in SPLITS:
        count = text_stream(subject, split).numel() // 64
        rows = {tuple(row) for row in texts(subject, split, count, 64).tolist()}
        assert len(rows) == count
        seen[split] = rows
        with pytest.raises(UsageError, match=f"The {split} text has {count} stretches"):
            texts(subject, split, count + 1, 64)
    assert not seen["train"] & seen["validation"] and not seen["train"] & seen["test"] and not seen["validation"] & seen["test"]
    assert torch.equal(texts(subject, "test", 3, 64, seed=5), texts(subject, "test", 3, 64, seed=5))
    assert not torch.equal(texts(subject, "test", 3, 64, seed=5), texts(subject, "test", 3, 64, seed=6))


def test_training_changes_the_operator_alone_and_repeats_by_seed(subject: Subject) -> None:
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    losses: list[float] = []
    first = train_operator(subject, noise, SHORT, on_step=lambda step, loss: losses.append(loss))
    again = train_operator(subject, noise, SHORT, lessons(subject, SHORT))
    other = train_operator(subject, noise, Training(**{**vars(SHORT), "seed": 4}))
    start = new_operator(subject, SHORT).state_dict()
    assert len(losses) == 2 and all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert any(not torch.equal(tensor, start[name]) for name, tensor in first.state_dict().items())
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert any(not torch.equal(tensor, other.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.model.state_dict().items())


def test_passkeys_are_found_in_a_clean_cache_and_lost_in_an_empty_one(subject: Subject) -> None:
    prompts = recall_prompts(subject, 3, 160)
    assert recall_scores(subject, prompts) == [1.0, 1.0, 1.0]
    assert sum(recall_scores(subject, prompts, lambda key, value, layer, draw: (key * 0, value * 0))) == 0


def test_measures_on_hand_made_logits() -> None:
    clean = torch.tensor([[[0.0, math.log(3.0)], [math.log(3.0), 0.0]]])
    flat = torch.zeros(1, 2, 2)
    want = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert paired_kl(clean, flat).item() == pytest.approx(want)
    assert paired_kl(clean, clean).item() == 0
    assert agreement(clean, flat).item() == 0.5, "the first of equal maxima"
    assert nats_per_token(clean, torch.tensor([[0, 1]])).item() == pytest.approx(-math.log(0.75)), "row 0 predicts token 1"
    assert same_continuation(torch.tensor([[1, 2], [1, 2]]), torch.tensor([[1, 2], [1, 3]])).tolist() == [1.0, 0.0]
