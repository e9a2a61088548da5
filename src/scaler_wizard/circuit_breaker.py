"""The circuit breaker: watches evaluation perplexity and probe accuracy, and says continue, warn or stop.

`classic` is the seed's rule bit for bit (specs/scaler.md section 3.4): slope = (last - first) / window_steps over a full
window. `robust` fits log perplexity by least squares, warns at half the threshold, stops on two breaches in a row, and
also looks at throughput and VRAM. In every mode a value that is not finite stops the run, whatever `hard_stop` says.
Only evaluation perplexity belongs here, and accuracy only at the end of a rung (at its start it is near zero by nature).
Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from scaler_wizard.telegram import Action, TelegramContext, build_telegram, print_telegram, write_telegram

Persona = Literal["conservative", "balanced", "experimental"]
NONFINITE, SLOPE, ACCURACY, THROUGHPUT, VRAM = "nonfinite", "perplexity_slope", "accuracy_floor", "throughput_drop", "vram"
TRIGGERS = (NONFINITE, SLOPE, ACCURACY, THROUGHPUT, VRAM)
ROBUST_THRESHOLD = 0.03  # log perplexity per evaluation
ROBUST_BREACHES = 2
THROUGHPUT_DROP = 0.5
VRAM_WARN, VRAM_STOP = 0.90, 0.97


@dataclass(frozen=True)
class CBConfig:
    """Limits of the breaker. `window_steps` counts evaluations, `max_perplexity_delta` is perplexity per evaluation."""

    window_steps: int = 10
    max_perplexity_delta: float = 0.15
    min_accuracy: float = 0.5
    hard_stop: bool = True
    telegram_path: str | Path | None = None
    mode: Literal["classic", "robust"] = "classic"

    def __post_init__(self) -> None:
        if self.window_steps < 2:
            raise ValueError(f"window_steps must be at least 2, found {self.window_steps}")
        if self.mode not in ("classic", "robust"):
            raise ValueError(f"mode must be classic or robust, found {self.mode!r}")


PERSONAS: dict[Persona, CBConfig] = {
    "conservative": CBConfig(10, 0.10, 0.6, True),
    "balanced": CBConfig(10, 0.15, 0.5, True),
    "experimental": CBConfig(20, 0.30, 0.3, False),
}


@dataclass(frozen=True)
class Snapshot:
    """What one evaluation brought."""

    step: int
    perplexity: float | None = None
    accuracy: float | None = None
    throughput: float | None = None


@dataclass(frozen=True)
class HumanOverride:
    """A human's decision to silence one trigger for one rung."""

    trigger: str
    rung: int | None
    actor: str
    reason: str
    at: str


@dataclass(frozen=True)
class Finding:
    """One thing that tripped: the trigger's name, the action it asks for, and the words for the telegram."""

    trigger: str
    action: Action
    reason: str


class CircuitBreaker:
    """Keeps the window of one rung and judges every new evaluation.

    `printer` receives the telegram as one JSON line (stdout by default); `context` adds run, phase, rung and the canonical
    sentence to it. The telegram is also written to `config.telegram_path`, replaced whole.
    """

    def __init__(
        self,
        config: CBConfig | None = None,
        *,
        context: TelegramContext | None = None,
        printer: Callable[[str], None] = print_telegram,
    ) -> None:
        self.config = config or CBConfig()
        self.context = context
        self.printer = printer
        self.rung: int | None = None
        self.history: deque[Snapshot] = deque(maxlen=self.config.window_steps)
        self.overrides: list[HumanOverride] = []
        self._silenced: set[str] = set()
        self._evaluations = 0
        self._breaches = 0
        self._reference_throughput: float | None = None

    def reset(self, rung: int | None = None) -> None:
        """Start a rung of `rung` tokens: history, breaches and overrides of the last one are gone; lengths do not compare."""
        self.rung = rung
        self.history.clear()
        self._silenced.clear()
        self._evaluations = self._breaches = 0
        self._reference_throughput = None

    def override(self, trigger: str, actor: str, reason: str, at: datetime | None = None) -> HumanOverride:
        """Silence `trigger` until the next rung, recorded with who and why.

        Raises ValueError for an unknown trigger, and for `nonfinite`, which nobody can silence.
        """
        allowed = [name for name in TRIGGERS if name != NONFINITE]
        if trigger not in allowed:
            raise ValueError(f"trigger {trigger!r} cannot be overridden; allowed are {', '.join(allowed)}")
        moment = (at or datetime.now(UTC)).astimezone(UTC)
        record = HumanOverride(trigger, self.rung, actor, reason, moment.strftime("%Y-%m-%dT%H:%M:%SZ"))
        self.overrides.append(record)
        self._silenced.add(trigger)
        return record

    def silenced(self) -> set[str]:
        """Triggers a human silenced for the current rung."""
        return set(self._silenced)

    def register(
        self,
        step: int,
        perplexity: float | None = None,
        accuracy: float | None = None,
        *,
        loss: float | None = None,
        grad_norm: float | None = None,
        throughput: float | None = None,
        vram_used: float | None = None,
    ) -> dict[str, Any]:
        """Judge one evaluation and return the telegram (printed and written as well).

        `perplexity` is evaluation perplexity; `accuracy` is the mean probe accuracy 0..1, given only at the end of a rung;
        `throughput` is tokens per second; `vram_used` is the used fraction of VRAM, 0..1.
        """
        self.history.append(Snapshot(step, perplexity, accuracy, throughput))
        self._evaluations += 1
        findings = _nonfinite(perplexity=perplexity, accuracy=accuracy, loss=loss, grad_norm=grad_norm)
        if self.config.mode == "robust":
            findings += self._robust_findings(throughput, vram_used)
        else:
            findings += self._classic_slope()
        findings += self._accuracy_floor(accuracy)
        return self._report(step, findings)

    def check_step(self, step: int, *, loss: float | None = None, grad_norm: float | None = None) -> dict[str, Any] | None:
        """A cheap look at every optimizer step: None when loss and gradient norm are finite, else the stop telegram."""
        if (loss is None or math.isfinite(loss)) and (grad_norm is None or math.isfinite(grad_norm)):
            return None
        return self._report(step, _nonfinite(loss=loss, grad_norm=grad_norm))

    def state(self) -> dict[str, Any]:
        """Everything `restore` needs to go on exactly here after a resume."""
        return {
            "rung": self.rung,
            "history": [asdict(snapshot) for snapshot in self.history],
            "overrides": [asdict(record) for record in self.overrides],
            "silenced": sorted(self._silenced),
            "evaluations": self._evaluations,
            "breaches": self._breaches,
            "reference_throughput": self._reference_throughput,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.rung = state["rung"]
        self.history = deque((Snapshot(**item) for item in state["history"]), maxlen=self.config.window_steps)
        self.overrides = [HumanOverride(**item) for item in state["overrides"]]
        self._silenced = set(state["silenced"])
        self._evaluations, self._breaches = state["evaluations"], state["breaches"]
        self._reference_throughput = state["reference_throughput"]

    # ------------------------------------------------------------------ rules

    def _tripped(self) -> Action:
        return "stop" if self.config.hard_stop else "warn"

    def _window(self) -> list[float] | None:
        """Perplexities of a full window in which every snapshot has a finite one, else None."""
        values = [item.perplexity for item in self.history]
        if len(values) < self.config.window_steps:
            return None
        finite = [value for value in values if value is not None and math.isfinite(value)]
        return finite if len(finite) == len(values) else None

    def _classic_slope(self) -> list[Finding]:
        window = self._window()
        if window is None:
            return []
        slope = (window[-1] - window[0]) / self.config.window_steps
        if slope > self.config.max_perplexity_delta:
            return [Finding(SLOPE, self._tripped(), f"perplexity rising {slope:.3f}/step")]
        return []

    def _accuracy_floor(self, accuracy: float | None) -> list[Finding]:
        floor = self.config.min_accuracy
        if accuracy is not None and accuracy < floor:
            return [Finding(ACCURACY, self._tripped(), f"accuracy {accuracy:.2f} below floor {floor:.2f}")]
        return []

    def _robust_findings(self, throughput: float | None, vram_used: float | None) -> list[Finding]:
        findings = self._robust_slope()
        if throughput is not None:
            reference = self._reference_throughput
            if reference is None:
                self._reference_throughput = throughput
            elif throughput < (1 - THROUGHPUT_DROP) * reference:
                lost = 100 * (1 - throughput / reference)
                findings.append(Finding(THROUGHPUT, "warn", f"throughput down {lost:.0f} % to {throughput:.0f} tokens/s"))
        if vram_used is not None and vram_used > VRAM_WARN:
            action: Action = self._tripped() if vram_used > VRAM_STOP else "warn"
            findings.append(Finding(VRAM, action, f"VRAM {100 * vram_used:.0f} % used"))
        return findings

    def _robust_slope(self) -> list[Finding]:
        """Least-squares slope of log perplexity; the first full window after a reset only warms up."""
        window = self._window()
        if window is None or self._evaluations <= self.config.window_steps or min(window) <= 0:
            self._breaches = 0
            return []
        slope = least_squares_slope([math.log(value) for value in window])
        reason = f"log perplexity rising {slope:.3f}/evaluation"
        if slope > ROBUST_THRESHOLD:
            self._breaches += 1
            action = self._tripped() if self._breaches >= ROBUST_BREACHES else "warn"
            return [Finding(SLOPE, action, reason)]
        self._breaches = 0
        return [Finding(SLOPE, "warn", reason)] if slope > ROBUST_THRESHOLD / 2 else []

    def _report(self, step: int, findings: Sequence[Finding]) -> dict[str, Any]:
        silenced = self.silenced()
        counted = [finding for finding in findings if finding.trigger not in silenced]
        actions = {finding.action for finding in counted}
        action: Action = "stop" if "stop" in actions else "warn" if "warn" in actions else "continue"
        telegram = build_telegram(
            action,
            "; ".join(finding.reason for finding in counted),
            step,
            triggers=[finding.trigger for finding in counted],
            context=self.context,
        )
        self.printer(json.dumps(telegram, ensure_ascii=False, allow_nan=False))
        if self.config.telegram_path is not None:
            write_telegram(self.config.telegram_path, telegram)
        return telegram


def least_squares_slope(values: Sequence[float]) -> float:
    """Slope of the straight line fitted to `values` at 0, 1, 2, … (at least two values)."""
    count = len(values)
    middle = (count - 1) / 2
    mean = sum(values) / count
    rise = sum((index - middle) * (value - mean) for index, value in enumerate(values))
    return rise / sum((index - middle) ** 2 for index in range(count))


def _nonfinite(**values: float | None) -> list[Finding]:
    return [
        Finding(NONFINITE, "stop", f"{name.replace('_', ' ')} is not finite ({value})")
        for name, value in values.items()
        if value is not None and not math.isfinite(value)
    ]
