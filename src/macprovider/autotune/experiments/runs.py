"""The five experiments of the specification's section 14: each measures ordinary trials under a run of its own, and decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from macprovider.autotune import trial as trials
from macprovider.autotune.candidate.prewarm import CorruptWeights, TransientFailure, prewarm
from macprovider.autotune.experiments import rules as rules
from macprovider.autotune.outcome import ExitReason, IntegrityFailure
from macprovider.autotune.plan import Knobs, cells_of, fit_knobs
from macprovider.autotune.session import Session
from macprovider.autotune.stages import INTEGRITY, Progress, measure_cell, winner
from macprovider.autotune.trial import Result, Trial
from modelwright.errors import ModelwrightError

PROBES = (1, 3)
"""Replicates whose verdicts OQ-D compares."""


class NothingMeasured(ModelwrightError):
    """No candidate of the experiment could be measured; one sentence."""


@dataclass(frozen=True)
class Plan:
    """name: of the experiment. models: whose cells are measured. pairs, pair_idle_s: of `order-bias`."""

    name: str
    models: tuple[str, ...]
    pairs: int
    pair_idle_s: float


def body(plan: Plan) -> Callable[[Session, Progress], ExitReason]:
    """What `execute` runs for this experiment."""

    def run(session: Session, progress: Progress) -> ExitReason:
        ready = _fetched(session, plan.models)
        if not ready:
            session.say("No model of this experiment could be fetched; nothing was measured.")
            return "no_feasible"
        try:
            decision = EXPERIMENTS[plan.name][1](session, plan, ready)
        except NothingMeasured as error:
            session.say(str(error))
            return "no_feasible"
        progress.finding = {"experiment": plan.name, **asdict(decision)}
        print(f"EXPERIMENT {plan.name}\n  {'keep the default' if decision.keep else 'change the default'}: {decision.advice}")
        return "ok"

    return run


def tie_epsilon(session: Session, plan: Plan, models: Sequence[str]) -> rules.Decision:
    """OQ-A: the noise of one cell for each model."""
    rates = {model: _rates(_first_cell(session, model)) for model in models}
    enough = {model: values for model, values in rates.items() if len(values) >= rules.FEW_REPLICATES}
    if not enough:
        raise NothingMeasured("No model answered three requests of one cell; nothing can be said about noise.")
    return rules.tie_epsilon(enough, session.options.tps_tie_epsilon)


def replicates(session: Session, plan: Plan, models: Sequence[str]) -> rules.Decision:
    """OQ-B: what a median of three can tell apart, on the first model's first cell."""
    rates = _rates(_first_cell(session, models[0]))
    if len(rates) < rules.FEW_REPLICATES:
        raise NothingMeasured(f"{models[0]} answered {len(rates)} requests; at least three are needed.")
    return rules.replicates(rates, session.options.tps_tie_epsilon)


def kv_axis(session: Session, plan: Plan, models: Sequence[str]) -> rules.Decision:
    """OQ-C: every KV setting for every model."""
    rates: dict[str, dict[int | None, float | None]] = {}
    for model in models:
        for kv_bits in session.options.kv_bits_axis:
            result = _cell(session, model, Knobs(kv_bits, 1, session.options.target_context))
            if result.fits:
                rates.setdefault(model, {})[kv_bits] = result.measured.tps
    if not rates:
        raise NothingMeasured("No cell was feasible; nothing can be said about the cache.")
    return rules.kv_axis(rates, session.options.tps_tie_epsilon)


def stage1_replicates(session: Session, plan: Plan, models: Sequence[str]) -> rules.Decision:
    """OQ-D: every candidate's verdict at one and at three replicates."""
    knobs = fit_knobs(session.options.target_context, session.ram_gb)
    verdicts: dict[str, tuple[bool, bool]] = {}
    for model in models:
        fits = []
        for count in PROBES:
            probe = Trial(1, model, knobs, count)
            session.say(f"[experiment] {model}: {count} replicate(s)")
            fits.append(trials.run(session, trials.begin(session, probe), probe).fits)
        verdicts[model] = (fits[0], fits[1])
    return rules.stage1_replicates(verdicts)


def order_bias(session: Session, plan: Plan, models: Sequence[str]) -> rules.Decision:
    """OQ-E: the same cells forward and in reverse, pair after pair with a pause between."""
    model = models[0]
    axis = cells_of(session.options)
    pairs: list[tuple[str | None, str | None]] = []
    for number in range(plan.pairs):
        if number:
            session.watch.pause(plan.pair_idle_s)
        session.say(f"[experiment] pair {number + 1}/{plan.pairs}")
        pairs.append((_winner_of(session, model, axis), _winner_of(session, model, axis[::-1])))
        session.say(f"    forward: {pairs[-1][0]}; reverse: {pairs[-1][1]}")
    return rules.order_bias(pairs)


EXPERIMENTS: dict[str, tuple[str, Callable[[Session, Plan, Sequence[str]], rules.Decision]]] = {
    "tie-epsilon": ("OQ-A: how noisy tokens/s is here, so how wide a tie must be", tie_epsilon),
    "replicates": ("OQ-B: which gap a median of three can tell", replicates),
    "kv-axis": ("OQ-C: whether an 8-bit cache wins for every model", kv_axis),
    "stage1-replicates": ("OQ-D: whether one probe decides as three do", stage1_replicates),
    "order-bias": ("OQ-E: whether the order of the cells changes the winner", order_bias),
}
"""Name → (what it asks, how it is run)."""


def _fetched(session: Session, models: Sequence[str]) -> list[str]:
    ready = []
    for model in models:
        try:
            prewarm(session, model)
            ready.append(model)
        except TransientFailure as error:
            session.say(f"{model} is left out: {error}")
        except CorruptWeights as error:
            raise IntegrityFailure(f"{INTEGRITY}{error}") from error
    return ready


def _first_cell(session: Session, model: str) -> Result:
    return _cell(session, model, cells_of(session.options)[0])


def _cell(session: Session, model: str, knobs: Knobs) -> Result:
    session.say(f"[experiment] {model}: {knobs.words()}")
    result = measure_cell(session, model, knobs, ())
    session.say(f"    {'fits' if result.fits else f'does not fit: {result.reason}'}")
    return result


def _winner_of(session: Session, model: str, axis: Sequence[Knobs]) -> str | None:
    best = winner(session, [_cell(session, model, knobs) for knobs in axis])
    return None if best is None else best.trial.knobs.words()


def _rates(result: Result) -> list[float]:
    return [replicate.tps for replicate in result.replicates if replicate.tps is not None]
