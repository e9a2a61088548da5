"""What figures, tables, report and gates are made from: the two metrics files and the resolved configuration of a run.

Every fault of the three files is reported at once, and nothing of the run is touched. Imports no torch. (specs/medic.md, 8.7)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachemedicpp.config.sections import RunConfig
from cachemedicpp.evaluation.progress import METRICS as TASK_METRICS
from cachemedicpp.phases.layout import RECORD, RESOLVED, run_id_of
from cachemedicpp.phases.metric_models import StabilityMetricsFile, TaskMetricsFile
from modelwright.errors import DamagedFileError, MissingFileError, ModelwrightError
from modelwright.files import read_json, read_yaml, sha256_file

if TYPE_CHECKING:
    from pydantic import BaseModel

STABILITY_METRICS = "metrics/stability_metrics.json"
INPUTS = (TASK_METRICS, STABILITY_METRICS, RESOLVED)
_MADE_BY = {TASK_METRICS: "eval", STABILITY_METRICS: "stability", RESOLVED: "train"}


@dataclass(frozen=True)
class RunResults:
    """The results of one run.

    folder: the run directory. config_hash: of the configuration that both metrics files were made with. metrics, settings:
    of `task_metrics.json`; sensitivity, amplification, details: of `stability_metrics.json` (points, map, settings).
    """

    folder: Path
    run_id: str
    config_hash: str
    config: RunConfig
    metrics: Mapping[str, Any]
    settings: Mapping[str, Any]
    sensitivity: tuple[Mapping[str, Any], ...]
    amplification: Mapping[str, Any]
    details: Mapping[str, Any]

    @property
    def best_heuristic(self) -> str:
        """The name of the heuristic with the largest area under its curve."""
        return str(self.metrics["best_heuristic_name"])


def read_results(folder: Path) -> RunResults:
    """The checked results of the run in `folder`.

    Raises MissingFileError with one sentence per missing or damaged file, and per file of another configuration.
    """
    found: dict[str, Any] = {}
    faults: list[str] = []
    for name, model in ((TASK_METRICS, TaskMetricsFile), (STABILITY_METRICS, StabilityMetricsFile), (RESOLVED, RunConfig)):
        try:
            found[name] = _checked(folder, name, model)
        except ModelwrightError as error:
            faults.append(str(error))
    if not faults:
        faults = _strangers(folder, found[TASK_METRICS], found[STABILITY_METRICS])
    if faults:
        raise MissingFileError("\n".join(faults), folder)
    task, stability = found[TASK_METRICS], found[STABILITY_METRICS]
    return RunResults(
        folder=folder,
        run_id=run_id_of(folder),
        config_hash=task["config_hash"],
        config=RunConfig.model_validate(found[RESOLVED]),
        metrics=task["metrics"],
        settings=task["settings"],
        sensitivity=tuple(sorted(stability["metrics"]["stability.logit_sensitivity"], key=lambda point: point["delta_norm"])),
        amplification=stability["metrics"]["stability.amplification_map"],
        details=stability["metrics"]["stability.settings"],
    )


def read_for_plots(folder: Path) -> RunResults:
    """`read_results`, with all that the figures need besides; raises MissingFileError naming everything that is missing."""
    faults: list[str] = []
    results: RunResults | None = None
    try:
        results = read_results(folder)
    except MissingFileError as error:
        faults.append(str(error))
    if results is not None and not results.metrics.get("decode_overhead"):
        faults.append(
            f"{folder / TASK_METRICS}: the decode benchmark (metrics.decode_overhead) is missing, which the figure of clean score "
            "against speed shows; set eval.measure_overhead to true and evaluate again."
        )
    if importlib.util.find_spec("matplotlib") is None:
        faults.append("The library matplotlib is missing; install it with: pip install 'modelwright[training]'.")
    if results is None or faults:
        raise MissingFileError("\n".join(["Nothing was written, because something that the figures need is missing:", *faults]), folder)
    return results


def input_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each input, by its name within the run."""
    return {name: sha256_file(folder / name) for name in INPUTS}


def _checked(folder: Path, name: str, model: type[BaseModel]) -> Any:
    """The document `name` of a run, after its model accepted it."""
    from pydantic import ValidationError

    path, made_by = folder / name, _MADE_BY[name]
    if not path.exists():
        raise MissingFileError(f"{path} is missing; `python -m cachemedicpp.{made_by}` writes it.", path)
    document = read_yaml(path) if path.suffix == ".yaml" else read_json(path)
    try:
        model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{'.'.join(map(str, first['loc'])) or 'the whole document'}: {first['msg']}"
        todo = f"Write it again with `python -m cachemedicpp.{made_by}`"
        raise DamagedFileError(path, where, f"what {made_by} writes", todo) from error
    return document


def _strangers(folder: Path, task: Mapping[str, Any], stability: Mapping[str, Any]) -> list[str]:
    """One sentence per metrics file that another configuration made than the run's own, or for two different checkpoints."""
    record = folder / RECORD
    expected = read_json(record)["config_hash"] if record.exists() else task["config_hash"]
    faults = [
        f"{folder / name} belongs to another configuration ({document['config_hash'][:12]}…, the run's is {expected[:12]}…); "
        f"run `python -m cachemedicpp.{_MADE_BY[name]}` again."
        for name, document in ((TASK_METRICS, task), (STABILITY_METRICS, stability))
        if document["config_hash"] != expected
    ]
    repaired_with = [document["settings"].get("repair_checkpoint") for document in (task, stability)]
    if not faults and len({checkpoint["sha256"] for checkpoint in repaired_with if checkpoint}) > 1:
        steps = " and ".join(str(checkpoint["step"]) for checkpoint in repaired_with)
        faults.append(
            f"{folder / 'metrics'}: evaluation and stability measured different repair checkpoints (of steps {steps}); "
            "run `python -m cachemedicpp.eval` and `python -m cachemedicpp.stability` again."
        )
    return faults
