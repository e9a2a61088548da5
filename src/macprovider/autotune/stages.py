"""The two stages: which model fits, then which knobs serve it best. Reads like the specification, 5 and 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from macprovider.autotune import trial as trials
from macprovider.autotune.candidate.prewarm import CorruptWeights, TransientFailure, prewarm
from macprovider.autotune.measuring.choose import best_of, can_still_win
from macprovider.autotune.measuring.gate import notes
from macprovider.autotune.measuring.measure import Replicate
from macprovider.autotune.outcome import IntegrityFailure
from macprovider.autotune.plan import Knobs, cells_of, fit_knobs
from macprovider.autotune.session import Session
from macprovider.autotune.trial import Result, Trial

TRANSIENT, INTEGRITY = "pre-warm transient: ", "pre-warm integrity: "
NO_RATE = "no throughput could be measured: no answer carried its usage"


@dataclass(frozen=True)
class Infeasible:
    """A candidate that failed. rank: its place in the list, from 1."""

    model: str
    rank: int
    reason: str


@dataclass
class Progress:
    """How far a run has come; what its end, however it ends, has to tell. results: the cells of Stage 2 that were
    finished. finding: what an experiment found."""

    infeasible: list[Infeasible] = field(default_factory=list)
    chosen: Result | None = None
    results: list[Result] = field(default_factory=list)
    winner: Result | None = None
    finding: dict[str, Any] | None = None


def stage_one(session: Session, progress: Progress, known: Mapping[str, str]) -> None:
    """Walk the list in its order and stop at the first candidate that passes; the others are not touched.

    known: model → reason, for candidates that an earlier unfinished run proved infeasible (`--resume`).
    """
    options = session.options
    knobs = fit_knobs(options.target_context, session.ram_gb)
    for rank, model in enumerate(options.candidate_models, start=1):
        plan = Trial(1, model, knobs, options.stage1_replicates)
        memory = trials.forecast(session, plan).words(session.ram_gb)
        session.say(f"[stage 1, {rank}/{len(options.candidate_models)}] {model} ({memory})")
        result = _probe(session, plan, known.get(model), progress, rank)
        session.say(f"    {_verdict(result)}")
        if result.fits:
            progress.chosen = result
            return
        progress.infeasible.append(Infeasible(model, rank, result.reason))


def stage_two(session: Session, progress: Progress, chosen: Result) -> None:
    """Measure every cell of knobs of the chosen model in a fixed order, then keep the best."""
    options = session.options
    model = chosen.trial.model
    axis = cells_of(options)
    for number, knobs in enumerate(axis, start=1):
        memory = trials.forecast(session, Trial(2, model, knobs, options.stage2_replicates)).words()
        session.say(f"[stage 2, {number}/{len(axis)}] {model}: {knobs.words()} ({memory})")
        result = measure_cell(session, model, knobs, progress.results if options.prune else ())
        session.say(f"    {_verdict(result)}")
        progress.results.append(result)
        progress.winner = winner(session, progress.results)
    if progress.winner is not None:
        session.database.keep(session.run_id, progress.winner.row)
        return
    rank = options.candidate_models.index(model) + 1
    last = progress.results[-1]
    progress.infeasible.append(Infeasible(model, rank, last.reason or NO_RATE))


def measure_cell(session: Session, model: str, knobs: Knobs, before: Sequence[Result]) -> Result:
    """One cell of Stage 2. before: the cells to beat; with any, replicates that cannot change the outcome are left out."""
    options = session.options
    plan = Trial(2, model, knobs, options.stage2_replicates)
    holder = winner(session, before)

    def decided(done: Sequence[Replicate]) -> bool:
        if not options.prune:
            return False
        if done[-1].error or done[-1].leak or (done[-1].ttft_ms or 0) > options.gate_ttft_ms:
            return True  # it cannot pass the gate any more
        best = None if holder is None else holder.score
        return not can_still_win([replicate.tps for replicate in done], plan.replicates, best, options.tps_tie_epsilon)

    return trials.run(session, trials.begin(session, plan), plan, decided)


def winner(session: Session, results: Sequence[Result]) -> Result | None:
    """Keep-best over the cells so far, in the order they were measured."""
    options = session.options
    place = best_of([result.score for result in results], options.tps_tie_epsilon, options.objective)
    return None if place is None else results[place]


def _probe(session: Session, plan: Trial, known: str | None, progress: Progress, rank: int) -> Result:
    row = trials.begin(session, plan)
    if known is not None:
        return trials.fail(session, row, plan, known)
    before = trials.forecast(session, plan)
    try:
        _fetched(session, row, plan)
    except TransientFailure as error:
        return trials.fail(session, row, plan, notes(f"{TRANSIENT}{error}"))
    except CorruptWeights as error:
        result = trials.fail(session, row, plan, notes(f"{INTEGRITY}{error}"))
        progress.infeasible.append(Infeasible(plan.model, rank, result.reason))
        raise IntegrityFailure(result.reason) from error
    after = trials.forecast(session, plan)
    if after.source != before.source:  # its files are here now
        session.say(f"    {after.words(session.ram_gb)}")
    return trials.run(session, row, plan)


def _fetched(session: Session, row: int, plan: Trial) -> None:
    try:
        prewarm(session, plan.model)
    except (TransientFailure, CorruptWeights):
        raise
    except BaseException as error:
        session.database.note_trial(row, trials.last_words(error))
        raise


def _verdict(result: Result) -> str:
    taken = result.predicted.beside(result.peak_bytes)
    memory = f", {taken}" if taken else ""
    if not result.fits:
        return f"does not fit: {result.reason}{memory}"
    measured = result.measured
    rate = "unknown tok/s" if measured.tps is None else f"{measured.tps:.2f} tok/s"
    quality = "" if result.quality is None else f"; {result.quality.words()}"
    return f"fits: {rate}, first token within {measured.ttft_p95_ms or 0:.0f} ms{memory}{quality}"
