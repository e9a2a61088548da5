"""From signal files to requests: the side of the daemon, or of whoever runs the training loop. (specs/guild.md 2.1.3, acceptance 8)

A live training is a run directory, and what is asked of it goes through the kernel's control, where it is consumed once and answered.
Without a live training the caller acts on `pause` and `stop` itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from guild.control.signals import Signal, done, put_back, take
from guild.places import Places
from modelwright import control
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.errors import ModelwrightError


@dataclass(frozen=True)
class Forwarded:
    """What one look brought.

    paused: whether it is paused, or on its way there, when all is carried out. stop: a stop was asked for. asked: signals that became
    requests of the run, each with its request id. held: pause, resume and stop signals while no run is live, for the caller to act on.
    discarded: signals without effect, each with a sentence.
    """

    paused: bool
    stop: Signal | None = None
    asked: tuple[tuple[Signal, str], ...] = ()
    held: tuple[Signal, ...] = ()
    discarded: tuple[tuple[Signal, str], ...] = ()


@dataclass
class _Judged:
    paused: bool
    wanted: list[Signal] = field(default_factory=list)
    discarded: list[tuple[Signal, str]] = field(default_factory=list)


def judge(signals: list[Signal], *, paused: bool, live: bool) -> tuple[list[Signal], list[tuple[Signal, str]], bool]:
    """What of `signals`, in the order they were given, has an effect: (those to act on, those discarded with a sentence, paused after).

    paused: whether it is paused, or was asked to pause, before them. live: whether a training runs. A resume without a pause before it
    is discarded, so that it cannot cancel a pause that comes later; a pause with its resume behind it in one look cancels out; a skip ends
    the pause of the file that it leaves.
    """
    found = _Judged(paused)
    for signal in signals:
        _judge_one(signal, found, live)
    return found.wanted, found.discarded, found.paused


def _judge_one(signal: Signal, found: _Judged, live: bool) -> None:
    if signal.kind == "resume":
        fresh = next((one for one in found.wanted if one.kind == "pause"), None)
        if not found.paused:
            found.discarded.append((signal, "resume: nothing is paused, so there is nothing to go on with."))
        elif fresh is not None:
            found.wanted.remove(fresh)
            found.discarded += [(fresh, "pause: withdrawn by a resume before it was seen."), (signal, "resume: it withdrew a pause.")]
            found.paused = False
        else:
            found.wanted.append(signal)
            found.paused = False
    elif signal.kind == "pause":
        if found.paused:
            found.discarded.append((signal, "pause: it is paused already, or about to be."))
        else:
            found.wanted.append(signal)
            found.paused = True
    elif signal.kind == "skip" and not live:
        found.discarded.append((signal, "skip: no file is being trained."))
    else:
        found.wanted.append(signal)
        found.paused = found.paused and signal.kind != "skip"


def forward_signals(places: Places, run: Path | None, *, paused: bool, clock: Clock = SYSTEM_CLOCK) -> Forwarded:
    """Take every signal once and pass on those that have an effect.

    run: directory of the training that is live, None when there is none. paused: as for `judge`. When a request cannot be written the
    signals that were not yet passed on stand again, and the error is raised.
    """
    signals = take(places)
    wanted, discarded, paused_after = judge(signals, paused=paused, live=run is not None)
    for signal, _ in discarded:
        done(signal)
    asked: list[tuple[Signal, str]] = []
    for index, signal in enumerate(wanted):
        if run is not None:
            try:
                asked.append((signal, _ask(run, signal, clock)))
            except ModelwrightError:
                for left in wanted[index:]:
                    put_back(left)
                raise
        done(signal)
    stop = next((signal for signal in wanted if signal.kind == "stop"), None)
    return Forwarded(paused_after, stop, tuple(asked), () if run is not None else tuple(wanted), tuple(discarded))


def _ask(run: Path, signal: Signal, clock: Clock) -> str:
    body = {"reason": signal.reason, "given_at": stamp(signal.at)}
    return control.ask(run, signal.kind, body=body, actor="guild.control", clock=clock)
