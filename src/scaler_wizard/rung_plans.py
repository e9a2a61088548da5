"""The ladder worked out: for every rung its steps, batch, learning rate, probes and phase. Pure arithmetic, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scaler_wizard.job import RungOverride, Settings
from scaler_wizard.progressive_context import CODE, LONGFORM, RETRIEVAL, ContextStep, build_context_schedule, runnable_probes
from scaler_wizard.resolved import RungPlan

AVAILABLE_PROBES = ("passkey", "sliding_ppl")
SCHEDULED_PROBES = (LONGFORM, RETRIEVAL, CODE)


def plan_rungs(settings: Settings, base: int, target: int, extra: Sequence[str], notes: list[str]) -> tuple[RungPlan, ...]:
    """Rungs from `base` to `target` tokens; remarks about stand-in probes and cut steps are appended to `notes`."""
    steps = build_context_schedule(base, target, settings.scaling.context_schedule, settings.scaling.growth)
    rungs: list[RungPlan] = []
    for index, step in enumerate(steps):
        before = steps[index - 1].length if index else step.length
        rungs.append(_rung(settings, step, index, base, before, extra, notes))
    return _within_budget(rungs, settings.training.max_train_tokens, notes)


def _rung(settings: Settings, step: ContextStep, index: int, base: int, before: int, extra: Sequence[str], notes: list[str]) -> RungPlan:
    training = settings.training
    override = training.rungs.get(step.length, RungOverride())
    micro = training.micro_batch_size
    if training.micro_batch_tokens is not None:
        micro = max(1, training.micro_batch_tokens // step.length)
    micro = override.micro_batch_size or micro
    accumulation = training.gradient_accumulation
    if training.batch_tokens is not None:
        accumulation = max(1, round(training.batch_tokens / (micro * step.length)))
    names = tuple(dict.fromkeys([*step.probes, *extra]))
    present = {*AVAILABLE_PROBES, *(set(extra) - set(SCHEDULED_PROBES))}  # other names were checked against the registry
    run, remarks = runnable_probes([*names, *AVAILABLE_PROBES], present)
    notes.extend(remark for remark in remarks if remark not in notes)
    return RungPlan(
        index=index,
        length=step.length,
        scale=step.length / base,
        phase=min(index + 1, 3),
        steps=training.steps_per_rung if override.steps is None else override.steps,
        learning_rate=override.learning_rate or training.learning_rate,
        native_fraction=_native(override, training.native_fraction, index),
        micro_batch_size=micro,
        gradient_accumulation=override.gradient_accumulation or accumulation,
        probes=names,
        run_probes=tuple(run),
        notes=step.notes,
        beyond_growth=index > 0 and step.length > settings.gate.max_growth * before,
    )


def _native(override: RungOverride, default: float, index: int) -> float:
    """The base rung is all native length; later rungs mix some in."""
    if index == 0:
        return 1.0
    return default if override.native_fraction is None else override.native_fraction


def _within_budget(rungs: list[RungPlan], limit: int | None, notes: list[str]) -> tuple[RungPlan, ...]:
    """Cut the steps of every rung by one factor when together they would train more than `limit` tokens."""
    total = sum(trained_tokens(rung) for rung in rungs)
    if limit is None or total <= limit:
        return tuple(rungs)
    share = limit / total
    notes.append(f"{total} tokens were planned and {limit} are allowed: the steps of every rung are cut to {100 * share:.0f} %")
    return tuple(replace(rung, steps=max(1, int(rung.steps * share)) if rung.steps else 0) for rung in rungs)


def trained_tokens(rung: RungPlan) -> int:
    """Tokens a rung trains on: steps x sequences per step x length."""
    return rung.steps * rung.micro_batch_size * rung.gradient_accumulation * rung.length
