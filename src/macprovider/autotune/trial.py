"""One trial: start a candidate, prove its knobs, warm it up, measure it, stop it, judge it, write its row. (specs/autotune.md, 5.1, 6.1)"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from macprovider.autotune.candidate.leaks import stop_texts
from macprovider.autotune.candidate.provider import Candidate, NotReady, PortTaken
from macprovider.autotune.candidate.readback import disagreement, kv_bytes_per_token
from macprovider.autotune.candidate.resident import Peak
from macprovider.autotune.measuring import gate
from macprovider.autotune.measuring.choose import Score
from macprovider.autotune.measuring.measure import Aggregate, Replicate, aggregate
from macprovider.autotune.measuring.prompts import Sizing, measured_prompt, warm_up_prompt
from macprovider.autotune.measuring.quality import Quality, QualityLimits, compare, quality_answer, quality_prompts, speak_all
from macprovider.autotune.measuring.request import StreamingRequest
from macprovider.autotune.outcome import BudgetExhausted, Interrupted, RunEnded
from macprovider.autotune.plan import Knobs
from macprovider.autotune.records.database import TrialValues
from macprovider.autotune.session import Session
from macprovider.engines.forecast import predict
from macprovider.engines.predicted import Predicted

WARM_UP_TRIES = 4
WARM_UP_TOKENS = 16
FIRST_WARM_UP = 1_000_000
"""Number of the first warm-up prompt: no measured one comes near."""
TOO_LONG = 413
INTERRUPTED_NOTE, DEFECT_NOTE = "interrupted:", "internal error:"
"""Beginnings of the notes of trials that say nothing about their candidate."""


@dataclass(frozen=True)
class Trial:
    """What is to be measured. stage: 1 or 2. knobs: as they are asked for; replicates: measured requests."""

    stage: int
    model: str
    knobs: Knobs
    replicates: int


@dataclass(frozen=True)
class Result:
    """What came of a trial. reason: why it does not fit, "" when it does. load_s: from start to ready, None when it never was.
    predicted: its memory by arithmetic; peak_bytes: what it took, None when it never started.
    """

    trial: Trial
    row: int
    reason: str
    measured: Aggregate
    replicates: tuple[Replicate, ...]
    target_context: int
    load_s: float | None = None
    kv_bytes_per_token: float | None = None
    quality: Quality | None = None
    predicted: Predicted = field(default_factory=Predicted)
    peak_bytes: int | None = None

    @property
    def fits(self) -> bool:
        return not self.reason

    @property
    def score(self) -> Score:
        """What keep-best compares."""
        context = self.trial.knobs.max_context or self.target_context
        return Score(self.fits, self.measured.tps, self.measured.ttft_p95_ms, self.trial.knobs.max_batch * context, self.kv_bytes_per_token)


EndEarly = Callable[[Sequence[Replicate]], bool]
"""Whether a trial's other replicates may be left out, given those done."""


@dataclass
class _Findings:
    """What a trial has found so far."""

    replicates: list[Replicate]
    failure: str = ""
    load_s: float | None = None
    facts: dict[str, Any] | str = "not asked"
    quality: Quality | None = None
    limits: QualityLimits | None = None
    predicted: Predicted = field(default_factory=Predicted)
    peak: Peak = field(default_factory=Peak)


def begin(session: Session, trial: Trial) -> int:
    """Write the trial's row, before anything is started for it."""
    session.watch.check()
    options = session.options
    session.open_trial = session.database.begin_trial(
        session.run_id, trial.stage, trial.model, trial.knobs, options.target_context, options.max_tokens
    )
    return session.open_trial


def fail(session: Session, row: int, trial: Trial, reason: str, n_err: int = 1) -> Result:
    """End a trial whose candidate was never started."""
    return _finish(session, row, trial, _Findings([], reason, predicted=forecast(session, trial)), n_err)


def forecast(session: Session, trial: Trial) -> Predicted:
    """The memory that the trial's candidate will take, by arithmetic on what is known of its model now."""
    return predict(trial.model, trial.knobs, session.options.target_context, session.options.engine)


def run(session: Session, row: int, trial: Trial, end_early: EndEarly = lambda done: False) -> Result:
    """Measure; the row is updated in place, with `interrupted` or what else ended the run early too."""
    found = _Findings([], predicted=forecast(session, trial))
    try:
        _measure(session, trial, found, end_early)
    except NotReady as error:
        found.failure = str(error)
    except BaseException as error:
        session.database.end_trial(row, _values(found, last_words(error), fits=False, n_err=_errors(found)))
        raise
    return _finish(session, row, trial, found, None)


def _measure(session: Session, trial: Trial, found: _Findings, end_early: EndEarly) -> None:
    options = session.options
    command = session.world.serve(trial.model, trial.knobs, options.port, session.empty_config(), options.engine)
    leaks = stop_texts(trial.model)
    log = session.log_for(trial.stage, trial.model)
    with Candidate(command, options.port, log, options.candidate_grace_s, session.watch) as candidate:
        found.peak = candidate.peak
        found.load_s = candidate.wait_ready(options.ready_timeout)
        session.detail(f"    ready after {found.load_s:.1f}s (cold load, not part of any measurement); log: {candidate.log}")
        found.facts = candidate.engine_facts()
        candidate.check_alive()
        found.failure = disagreement(trial.knobs, found.facts)
        if found.failure:
            return
        _warm_up(session, trial, candidate)
        for number in range(trial.replicates):
            replicate = _ask(session, trial, number, leaks)
            found.replicates.append(replicate)
            session.detail(f"    request {number + 1}/{trial.replicates}: {_words(replicate)}")
            candidate.check_alive(after_failure=bool(replicate.error))
            if number + 1 < trial.replicates and end_early(found.replicates):
                session.detail("    the other requests of this cell are left out: it cannot become the best any more")
                return
        if options.quality_gate and not gate.verdict(found.replicates, options.gate_ttft_ms):
            found.limits = QualityLimits(options.min_agreement, options.max_kl)
            found.quality, found.failure = _quality(session, trial, candidate)


def _quality(session: Session, trial: Trial, candidate: Candidate) -> tuple[Quality | None, str]:
    """The verdict on the cell's cache, repaired or not, and, when it fails, why. An unquantised cache is what the others are compared
    with: its answers are taken once, from the candidate of Stage 1.
    """
    options, model = session.options, trial.model
    setting = (model, trial.knobs.kv_bits, trial.knobs.repair)
    is_reference = setting == (model, None, None)
    if (model in session.reference) if is_reference else (setting in session.qualities):
        found = None if is_reference else session.qualities[setting]
    else:
        texts = quality_prompts(session.sizings.get(model, Sizing()), options.target_context)
        answer_tokens = quality_answer(options.target_context)
        try:
            answers = speak_all(options.port, model, texts, answer_tokens, options.request_timeout, session.watch)
        except OSError as error:
            candidate.check_alive(after_failure=True)
            return None, f"quality prompts: {error}"
        if is_reference:
            session.reference[model] = answers
            return None, ""
        found = session.qualities[setting] = compare(session.reference[model], answers)
    return found, "" if found is None else QualityLimits(options.min_agreement, options.max_kl).refusal(found)


def _warm_up(session: Session, trial: Trial, candidate: Candidate) -> None:
    """One disposable request; its count of tokens tells how long this model's prompts must be. One that is refused as too long
    is sent again at half its length.
    """
    options, watch = session.options, session.watch
    sizing = session.sizings.get(trial.model, Sizing())
    for attempt in range(WARM_UP_TRIES):
        text = warm_up_prompt(FIRST_WARM_UP + attempt, sizing, options.target_context, options.max_tokens, 0.5**attempt)
        answer = StreamingRequest(options.port, trial.model, text, min(options.max_tokens, WARM_UP_TOKENS), options.request_timeout).wait(
            watch
        )
        candidate.check_alive()
        session.detail(f"    warm-up: {_words(answer.replicate)}")
        if answer.status != TOO_LONG:
            session.sizings[trial.model] = sizing.corrected(len(text), answer.replicate.prompt_tokens)
            return


def _ask(session: Session, trial: Trial, number: int, leaks: Sequence[str]) -> Replicate:
    """One measured request. The prompts of a candidate all begin differently, so that no cached prefix can answer; every candidate
    gets the same ones, so that cells differ in their knobs alone.
    """
    options = session.options
    sizing = session.sizings.get(trial.model, Sizing())
    text = measured_prompt(number, sizing, options.target_context, options.max_tokens)
    request = StreamingRequest(options.port, trial.model, text, options.max_tokens, options.request_timeout, leaks)
    return request.wait(session.watch).replicate


def _finish(session: Session, row: int, trial: Trial, found: _Findings, n_err: int | None) -> Result:
    reason = gate.notes(found.failure or gate.verdict(found.replicates, session.options.gate_ttft_ms))
    errors = _errors(found) if n_err is None else n_err
    session.database.end_trial(row, _values(found, reason, fits=not reason, n_err=errors))
    session.open_trial = None
    return Result(
        trial, row, reason, aggregate(found.replicates), tuple(found.replicates), session.options.target_context, found.load_s,
        kv_bytes_per_token(found.facts), found.quality, found.predicted, found.peak.bytes,
    )  # fmt: skip


def _errors(found: _Findings) -> int:
    """Failed requests; at least one for a candidate that failed as a whole."""
    failed = sum(bool(replicate.error) for replicate in found.replicates)
    return max(failed, 1) if found.failure else failed


def _values(found: _Findings, notes: str, *, fits: bool, n_err: int) -> TrialValues:
    measured = aggregate(found.replicates)
    return TrialValues(
        fits=fits,
        notes=notes,
        n_err=n_err,
        replicates_n=len(found.replicates),
        measured_prompt_tokens=measured.prompt_tokens,
        agg_throughput_tps=measured.tps,
        ttft_p95_ms=measured.ttft_p95_ms,
        measured={
            "replicates": [asdict(replicate) | {"tps": replicate.tps} for replicate in found.replicates],
            "load_s": found.load_s,
            "engine": found.facts if isinstance(found.facts, dict) else None,
            "quality": None if found.quality is None else found.quality.as_dict(),
            "quality_limits": None if found.limits is None else asdict(found.limits),
            "memory": found.predicted.as_dict(found.peak.bytes),
        },
    )


def last_words(error: BaseException) -> str:
    """The note of a trial that something else than its candidate ended."""
    if isinstance(error, Interrupted):
        return f"{INTERRUPTED_NOTE} a signal asked the run to stop"
    if isinstance(error, BudgetExhausted):
        return f"{INTERRUPTED_NOTE} the time of --max-duration was over"
    if isinstance(error, RunEnded | PortTaken):
        return gate.notes(f"{INTERRUPTED_NOTE} {error}")
    room = gate.NOTES_CHARACTERS - len(DEFECT_NOTE) - 1
    return f"{DEFECT_NOTE} {''.join(traceback.format_exception(error))[-room:]}"


def _words(replicate: Replicate) -> str:
    if replicate.error:
        return replicate.error
    rate = "unknown tok/s" if replicate.tps is None else f"{replicate.tps:.2f} tok/s"
    first = "no first token" if replicate.ttft_ms is None else f"first token after {replicate.ttft_ms:.0f} ms"
    return f"{rate}, {first}, {replicate.prompt_tokens} + {replicate.completion_tokens} tokens in {replicate.seconds:.2f}s"
