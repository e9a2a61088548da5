"""What a running job shares: its files, its telemetry, where it stands, and whether anyone asked it to halt.

The pipeline, the callbacks and the evaluation all hold one `Session`. Steps are counted over the whole job: the global
step is the offset of the rung plus the step inside it. Imports no torch.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.control import Request, SignalFlag
from modelwright.files import JsonlAppender
from scaler_wizard.adaptive_scaling import HardwareProfile
from scaler_wizard.contract import Contract
from scaler_wizard.metrics_logger import MetricsLogger, TelemetryConfig, open_sinks
from scaler_wizard.progress import ProgressLine
from scaler_wizard.reporting import Reporter
from scaler_wizard.resolved import ResolvedJob, RungPlan
from scaler_wizard.run_state import RunState
from scaler_wizard.telegram import Action, Recommended, TelegramContext, build_telegram, write_telegram

if TYPE_CHECKING:
    from modelwright.checkpoints import CheckpointStore
    from modelwright.rundir import RunDir

logger = logging.getLogger(__name__)
POLL_EVERY_S = 0.2
HaltKind = Literal["pause", "stop", "abort"]


@dataclass(frozen=True)
class Halt:
    """Why the job is to leave its loop: `kind`, who asked, in what words."""

    kind: HaltKind
    actor: str
    reason: str


@dataclass
class Position:
    """Where the job is. Steps are optimizer steps, `tokens` counts trained tokens of the whole job."""

    phase: int = 0
    rung: int | None = None  # tokens
    step: int = 0
    total: int = 0
    tokens: int = 0
    tokens_per_s: float | None = None
    checkpoint: str | None = None
    doing: str = "initializing"
    perplexity: float | None = None
    accuracy: float | None = None
    perplexities: list[float] = field(default_factory=list)  # evaluations of the rung, for the trend


class Session:
    """One attempt at a job, from the open run directory to its end.

    `signals` is the flag that SIGINT and SIGTERM set; `progress` shows the terminal line, or None under --json.
    """

    def __init__(
        self,
        job: ResolvedJob,
        run: RunDir,
        contract: Contract,
        *,
        signals: SignalFlag | None = None,
        clock: Clock = SYSTEM_CLOCK,
        quiet: bool = False,
    ) -> None:
        self.job = job
        self.run = run
        self.clock = clock
        self.signals = signals
        self.quiet = quiet
        telemetry = job.safety.telemetry
        self.metrics = run.metrics("metrics.jsonl", flush_every=telemetry.flush_every)
        self.telemetry = MetricsLogger(
            TelemetryConfig(self.metrics.path, telemetry.flush_every),
            writer=self.metrics,
            sinks=open_sinks(telemetry.destination, telemetry.endpoint),
            clock=clock,
        )
        self.events = JsonlAppender(run.path / "events.jsonl")
        (run.path / "logs").mkdir(exist_ok=True)
        self.flight = JsonlAppender(run.path / "logs" / "flight_log.jsonl")
        self.heartbeat = run.heartbeat()
        self.control = run.control()
        self.store: CheckpointStore = run.checkpoints("checkpoints")
        self.progress = None if quiet else ProgressLine(lambda: self.heartbeat.snapshot.get("eta_s"))
        self.at = Position(total=sum(rung.steps for rung in job.rungs))
        self.context = TelegramContext(run.run_id, language=job.alerts.language, canonical=job.alerts.canonical_sentence)
        self.state = RunState(job, run, contract, clock)
        self.reporter = Reporter(self, contract)
        self.hardware: HardwareProfile | None = None
        self.halt: Halt | None = None
        self.live: int | None = None  # length of the promoted rung whose weights the model has
        self._polled = float("-inf")

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def run_id(self) -> str:
        return self.run.run_id

    # ---- position ------------------------------------------------------------------------------------------------

    def offset(self, rung: RungPlan) -> int:
        """Optimizer steps of all rungs before `rung`."""
        return sum(other.steps for other in self.job.rungs if other.index < rung.index)

    def enter_phase(self, phase: int, length: int | None = None) -> None:
        """Move to a phase (0..4), in the run's record as well."""
        self.at.phase = self.context.phase = phase
        self.at.rung = self.context.rung = length
        self.context.rollback_possible = self.state.promoted_phase(0)
        entry = self.run.record.open_entry()
        if entry is not None and entry.phase != f"P{phase}":
            self.run.end_phase("completed", 0)
            entry = None
        if entry is None:
            self.run.start_phase(f"P{phase}")

    def enter(self, rung: RungPlan) -> None:
        """Move to a rung; its evaluations start afresh."""
        self.enter_phase(rung.phase, rung.length)
        self.at.step = self.offset(rung)
        self.at.perplexities = []
        self.at.tokens_per_s = None
        self.report("running", f"Rung of {rung.length} tokens.")

    def note_perplexity(self, perplexity: float, accuracy: float | None = None, *, preflight: bool = False) -> None:
        """Keep the newest evaluation for payloads."""
        self.at.perplexity = perplexity
        self.at.accuracy = accuracy if accuracy is not None else self.at.accuracy
        if not preflight:
            self.at.perplexities.append(perplexity)

    # ---- records -------------------------------------------------------------------------------------------------

    def log(self, metric: str, value: float | None, /, **extra: Any) -> None:
        """One metric event at the current step, with phase and rung."""
        self.telemetry.log(metric, value, self.at.step, {"phase": f"P{self.at.phase}", "rung": self.at.rung, **extra})

    def event(self, name: str, /, **detail: Any) -> None:
        """One line of the audit log, `events.jsonl`."""
        line = {"timestamp": stamp(self.clock.now()), "event": name, "phase": f"P{self.at.phase}", "rung": self.at.rung}
        self.events.append({**line, "step": self.at.step, "attempt": self.run.attempt, **detail})

    def finished_phase(self, phase: int, status: str, score: float | None) -> None:
        """One line of the flight log."""
        line = {
            "runId": self.run_id,
            "phase": f"P{phase}",
            "status": status,
            "timestamp": stamp(self.clock.now()),
            "score": score,
        }
        self.flight.append({**line, "rung": self.at.rung})

    def say(self, sentence: str) -> None:
        """A line for the person at the terminal; under --json it goes to the log."""
        if self.quiet:
            logger.info("%s", sentence)
        else:
            print(sentence, flush=True)

    def beat(self, status: str = "running", message: str = "", *, force: bool = False) -> None:
        """Heartbeat and terminal line; both limit their own rate."""
        at = self.at
        text = message or at.doing
        self.heartbeat.beat(
            status=status,
            phase=f"P{at.phase}",
            step=at.step,
            total=at.total,
            throughput=at.tokens_per_s,
            unit="tokens/s",
            latest_checkpoint=at.checkpoint,
            message=text,
            force=force,
            rung=at.rung,
        )
        if self.progress is not None:
            self.progress.update(at, text, force=force)

    @contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """Name what happens now; the heartbeat stays alive while a long piece of work runs."""
        self.at.doing = doing
        self.beat(force=True)
        with self.heartbeat.keepalive():
            yield

    def save(self, name: str, fill: Callable[[Path], None], *, step: int, metadata: Mapping[str, Any]) -> None:
        """Write a checkpoint and make it the latest.

        Raises DiskFullError when the file system is full.
        """
        self.store.save(name, fill, step=step, metadata=dict(metadata))
        self.at.checkpoint = name
        self.event("checkpoint/saved", name=name, at_step=step)

    # ---- what the outside sees -----------------------------------------------------------------------------------

    def report(self, status: str, message: str) -> None:
        """Heartbeat and cockpit payload for a change of state."""
        self.at.doing = message
        self.beat("paused" if status == "paused" else "running", message, force=True)
        self.reporter.payload(status, message)

    def telegram(
        self,
        action: Action,
        reason: str,
        *,
        triggers: Sequence[str] = (),
        sentence: str | None = None,
        recommended: Recommended | None = None,
    ) -> dict[str, Any]:
        """Write `telegram.json` for a verdict that is not the breaker's."""
        telegram = build_telegram(
            action,
            reason,
            self.at.step,
            triggers=triggers,
            context=self.context,
            sentence=sentence,
            recommended=recommended,
            at=self.clock.now(),
        )
        write_telegram(self.path / "telegram.json", telegram)
        return telegram

    def judged(self, telegram: Mapping[str, Any]) -> None:
        """Record a breaker verdict: metric, event unless all is well, payload."""
        levels = {"continue": 0.0, "warn": 1.0, "stop": 2.0}
        self.log("safety/verdict", levels[telegram["action"]])
        if telegram["action"] != "continue":
            self.event(
                "safety/verdict",
                action=telegram["action"],
                reason=telegram["reason"],
                triggers=list(telegram["triggers"]),
            )
        self.reporter.verdict(telegram)

    # ---- requests ------------------------------------------------------------------------------------------------

    def poll(self, *, force: bool = False) -> None:
        """Look for requests and signals, at most every 0.2 s unless forced; a halt stays until the run ends."""
        if self.signals is not None and self.signals.requested and self.halt is None:
            self.halt = Halt("stop", "signal", self.signals.name)
        now = self.clock.monotonic()
        if not force and now - self._polled < POLL_EVERY_S:
            return
        self._polled = now
        for request in self.control.poll():
            self._answer(request)

    def _answer(self, request: Request) -> None:
        kind, actor = request.kind, request.actor
        reason = str(request.body.get("reason", "")) or f"{kind} requested"
        self.event(f"human/{kind}", actor=actor, reason=reason, request=request.id)
        self.log(f"human/{kind}", 1.0)
        if kind == "pause" or kind == "stop" or kind == "abort":
            if self.halt is None or kind != "pause":
                self.halt = Halt(kind, actor, reason)  # type: ignore[arg-type]
            self.control.ack(request, "accepted", step=self.at.step)
        elif kind == "resume":
            self.control.ack(request, "ignored", reason="the run is running")
        elif kind == "approve":
            self.control.ack(request, "refused", reason="no gate is open")
        else:
            self.control.ack(request, "refused", reason=f"a live run does not take {kind}; pause it first")

    # ---- gates ---------------------------------------------------------------------------------------------------

    def open_gate(self, asked: str, reason: str, timeout_s: float, *, at_terminal: bool = False) -> None:
        """Show a gate to everyone who may answer; `at_terminal` when a line typed there is an answer too."""
        self.event("gate/opened", question=asked, reason=reason, timeout_s=timeout_s)
        self.reporter.open_gate(asked, timeout_s)
        self.report("running", asked)
        command = f"modelwright runs approve {shlex.quote(str(self.path))}"
        if not at_terminal:
            self.say(f"Gate: {asked} ({reason}) Answer with: {command}")
            return
        if self.progress is not None:
            self.progress.hold()
        self.ask(f"Gate: {asked} ({reason})\nType yes or no and Enter, or answer elsewhere with: {command}")

    def ask(self, sentence: str) -> None:
        """A line for the person who is to answer at the terminal; standard error where standard output belongs to a program."""
        print(sentence, file=sys.stderr if self.quiet else sys.stdout, flush=True)

    def gate_timed_out(self, asked: str) -> None:
        """Nobody answered: the run is paused, the process waits on."""
        self.event("gate/timed_out", question=asked)
        self.report("paused", asked)
        self.say("Nobody answered in time: the run is paused. It waits here, and an answer still counts.")

    def close_gate(self) -> None:
        self.reporter.close_gate()
        if self.progress is not None:
            self.progress.release()

    # ---- settings that the run itself changed --------------------------------------------------------------------

    def halved(self, rung: RungPlan) -> RungPlan:
        """The rung with a smaller micro-batch if it ran out of memory before, else as planned.

        Smaller is half; where half leaves windows over, the next smaller divisor, so that every step still trains the same windows.
        """
        size = rung.micro_batch_size
        if not self.was_halved(rung) or size < 2:
            return rung
        smaller = next(part for part in range(size // 2, 0, -1) if size % part == 0)
        return replace(rung, micro_batch_size=smaller, gradient_accumulation=rung.gradient_accumulation * (size // smaller))

    def was_halved(self, rung: RungPlan) -> bool:
        return rung.length in self.run.record.details.get("halved_rungs", [])

    def halve(self, rung: RungPlan) -> RungPlan:
        """Remember that `rung` needs a smaller micro-batch, and return it so."""
        self.run.update(halved_rungs=[*self.run.record.details.get("halved_rungs", []), rung.length])
        return self.halved(rung)

    def close(self) -> None:
        for file in (self.telemetry, self.events, self.flight):
            file.close()
        if self.progress is not None:
            self.progress.close()
