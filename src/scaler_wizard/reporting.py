"""What the outside sees while a job runs: the cockpit payload, always valid, and the alerts in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from modelwright.clock import stamp
from scaler_wizard.cockpit import PAYLOAD_FILE, Actions, CockpitWriter, Gate, Quality, Resources, build_payload
from scaler_wizard.contract import Contract
from scaler_wizard.telegram import STATUS_OF_ACTION

if TYPE_CHECKING:
    from scaler_wizard.session import Session

GIB = 1 << 30
MODALITY = {"critical": "voice", "warning": "visual", "info": "telegram"}
ENDED = frozenset({"completed", "stopped", "failed"})


class Reporter:
    """Builds and writes payloads for one session."""

    def __init__(self, session: Session, contract: Contract) -> None:
        self.session = session
        self.contract = contract.payload()
        self.writer = CockpitWriter(session.path / PAYLOAD_FILE, self._violated)
        self.gate = Gate()
        self.alerts: list[dict[str, Any]] = []
        self.status = "initializing"

    def payload(self, status: str, message: str) -> None:
        """Write the payload for `status`; what does not validate is refused and logged, the last valid one stays."""
        self.status = status
        session, at, state = self.session, self.session.at, self.session.state
        ended = status in ENDED
        newest = state.newest_phase()
        document = build_payload(
            run_id=session.run_id,
            phase=at.phase,
            status=status,
            sentence=message,
            quality=Quality(_finite(at.perplexity), _finite(at.accuracy), [v for v in at.perplexities if math.isfinite(v)]),
            resource=self._resources(),
            contract=self.contract,
            actions=Actions(
                approve=self.gate.open,
                abort=not ended,
                rollback=state.promoted_phase(0),
                target_phase=newest,
                checkpoint=state.metadata.checkpoints.get(f"phase_{newest}", ""),
            ),
            alerts=self.alerts[-20:],
            telemetry={"metricsPath": "metrics.jsonl", "telegramPath": "telegram.json"},
            rung=at.rung,
            target_context=session.job.scaling.target_context,
            gate=self.gate,
            eta_s=None if ended else session.heartbeat.snapshot.get("eta_s"),
            now=session.clock.now(),
        )
        self.writer.write(document)
        session.state.status("running" if status == "warning" else status)  # type: ignore[arg-type]

    def verdict(self, telegram: Mapping[str, Any]) -> None:
        """An alert for a verdict that is not `continue`, and the payload in any case."""
        action = str(telegram["action"])
        sentence = str(telegram.get("canonical_sentence", telegram["reason"]))
        if action != "continue":
            self.alert("critical" if action == "stop" else "warning", sentence)
        self.payload(STATUS_OF_ACTION[action], sentence)

    def alert(self, severity: str, message: str) -> None:
        """Add an alert to the payloads to come, on the channel its severity asks for and the job allows."""
        allowed = self.session.job.alerts
        enabled = {"voice": allowed.enable_voice, "visual": allowed.enable_visual, "telegram": allowed.enable_telegram}
        modality = MODALITY[severity]
        if not enabled[modality]:
            modality = next((name for name in ("visual", "telegram") if enabled[name]), "telegram")
        moment = stamp(self.session.clock.now())
        self.alerts.append({"id": uuid4().hex, "modality": modality, "severity": severity, "message": message, "timestamp": moment})

    def open_gate(self, question: str, timeout_s: float) -> None:
        deadline = stamp(self.session.clock.now() + timedelta(seconds=timeout_s))
        self.gate = Gate(True, deadline, question)
        self.alert("warning", question)

    def close_gate(self) -> None:
        self.gate = Gate()

    def _resources(self) -> Resources:
        import sys

        import psutil

        gpu = None
        count = self.session.hardware.gpu_count if self.session.hardware else 0
        torch = sys.modules.get("torch")
        if count and torch is not None and torch.cuda.is_available():
            gpu = torch.cuda.memory_reserved() / GIB
        held = psutil.Process().memory_info().rss / GIB
        return Resources(gpu, held, self.session.at.tokens_per_s, count)

    def _violated(self, errors: tuple[str, ...]) -> None:
        self.session.event("safety/schema_violation", errors=list(errors))
        self.session.log("safety/schema_violation", float(len(errors)))


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None
