"""Who runs next: pure rules over the states of the slots, without a model and without torch.

One turn of the engine is at most one piece of one prompt and one token of every running answer. A prompt is begun only when
no other is unfinished, so prompts are computed in the order in which they came, and the next one can take over what the one
before it left in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

State = Literal["idle", "prompt", "answer"]
"""Of a slot: free, in the middle of its prompt, or giving an answer."""


class Turn(NamedTuple):
    """What one turn does. begin: the first waiting request takes a slot, and its first piece is computed in this turn. prompt:
    the slot whose next piece is computed. answers: the slots that give a token.
    """

    begin: bool
    prompt: int | None
    answers: tuple[int, ...]


def next_turn(states: Sequence[State], waiting: int) -> Turn:
    """The next turn for slots in `states` while `waiting` requests wait."""
    prompt = next((slot for slot, state in enumerate(states) if state == "prompt"), None)
    begin = prompt is None and waiting > 0 and "idle" in states
    return Turn(begin, prompt, tuple(slot for slot, state in enumerate(states) if state == "answer"))


def piece_of(left: int, largest: int) -> int:
    """Tokens of the next piece of a prompt that has `left` more: at most `largest`."""
    return min(left, largest)


def compacting_swaps(states: Sequence[State]) -> list[tuple[int, int]]:
    """Pairs of slots to exchange, so that the answering ones are the lowest: the fewest that do it, each (low, high)."""
    answers = sum(state == "answer" for state in states)
    holes = [slot for slot in range(answers) if states[slot] != "answer"]
    beyond = [slot for slot in range(answers, len(states)) if states[slot] == "answer"]
    return list(zip(holes, beyond, strict=True))
