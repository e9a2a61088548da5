"""What is asked of the training of one file, in the order in which it was given. (specs/guild.md 2.1.3, acceptance 5 to 8)

Signals of the house and requests of the run come together here. Nothing that fits is lost because something else arrived beside it: a
stop comes before everything, a skip before what was asked earlier, and a pause or a resume waits for its moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from guild.control.forward import forward_signals
from guild.control.signals import Signal, active, give
from guild.places import Places
from modelwright.clock import Clock
from modelwright.control import Request
from modelwright.rundir import RunDir

Wish = Literal["pause", "resume", "skip", "stop"]
_WISHES: dict[str, Wish] = {"pause": "pause", "resume": "resume", "skip": "skip", "stop": "stop", "abort": "stop"}


def wish_of(request: Request) -> Wish | None:
    """What a request asks of a training; None for one that means nothing to it."""
    return _WISHES.get(request.kind)


@dataclass
class Wishes:
    """Of one file. taken: acted on, to be answered once it shows what came of it. waiting: given, and not yet acted on."""

    places: Places
    run: RunDir
    clock: Clock
    taken: list[Request] = field(default_factory=list)
    waiting: list[Request] = field(default_factory=list)

    def collect(self, *, paused: bool, leaving: bool = False) -> tuple[tuple[Signal, str], ...]:
        """Take what was given since the last look; returns the signals without effect, each with a sentence.

        leaving: only a stop or a skip matters at this moment; without one of them signals are left lying.
        """
        self.collect_requests()
        if leaving and not any(active(self.places)[kind] for kind in ("stop", "skip")):
            return ()
        forwarded = forward_signals(self.places, self.run.path, paused=self._paused_after(paused), clock=self.clock)
        order = {id: number for number, (_, id) in enumerate(forwarded.asked)}  # of the files' times, which the requests' may not keep
        self.waiting += sorted(self.run.control().poll(), key=lambda request: order.get(request.id, -1))
        return forwarded.discarded

    def collect_requests(self) -> None:
        """Take what was asked of the run itself; the house's signals stay."""
        self.waiting += self.run.control().poll()

    def next(self, *, paused: bool, leaving: bool = False) -> tuple[Wish, Request] | None:
        """What to do now, if anything. leaving: as for `collect`; a pause or a resume goes on waiting."""
        stops = self.take_stops()
        if stops:
            return "stop", stops[0]
        for number, request in enumerate(self.waiting):
            if wish_of(request) == "skip":
                self._take(self.waiting[: number + 1])  # whatever came before it was asked of the file that is left now
                return "skip", request
        while self.waiting and not leaving:
            request = self.waiting[0]
            wish = wish_of(request)
            if wish == ("resume" if paused else "pause"):
                self._take([request])
                return wish, request
            self.waiting.remove(request)
            self._refuse(request, f"{request.kind}: the training is {'paused' if paused else 'running'}.")
        return None

    def take_stops(self) -> list[Request]:
        """Every stop that waits."""
        stops = [request for request in self.waiting if wish_of(request) == "stop"]
        self._take(stops)
        return stops

    def answer(self, outcome: str, **detail: Any) -> None:
        """Say what came of the wishes that were acted on."""
        for request in self.taken:
            self.run.control().ack(request, outcome, **detail)
        self.taken = []

    def close(self, outcome: str, *, stopped: bool, **detail: Any) -> None:
        """The file came to rest. A pause that still waits stands again as a signal, for what comes next; not when all was stopped."""
        if stopped:
            self._take(list(self.waiting))
        self.answer(outcome, **detail)
        paused = self._paused_after(False)
        for request in self.waiting:
            if paused and wish_of(request) == "pause":
                give(self.places, "pause", reason_of(request), clock=self.clock)
                self.run.control().ack(request, "passed on", reason="It holds for what comes next.")
            else:
                self._refuse(request, f"{request.kind}: the file came to its end first.")
        self.waiting = []

    def _take(self, requests: list[Request]) -> None:
        self.taken += requests
        self.waiting = [request for request in self.waiting if request not in requests]

    def _refuse(self, request: Request, reason: str) -> None:
        self.run.control().ack(request, "refused", reason=reason)

    def _paused_after(self, paused: bool) -> bool:
        """Whether it is paused once all that waits is carried out."""
        words = [wish for request in self.waiting if (wish := wish_of(request)) in ("pause", "resume", "skip")]
        return words[-1] == "pause" if words else paused


def reason_of(request: Request) -> str:
    """Why it was asked, for people."""
    return str(request.body.get("reason") or f"asked for by {request.actor}")
