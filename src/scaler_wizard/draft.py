"""The first half of step 1: everything about a job that can be judged without looking at the hardware.

Flags and job document are merged and typed, and every fault is collected: unknown templates, models that are none, missing
data, impossible schedules, methods that do not suit the architecture, parts that this version does not have, a contract whose
fields fail. What takes no time is looked at first and said at once; only when nothing was found there do the checks follow that
ask the hub, digest the data or import transformers. A `Draft` has passed all of them, and `resolve.finish` makes the
`ResolvedJob` of it. Reads config.json and at most 32 records; no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelwright.config import Layer
from modelwright.data.references import DatasetReference
from modelwright.loading import ModelSource, resolve_tokenizer
from modelwright.model_shape import ModelShape
from scaler_wizard import draft_checks as checks
from scaler_wizard import layers as reading
from scaler_wizard.arguments import Arguments
from scaler_wizard.contract import Contract, ContractMissingError, ContractNotAcceptedError, find
from scaler_wizard.findings import Findings
from scaler_wizard.job import Settings
from scaler_wizard.model_facts import ModelFacts, base_context, model_facts, model_fingerprint, needs_hub
from scaler_wizard.output_dir import live_writer, output_dir_fault
from scaler_wizard.profile_recommender import ScalingTemplate, load_templates

DEFAULT_CONTRACT, DEFAULT_KEYS = "config/human_contract.yaml", "config/authorized_keys.yaml"
CHECKING = "checking the model and the dataset …"


@dataclass
class Draft:
    """A job without faults, before hardware. `layers` are job and cli, ascending; `template` is None while it is `auto`.

    `contract` is the contract with its fields checked, or None when nobody asked for it or a dry run has none.
    """

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
    contract_section: Mapping[str, Any] | None
    contract: Contract | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def draft_job(
    arguments: Arguments,
    document: Mapping[str, Any] | None = None,
    *,
    consent: bool = False,
    announce: Callable[[str], None] | None = None,
) -> Draft:
    """Check everything that needs no hardware.

    `document` is a job document already in memory (from `run_job`); otherwise `arguments.config` names its file. `consent` asks
    for the contract too, whose fields are then checked together with the rest. `announce` is told when the checks begin that
    take seconds.

    Raises ConfigError (exit 2) with every fault, or, when all settings are right, RunLockedError (1) naming the live writer of the
    output directory, ContractNotAcceptedError (3) or LoadError (5).
    """
    findings = Findings(arguments.faults)
    if document is None and arguments.config:
        document = reading.read_document(arguments.config, findings)
    job_layer, contract_section = reading.split_document(document, findings)
    cli_layer = reading.cli_layer(arguments, findings)
    if arguments.dataset is not None and isinstance(job_layer.get("dataset"), Mapping):  # --dataset replaces the data whole
        job_layer["dataset"] = {key: value for key, value in job_layer["dataset"].items() if key == "weak_supervision"}
    settings, layers = reading.typed([Layer("job", job_layer), Layer("cli", cli_layer)], findings)
    section = None if arguments.contract else contract_section
    contract_path = Path(arguments.contract or DEFAULT_CONTRACT)

    templates = findings.guard(load_templates) or {}
    template = checks.check_template(settings.scaling.template, templates, findings)
    model = _model(settings, arguments.offline, findings, hub=False)
    _tokenizer(settings, arguments.offline, findings, hub=False)
    checks.check_method(settings.scaling.context_method, findings)
    if model is not None and model.context is not None:
        checks.check_schedule(settings, checks.target_of(settings, template, model.context), model.context, findings)
    reference = checks.check_reference(settings, findings)
    quick = reference is not None and checks.read_quickly(reference, findings)
    if reference is not None and quick:
        checks.check_records(reference, arguments.offline, findings)
    probes = checks.check_probes(settings.probes, findings)
    checks.check_later_parts(settings, findings)
    checks.check_strategy(settings.scaling.strategy, findings)
    _output_dir(settings, arguments, findings)
    contract = _contract(contract_path, section, arguments.dry_run, findings) if consent else None
    findings.raise_any()

    if announce is not None:
        announce(CHECKING)
    _tokenizer(settings, arguments.offline, findings, hub=True)
    model = model or _model(settings, arguments.offline, findings, hub=True)
    context = findings.guard(lambda: base_context(model.config)) if model is not None else None
    if model is not None and context is not None:
        target = checks.target_of(settings, template, context)
        checks.check_schedule(settings, target, context, findings)
        checks.ask_method(settings, model.config, target, context, findings)
    fingerprint = None
    if reference is not None:
        if not quick:
            checks.check_records(reference, arguments.offline, findings)
        fingerprint = checks.digest_data(reference, findings) if not findings else None
    findings.raise_any()
    if model is None or context is None or reference is None:
        raise AssertionError("a draft without faults has a model and a dataset")
    draft = Draft(
        arguments=arguments,
        layers=layers,
        settings=settings,
        templates=templates,
        template=template,
        source=model.source,
        config=model.config,
        shape=model.shape,
        base_context=context,
        model_fingerprint=model_fingerprint(model.source),
        reference=reference,
        dataset_fingerprint=fingerprint,
        probes=probes,
        contract_path=contract_path,
        contract_section=section,
        contract=contract,
    )
    _remark(draft)
    return draft


def _model(settings: Settings, offline: bool, findings: Findings, *, hub: bool) -> ModelFacts | None:
    """What config.json says of the model, without `hub` of one that lies here, with it of one that the hub is asked for."""
    name = settings.model.base_model
    if name == reading.MISSING or needs_hub(name) != hub:
        return None
    return findings.guard(lambda: model_facts(name, settings.model.revision, offline))


def _tokenizer(settings: Settings, offline: bool, findings: Findings, *, hub: bool) -> None:
    """A tokenizer of its own is there; which of them are asked for is as for `_model`."""
    name = settings.model.tokenizer
    if name and needs_hub(name) == hub:
        findings.guard(lambda: resolve_tokenizer(name, offline=offline))


def _output_dir(settings: Settings, arguments: Arguments, findings: Findings) -> None:
    if arguments.resume and arguments.dry_run:
        findings.add("--resume", "together with --dry-run", "one of the two", "drop one")
    if settings.output_dir is None:
        if arguments.resume:
            findings.add("--resume", "no --output-dir", "the run directory to go on with", "add --output-dir")
        return
    path = Path(settings.output_dir)
    writer = live_writer(path)
    if writer is not None:
        findings.errors.append(writer)
        return
    fault = output_dir_fault(path, resume=arguments.resume)
    if fault is not None:
        findings.faults.append(fault)


def _contract(path: Path, section: Mapping[str, Any] | None, dry_run: bool, findings: Findings) -> Contract | None:
    """The contract with its fields checked. A dry run may have none, and a document that lacks its section was told so."""
    try:
        return find(path, section)
    except ContractMissingError as error:
        if not dry_run and not findings.mentions("contract"):
            findings.errors.append(error)
    except ContractNotAcceptedError as error:
        findings.errors.append(error)
    return None


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
