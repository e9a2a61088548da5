"""Step 1: from flags, job document, template and hardware to a `ResolvedJob`.

Precedence, lowest first: built-in default, template, adaptive rule, job document, flag. `draft.draft_job` judges all that
needs no hardware; `finish` adds template and adaptive values, works out the rungs, and computes the config digest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.config import Layer
from modelwright.config import resolve as merge_layers
from modelwright.errors import ConfigError, Fault, UsageError
from modelwright.hardware import HardwareInventory
from scaler_wizard import resolved as r
from scaler_wizard import strategies
from scaler_wizard.adaptive_scaling import HardwareProfile, ScalingTargets, explain, suggest_lora_config
from scaler_wizard.arguments import Arguments
from scaler_wizard.circuit_breaker import PERSONAS
from scaler_wizard.digest import CONFIG_FILE, config_digest, package_versions
from scaler_wizard.draft import DEFAULT_KEYS, Draft, draft_job
from scaler_wizard.draft_checks import default_target, method_options
from scaler_wizard.job import TARGET_MAX, TARGET_MIN, Settings
from scaler_wizard.memory_plan import planning_profile, rung_forecast
from scaler_wizard.metrics_logger import LOG_EVERY
from scaler_wizard.model_facts import dataset_uri
from scaler_wizard.origins import origins_of
from scaler_wizard.output_dir import live_writer, output_dir_fault
from scaler_wizard.profile_recommender import ScalingTemplate, profile_of, recommend
from scaler_wizard.rung_plans import plan_rungs

LARGE_MODEL_B = 6.5
EMBEDDINGS_FROM_SCALE = 4.0
PLAIN_DROPOUT = 0.05


def resolve(arguments: Arguments, *, inventory: HardwareInventory | None = None, clock: Clock = SYSTEM_CLOCK) -> r.ResolvedJob:
    """Draft and finish in one call, for callers that check the contract elsewhere. Raises as both do."""
    return finish(draft_job(arguments), inventory, clock)


def resolve_document(
    document: Mapping[str, Any],
    *,
    inventory: HardwareInventory | None = None,
    clock: Clock = SYSTEM_CLOCK,
    arguments: Arguments | None = None,
) -> r.ResolvedJob:
    """Resolve a job document that is already in memory, as `runner.run_job` gets it."""
    return finish(draft_job(arguments or Arguments(), document), inventory, clock)


def finish(draft: Draft, inventory: HardwareInventory | None = None, clock: Clock = SYSTEM_CLOCK) -> r.ResolvedJob:
    """Add what depends on the hardware.

    Raises ConfigError (exit 2) for what only shows now, UsageError when --strict meets a warning, NothingFitsError (exit 4)
    when no template can run at all, RunLockedError when somebody writes in the directory that the date and the model give.
    """
    if inventory is None:
        from modelwright.hardware import inventory as look

        inventory = look()
    warnings, notes = list(draft.warnings), list(draft.notes)
    hardware = planning_profile(draft.settings.model.runtime, profile_of(inventory))
    if inventory.gpu_count is None:
        warnings.append(f"GPUs could not be read ({inventory.unknown.get('gpu_count', 'unknown')}): planning without one")
    support = strategies.get(draft.settings.scaling.strategy).supports(draft.config, hardware)
    if not support.ok:
        raise ConfigError([Fault("--strategy", draft.settings.scaling.strategy, "a strategy that suits model and machine", support.reason)])
    template, rationale = _template(draft, hardware)
    settings, origins, factors = _layered(draft, template, hardware, notes)
    job = _assemble(draft, settings, template, notes, warnings)
    job = _embeddings(job, draft, hardware)
    output_dir = Path(settings.output_dir) if settings.output_dir else default_output_dir(draft, template.id, clock)
    if settings.output_dir is None:
        writer = live_writer(output_dir)
        if writer is not None:
            raise writer
        fault = output_dir_fault(output_dir, resume=draft.arguments.resume)
        if fault is not None:
            raise ConfigError([fault])
    job = replace(
        job,
        paths=r.Paths(output_dir, draft.contract_path, Path(DEFAULT_KEYS)),
        rank_factors=factors,
        recommendation=rationale,
        versions=package_versions(),
        warnings=tuple(warnings),
        notes=tuple(dict.fromkeys(notes)),
    )
    job = replace(job, config_sha256=config_digest(job), origins=origins_of(job, origins))
    if draft.arguments.strict and job.warnings:
        raise UsageError("\n".join(f"--strict: {warning}." for warning in job.warnings))
    return job


def default_output_dir(draft: Draft, template: str, clock: Clock = SYSTEM_CLOCK) -> Path:
    """runs/<UTC date>-<model>-<template>."""
    name = Path(draft.settings.model.base_model.rstrip("/")).name or "model"
    slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "model"
    return Path("runs") / f"{clock.now():%Y-%m-%d}-{slug}-{template}"


# ---------------------------------------------------------------------- layers


def _template(draft: Draft, hardware: HardwareProfile) -> tuple[ScalingTemplate, str]:
    if draft.template is not None:
        return draft.template, ""
    pinned = _recorded(draft).get("scaling", {}).get("template")
    if pinned in draft.templates and draft.arguments.resume:
        return draft.templates[pinned], f"{pinned}, as recorded by the run that is resumed"
    size = "large" if draft.shape.parameters() / 1e9 >= LARGE_MODEL_B else ""
    choice = recommend(draft.settings.scaling.use_case, hardware, draft.templates, size)
    return choice.template, choice.rationale


def _layered(
    draft: Draft, template: ScalingTemplate, hardware: HardwareProfile, notes: list[str]
) -> tuple[Settings, dict[str, str], tuple[str, ...]]:
    """The merged settings, their origins, and the explanation of the adaptive rank (empty when it is off)."""
    layers = [_persona_layer(draft), _template_layer(draft, template)]
    before = merge_layers(Settings, [*layers, *draft.layers]).value
    factors: tuple[str, ...] = ()
    adaptive: dict[str, Any] = {"scaling": {"template": template.id}} if draft.template is None else {}
    if before.scaling.adaptive_rank:
        values, factors = _adaptive(draft, before, hardware, notes)
        adaptive.setdefault("scaling", {}).update(values)
    given = [_without_auto_template(layer, draft) for layer in draft.layers]
    merged = merge_layers(Settings, [*layers, Layer("adaptive", adaptive), *given])
    return merged.value, merged.origins, factors


def _without_auto_template(layer: Layer, draft: Draft) -> Layer:
    """`template: auto` asks for a choice; it does not override the choice that was made."""
    if draft.template is not None or "scaling" not in layer.values:
        return layer
    scaling = {key: value for key, value in layer.values["scaling"].items() if key != "template"}
    return Layer(layer.name, {**layer.values, "scaling": scaling})


def _persona_layer(draft: Draft) -> Layer:
    """Breaker limits of the persona, below everything that names a limit itself."""
    persona = draft.settings.safety.persona
    limits = PERSONAS[persona]
    origin = next((layer.name for layer in reversed(draft.layers) if "persona" in layer.values.get("safety", {})), "default")
    names = ("window_steps", "max_perplexity_delta", "min_accuracy", "hard_stop")
    return Layer(origin, {"safety": {"circuit_breaker": {name: getattr(limits, name) for name in names}}})


def _template_layer(draft: Draft, template: ScalingTemplate) -> Layer:
    scaling: dict[str, Any] = {
        "lora_rank": template.lora_rank,
        "lora_alpha": template.lora_alpha,
        "context_multiplier": template.context_multiplier,
    }
    multiplier = draft.settings.scaling.context_multiplier or template.context_multiplier
    scaling["target_context"] = default_target(draft.base_context, multiplier)
    return Layer(
        "template",
        {
            "scaling": scaling,
            "distillation": {"use_distillation": template.use_distillation},
            "safety": {"telemetry": {"profile": template.telemetry_profile}},
        },
    )


def _adaptive(draft: Draft, settings: Settings, hardware: HardwareProfile, notes: list[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Rank, alpha and dropout of the adaptive rule; those recorded earlier in the same directory when the job is the same."""
    scaling = settings.scaling
    target = scaling.target_context or draft.base_context
    targets = ScalingTargets(
        base_params_b=draft.shape.parameters() / 1e9,
        target_multiplier=scaling.capacity_multiplier,
        context_multiplier=target / draft.base_context,
    )
    suggestion = suggest_lora_config(targets, hardware, prefer_low_memory=scaling.prefer_low_memory)
    rank, alpha, dropout = suggestion.rank, suggestion.alpha, suggestion.dropout
    explicit = draft.settings.scaling.lora_rank
    if explicit is not None:  # alpha follows the rank that is used, by the same rule
        alpha = max(2 * explicit, int(explicit * alpha / rank))
    if suggestion.use_qlora and scaling.strategy != "qlora":
        notes.append("the rank rule advises 4-bit weights here; they are used only when named, with --strategy qlora")
    values: dict[str, Any] = {"lora_rank": rank, "lora_alpha": alpha, "lora_dropout": round(dropout, 6)}
    pinned = _pinned(draft, settings)
    if pinned and pinned != values:
        notes.append("rank, alpha and dropout are those recorded in this directory, so that the config digest stays the same")
        values = pinned
    return values, explain(targets, hardware)


def _recorded(draft: Draft) -> dict[str, Any]:
    """The config.resolved.yaml of an earlier dry run or attempt in the output directory; empty when there is none."""
    if draft.settings.output_dir is None:
        return {}
    path = Path(draft.settings.output_dir) / CONFIG_FILE
    if not path.is_file():
        return {}
    from modelwright.files import read_yaml

    document = read_yaml(path)
    return document if isinstance(document, dict) else {}


def _pinned(draft: Draft, settings: Settings) -> dict[str, Any]:
    """Adaptive values recorded for the same model, target and wishes; free memory moves, a signed digest must not."""
    recorded = _recorded(draft)
    scaling, origins = recorded.get("scaling", {}), recorded.get("origins", {})
    wanted = settings.scaling
    same = (
        recorded.get("model", {}).get("base_model") == settings.model.base_model
        and recorded.get("model", {}).get("fingerprint") == draft.model_fingerprint
        and scaling.get("target_context") == wanted.target_context
        and scaling.get("capacity_multiplier") == wanted.capacity_multiplier
        and scaling.get("prefer_low_memory") == wanted.prefer_low_memory
    )
    if not same:
        return {}
    names = ("lora_rank", "lora_alpha", "lora_dropout")
    explicit = draft.settings.scaling.lora_rank
    if explicit is not None and scaling.get("lora_rank") != explicit:
        return {}
    values = {name: scaling[name] for name in names if origins.get(f"scaling.{name}") == "adaptive"}
    return {"lora_rank": explicit, **values} if explicit is not None and values else values if len(values) == len(names) else {}


# ---------------------------------------------------------------------- assembly


def _assemble(draft: Draft, settings: Settings, template: ScalingTemplate, notes: list[str], warnings: list[str]) -> r.ResolvedJob:
    """The job without digest, origins and paths."""
    s, arguments = settings, draft.arguments
    target = _target(draft, s, notes)
    rungs = _rungs(draft, s, target, notes)
    scaling = _scaling(draft, s, target, rungs, warnings)
    distillation = r.DistillationChoice(s.distillation.use_distillation, None, "")
    if s.distillation.use_distillation:
        asked = draft.settings.distillation.use_distillation  # by the user; otherwise only the template wishes for it
        wish = "distillation was asked for" if asked else f"template {template.id} wishes for distillation"
        reason = f"{wish}, which this version does not have: it is skipped"
        distillation = replace(distillation, use_distillation=False, skipped_because=reason)
        (warnings if asked else notes).append(reason)
    breaker, telemetry = s.safety.circuit_breaker, s.safety.telemetry
    if s.evaluation.eval_every * breaker.window_steps > s.training.steps_per_rung or not s.evaluation.eval_every:
        notes.append(
            f"the breaker looks back {breaker.window_steps} evaluations and a rung has "
            f"{s.training.steps_per_rung // (s.evaluation.eval_every or s.training.steps_per_rung)}: "
            "its perplexity rule cannot trip; NaN and the accuracy floor still stop the run"
        )
    return r.ResolvedJob(
        model=r.ModelChoice(
            base_model=s.model.base_model,
            tokenizer=s.model.tokenizer or s.model.base_model,
            revision=s.model.revision,
            runtime=s.model.runtime,
            resize_embeddings=s.model.resize_embeddings,
            fingerprint=draft.model_fingerprint,
        ),
        scaling=scaling,
        dataset=r.DatasetChoice(
            reference=dataset_uri(s.dataset),
            source=s.dataset.source,
            identifier=s.dataset.identifier,
            split=s.dataset.split,
            weak_supervision=s.dataset.weak_supervision,
            fingerprint=draft.dataset_fingerprint,
        ),
        distillation=distillation,
        safety=r.SafetyChoice(
            persona=s.safety.persona,
            circuit_breaker=r.BreakerChoice(**breaker.model_dump()),
            telemetry=r.TelemetryChoice(log_every=LOG_EVERY[telemetry.profile], **telemetry.model_dump()),
        ),
        training=r.TrainingChoice(**s.training.model_dump(exclude={"rungs"})),
        evaluation=r.EvaluationChoice(**s.evaluation.model_dump()),
        gate=r.GateChoice(**s.gate.model_dump()),
        export=r.ExportChoice(**s.export.model_dump()),
        alerts=r.AlertChoice(language=s.voice.language, persona=s.voice.persona, **s.alerts.model_dump()),
        probes=tuple(draft.probes),
        seed=s.seed,
        rungs=rungs,
        paths=r.Paths(Path("."), draft.contract_path, Path(DEFAULT_KEYS)),
        origins={},
        versions={},
        config_sha256="",
        base_params=draft.shape.parameters(),
        model_config=draft.config,
        contract=draft.contract_section,
        dry_run=arguments.dry_run,
        resume=arguments.resume,
        offline=arguments.offline,
        strict=arguments.strict,
        json_output=arguments.json_output,
        log_level=arguments.log_level,
    )


def _target(draft: Draft, settings: Settings, notes: list[str]) -> int:
    target = settings.scaling.target_context or draft.base_context
    asked = draft.settings.scaling.target_context
    wanted = draft.base_context * (settings.scaling.context_multiplier or 1)
    if asked is None and wanted != target:
        notes.append(f"base context x template is {wanted} tokens; the target is kept within {TARGET_MIN} to {TARGET_MAX}")
    if target < draft.base_context:
        allowed = f"at least the base context {draft.base_context} of the model"
        raise ConfigError([Fault("--target-context", str(target), allowed, "choose a longer target")])
    return target


def _rungs(draft: Draft, settings: Settings, target: int, notes: list[str]) -> tuple[r.RungPlan, ...]:
    explicit = settings.scaling.context_schedule
    above = [str(value) for value in explicit or [] if value > target]
    if above:
        allowed = f"lengths from the base context {draft.base_context} to the target {target}"
        raise ConfigError([Fault("--context-schedule", ", ".join(above), allowed, "name a longer --target-context")])
    return plan_rungs(settings, draft.base_context, target, draft.probes, notes)


def _scaling(draft: Draft, settings: Settings, target: int, rungs: tuple[r.RungPlan, ...], warnings: list[str]) -> r.ScalingChoice:
    from scaler_wizard.context_methods import choose_method

    s = settings.scaling
    method = choose_method(target) if s.context_method == "auto" else s.context_method
    if target > draft.base_context:
        _check_method(draft, method, settings, target, warnings)
    if s.yarn_ramp != "index" and method != "yarn":
        warnings.append(f"--yarn-ramp {s.yarn_ramp} has no effect with method {method}")
    rank = s.lora_rank or 0
    return r.ScalingChoice(
        strategy=s.strategy,
        adaptive_rank=s.adaptive_rank,
        lora_rank=rank,
        lora_alpha=_alpha(draft, settings, rank),
        lora_dropout=PLAIN_DROPOUT if s.lora_dropout is None else s.lora_dropout,
        use_qlora=s.strategy == "qlora",
        use_rslora=s.use_rslora,
        use_dora=s.use_dora,
        rank_pattern=dict(s.rank_pattern),
        capacity_multiplier=s.capacity_multiplier,
        prefer_low_memory=s.prefer_low_memory,
        train_embeddings=s.train_embeddings == "on"
        or (s.train_embeddings == "auto" and target / draft.base_context >= EMBEDDINGS_FROM_SCALE),
        base_context=draft.base_context,
        target_context=target,
        context_schedule=tuple(rung.length for rung in rungs),
        growth="explicit" if s.context_schedule else s.growth,
        context_method=method,
        method_params=dict(s.method_params),
        yarn_ramp=s.yarn_ramp,
        template=s.template,
        use_case=s.use_case,
        context_multiplier=s.context_multiplier or 1,
    )


def _alpha(draft: Draft, settings: Settings, rank: int) -> int:
    """Alpha; a template's alpha follows a rank that was named without it."""
    alpha = settings.scaling.lora_alpha or 2 * rank
    named = draft.settings.scaling
    template = draft.templates.get(settings.scaling.template)
    if not settings.scaling.adaptive_rank and named.lora_rank and named.lora_alpha is None and template is not None:
        return max(1, round(template.lora_alpha * rank / template.lora_rank))
    return alpha


def _check_method(draft: Draft, method: str, settings: Settings, target: int, warnings: list[str]) -> None:
    from scaler_wizard import context_methods

    chosen = context_methods.get_method(method)
    support = chosen.supports(dict(draft.config))
    if not support.ok:
        fault = Fault("--context-method", f"{method} for this model", "a method that suits the architecture", support.reason)
        raise ConfigError([fault])
    options = method_options(method, settings.scaling.method_params, settings.scaling.yarn_ramp)
    chosen.parameters(dict(draft.config), target, **options)
    warnings.extend(text.rstrip(".") for text in support.warnings)


def _embeddings(job: r.ResolvedJob, draft: Draft, hardware: HardwareProfile) -> r.ResolvedJob:
    """Leave embeddings and norms untrained when `auto` chose them and only they make the plan too large."""
    if draft.settings.scaling.train_embeddings != "auto" or not job.scaling.train_embeddings:
        return job
    limit = int(hardware.free_gb * 2**30)
    without = replace(job, scaling=replace(job.scaling, train_embeddings=False))
    if rung_forecast(job, job.rungs[-1], hardware).fits(limit) or not rung_forecast(without, job.rungs[-1], hardware).fits(limit):
        return job
    return without
