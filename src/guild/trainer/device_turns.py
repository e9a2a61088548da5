"""Turns on a GPU that trainer and evaluator share. (specs/guild.md 2.1.9; issue decision One training executor)

Who is at work holds a job. The trainer takes its file first and then waits until no evaluation is held; the evaluator looks for a held
file after it took an evaluation, and gives it back when there is one. So whoever comes second sees the first, and never are both at work.
Each drops its model before it lets go of the job after which the other may begin; only a file that is taken in the very moment between two
evaluations meets a model that goes a few milliseconds later, while its own takes seconds to load.

Between two files the evaluator is first: while evaluations wait the next file is not taken, for `TURN_S` seconds at most, and for
`UNTAKEN_S` when nobody takes one. What is left then waits for the next turn.
"""

from __future__ import annotations

from dataclasses import dataclass

from guild.evaluation.due import KIND as EVALUATION
from guild.records import jobs
from guild.records.states import HELD, TERMINAL
from modelwright.clock import Clock
from modelwright.database import Database
from modelwright.identity import liveness

TURN_S = 300.0
UNTAKEN_S = 90.0
"""An evaluator that the daemon starts is at work within its next round and some ten seconds."""


def evaluation_at_work(db: Database) -> bool:
    """Whether a process that may live holds an evaluation."""
    held = jobs.list_jobs(db, kinds=(EVALUATION,), states=HELD).jobs
    return any(job.owner is not None and liveness(job.owner) != "dead" for job in held)


@dataclass
class EvaluatorTurn:
    """Of one trainer. began: when the present turn did, None before it. sign: when an evaluation was last seen to go on. ended: how many
    had ended then. alone: a turn passed in which nobody evaluated; there is none until somebody does."""

    db: Database
    clock: Clock
    began: float | None = None
    sign: float = 0.0
    ended: int = -1
    alone: bool = False

    def lasts(self) -> bool:
        """Whether the next file is left lying for now. Asked again and again between two files."""
        at_work, states = evaluation_at_work(self.db), jobs.counts(self.db, EVALUATION).states
        if not at_work and not states["queued"]:
            return False
        now, ended = self.clock.monotonic(), sum(states[state] for state in TERMINAL)
        if self.began is None:
            self.began = self.sign = now
        if at_work or ended > self.ended >= 0:
            self.sign, self.alone = now, False
        self.ended = ended
        if now - self.sign >= UNTAKEN_S:
            self.alone = True
        return not self.alone and now - self.began < TURN_S

    def over(self) -> None:
        """A file was trained."""
        self.began = None
