"""The checks of single settings: template, model, data, probes, strategy, schedule, method. Each adds its faults to `Findings`.

They come in two kinds. The quick ones read config.json, file names and the first records, and import neither torch nor
transformers; the thorough ones ask the hub, digest whole files, or let transformers build a configuration, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelwright.config import nearest
from modelwright.data.references import DatasetReference
from modelwright.errors import ConfigError, Fault, UsageError
from scaler_wizard.arguments import ALLOWED_OF_PATH, FLAG_OF_PATH, LATER_ALLOWED, LATER_RUNTIMES
from scaler_wizard.findings import Findings
from scaler_wizard.job import Settings
from scaler_wizard.model_facts import dataset_reference
from scaler_wizard.profile_recommender import ScalingTemplate
from scaler_wizard.progressive_context import CODE, LONGFORM, RETRIEVAL, build_context_schedule

RECORDS_CHECKED = 32
SCHEDULED_PROBES = (LONGFORM, RETRIEVAL, CODE)
PROBE_GROUP = "scaler_wizard.probes"
LAZILY_READ = (".jsonl", ".csv", ".txt")  # the first records of these are read without reading or importing much


def check_template(name: str, templates: Mapping[str, ScalingTemplate], findings: Findings) -> ScalingTemplate | None:
    """The template of that name; None for `auto`, and for one that is unknown."""
    if name == "auto":
        return None
    if name not in templates:
        close = nearest(name, list(templates))
        findings.add("--template", repr(name), ", ".join(templates), f"did you mean {close}?" if close else "choose one of them, or auto")
        return None
    return templates[name]


def check_probes(names: list[str], findings: Findings) -> list[str]:
    """The names of `--probes`, each known here or scheduled for a later version."""
    from modelwright.probes.registry import find_probes

    known = {*find_probes(PROBE_GROUP).probes, *SCHEDULED_PROBES, "sliding_ppl"}
    for name in names:
        if name not in known:
            close = nearest(name, sorted(known))
            findings.add("--probes", repr(name), ", ".join(sorted(known)), f"did you mean {close}?" if close else "")
    return [name for name in names if name in known]


def check_later_parts(settings: Settings, findings: Findings) -> None:
    """Parts of the job schema whose engine this version does not have are refused by name."""
    later: list[tuple[str, str, str]] = []
    if settings.dataset.weak_supervision:
        later.append(("dataset.weak_supervision", "true", "weak supervision comes with a later version; set it to false"))
    if settings.distillation.teacher_model is not None:
        teacher = repr(settings.distillation.teacher_model)
        later.append(("distillation.teacher_model", teacher, "distillation comes with a later version; leave the teacher out"))
    if settings.model.runtime in LATER_RUNTIMES:
        todo = "one process on one device is what this version runs; use auto, cpu or single_gpu"
        later.append(("model.runtime", settings.model.runtime, todo))
    if settings.safety.telemetry.destination == "websocket":
        todo = "no WebSocket client is part of this version; use local or http"
        later.append(("safety.telemetry.destination", "websocket", todo))
    for path, found, todo in later:
        flag = FLAG_OF_PATH.get(path, path)
        if not findings.mentions(flag):
            findings.add(flag, found, ALLOWED_OF_PATH.get(path, LATER_ALLOWED), todo)
    telemetry = settings.safety.telemetry
    if telemetry.destination == "http" and not str(telemetry.endpoint or "").startswith(("http://", "https://")):
        findings.add("--telemetry-endpoint", repr(telemetry.endpoint), "an http:// or https:// address", "name where events are sent")


def check_strategy(name: str, findings: Findings) -> None:
    from scaler_wizard import strategies

    known = strategies.names()
    if name not in known:
        close = nearest(name, known)
        todo = "it comes with a later version" if name == "prefix_tuning" else f"did you mean {close}?" if close else ""
        findings.add("--strategy", repr(name), ", ".join(known), todo)


# ---------------------------------------------------------------------- data


def check_reference(settings: Settings, findings: Findings) -> DatasetReference | None:
    """The dataset's reference; local data must exist."""
    reference = findings.guard_usage("--dataset", lambda: dataset_reference(settings.dataset))
    if reference is not None and reference.scheme == "local" and not Path(reference.identifier).expanduser().exists():
        found = f"the path {reference.identifier}, which does not exist"
        findings.add("--dataset", found, "a file or folder relative to the current folder, or an absolute path")
        return None
    return reference


def read_quickly(reference: DatasetReference, findings: Findings) -> bool:
    """Whether the first records can be read at once: generated text, and local files that are read line by line."""
    if reference.scheme != "local":
        return reference.scheme == "synthetic"
    from modelwright.data.files import data_files

    files = findings.guard(lambda: data_files(Path(reference.identifier).expanduser(), reference.split))
    return files is not None and files[0].suffix.lower() in LAZILY_READ


def check_records(reference: DatasetReference, offline: bool, findings: Findings) -> None:
    """The first records have one known shape. Hub data are read when they are needed."""
    from modelwright.data.sources import load_records

    if reference.scheme != "hf":
        findings.guard(lambda: load_records(reference, limit=RECORDS_CHECKED, offline=offline))


def digest_data(reference: DatasetReference, findings: Findings) -> str | None:
    """SHA-256 of local files or of the recipe of generated text; None for hub data."""
    from modelwright.data.sources import fingerprint

    return None if reference.scheme == "hf" else findings.guard(lambda: fingerprint(reference))


# ---------------------------------------------------------------------- lengths and method


def target_of(settings: Settings, template: ScalingTemplate | None, context: int) -> int | None:
    """The target context in tokens as far as it is known without the hardware: it may depend on the template that `auto` chooses."""
    scaling = settings.scaling
    if scaling.target_context is not None:
        return scaling.target_context
    multiplier = scaling.context_multiplier or (template.context_multiplier if template else None)
    return default_target(context, multiplier) if multiplier else None


def check_schedule(settings: Settings, target: int | None, context: int, findings: Findings) -> None:
    """Target and lengths suit the base context, and rungs with settings of their own are on the ladder."""
    if target is None:
        return
    if target < context:
        allowed = f"at least the base context {context} of the model"
        findings.add("--target-context", str(target), allowed, "choose a longer target")
        return
    explicit = settings.scaling.context_schedule or []
    outside = [str(value) for value in explicit if not context <= value <= target]
    if outside:
        allowed = f"lengths from the base context {context} to the target {target}"
        findings.add("--context-schedule", ", ".join(outside), allowed, "leave out what lies outside")
        return
    lengths = {step.length for step in build_context_schedule(context, target, explicit, settings.scaling.growth)}
    for length in settings.training.rungs:
        if length not in lengths:
            known = ", ".join(str(value) for value in sorted(lengths))
            findings.add(f"training.rungs.{length}", str(length), f"one of the rungs {known}")


def check_method(name: str, findings: Findings) -> None:
    """The context method exists."""
    from scaler_wizard import context_methods

    if name != "auto" and name not in context_methods.available():
        known = context_methods.available()
        close = nearest(name, known)
        todo = f"did you mean {close}?" if close else "choose one of them"
        findings.add("--context-method", repr(name), ", ".join(["auto", *known]), todo)


def ask_method(settings: Settings, config: Mapping[str, Any], target: int | None, context: int, findings: Findings) -> None:
    """The method takes its options, and the architecture keeps the stretched configuration as written. Imports transformers."""
    from scaler_wizard import context_methods

    if target is None or target <= context:
        return
    scaling = settings.scaling
    chosen = context_methods.choose_method(target) if scaling.context_method == "auto" else scaling.context_method
    options = method_options(chosen, scaling.method_params, scaling.yarn_ramp)
    try:
        context_methods.get_method(chosen).parameters(dict(config), target, **options)
    except ConfigError as error:
        findings.faults += [Fault(_method_flag(fault.path), fault.found, fault.allowed, fault.todo) for fault in error.faults]
    except UsageError as error:
        findings.add("--context-method", f"{chosen} for this model", "a method that suits it", str(error))


def _method_flag(path: str) -> str:
    return path.replace("method_params.", "--method-params ") if path.startswith("method_params.") else path


def default_target(context: int, multiplier: int) -> int:
    """L x multiplier, at least 2048 and at most 131072 tokens."""
    return max(2048, min(131072, context * multiplier))


def method_options(method: str, given: Mapping[str, Any], ramp: str) -> dict[str, Any]:
    """Options for `ContextMethod.parameters`: the user's, and the YaRN ramp where the method is yarn."""
    return {"ramp": ramp, **given} if method == "yarn" else dict(given)
