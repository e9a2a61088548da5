"""The sweep configuration: one base, named runs with overrides, all merged and checked before any run starts.

(specs/medic.md, 7.2 and 6.5)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from cachemedicpp.config.overrides import apply_overrides
from cachemedicpp.config.sections import RunConfig, Section
from cachemedicpp.config.settings import find_file, mixture_of, read_document, resolved_document, run_config_from
from modelwright.config import Layer, resolve
from modelwright.errors import ConfigError, Fault

FOLDER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
MIXTURE_FILE = "ood_train_mix.yaml"
"""Where a held-out run keeps the mixture it trains with, beside its `sweep_resolved_config.yaml`."""
FolderName = Annotated[str, Field(pattern=FOLDER_NAME, max_length=120)]


class RunSettings(Section):
    """One run: the name of its directory, and dotted overrides of the base configuration."""

    name: FolderName
    overrides: dict[str, Any]


class BudgetSettings(Section):
    """What the sweep may cost; a note for people, nothing is stopped by it."""

    max_total_gpu_hours: float | None = Field(None, ge=0)
    per_run_gpu_hours_hint: float | None = Field(None, ge=0)
    notes: str | None = None


class SweepConfig(Section):
    """A sweep file. `out_root` is accepted and unused: the flag `--out_root` decides."""

    sweep_name: FolderName
    base_config: str = Field(min_length=1)
    out_root: str | None = None
    runs: tuple[RunSettings, ...] = Field(min_length=1)
    budget: BudgetSettings | None = None


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep with its merged and checked configuration."""

    name: str
    overrides: Mapping[str, Any]
    config: RunConfig


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep. `base_path` is the base configuration that was read."""

    settings: SweepConfig
    base_path: Path
    runs: tuple[PlannedRun, ...]


def load_sweep(path: str | Path) -> SweepPlan:
    """Read a sweep file, merge and check the configuration of every run.

    `base_config` counts from the folder of the sweep file, then from the working folder. Raises ConfigError (exit 2) with the
    faults of the sweep file, of its base, or of all its runs (each with the name of its run).
    """
    path = Path(path)
    settings = _sweep_config(read_document(path, "--sweep_config"), path.name)
    base_path = find_file(settings.base_config, path.parent)
    if base_path is None:
        todo = f"it counts from {path.parent} or the working folder"
        raise ConfigError([Fault("base_config", repr(settings.base_config), "the path of a run configuration", todo)])
    base = read_document(base_path, "base_config")
    faults: list[Fault] = []
    runs: list[PlannedRun] = []
    for run in settings.runs:
        try:
            runs.append(PlannedRun(run.name, run.overrides, run_config_from(base, base_path.parent, run.overrides, source=base_path.name)))
        except ConfigError as error:
            faults += [Fault(f"run {run.name}: {fault.path}", fault.found, fault.allowed, fault.todo) for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return SweepPlan(settings, base_path, tuple(runs))


def run_documents(config: RunConfig, folder: str | Path) -> dict[str, dict[str, Any]]:
    """File name → document of what the sweep writes into a run's folder before its first phase.

    Always `sweep_resolved_config.yaml`; for a held-out run also `ood_train_mix.yaml`, to which `corruption.mixture` then
    points, while `eval.corruption_eval.types` holds the held-out type alone. (8.8)
    """
    from cachemedicpp.config.mixture import find_split, training_mixture

    document = resolved_document(config, folder)
    if config.eval.ood_protocol is None:
        return {"sweep_resolved_config.yaml": document}
    split = find_split(config.eval.ood_protocol, config.eval.ood_splits_path)
    changes = {"corruption.mixture": MIXTURE_FILE, "eval.corruption_eval.types": [split.test_type]}
    return {
        MIXTURE_FILE: training_mixture(mixture_of(config), split).as_dict(),
        "sweep_resolved_config.yaml": apply_overrides(document, changes),
    }


def _sweep_config(document: Mapping[str, Any], source: str) -> SweepConfig:
    settings = resolve(SweepConfig, [Layer(source, _with_plain_overrides(document))]).value
    names = [run.name for run in settings.runs]
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        faults = [Fault("runs", f"the name {name} twice", "one run per name", "rename one of them") for name in sorted(set(twice))]
        raise ConfigError(faults)
    return settings


def _with_plain_overrides(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with text keys in the overrides; everything else as it is."""
    runs = document.get("runs")
    if not isinstance(runs, list):
        return dict(document)
    plain = [
        {**run, "overrides": {str(key): value for key, value in run["overrides"].items()}}
        if isinstance(run, Mapping) and isinstance(run.get("overrides"), Mapping)
        else run
        for run in runs
    ]
    return {**document, "runs": plain}
