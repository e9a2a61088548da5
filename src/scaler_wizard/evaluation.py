"""What is measured and when: preflight of the base model, evaluations inside a rung, probes at its end, short context
at last.

Probes see the model exactly as training left it and leave it exactly so (modes, random states, RoPE state), because
resuming must be bit-exact. Finished results are kept as files, so that a run killed among probes goes on with the next
one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.data.synthetic import generate_rows
from modelwright.errors import MissingFileError, UsageError
from modelwright.files import read_json, write_json
from modelwright.probes.registry import find_probes
from modelwright.probes.runner import ProbeStopped, run_probe
from modelwright.probes.sliding_ppl import PerplexityStopped, perplexity
from scaler_wizard.resolved import RungPlan
from scaler_wizard.session import Session

PROBE_GROUP = "scaler_wizard.probes"
ACCURACY_PROBE = "passkey"  # stands in for retrieval_qa until that exists
PERPLEXITY = "sliding_ppl"


class EvaluationInterrupted(Exception):
    """A halt was asked for among the probes; what was finished is on disk."""


@dataclass(frozen=True)
class Measured:
    """Perplexities by length, and every probe's mean score by name and length, of one state of the model."""

    perplexity: Mapping[int, float]
    scores: Mapping[str, Mapping[int, float]]
    details: tuple[Mapping[str, Any], ...]

    def accuracy(self, length: int) -> float | None:
        """The score that the breaker calls accuracy, at `length` tokens."""
        return self.scores.get(ACCURACY_PROBE, {}).get(length)

    def as_dict(self) -> dict[str, Any]:
        return {
            "perplexity": {str(length): value for length, value in self.perplexity.items()},
            "scores": {name: {str(length): v for length, v in series.items()} for name, series in self.scores.items()},
            "details": [dict(detail) for detail in self.details],
        }


class Evaluator:
    """Measures one model of one job. `texts` are held-out texts that fill the target context."""

    def __init__(self, session: Session, model: Any, tokenizer: Any, texts: Sequence[str]) -> None:
        self.session = session
        self.model = model
        self.tokenizer = tokenizer
        self.texts = list(texts)
        self.directory = session.path / "evaluations"
        self.directory.mkdir(exist_ok=True)
        self.registry = find_probes(PROBE_GROUP if _names_third_party(session) else None)

    def quick(self, length: int) -> float:
        """Evaluation perplexity at `length` tokens on the held-out texts; may be infinite or NaN.

        Raises EvaluationInterrupted when the session is asked to halt.
        """
        return float(self._perplexity(length)["perplexity"])

    def calibrate(self, length: int) -> float:
        """Perplexity of one generated text at `length` tokens, whatever the dataset is; may be infinite or NaN.

        Raises EvaluationInterrupted when the session is asked to halt.
        """
        return float(self._perplexity(length, [synthetic_text(self.tokenizer, length, self.session.job.seed)])["perplexity"])

    def measure(self, name: str, lengths: Sequence[int], probes: Sequence[str]) -> Measured:
        """Perplexity and every probe at each of `lengths`; each finished piece is kept in `evaluations/<name>.json`.

        Raises EvaluationInterrupted when the session is asked to halt.
        """
        path = self.directory / f"{name}.json"
        done = _kept(path)
        pieces: list[tuple[str, int]] = [(PERPLEXITY, length) for length in lengths]
        pieces += [(probe, length) for probe in probes if probe != PERPLEXITY for length in lengths]
        for number, (probe, length) in enumerate(pieces, start=1):
            key = f"{probe}/{length}"
            if key in done:
                continue
            self.session.at.doing = f"probe {probe} at {length} tokens ({number} of {len(pieces)})"
            detail = self._perplexity(length) if probe == PERPLEXITY else self._probe(probe, length)
            if detail is None:
                continue
            self._log(probe, length, detail)
            done[key] = detail
            write_json(path, done)
            self._poll()
        return _collect(done)

    def kept(self, name: str) -> Measured:
        """What `measure` found under `name` in an earlier attempt."""
        return _collect(_kept(self.directory / f"{name}.json"))

    def forget(self, name: str) -> None:
        """Drop kept results, because the model they belong to is gone."""
        (self.directory / f"{name}.json").unlink(missing_ok=True)

    # ---- pieces --------------------------------------------------------------------------------------------------

    def _perplexity(self, length: int, texts: Sequence[str] | None = None) -> dict[str, Any]:
        try:
            result = perplexity(
                self.model,
                self.tokenizer,
                self.texts if texts is None else texts,
                length,
                logits_chunk=self.session.job.training.loss_chunk,
                should_stop=self._should_stop,
            )
        except PerplexityStopped as stopped:
            raise EvaluationInterrupted("halt among perplexities") from stopped
        return result.as_dict()

    def _probe(self, name: str, length: int) -> dict[str, Any] | None:
        job = self.session.job
        try:
            probe = self.registry.get(name)
        except UsageError as error:
            self.session.event("probe/unknown", name=name, reason=str(error))
            return None
        if length < probe.min_length:
            self.session.event("probe/skipped", name=name, length=length, reason=f"needs {probe.min_length} tokens")
            return None
        try:
            results = run_probe(
                self.model,
                self.tokenizer,
                probe,
                [length],
                n=job.evaluation.probe_samples,
                seed=job.seed,
                should_stop=self._should_stop,
                progress=lambda _: self.session.beat(),
            )
        except ProbeStopped as stopped:
            raise EvaluationInterrupted(f"halt in probe {name}") from stopped
        return results[0].as_dict()

    def _should_stop(self) -> bool:
        self.session.poll()
        self.session.beat()
        return self.session.halt is not None

    def _poll(self) -> None:
        if self._should_stop():
            raise EvaluationInterrupted("halt between probes")

    def _log(self, probe: str, length: int, detail: Mapping[str, Any]) -> None:
        if probe == PERPLEXITY:
            self.session.log("eval/perplexity", detail["perplexity"], length=length, split="probe", n_tokens=detail["tokens"])
            self.session.log("eval/bpb", detail["bits_per_byte"], length=length, split="probe")
            return
        self.session.log(f"probe/{probe}/{length}", detail["mean"], length=length)
        if probe == ACCURACY_PROBE:
            self.session.log("eval/accuracy", detail["mean"], length=length, split="probe")


def synthetic_text(tokenizer: Any, length: int, seed: int) -> str:
    """Generated long-form prompts with their answers, joined until they fill `length` tokens."""
    parts: list[str] = []
    tokens = 0
    for row in generate_rows("longform", length, seed):
        parts.append("\n\n".join(row.values()))
        tokens += len(tokenizer(parts[-1], add_special_tokens=False, verbose=False)["input_ids"])
        if tokens >= length:
            break
    return "\n\n".join(parts)


def rung_scores(measured: Measured, base: Measured, rung: RungPlan, base_length: int) -> dict[str, float]:
    """One score per probe for `should_halt` (higher is better): a probe's mean at the rung's length, and for perplexity
    the ratio min(1, base perplexity at the base length / perplexity at the rung's length).
    """
    scores = {name: series[rung.length] for name, series in measured.scores.items() if rung.length in series}
    reference, value = base.perplexity.get(base_length), measured.perplexity.get(rung.length)
    if reference is not None and value is not None:
        scores[PERPLEXITY] = min(1.0, reference / value) if value > 0 and math.isfinite(value) else 0.0
    return scores


@dataclass(frozen=True)
class Regression:
    """Short-context cost: perplexity at the base length before and after, and the drop in points.

    One point is one percent of the base perplexity, and the passkey's drop counts in points of accuracy; the larger of
    the two decides. A gain counts as 0.
    """

    perplexity_before: float
    perplexity_after: float
    accuracy_before: float | None
    accuracy_after: float | None
    drop_points: float
    verdict: str  # continue | warn | stop

    def sentence(self) -> str:
        change = 100 * (self.perplexity_after / self.perplexity_before - 1) if self.perplexity_before > 0 else math.nan
        return (
            f"short context: perplexity {self.perplexity_before:.3f} before, {self.perplexity_after:.3f} after "
            f"({change:+.1f} %), drop {self.drop_points:.1f} points"
        )


def short_context_regression(
    before: Measured, after: Measured, base_length: int, warn_at: float, stop_at: float, persona: str
) -> Regression:
    """Compare the final model with the untouched base at the base length.

    `warn_at` and `stop_at` are points; only the conservative persona stops.
    """
    ppl_before, ppl_after = before.perplexity[base_length], after.perplexity[base_length]
    acc_before, acc_after = before.accuracy(base_length), after.accuracy(base_length)
    drop = 100 * (ppl_after / ppl_before - 1) if ppl_before > 0 else math.inf
    if acc_before is not None and acc_after is not None:
        drop = max(drop, 100 * (acc_before - acc_after))
    drop = math.inf if math.isnan(drop) else max(0.0, drop)
    verdict = "warn" if drop > warn_at else "continue"
    if drop > stop_at and persona == "conservative":
        verdict = "stop"
    return Regression(ppl_before, ppl_after, acc_before, acc_after, drop, verdict)


def _names_third_party(session: Session) -> bool:
    """Code of other packages is only loaded when the job names a probe that the kernel does not have."""
    named = {name for rung in session.job.rungs for name in rung.run_probes}
    return bool(named - {ACCURACY_PROBE, PERPLEXITY})


def _kept(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except MissingFileError:
        return {}


def _collect(done: Mapping[str, Mapping[str, Any]]) -> Measured:
    perplexities: dict[int, float] = {}
    scores: dict[str, dict[int, float]] = {}
    for key, detail in done.items():
        probe, _, length = key.rpartition("/")
        if probe == PERPLEXITY:
            value = detail["perplexity"]
            perplexities[int(length)] = math.inf if value is None else float(value)
        else:
            scores.setdefault(probe, {})[int(length)] = float(detail["mean"])
    return Measured(perplexities, scores, tuple(done.values()))
