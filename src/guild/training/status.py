"""`training_status.json`: what the trainer does now, replaced about once a second. (specs/guild.md 4.9, G7)

Every field of the specification is there; what nobody measures is null, never a made-up zero. Shares run from 0 to 1, lengths are tokens.
The trainer writes the document; everybody else reads it with `guild.control.training_status`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from guild.training.interface import Begun, Measured, Progress, SavedCheckpoint
from guild.training.preview import MAX_NEW_TOKENS, Preview
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.errors import ModelwrightError
from modelwright.files import read_json, write_json

STATUS_NAME = "training_status.json"
ShownStatus = Literal["idle", "training", "crashed", "completed"]
HISTORY = 200
RECENT = 5
TREND = 20
"""Answers, or losses, of which the mean is compared with that of as many before them."""
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
    """The document of one campaign, kept up to date; one for each file, and what it remembers beyond one file it takes up from the document
    that is there.

    path: where it lies. model_name, context_window (tokens): of the campaign. effective_batch: windows of an optimizer step. every_s,
    every_steps: how often it is written while steps go by, 0 steps for never.
    """

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
    _answers: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=HISTORY))
    _tokens: int = 0
    _seconds: float = 0.0
    _rate: float | None = None
    _written: float = -math.inf

    def __post_init__(self) -> None:
        former = _former(self.path)
        self._losses.extend(_entries(former, "train_loss_history", "loss"))
        self._answers.extend(_entries(former, "accuracy_history", "accuracy"))
        self._recent.extend(_entries(former, "recent_examples"))
        self._values |= {name: former[name] for name in REMEMBERED if _is_number(former.get(name))}

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
        while self._losses and (self._losses[-1].get("step") or 0) > begun.start_step:
            self._losses.pop()  # steps that died unsaved, and are trained again
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
        """A held-out row was asked: `accuracy_history` gets 1 for a right answer and 0 for another."""
        asked = int(self._values.get("total_evals") or 0) + 1
        right = int(self._values.get("total_correct") or 0) + preview.matches
        self._answers.append({"step": self._values.get("current_step"), "accuracy": float(preview.matches)})
        shown = {
            "current_system_prompt": preview.system_prompt, "current_prompt": preview.prompt, "golden_answer": preview.golden,
            "model_answer": preview.answer, "answer_matches": preview.matches,
        }  # fmt: skip
        self._recent.append({**shown, "step": self._values.get("current_step")})
        answers = [entry["accuracy"] for entry in self._answers]
        self._values |= shown | {
            "total_evals": asked, "total_correct": right, "accuracy_percent": 100 * right / asked, "accuracy_last_20": _mean(answers[-20:]),
            "accuracy_last_50": _mean(answers[-50:]), "accuracy_trend": _trend(answers), **self._lengths(preview),
        }  # fmt: skip
        self.write()

    def _lengths(self, preview: Preview) -> dict[str, int]:
        lengths: dict[str, int] = {}
        for whose, tokens in (("golden", preview.golden_tokens), ("model", preview.answer_tokens)):
            longest = f"max_{whose}_output_length"
            lengths |= {f"current_{whose}_output_length": tokens, longest: max(tokens, self._values.get(longest) or 0)}
        return lengths

    def saved(self, saved: SavedCheckpoint) -> None:
        """A checkpoint was made."""
        if saved.val_loss is not None:
            gap = None if saved.train_loss is None else saved.val_loss - saved.train_loss
            alerts = [f"Validation loss is {gap:.2f} above training loss."] if gap is not None and gap > GAP_WARNING else []
            self._values |= {"validation_loss": saved.val_loss, "val_train_gap": gap, "active_alerts": alerts, "alert_summary": len(alerts)}
        self.write(force=True)

    def settle(self, status: ShownStatus, *, error: str | None = None, error_type: str | None = None) -> None:
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
            "max_output_tokens": MAX_NEW_TOKENS,
            **self._values,
            "train_loss_history": list(self._losses),
            "accuracy_history": list(self._answers),
            "recent_examples": list(self._recent),
            "queue_velocity": velocity,
            "timestamp": stamp(self.clock.now()),
        }

    def _of_losses(self) -> dict[str, Any]:
        losses = [entry["loss"] for entry in self._losses]
        mean = sum(losses[-20:]) / len(losses[-20:])
        variance = sum((loss - mean) ** 2 for loss in losses[-20:]) / len(losses[-20:])
        return {"streaming_ce": mean, "loss_variance": variance, "loss_trend": _trend(losses)}


FIELDS = (
    "status", "current_step", "total_steps", "epoch", "loss", "learning_rate", "timestamp", "model_name", "max_output_tokens",
    "context_window", "error_message", "error_type", "batch_step", "batch_total_steps", "batch_number", "batch_queue_size", "current_file",
    "current_system_prompt", "current_prompt", "golden_answer", "model_answer", "answer_matches", "recent_examples", "total_evals",
    "total_correct", "accuracy_percent", "train_loss_history", "accuracy_history", "steps_per_second", "eta_seconds", "accuracy_last_20",
    "accuracy_last_50", "accuracy_trend", "validation_loss", "val_train_gap", "streaming_ce", "loss_variance", "loss_trend",
    "fixed_eval_em", "fixed_eval_ce", "fixed_eval_trend", "active_alerts", "alert_summary",
    "tokens_per_sec", "tokens_per_sec_avg", "queue_velocity", "max_golden_output_length", "current_golden_output_length",
    "max_model_output_length", "current_model_output_length",
)  # fmt: skip
REMEMBERED = (
    "total_evals", "total_correct", "accuracy_percent", "accuracy_last_20", "accuracy_last_50", "accuracy_trend",
    "max_golden_output_length", "max_model_output_length",
)  # fmt: skip
"""Numbers that go on from file to file, as the histories do."""


def _former(path: Path) -> dict[str, Any]:
    """The document that stands there; {} where none can be read, which costs a view and no truth."""
    try:
        content = read_json(path)
    except ModelwrightError:
        return {}
    return content if isinstance(content, dict) else {}


def _entries(document: Mapping[str, Any], name: str, number: str = "") -> list[dict[str, Any]]:
    """The objects of a list in a document that anybody may have written; number: a field that must be one."""
    found = document.get(name)
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    return [entry for entry in entries if not number or _is_number(entry.get(number))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _trend(values: list[float]) -> float | None:
    """The mean of the last values less that of as many before; None until there are enough of both."""
    last, before = values[-TREND:], values[-2 * TREND : -TREND]
    return None if len(before) < TREND else sum(last) / TREND - sum(before) / TREND
