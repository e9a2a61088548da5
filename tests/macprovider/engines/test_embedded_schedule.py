"""The rules of who runs next, on made-up work without a model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from macprovider.engines.embedded.rows import Seat, Slot, seat_for
from macprovider.engines.embedded.schedule import State, compacting_swaps, next_turn, piece_of

STATES = st.lists(st.sampled_from(["idle", "prompt", "answer"]), min_size=1, max_size=9)
WORK = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), max_size=12)


@given(WORK, st.integers(1, 4), st.integers(1, 16))
def test_all_work_is_done_in_order_and_no_answer_waits(work: list[tuple[int, int]], slots: int, largest: int) -> None:
    """Prompts of the given lengths, answers of the given lengths."""
    waiting = list(range(len(work)))
    prompt_left: dict[int, int] = {}
    answer_left: dict[int, int] = {}
    place: list[int | None] = [None] * slots
    begun: list[int] = []
    ended: list[int] = []
    for _ in range(sum(-(-prompt // largest) + answer for prompt, answer in work) + 1):
        states: list[State] = ["idle" if who is None else "prompt" if prompt_left[who] else "answer" for who in place]
        turn = next_turn(states, len(waiting))
        assert turn.answers == tuple(slot for slot, state in enumerate(states) if state == "answer")
        assert not (turn.begin and turn.prompt is not None) and states.count("prompt") <= 1
        current = turn.prompt
        if turn.begin:
            current = states.index("idle")
            who = waiting.pop(0)
            begun.append(who)
            place[current], prompt_left[who], answer_left[who] = who, work[who][0], work[who][1]
        elif waiting:
            assert "idle" not in states or "prompt" in states, "a free slot must not wait"
        if current is not None:
            who = place[current]
            assert who is not None
            piece = piece_of(prompt_left[who], largest)
            assert 1 <= piece <= largest
            prompt_left[who] -= piece
        for slot in turn.answers:
            who = place[slot]
            assert who is not None
            answer_left[who] -= 1
            if not answer_left[who]:
                place[slot] = None
                ended.append(who)
    assert begun == list(range(len(work))) and sorted(ended) == begun


@given(STATES)
def test_swaps_bring_the_answers_to_the_front(states: list[State]) -> None:
    swaps = compacting_swaps(states)
    for low, high in swaps:
        assert low < high and states[low] != "answer" and states[high] == "answer"
        states[low], states[high] = states[high], states[low]
    count = states.count("answer")
    assert all(state == "answer" for state in states[:count])


TOKENS = st.lists(st.integers(0, 1), max_size=6)


@given(
    st.lists(st.tuples(TOKENS, st.booleans(), st.integers(0, 3)), min_size=1, max_size=5),
    st.lists(st.integers(0, 1), min_size=1, max_size=6),
)
def test_a_prompt_takes_an_idle_slot_and_the_longest_beginning(rows: list[tuple[list[int], bool, int]], prompt: list[int]) -> None:
    slots = [Slot(tokens, object() if busy else None, used) for tokens, busy, used in rows]  # type: ignore[arg-type]
    slots.append(Slot())
    seat = seat_for(prompt, slots, lambda _, shared: shared)
    assert slots[seat.slot].answer is None
    assert slots[seat.source].tokens[: seat.shared] == prompt[: seat.shared] and seat.shared < len(prompt)
    common = [
        next((i for i, (a, b) in enumerate(zip(slot.tokens, prompt[:-1], strict=False)) if a != b), min(len(slot.tokens), len(prompt) - 1))
        for slot in slots
    ]
    assert seat.shared == max(common)
    if seat.source != seat.slot:
        assert all(slot.answer is not None or count < seat.shared for slot, count in zip(slots, common, strict=True))


def test_an_empty_slot_is_taken_before_one_that_keeps_something() -> None:
    slots = [Slot([1, 2], None, 5), Slot([3], None, 2), Slot([], None, 9)]
    assert seat_for([7, 8], slots, lambda _, shared: shared) == Seat(2, 2, 0)
    assert seat_for([7, 8], slots[:2], lambda _, shared: shared) == Seat(1, 1, 0)
    assert seat_for([1, 2, 3], slots, lambda _, shared: shared) == Seat(0, 0, 2)
    assert seat_for([1, 2, 3], slots, lambda _, shared: 0) == Seat(2, 2, 0)
