"""The table of states and transitions, by itself."""

from __future__ import annotations

from itertools import product

import pytest

from guild.records.job_errors import IllegalTransitionError
from guild.records.states import EVENTS, HELD, LIVE, OPERATOR_EVENTS, STATES, TERMINAL, TRANSITIONS, after, allowed, from_states


def test_the_states_are_split_into_waiting_held_and_ended() -> None:
    assert set(LIVE) | set(TERMINAL) == set(STATES)
    assert not set(LIVE) & set(TERMINAL)
    assert set(TERMINAL) == {"completed", "failed", "cancelled", "rejected"}


def test_every_pair_has_one_outcome_or_a_typed_refusal() -> None:
    for state, event in product(STATES, EVENTS):
        if (state, event) in TRANSITIONS:
            assert after(state, event) in STATES
            assert event in allowed(state) and state in from_states(event)
            continue
        with pytest.raises(IllegalTransitionError) as refusal:
            after(state, event, "Job 7 (train_a.jsonl)")
        assert refusal.value.allowed == allowed(state)
        assert f"Job 7 (train_a.jsonl) is {state}: found the event {event!r}; allowed: " in str(refusal.value)
        for name in from_states(event):
            assert name in str(refusal.value)


def test_only_an_operator_leads_out_of_an_end_and_nothing_out_of_completed() -> None:
    for state in TERMINAL:
        assert set(allowed(state)) <= set(OPERATOR_EVENTS)
    assert allowed("completed") == ()
    for event in OPERATOR_EVENTS:
        assert set(from_states(event)) <= set(TERMINAL)


def test_a_job_comes_to_be_held_by_a_claim_alone() -> None:
    for (state, event), then in TRANSITIONS.items():
        if then in HELD and state not in HELD:
            assert event == "claim"


def test_every_state_is_reached_and_leads_to_an_end() -> None:
    def reach(start: str) -> set[str]:
        seen, new = set(), {start}
        while new:
            seen |= new
            new = {then for (state, _), then in TRANSITIONS.items() if state in new} - seen
        return seen

    assert reach("queued") == set(STATES)
    for state in LIVE:
        assert reach(state) & set(TERMINAL)
