"""One phase of a run as its work sees it: heartbeats and pauses. Made by `running.run_phase`. (specs/medic.md, 8.2, 8.3)

A heartbeat has the fields of 8.2 and, beside them, those of the kernel's heartbeats, by which `modelwright runs` reads any
run. Imports no torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from cachemedicpp.phases.layout import run_id_of
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.control import Request, SignalFlag
from modelwright.files import write_json
from modelwright.rundir import RunDir

if TYPE_CHECKING:
    from cachemedicpp.phases.record_models import Status, StopReason

SILENCE_S = 30.0
"""The longest time without a heartbeat."""
PAUSE_ACKS = {"train": "pause_ack.json", "eval": "pause_ack_eval.json", "stability": "pause_ack_stability.json"}
"""Acknowledgements under `control/`; a paused sweep says so in its summary."""

TRAIN_FIELDS = ("tokens_per_sec", "gpu_mem_gb", "latest_repair_checkpoint", "latest_train_state")
"""What a training heartbeat holds from the first on, null while unknown."""

PhaseName = Literal["train", "eval", "stability", "plots", "sweep"]


class PhasePaused(Exception):
    """Unwinds a phase whose state is saved and whose pause is acknowledged."""

    def __init__(self, reason: StopReason, resume_state: str | None) -> None:
        super().__init__(f"paused ({reason})")
        self.reason, self.resume_state = reason, resume_state


class PhaseRun:
    """One phase of a run, as its work sees it; made by `run_phase`.

    folder: the run directory. run_id: its name. name: the phase. step, total: finished and planned steps or units.
    config_hash: of the run configuration, "" for a sweep.
    """

    def __init__(self, run: RunDir, name: PhaseName, signals: SignalFlag, digest: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self.run, self.name, self.config_hash, self.clock = run, name, digest, clock
        self.folder, self.run_id = run.path, run_id_of(run.path)
        self.step, self.total = 0, 0
        self._resumed_from: str | None = None
        self._elapsed_before, self._started = 0.0, clock.monotonic()
        self._signals = signals
        self._requests: list[Request] = []
        self._stop: StopReason | None = None
        self._fields: dict[str, Any] = dict.fromkeys(TRAIN_FIELDS) if name == "train" else {}
        self._status: Status = "running"
        self._beat_at = clock.monotonic()
        self._mutex = threading.Lock()

    # --- time

    def now(self) -> str:
        """UTC, ISO 8601, milliseconds."""
        return stamp(self.clock.now(), millis=True)

    def elapsed(self) -> float:
        """Wall seconds of this phase, earlier sessions included."""
        return self._elapsed_before + self.clock.monotonic() - self._started

    def silent_for(self) -> float:
        """Seconds since the last heartbeat."""
        return self.clock.monotonic() - self._beat_at

    # --- heartbeat

    def begin(
        self, *, total: int, step: int = 0, resumed_from: Path | str | None = None, elapsed_before: float = 0.0, **fields: Any
    ) -> None:
        """Say what there is to do, and write the first heartbeat: `running`/`startup`, or `resumed`/`startup_resume`.

        step: finished in earlier sessions. resumed_from: the file the state came from; one inside the run directory is
        recorded relative to it. elapsed_before: wall seconds of earlier sessions. fields: as in `beat`.
        """
        self.total, self._elapsed_before = total, elapsed_before
        self._resumed_from = None if resumed_from is None else self.relative(resumed_from)
        restored = resumed_from is not None
        self.write(step, "resumed" if restored else "running", "startup_resume" if restored else "startup", fields)

    def beat(self, step: int, reason: str, **fields: Any) -> None:
        """Write a heartbeat `running`. fields: further ones of the phase (`current_unit`, `tokens_per_sec`, `loss_total` …);
        those told before stay until told again; a field given as None is written as null."""
        self.write(step, "running", reason, fields)

    def tell(self, **fields: Any) -> None:
        """Set fields that the next heartbeat shows, without writing one."""
        with self._mutex:
            self._fields = {**self._fields, **fields}

    def relative(self, path: Path | str) -> str:
        """How a file of the run is named in its records: relative to the run directory, so that it can be moved."""
        path = Path(path).absolute()
        return str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)

    def write(self, step: int, status: Status, reason: str, fields: dict[str, Any]) -> None:
        """Write a heartbeat of any status; `begin`, `beat` and `pause` do so, and `run_phase` at the end."""
        with self._mutex:
            self._write_held(step, status, reason, fields)

    def _write_held(self, step: int, status: Status, reason: str, fields: dict[str, Any]) -> None:
        self.step, self._status = step, status
        self._fields = {**self._fields, **fields}
        self._beat_at = self.clock.monotonic()
        shown = {
            "run_id": self.run_id,
            "timestamp_utc": self.now(),
            "reason": reason,
            **heartbeat_numbers(step, self.total, self.elapsed()),
            "resumed_from": self._resumed_from,
            **self._fields,
        }
        del shown["step"]  # the kernel's writer adds it
        tokens = shown.get("tokens_per_sec")
        checkpoint = shown.get("latest_repair_checkpoint")
        self.run.heartbeat().beat(
            status=status,
            phase=self.name,
            step=step,
            total=self.total,
            throughput=tokens,
            latest_checkpoint=checkpoint,
            message=reason,
            force=True,
            **shown,
        )

    def renew(self) -> None:
        """Write the last heartbeat again when the phase has been silent for too long."""
        with self._mutex:
            if self._status in ("running", "resumed") and self.silent_for() >= SILENCE_S:
                self._write_held(self.step, "running", "heartbeat", {})

    # --- pause

    def stop_reason(self) -> StopReason | None:
        """Why the phase shall pause: a request file (consumed by this call) or a signal; None while it shall go on."""
        for request in self.run.control().poll():
            if request.kind == "pause":
                self._requests.append(request)
                self._stop = self._stop or "pause_request"
            else:
                self.run.control().ack(request, "refused", reason=f"{self.name} knows no {request.kind}; allowed: pause.")
        if self._stop is None and self._signals:
            self._stop = "keyboard_interrupt"
        return self._stop

    def pause_if_asked(self, save: Callable[[StopReason], Path | str | None]) -> None:
        """Pause when there is a reason to: save, acknowledge, write the heartbeat `paused`, leave by PhasePaused.

        save: stores the progress and returns its file (null for a training that made no step).
        """
        reason = self.stop_reason()
        if reason is not None:
            self.pause(reason, save(reason))

    def pause(self, reason: StopReason, resume_state: Path | str | None) -> NoReturn:
        """Acknowledge a pause whose state is saved in `resume_state`, and leave by PhasePaused."""
        state = None if resume_state is None else self.relative(resume_state)
        if self.name in PAUSE_ACKS:
            write_json(self.folder / "control" / PAUSE_ACKS[self.name], self._acknowledgement(reason, state))
        for request in self._requests:
            self.run.control().ack(request, "paused", step=self.step, resume_state=state)
        self.write(self.step, "paused", reason, {})
        raise PhasePaused(reason, state)

    def _acknowledgement(self, reason: StopReason, state: str | None) -> dict[str, Any]:
        common = {"run_id": self.run_id, "status": "paused", "reason": reason, "timestamp_utc": self.now(), "resume_state": state}
        if self.name == "train":
            return {**common, "step": self.step}
        units = {"completed_units": self.step, "total_units": self.total, "elapsed_wall_sec": self.elapsed()}
        return {"phase": self.name, **common, **units}


def heartbeat_numbers(step: int, total: int, elapsed: float) -> dict[str, Any]:
    """`step`, `total_steps`, `progress` (0..1), `steps_remaining`, `elapsed_wall_sec`, `steps_per_sec` = step/elapsed,
    `eta_sec` (null while step = 0). elapsed: seconds, earlier sessions included."""
    remaining = max(0, total - step)
    rate = step / elapsed if elapsed > 0 else None
    return {
        "step": step,
        "total_steps": total,
        "progress": min(1.0, step / total) if total else 0.0,
        "steps_remaining": remaining,
        "elapsed_wall_sec": elapsed,
        "steps_per_sec": rate,
        "eta_sec": remaining / rate if rate else None,
    }
