"""One turn of the engine after the other: prompts in pieces, one token for all running answers, and what their readers hear.

What goes wrong with one answer ends that answer, what goes wrong with a step ends those that were in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from macprovider.engines.base import EngineError, FinishReason, Token
from macprovider.engines.embedded.cache import RowCache
from macprovider.engines.embedded.grammar import GrammarError
from macprovider.engines.embedded.rows import Answer, Slot, seat_for
from macprovider.engines.embedded.sampling import choose
from macprovider.engines.embedded.schedule import compacting_swaps, next_turn, piece_of
from modelwright.errors import ModelwrightError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOG = logging.getLogger(__name__)


@dataclass
class Counts:
    """Since loading."""

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    steps: int = 0


@dataclass
class Runner:
    """A model, its cache and its slots. piece: tokens of a prompt in one turn. reuse: whether prompts take over prefixes."""

    model: PreTrainedModel
    cache: RowCache
    piece: int
    reuse: bool
    slots: list[Slot]
    counts: Counts = field(default_factory=Counts)
    _turn: int = 0

    @property
    def busy(self) -> bool:
        """Whether any slot has an answer."""
        return any(slot.answer is not None for slot in self.slots)

    def turn(self, waiting: int, begin: Callable[[], Answer | None]) -> None:
        """One turn. begin: takes the first waiting request."""
        self._turn += 1
        for index, slot in enumerate(self.slots):
            if slot.answer is not None and slot.answer.cancelled.is_set():
                self._finish(index, "cancelled")
        turn = next_turn([slot.state for slot in self.slots], waiting)
        prompt = turn.prompt
        if turn.begin and (answer := begin()) is not None:
            prompt = self._seat(answer)
        if prompt is not None:
            self._guarded([prompt], self._prompt, prompt)
        self._answers()

    def cancel_all(self) -> None:
        """End every running answer."""
        for index, slot in enumerate(self.slots):
            if slot.answer is not None:
                self._finish(index, "cancelled")

    def fail_all(self, error: Exception) -> None:
        """End every running answer after a turn that raised, and trust nothing that is cached."""
        _LOG.error("A turn of the engine failed.", exc_info=error)
        for index, slot in enumerate(self.slots):
            self._spoil(index)
            if slot.answer is not None:
                self._finish(index, "error", sentence(error))

    def _seat(self, answer: Answer) -> int | None:
        prompt = answer.request.prompt
        seat = seat_for(prompt, self.slots, self.cache.reusable if self.reuse else lambda row, shared: 0)
        slot = self.slots[seat.slot]
        slot.answer, slot.used = answer, self._turn
        try:
            self.cache.reserve(seat.slot + 1, len(prompt))
            if seat.source != seat.slot:
                self.cache.move(seat.source, seat.slot, seat.shared)
        except (RuntimeError, MemoryError) as error:
            slot.tokens.clear()
            self._finish(seat.slot, "error", sentence(error))
            return None
        self.cache.keep(seat.slot, seat.shared)
        slot.tokens[:] = prompt[: seat.shared]
        answer.cached_tokens = seat.shared
        self.counts.prompt += len(prompt)
        self.counts.cached += seat.shared
        return seat.slot

    def _prompt(self, index: int) -> None:
        """Compute the next piece of a prompt, and the first token of the answer after its last one."""
        slot = self.slots[index]
        answer = slot.answer
        assert answer is not None
        prompt, start = answer.request.prompt, len(slot.tokens)
        end = start + piece_of(len(prompt) - start, self.piece)
        mask = self.cache.begin_prompt(index, start, end - start)
        positions = torch.arange(start, end, device=self.model.device)[None]
        logits = self._forward([list(prompt[start:end])], positions, mask)
        slot.tokens.extend(prompt[start:end])
        self.cache.stored([index], [end])
        if end == len(prompt):
            self._hand_out([index], logits)

    def _answers(self) -> None:
        """One token for every answer whose prompt is done."""
        for low, high in compacting_swaps([slot.state for slot in self.slots]):
            self._exchange(low, high)
        rows = [index for index, slot in enumerate(self.slots) if slot.state == "answer"]
        rows = self._with_room(rows)
        if rows:
            self._guarded(rows, self._step, rows)

    def _with_room(self, rows: list[int]) -> list[int]:
        """The rows, with room for a token in each; the longest ends when the memory for it is lacking."""
        while rows:
            longest = max(rows, key=lambda row: len(self.slots[row].tokens))
            try:
                self.cache.reserve(len(rows), len(self.slots[longest].tokens) + 1)
                return rows
            except (RuntimeError, MemoryError) as error:
                self._finish(longest, "error", sentence(error))
                rows = [row for row in rows if row != longest]
                if longest < len(rows):
                    self._exchange(longest, len(rows))
                    rows = list(range(len(rows)))
        return rows

    def _step(self, rows: Sequence[int]) -> None:
        slots = [self.slots[row] for row in rows]
        lengths = [len(slot.tokens) for slot in slots]
        newest = [slot.answer.last for slot in slots if slot.answer is not None]
        mask = self.cache.begin_answers(lengths)
        assert self.cache.step.lengths is not None
        logits = self._forward([[token] for token in newest], self.cache.step.lengths[:, None], mask)
        for slot, token in zip(slots, newest, strict=True):
            slot.tokens.append(token)
        self.cache.stored(rows, [length + 1 for length in lengths])
        self._hand_out(rows, logits)

    def _forward(self, tokens: list[list[int]], positions: Tensor, mask: Tensor | None) -> Tensor:
        """Logits `[B, V]` of the newest tokens."""
        self.counts.steps += 1
        arguments: dict[str, Any] = {
            "input_ids": torch.tensor(tokens, device=self.model.device),
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": self.cache.library,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        logits: Tensor = self.model(**arguments).logits[:, -1]
        return logits

    def _hand_out(self, rows: Sequence[int], logits: Tensor) -> None:
        """Draw a token for each of the rows and tell its reader."""
        answers = [answer for row in rows if (answer := self.slots[row].answer) is not None]
        for row, answer, token in zip(rows, answers, choose(logits, [answer.draw for answer in answers]), strict=True):
            if token is None and answer.draw.fault:
                self._finish(row, "refused", answer.draw.fault)
            elif token is None:
                self._spoil(row)
                self._finish(
                    row, "error", "The model computed something that is not a number; its weights or its number format are at fault."
                )
            else:
                self._guarded([row], self._take, row, answer, token)

    def _take(self, row: int, answer: Answer, token: Token) -> None:
        if token.id in answer.stop_ids:
            self._finish(row, "stop")
            return
        complete = answer.draw.take(token.id)
        answer.last, answer.made = token.id, answer.made + 1
        self.counts.generated += 1
        answer.listener.tokens((token,))
        if complete:
            self._finish(row, "stop")
        elif answer.made >= answer.limit:
            self._finish(row, "length")

    def _exchange(self, low: int, high: int) -> None:
        """Exchange two slots, of which the low one may be empty."""
        first, second = self.slots[low], self.slots[high]
        if first.tokens:
            self.cache.swap(low, high, max(len(first.tokens), len(second.tokens)))
        else:
            self.cache.move(high, low, len(second.tokens))
        self.slots[low], self.slots[high] = second, first

    def _guarded(self, rows: Sequence[int], work: Callable[..., None], *arguments: Any) -> None:
        """Do `work`; whatever it raises ends the answers of `rows`, whose cache is then not to be trusted."""
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001 - told to every reader concerned, and the engine lives on
            if not isinstance(error, ModelwrightError):
                _LOG.exception("A step of the engine failed.")
            for row in rows:
                if self.slots[row].answer is not None:
                    self._spoil(row)
                    self._finish(row, "refused" if isinstance(error, GrammarError) else "error", sentence(error))

    def _spoil(self, row: int) -> None:
        self.slots[row].tokens.clear()
        self.cache.clear(row)

    def _finish(self, row: int, reason: FinishReason, error: str = "") -> None:
        slot = self.slots[row]
        answer, slot.answer, slot.used = slot.answer, None, self._turn
        if answer is not None:
            tell_end(answer, reason, error)


def tell_end(answer: Answer, reason: FinishReason, error: str = "") -> None:
    """The last call of a listener; one that raises, against its contract, is noted and costs the engine nothing."""
    try:
        answer.listener.finished(reason, error)
    except Exception:  # noqa: BLE001 - the reader's fault
        _LOG.exception("The reader of an answer failed at its end.")


def sentence(error: BaseException) -> str:
    """What a reader is told about an exception, as one sentence."""
    if isinstance(error, EngineError):
        return str(error)
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "There was not enough memory for this answer; lower --max-batch or --max-context, or set --kv-bits."
    return f"The engine failed in the middle of this answer: {first.rstrip('.')}."
