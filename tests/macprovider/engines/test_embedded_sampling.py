"""Drawing tokens: supports, frequencies, penalties by hand, seeds."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from macprovider.engines.base import GenerationRequest, Sampling
from macprovider.engines.embedded.sampling import Draw, choose, draw_for, kept_probabilities, shape

LOGITS = torch.tensor([[2.0, 0.5, 1.0, -1.0, 0.0]])


def draw(**options: object) -> Draw:
    return draw_for(GenerationRequest([1], 10, Sampling(**options)))  # type: ignore[arg-type]


def kept(logits: torch.Tensor, **options: object) -> dict[int, float]:
    p, ids = kept_probabilities(logits, [Sampling(**options)])  # type: ignore[arg-type]
    return {token: value for token, value in zip(ids[0].tolist(), p[0].tolist(), strict=True) if value > 0}


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.floats(0.01, 1.0), st.integers(0, 12), st.floats(0.1, 3.0))
def test_the_support_is_the_fewest_most_likely_tokens(logits: list[float], top_p: float, top_k: int, temperature: float) -> None:
    found = kept(torch.tensor([logits], dtype=torch.float64), temperature=temperature, top_p=top_p, top_k=top_k)
    weights = [math.exp(x / temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda index: -logits[index])[: top_k or None]
    total = sum(weights[index] for index in order)
    expected, reached = [], 0.0
    for index in order:
        expected.append(index)
        reached += weights[index] / total
        if reached >= top_p - 1e-9:
            break
    # either is right where a sum meets top_p, or where all that one of them adds weighs nothing
    between = abs(sum(weights[index] for index in found) - sum(weights[index] for index in expected)) / total
    assert abs(len(found) - len(expected)) <= (abs(reached - top_p) < 1e-6) or between < 1e-6
    short = min(len(found), len(expected))
    assert sorted(logits[i] for i in found)[-short:] == pytest.approx(sorted(logits[i] for i in expected)[-short:])


@pytest.mark.parametrize("options", [{"temperature": 0.7, "top_p": 0.95}, {"temperature": 1.3}, {"top_k": 3}])
def test_frequencies_follow_the_probabilities(options: dict[str, float]) -> None:
    state = draw(**options, seed=4)
    expected = kept(LOGITS, **options)
    total = sum(expected.values())
    n = 6000
    counts = Counter(token.id for _ in range(n) for token in choose(LOGITS, [state]) if token)
    assert set(counts) == set(expected)
    for token, p in expected.items():
        p /= total
        assert abs(counts[token] / n - p) < 5 * math.sqrt(p * (1 - p) / n)


def test_the_same_seed_draws_the_same_whatever_else_runs() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(30, 1, 50, generator=generator)
    alone, together, other = draw(seed=11), draw(seed=11), draw(seed=12)
    first = [choose(row, [alone])[0] for row in logits]
    mixed = [choose(torch.cat((row, row, row)), [draw(temperature=0.0), together, other]) for row in logits]
    assert first == [row[1] for row in mixed]
    assert first != [row[2] for row in mixed]
    assert [row[0].id for row in mixed if row[0]] == logits[:, 0].argmax(-1).tolist()


def test_without_a_seed_answers_differ() -> None:
    logits = torch.zeros(1, 1000)
    assert len({choose(logits, [draw()])[0].id for _ in range(20)}) > 10  # type: ignore[union-attr]


def test_penalties_and_bias_by_hand() -> None:
    state = draw(temperature=0.0, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={3: 2.0, 1: -1.0})
    for token in (0, 0, 0, 2):
        state.take(token)
    row = LOGITS[0].clone()
    shape(row, state)
    assert row.tolist() == pytest.approx([2.0 - 0.5 - 0.75, 0.5 - 1.0, 1.0 - 0.5 - 0.25, -1.0 + 2.0, 0.0])
    assert choose(LOGITS, [state])[0].id == 3  # type: ignore[union-attr]
    assert LOGITS[0].tolist() == [2.0, 0.5, 1.0, -1.0, 0.0]


def test_logprobs_are_those_of_the_whole_distribution() -> None:
    request = GenerationRequest([1], 10, Sampling(temperature=0.3, top_k=1, logit_bias={1: 100.0}, seed=1), top_logprobs=2)
    token = choose(LOGITS, [draw_for(request)])[0]
    logs = LOGITS[0].log_softmax(-1)
    assert token is not None and token.id == 1 and token.logprob == pytest.approx(float(logs[1]))
    assert [index for index, _ in token.top] == [0, 2] and [log for _, log in token.top] == pytest.approx([float(logs[0]), float(logs[2])])


@pytest.mark.parametrize(
    "options", [{"temperature": 1e-6}, {"temperature": 1e-300}, {"temperature": 1e-300, "top_p": 0.5}, {"top_p": 0.0}, {"top_k": 1}]
)
def test_the_narrowest_settings_take_the_most_likely_token(options: dict[str, float]) -> None:
    assert all(choose(LOGITS * 1000, [draw(**options)])[0].id == 0 for _ in range(20))  # type: ignore[union-attr]


def test_a_row_without_numbers_is_found_and_the_others_are_not_disturbed() -> None:
    logits = torch.cat((LOGITS, torch.full_like(LOGITS, torch.nan), LOGITS))
    for others in (draw(temperature=0.0), draw(seed=3)):
        found = choose(logits, [draw(temperature=0.0), others, draw(temperature=0.0)])
        assert found[1] is None and found[0] is not None and found[0].id == 0 and found[2] == found[0]


def test_logits_without_end_cost_their_own_row_alone() -> None:
    logits = torch.cat((LOGITS, LOGITS))
    logits[1, 2] = torch.inf
    for other in (draw(seed=3), draw(seed=3, top_p=0.5)):
        found = choose(logits, [draw(temperature=0.0), other])
        assert found[0] is not None and found[0].id == 0 and found[1] is None
