"""The first half of step 1: everything about a job that can be judged without looking at the hardware.

Flags and job document are merged and typed, and every fault is collected: unknown templates, models that are none, missing
data, impossible schedules, methods that do not suit the architecture, parts that this version does not have. A `Draft` has
passed all of that; the contract can be checked against it before any hardware is looked at, and `resolve.finish` makes the
`ResolvedJob` of it. Reads config.json and at most 32 records; no weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelwright.config import Layer, nearest
from modelwright.config import resolve as merge_layers
from modelwright.data.references import DatasetReference
from modelwright.errors import ConfigError, Fault, LoadError, ModelwrightError, UsageError
from modelwright.loading import ModelSource
from modelwright.model_shape import ModelShape
from scaler_wizard.arguments import FLAG_OF_PATH, LATER_ALLOWED, Arguments
from scaler_wizard.job import Settings, missing_sections
from scaler_wizard.model_facts import base_context, dataset_reference, dataset_settings, model_fingerprint, read_model
from scaler_wizard.profile_recommender import ScalingTemplate, load_templates
from scaler_wizard.progressive_context import CODE, LONGFORM, RETRIEVAL, build_context_schedule

RECORDS_CHECKED = 32
RUN_MARKS = ("run.json", "run_metadata.json")
DEFAULT_CONTRACT, DEFAULT_KEYS = "config/human_contract.yaml", "config/authorized_keys.yaml"
SCHEDULED_PROBES = (LONGFORM, RETRIEVAL, CODE)
PROBE_GROUP = "scaler_wizard.probes"


@dataclass
class Draft:
    """A job without faults, before hardware. `layers` are job and cli, ascending; `template` is None while it is `auto`."""

    arguments: Arguments
    layers: list[Layer]
    settings: Settings
    templates: Mapping[str, ScalingTemplate]
    template: ScalingTemplate | None
    source: ModelSource
    config: dict[str, Any]
    shape: ModelShape
    base_context: int
    model_fingerprint: str | None
    reference: DatasetReference
    dataset_fingerprint: str | None
    probes: list[str]
    contract_path: Path
    contract_given: bool
    contract_section: Mapping[str, Any] | None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def draft_job(arguments: Arguments, document: Mapping[str, Any] | None = None) -> Draft:
    """Check everything that needs no hardware.

    `document` is a job document already in memory (from `run_job`); otherwise `arguments.config` names its file.
    Raises ConfigError (exit 2) with every fault, or LoadError (exit 5) when the only trouble is the model or the data.
    """
    checks = _Checks(list(arguments.faults))
    if document is None and arguments.config:
        document = checks.read_document(arguments.config)
    job_layer, contract_section = checks.split_document(document)
    cli_layer = checks.cli_layer(arguments)
    if arguments.dataset is not None and isinstance(job_layer.get("dataset"), Mapping):  # --dataset replaces the data whole
        job_layer["dataset"] = {key: value for key, value in job_layer["dataset"].items() if key == "weak_supervision"}
    layers = [Layer("job", job_layer), Layer("cli", cli_layer)]
    settings, layers = checks.typed(layers)
    templates = checks.guard(load_templates) or {}
    template = checks.template(settings.scaling.template, templates)
    source, config, shape, context = checks.model(settings, arguments.offline)
    reference, fingerprint = checks.dataset(settings, arguments.offline)
    probes = checks.probes(settings.probes)
    checks.later_parts(settings)
    checks.strategy(settings.scaling.strategy)
    if context is not None:
        checks.schedule(settings, template, context)
        checks.method(settings, config or {}, context)
    if settings.output_dir is not None:
        checks.output_dir(Path(settings.output_dir), resume=arguments.resume)
    elif arguments.resume:
        checks.faults.append(Fault("--resume", "no --output-dir", "the run directory to go on with", "add --output-dir"))
    if arguments.resume and arguments.dry_run:
        checks.faults.append(Fault("--resume", "together with --dry-run", "one of the two", "drop one"))
    checks.finish()
    if source is None or config is None or shape is None or context is None or reference is None:
        raise AssertionError("a draft without faults has a model and a dataset")
    draft = Draft(
        arguments=arguments,
        layers=layers,
        settings=settings,
        templates=templates,
        template=template,
        source=source,
        config=config,
        shape=shape,
        base_context=context,
        model_fingerprint=model_fingerprint(source),
        reference=reference,
        dataset_fingerprint=fingerprint,
        probes=probes,
        contract_path=Path(arguments.contract or DEFAULT_CONTRACT),
        contract_given=arguments.contract is not None,
        contract_section=None if arguments.contract else contract_section,
    )
    _remark(draft)
    return draft


def _remark(draft: Draft) -> None:
    """Warnings that follow from the settings alone."""
    settings = draft.settings
    if not any("dataset" in layer.values for layer in draft.layers):
        draft.warnings.append("no dataset was named: training on synthetic://mixed, which teaches no real text; name one with --dataset")
    target = settings.scaling.target_context
    if target is not None and target == draft.base_context:
        draft.warnings.append(f"the target context {target} equals the base context: nothing is expanded, only adapters are trained")
    rank = settings.scaling.lora_rank
    if rank is not None and not 4 <= rank <= 128:
        draft.warnings.append(f"--lora-rank {rank} is outside the usual 4 to 128")
    if not draft.shape.exact:
        draft.notes.append(f"the parameter count of model type {draft.shape.model_type} is an estimate from its sizes")


class _Checks:
    """Collects faults; every check returns what it could find out, so that the later ones can go on."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        self.load_errors: list[LoadError] = []

    def finish(self) -> None:
        if self.faults:
            loads = [Fault(_load_flag(error), str(error).rstrip("."), "something that can be loaded") for error in self.load_errors]
            raise ConfigError(list(dict.fromkeys([*self.faults, *loads])))
        if self.load_errors:
            raise LoadError("\n".join(str(error) for error in self.load_errors))

    def guard(self, call: Any) -> Any:
        try:
            return call()
        except LoadError as error:
            self.load_errors.append(error)
        except ConfigError as error:
            self.faults.extend(error.faults)
        return None

    # ------------------------------------------------------------------ document and layers

    def read_document(self, path: str) -> Mapping[str, Any] | None:
        from modelwright.files import read_yaml

        try:
            document = read_yaml(Path(path))
        except ModelwrightError as error:
            self.faults.append(Fault("--config", str(error).rstrip("."), "a YAML or JSON job document"))
            return None
        if not isinstance(document, Mapping):
            self.faults.append(Fault("--config", f"a {type(document).__name__} in {path}", "a mapping with the sections of a job"))
            return None
        return document

    def split_document(self, document: Mapping[str, Any] | None) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
        """The settings of a job document and its contract section."""
        if document is None:
            return {}, None
        self.faults += missing_sections(document)
        settings = {str(key): value for key, value in document.items() if key != "contract"}
        contract = document.get("contract")
        return settings, contract if isinstance(contract, Mapping) else None

    def cli_layer(self, arguments: Arguments) -> dict[str, Any]:
        layer = dict(arguments.settings)
        if arguments.dataset is not None:
            parts = self.guard_usage("--dataset", lambda: dataset_settings(str(arguments.dataset)))
            if parts:
                layer["dataset"] = {**layer.get("dataset", {}), **parts}
        return layer

    def guard_usage(self, path: str, call: Any) -> Any:
        try:
            return call()
        except ConfigError as error:
            self.faults.extend(error.faults)
        except UsageError as error:
            found, _, allowed = str(error).rstrip(".").partition("; ")
            found = found.removeprefix("The dataset has ").removeprefix("The dataset ")
            self.faults.append(Fault(path, found, allowed.removeprefix("allowed are ") or "see --help"))
        return None

    def typed(self, layers: list[Layer]) -> tuple[Settings, list[Layer]]:
        """The typed settings. Faulty values are reported, taken out and replaced by their defaults, so that checking can go on."""
        try:
            return merge_layers(Settings, layers).value, layers
        except ConfigError as error:
            self.faults += [_with_flag(fault) for fault in error.faults]
            values = [_without(layer.values, [fault.path for fault in error.faults]) for layer in layers]
        for layer in values:  # a stand-in keeps the other checks running; the fault above ends the run anyway
            if "model" in layer and not isinstance(layer["model"], dict):
                del layer["model"]
        cleaned = [Layer(layer.name, value) for layer, value in zip(layers, values, strict=True)]
        try:
            return merge_layers(Settings, [Layer("default", {"model": {"base_model": MISSING}}), *cleaned]).value, cleaned
        except ConfigError:
            raise ConfigError(self.faults) from None

    # ------------------------------------------------------------------ single settings

    def template(self, name: str, templates: Mapping[str, ScalingTemplate]) -> ScalingTemplate | None:
        if name == "auto":
            return None
        if name not in templates:
            close = nearest(name, list(templates))
            todo = f"did you mean {close}?" if close else "choose one of them, or auto"
            self.faults.append(Fault("--template", repr(name), ", ".join(templates), todo))
            return None
        return templates[name]

    def model(
        self, settings: Settings, offline: bool
    ) -> tuple[ModelSource | None, dict[str, Any] | None, ModelShape | None, int | None]:
        name = settings.model.base_model
        if name == MISSING:
            return None, None, None, None
        found = self.guard(lambda: read_model(name, settings.model.revision, offline))
        if settings.model.tokenizer:
            from modelwright.loading import resolve_model

            self.guard(lambda: resolve_model(str(settings.model.tokenizer), offline=offline))
        if found is None:
            return None, None, None, None
        source, config = found
        shape = self.guard(lambda: ModelShape.from_config(config))
        context = self.guard(lambda: base_context(config))
        return source, config, shape, context

    def dataset(self, settings: Settings, offline: bool) -> tuple[DatasetReference | None, str | None]:
        reference = self.guard_usage("--dataset", lambda: dataset_reference(settings.dataset))
        if reference is None or reference.scheme == "hf":
            return reference, None
        from modelwright.data.sources import fingerprint, load_records

        if reference.scheme == "local" and not Path(reference.identifier).expanduser().exists():
            found = f"the path {reference.identifier}, which does not exist"
            self.faults.append(Fault("--dataset", found, "a file or folder relative to the current folder, or an absolute path"))
            return reference, None
        records = self.guard(lambda: load_records(reference, limit=RECORDS_CHECKED, offline=offline))
        return reference, self.guard(lambda: fingerprint(reference)) if records else None

    def probes(self, names: list[str]) -> list[str]:
        """The names of `--probes`, each known here or scheduled for a later version."""
        from modelwright.probes.registry import find_probes

        known = {*find_probes(PROBE_GROUP).probes, *SCHEDULED_PROBES, "sliding_ppl"}
        for name in names:
            if name not in known:
                close = nearest(name, sorted(known))
                todo = f"did you mean {close}?" if close else ""
                self.faults.append(Fault("--probes", repr(name), ", ".join(sorted(known)), todo))
        return [name for name in names if name in known]

    def later_parts(self, settings: Settings) -> None:
        """Parts of the job schema whose engine this version does not have are refused by name."""
        later: list[tuple[str, str, str]] = []
        if settings.dataset.weak_supervision:
            later.append(("dataset.weak_supervision", "true", "weak supervision comes with a later version; set it to false"))
        if settings.distillation.teacher_model is not None:
            teacher = repr(settings.distillation.teacher_model)
            later.append(("distillation.teacher_model", teacher, "distillation comes with a later version; leave the teacher out"))
        if settings.model.runtime in ("multi_gpu", "remote"):
            todo = "one process on one device is what this version runs; use auto, cpu or single_gpu"
            later.append(("model.runtime", settings.model.runtime, todo))
        if settings.safety.telemetry.destination == "websocket":
            todo = "no WebSocket client is part of this version; use local or http"
            later.append(("safety.telemetry.destination", "websocket", todo))
        for path, found, todo in later:
            flag = FLAG_OF_PATH.get(path, path)
            if not any(fault.path == flag for fault in self.faults):
                self.faults.append(Fault(flag, found, LATER_ALLOWED, todo))
        telemetry = settings.safety.telemetry
        if telemetry.destination == "http" and not str(telemetry.endpoint or "").startswith(("http://", "https://")):
            allowed = "an http:// or https:// address"
            self.faults.append(Fault("--telemetry-endpoint", repr(telemetry.endpoint), allowed, "name where events are sent"))

    def strategy(self, name: str) -> None:
        from scaler_wizard import strategies

        known = strategies.names()
        if name not in known:
            close = nearest(name, known)
            todo = "it comes with a later version" if name == "prefix_tuning" else f"did you mean {close}?" if close else ""
            self.faults.append(Fault("--strategy", repr(name), ", ".join(known), todo))

    def schedule(self, settings: Settings, template: ScalingTemplate | None, context: int) -> None:
        scaling = settings.scaling
        target = scaling.target_context
        if target is None:
            multiplier = scaling.context_multiplier or (template.context_multiplier if template else None)
            target = default_target(context, multiplier) if multiplier else None
        if target is None:
            return
        if target < context:
            self.faults.append(
                Fault("--target-context", str(target), f"at least the base context {context} of the model", "choose a longer target")
            )
            return
        explicit = scaling.context_schedule or []
        outside = [str(value) for value in explicit if not context <= value <= target]
        if outside:
            self.faults.append(
                Fault("--context-schedule", ", ".join(outside), f"lengths from the base context {context} to the target {target}")
            )
            return
        lengths = {step.length for step in build_context_schedule(context, target, explicit, scaling.growth)}
        for length in settings.training.rungs:
            if length not in lengths:
                known = ", ".join(str(value) for value in sorted(lengths))
                self.faults.append(Fault(f"training.rungs.{length}", str(length), f"one of the rungs {known}"))

    def method(self, settings: Settings, config: Mapping[str, Any], context: int) -> None:
        """The context method exists, suits the architecture and takes its parameters; only asked when something is expanded."""
        from scaler_wizard import context_methods

        scaling = settings.scaling
        name = scaling.context_method
        if name != "auto" and name not in context_methods.available():
            known = context_methods.available()
            close = nearest(name, known)
            todo = f"did you mean {close}?" if close else "choose one of them"
            self.faults.append(Fault("--context-method", repr(name), ", ".join(["auto", *known]), todo))
            return
        target = scaling.target_context
        if target is None or target <= context:
            return
        self.method_parameters(name, scaling.method_params, scaling.yarn_ramp, config, target)

    def method_parameters(self, name: str, given: Mapping[str, Any], ramp: str, config: Mapping[str, Any], target: int) -> None:
        from scaler_wizard import context_methods

        chosen = context_methods.choose_method(target) if name == "auto" else name
        try:
            method = context_methods.get_method(chosen)
            method.parameters(dict(config), target, **method_options(chosen, given, ramp))
        except ConfigError as error:
            self.faults += [Fault(_method_flag(fault.path), fault.found, fault.allowed, fault.todo) for fault in error.faults]
        except UsageError as error:
            self.faults.append(Fault("--context-method", f"{chosen} for this model", "a method that suits it", str(error)))

    def output_dir(self, path: Path, *, resume: bool) -> None:
        fault = output_dir_fault(path, resume=resume)
        if fault is not None:
            self.faults.append(fault)


MISSING = "-"


def default_target(context: int, multiplier: int) -> int:
    """L x multiplier, at least 2048 and at most 131072 tokens."""
    return max(2048, min(131072, context * multiplier))


def method_options(method: str, given: Mapping[str, Any], ramp: str) -> dict[str, Any]:
    """Options for `ContextMethod.parameters`: the user's, and the YaRN ramp where the method is yarn."""
    return {"ramp": ramp, **given} if method == "yarn" else dict(given)


def holds_run(path: Path) -> bool:
    """Whether a directory holds a run (a dry run leaves none of these marks)."""
    return any((path / mark).exists() for mark in RUN_MARKS)


def output_dir_fault(path: Path, *, resume: bool) -> Fault | None:
    """What is wrong with an output directory, or None: a file in the way, no write permission, a run already there (or none to resume)."""
    if resume:
        if holds_run(path):
            return None
        return Fault("--resume", f"no run in {path}", "a directory that holds a run", "leave --resume out to start one")
    if holds_run(path):
        todo = "add --resume to go on with it, or choose another directory"
        return Fault("--output-dir", f"{path}, which already holds a run", "a directory without a run", todo)
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return Fault("--output-dir", f"{path}: {existing} is a file", "a directory", "choose another path")
    if not os.access(existing, os.W_OK | os.X_OK):
        todo = "change its mode or choose another"
        return Fault("--output-dir", f"{path}: {existing} is not writable", "a writable directory", todo)
    return None


def _with_flag(fault: Fault) -> Fault:
    """The fault with its flag in place of its path when the value came from the command line."""
    path = fault.path
    if path in ("model", "model.base_model") and fault.found == "nothing":
        return Fault("--base-model", "nothing", "a local directory with config.json or a hub id", "name the model to stretch")
    if "(from cli)" not in fault.found:
        return fault
    found = fault.found.replace(" (from cli)", "")
    flag = next((FLAG_OF_PATH[part] for part in (path, path.rsplit(".", 1)[0]) if part in FLAG_OF_PATH), f"--set {path}")
    return Fault(flag, found, fault.allowed, fault.todo)


def _method_flag(path: str) -> str:
    return path.replace("method_params.", "--method-params ") if path.startswith("method_params.") else path


def _load_flag(error: LoadError) -> str:
    return "--dataset" if "dataset" in str(error).lower() else "model or data"


def _without(values: Mapping[str, Any], paths: list[str]) -> dict[str, Any]:
    """A deep copy of nested `values` without the settings that `paths` point at or into."""
    copy: dict[str, Any] = {key: _without(value, []) if isinstance(value, Mapping) else value for key, value in values.items()}
    for path in paths:
        node: Any = copy
        parts = path.split(".")
        for index, part in enumerate(parts):
            if not isinstance(node, dict) or part not in node:
                break
            if index == len(parts) - 1 or not isinstance(node[part], dict):
                del node[part]
                break
            node = node[part]
    return copy
