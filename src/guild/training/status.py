"""`training_status.json`: what the trainer does now, replaced about once a second. (specs/guild.md 4.9)

Every field of the specification is there; what nobody measures is null, never a made-up zero.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from guild.training.interface import Begun, Measured, Progress, SavedCheckpoint
from guild.training.preview import Preview
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.files import write_json

RunStatus = Literal["idle", "training", "paused", "crashed", "completed"]
HISTORY = 200
RECENT = 5
SMOOTHING = 0.1
GAP_WARNING = 0.5
"""Validation minus training loss beyond which a warning stands. (2.1.4)"""
NOT_MEASURED = (
    "fixed_eval_ece", "token_entropy", "pattern_heatmap", "pattern_loss_trend",
    "pattern_layer_correlation", "length_bin_staleness", "layer_activity_summary", "layer_stability_summary", "lora_stats",
    "lora_summary", "think_tag_count", "think_tag_percent", "logit_penalty_stats", "penalty_heatmap", "protocol_stats",
    "tokens_per_sec_baseline", "throughput_trend", "throughput_vram_samples",
)  # fmt: skip
"""Fields of 4.9 that other parts fill, or nobody."""


@dataclass
class TrainingStatus:
    """The document of one campaign, kept up to date. path: where it lies. model_name, context_window (tokens): of the campaign.
    effective_batch: windows of an optimizer step. every_s, every_steps: how often it is written while steps go by, 0 steps for never."""

    path: Path
    model_name: str
    context_window: int
    effective_batch: int
    clock: Clock = SYSTEM_CLOCK
    every_s: float = 1.0
    every_steps: int = 1
    _values: dict[str, Any] = field(default_factory=dict)
    _losses: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=HISTORY))
    _recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=RECENT))
    _matches: deque[bool] = field(default_factory=lambda: deque(maxlen=50))
    _asked: int = 0
    _right: int = 0
    _tokens: int = 0
    _seconds: float = 0.0
    _rate: float | None = None
    _written: float = -math.inf

    def file(self, name: str, number: int, waiting: int) -> None:
        """A file begins: its place in this process's work and how many wait behind it."""
        self._values |= {
            "current_file": name,
            "batch_number": number,
            "batch_queue_size": waiting,
            "error_message": None,
            "error_type": None,
        }
        self._tokens, self._seconds, self._rate = 0, 0.0, None

    def begun(self, begun: Begun) -> None:
        """It is prepared."""
        left = begun.total - begun.done
        self._values |= {
            "status": "training", "current_step": begun.start_step, "total_steps": begun.start_step + left, "batch_step": begun.done,
            "batch_total_steps": begun.total, "epoch": 0.0, "validation_loss": begun.val_loss,
        }  # fmt: skip
        self.write(force=True)

    def progress(self, step: Progress) -> None:
        """An optimizer step."""
        rate = step.tokens / step.seconds if step.seconds else None
        if rate is not None:
            self._rate = rate if self._rate is None else self._rate + SMOOTHING * (rate - self._rate)
        self._tokens += step.tokens
        self._seconds += step.seconds
        per_second = step.done and self._seconds and 1 / step.seconds if step.seconds else None
        self._losses.append({"step": step.step, "loss": step.loss, "lr": step.learning_rate})
        self._values |= {
            "status": "training", "current_step": step.step, "batch_step": step.done, "epoch": step.done / step.total, "loss": step.loss,
            "learning_rate": step.learning_rate, "steps_per_second": per_second, "tokens_per_sec": self._rate,
            "tokens_per_sec_avg": self._tokens / self._seconds if self._seconds else None,
            "eta_seconds": None if not per_second else (step.total - step.done) / per_second,
            **self._of_losses(),
        }  # fmt: skip
        if self.every_steps and step.step % self.every_steps == 0:
            self.write()

    def measured(self, measured: Measured) -> None:
        """Held-out rows were looked at: the fixed evaluation of 4.9."""
        if measured.val_loss is not None:
            before = self._values.get("fixed_eval_ce")
            trend = None if before is None else measured.val_loss - before
            self._values |= {"validation_loss": measured.val_loss, "fixed_eval_ce": measured.val_loss, "fixed_eval_trend": trend}
        if measured.asked:
            self._values["fixed_eval_em"] = measured.exact / measured.asked
        self.write()

    def previewed(self, preview: Preview) -> None:
        """A held-out row was asked."""
        self._asked += 1
        self._right += preview.matches
        self._matches.append(preview.matches)
        shown = {
            "current_system_prompt": preview.system_prompt, "current_prompt": preview.prompt, "golden_answer": preview.golden,
            "model_answer": preview.answer, "answer_matches": preview.matches,
        }  # fmt: skip
        self._recent.append({**shown, "step": self._values.get("current_step")})
        last = list(self._matches)
        self._values |= shown | {
            "recent_examples": list(self._recent), "total_evals": self._asked, "total_correct": self._right,
            "accuracy_percent": 100 * self._right / self._asked, "accuracy_last_20": _share(last[-20:]), "accuracy_last_50": _share(last),
        }  # fmt: skip
        self.write()

    def saved(self, saved: SavedCheckpoint) -> None:
        """A checkpoint was made."""
        if saved.val_loss is not None:
            gap = None if saved.train_loss is None else saved.val_loss - saved.train_loss
            alerts = [f"Validation loss is {gap:.2f} above training loss."] if gap is not None and gap > GAP_WARNING else []
            self._values |= {"validation_loss": saved.val_loss, "val_train_gap": gap, "active_alerts": alerts, "alert_summary": len(alerts)}
        self.write(force=True)

    def settle(self, status: RunStatus, *, error: str | None = None, error_type: str | None = None) -> None:
        """The file, or the process, came to rest."""
        self._values |= {"status": status, "error_message": error, "error_type": error_type}
        self.write(force=True)

    def write(self, *, force: bool = False) -> None:
        """Replace the document when it is due."""
        now = self.clock.monotonic()
        if force or now - self._written >= self.every_s:
            self._written = now
            write_json(self.path, self.document(), durable=force)

    def document(self) -> dict[str, Any]:
        """Every field of 4.9."""
        rate = self._values.get("steps_per_second")
        velocity = None if not rate else {
            "samples_per_sec": rate * self.effective_batch, "samples_per_hour": 3600 * rate * self.effective_batch,
            "effective_batch": self.effective_batch,
        }  # fmt: skip
        return {
            "schema_version": 1,
            **dict.fromkeys(FIELDS),
            **dict.fromkeys(NOT_MEASURED),
            "status": "idle",
            "model_name": self.model_name,
            "context_window": self.context_window,
            **self._values,
            "train_loss_history": list(self._losses),
            "queue_velocity": velocity,
            "timestamp": stamp(self.clock.now()),
        }

    def _of_losses(self) -> dict[str, Any]:
        losses = [entry["loss"] for entry in self._losses]
        mean = sum(losses[-20:]) / len(losses[-20:])
        variance = sum((loss - mean) ** 2 for loss in losses[-20:]) / len(losses[-20:])
        before = losses[-40:-20]
        trend = None if len(before) < 20 else mean - sum(before) / len(before)
        return {"streaming_ce": mean, "loss_variance": variance, "loss_trend": trend}


FIELDS = (
    "status", "current_step", "total_steps", "epoch", "loss", "learning_rate", "timestamp", "model_name", "max_output_tokens",
    "context_window", "error_message", "error_type", "batch_step", "batch_total_steps", "batch_number", "batch_queue_size", "current_file",
    "current_system_prompt", "current_prompt", "golden_answer", "model_answer", "answer_matches", "recent_examples", "total_evals",
    "total_correct", "accuracy_percent", "train_loss_history", "accuracy_history", "steps_per_second", "eta_seconds", "accuracy_last_20",
    "accuracy_last_50", "accuracy_trend", "validation_loss", "val_train_gap", "streaming_ce", "loss_variance", "loss_trend",
    "fixed_eval_em", "fixed_eval_ce", "fixed_eval_trend", "active_alerts", "alert_summary",
    "tokens_per_sec", "tokens_per_sec_avg", "queue_velocity",
)  # fmt: skip


def _share(matches: list[bool]) -> float | None:
    return sum(matches) / len(matches) if matches else None
