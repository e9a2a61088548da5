"""The reports by name: what a job of kind `report` carries out, and what `guild analytics` prints. (specs/guild.md 2.7, 2.9)

    run_report(places, "regression_monitoring")            the document, written for the active campaign

A report reads the store and writes one document. Running it again changes nothing but its time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from guild.analytics import (
    calibration,
    corrections,
    cycles,
    drift,
    forgetting,
    impact,
    impact_summary,
    measurements,
    mining,
    overview,
    regression,
    sources,
    stability,
    testing,
    trends,
)
from guild.analytics.documents import NO_DATA, document, read_or_none, write_document
from guild.campaigns.campaign import CampaignFolder
from guild.errors import UnknownNameError
from guild.places import Places
from guild.records.checkpoint_record import CampaignId, CheckpointRecord
from guild.records.database import open_guild
from guild.records.evaluations import evaluations_of
from guild.records.passives import passives_of
from modelwright.clock import SYSTEM_CLOCK, Clock, parse_stamp
from modelwright.database import Database
from modelwright.errors import UsageError


class UnknownReportError(UnknownNameError):
    """No report of that name."""

    kind = "report"


@dataclass(frozen=True)
class Desk:
    """What a report works with. folder: the campaign, None for a report about all."""

    db: Database
    places: Places
    folder: CampaignFolder | None
    options: dict[str, Any]
    clock: Clock

    @property
    def campaign_folder(self) -> CampaignFolder:
        assert self.folder is not None
        return self.folder

    @property
    def campaign(self) -> CampaignId:
        return sources.campaign_id(self.campaign_folder)


Make = Callable[[Desk], dict[str, Any] | None]


@dataclass(frozen=True)
class Report:
    """make: the document's fields, None when the one that stands is still good. file: its name. about: what it says, a sentence. every_s:
    seconds after which it is due again. options: names it takes. shared: it lies in the guild's status folder and is about no campaign."""

    make: Make
    file: str
    about: str
    every_s: float = 300.0
    options: tuple[str, ...] = ()
    shared: bool = False


def run_report(
    places: Places,
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    campaign: str | None = None,
    db: Database | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> dict[str, Any]:
    """Make a report, write its document, and return it.

    options: see `REPORTS`. campaign: `hero/campaign`, default the active one. db: the store, opened here when not given. Raises
    UnknownReportError, UsageError for an option it does not take, NoActiveCampaignError, and what reading raises.
    """
    report = report_of(name)
    given = dict(options or {})
    if unknown := sorted(set(given) - set(report.options)):
        allowed = ", ".join(report.options) or "none"
        raise UsageError("\n".join(f"{name}: found the option {option!r}; allowed: {allowed}." for option in unknown))
    folder = None if report.shared else sources.campaign_folder(places, campaign)
    path = document_path(places, name, folder)
    with nullcontext(db) if db is not None else open_guild(places) as store:
        made = report.make(Desk(store, places, folder, given, clock))
    if made is None:
        return read_or_none(path) or {}
    whole = made if "generated_at" in made else document(made.pop("status"), clock, **made)
    whole["report"] = name.replace("-", "_")
    if folder is not None:
        whole = {**whole, "hero_id": folder.campaign.hero_id, "campaign_id": folder.campaign.id}
    write_document(path, whole)
    return whole


def report_of(name: str) -> Report:
    """The report of that name; `-` and `_` are the same. Raises UnknownReportError."""
    found = REPORTS.get(name.replace("-", "_"))
    if found is None:
        raise UnknownReportError(name, REPORTS)
    return found


def document_path(places: Places, name: str, folder: CampaignFolder | None) -> Path:
    """Where a report's document lies. folder: the campaign."""
    report = report_of(name)
    return (places.status if report.shared or folder is None else folder.status) / report.file


def due_reports(places: Places, *, campaign: str | None = None, clock: Clock = SYSTEM_CLOCK) -> list[str]:
    """The names of the reports whose documents are missing or older than `every_s`, in the order in which to make them."""
    folder = sources.campaign_folder(places, campaign)
    names = []
    for name, report in REPORTS.items():
        written = (read_or_none(document_path(places, name, folder)) or {}).get("generated_at")
        try:
            old = written is None or (clock.now() - parse_stamp(str(written))).total_seconds() >= report.every_s
        except ValueError:
            old = True
        if old:
            names.append(name)
    return names


# --- the reports


def _curriculum(desk: Desk) -> dict[str, Any]:
    training = sources.training_levels(desk.places, desk.campaign_folder)
    return trends.curriculum_optimization(evaluations_of(desk.db, desk.campaign), _levels(desk), training)


def _mining(desk: Desk) -> dict[str, Any]:
    newest = sources.newest_of_each(sources.with_problems(desk.db, desk.campaign))
    problems = sources.problems_of(newest)
    return mining.adversarial_mining(problems, max((one.timestamp for one in newest), default=None))


def _regression(desk: Desk) -> dict[str, Any]:
    def accuracy(record: CheckpointRecord) -> float | None:
        return _accuracy(desk, record.skill_name, record.skill_level, record.step)

    return regression.regressions(sources.records_ascending(desk.db, desk.campaign), accuracy)


def _calibration(desk: Desk) -> dict[str, Any]:
    newest = sources.newest_of_each(sources.with_problems(desk.db, desk.campaign))
    return calibration.calibration(sources.problems_of(newest))


def _testing(desk: Desk) -> dict[str, Any]:
    everything = evaluations_of(desk.db, desk.campaign)
    carrying = {(one.checkpoint_step, one.skill, one.level): one for one in sources.with_problems(desk.db, desk.campaign)}
    known = [carrying.get((one.checkpoint_step, one.skill, one.level), one) for one in everything]
    return testing.automated_testing(known, passives_of(desk.db, desk.campaign))


def _corrections(desk: Desk) -> dict[str, Any]:
    problems = sources.problems_of(sources.with_problems(desk.db, desk.campaign))
    return corrections.self_correction(problems, sources.sparring_sessions(desk.places))


def _skill_metrics(desk: Desk) -> dict[str, Any]:
    from guild.evaluation.comparison import skill_metrics

    found = skill_metrics(desk.places)
    puzzles = {name: told for name, told in found["skills"].items() if name.startswith(PUZZLES)}
    return {"status": "ok" if found["available_versions"] else NO_DATA, **found, PUZZLES: puzzles or None}


def _impact(desk: Desk) -> dict[str, Any]:
    folder = desk.campaign_folder
    impact.settle_abandoned(desk.db, folder, clock=desk.clock)
    records, damage = impact.read_records(folder)
    made = impact_summary.summarise(records, lambda *key: _accuracy(desk, *key), impact.open_attempts(folder))
    return {**made, "damage": damage}


def _cycles(desk: Desk) -> dict[str, Any]:
    records, _ = impact.read_records(desk.campaign_folder)
    files = impact_summary.by_file(records, lambda *key: _accuracy(desk, *key))
    return cycles.cycles(files, evaluations_of(desk.db, desk.campaign))


def _hard(desk: Desk) -> dict[str, Any]:
    limit = desk.options.get("limit", mining.WORST)
    if not isinstance(limit, int) or not 1 <= limit <= 10_000:
        raise UsageError(f"limit: found {limit!r}; allowed: 1 to 10000.")
    return mining.hard_examples(sources.problems_of(sources.with_problems(desk.db, desk.campaign)), limit)


def _forgetting(desk: Desk) -> dict[str, Any]:
    return forgetting.forgetting(passives_of(desk.db, desk.campaign), evaluations_of(desk.db, desk.campaign))


def _history(desk: Desk) -> dict[str, Any]:
    return trends.learning_history(evaluations_of(desk.db, desk.campaign))


def _radar(desk: Desk) -> dict[str, Any]:
    return trends.skill_radar(evaluations_of(desk.db, desk.campaign), _levels(desk))


def _drift(desk: Desk) -> dict[str, Any] | None:
    return measurements.measure_drift(desk.db, desk.places, desk.campaign_folder, desk.options, desk.clock)


def _stability(desk: Desk) -> dict[str, Any] | None:
    return measurements.measure_stability(desk.db, desk.places, desk.campaign_folder, desk.options, desk.clock)


def _training(desk: Desk) -> dict[str, Any]:
    found = [read_or_none(desk.campaign_folder.status / name) for name in (drift.NAME, stability.NAME, SUMMARY)]
    return overview.training_analytics(*found)


def _overview(desk: Desk) -> dict[str, Any]:
    names = [name for name in REPORTS if name != "overview"]
    found = {name: read_or_none(document_path(desk.places, name, desk.folder)) for name in names}
    return overview.overview(found, desk.clock.now())


def _levels(desk: Desk) -> dict[str, int]:
    return sources.mastered_levels(desk.places, desk.campaign_folder)


def _accuracy(desk: Desk, skill: str | None, level: int | None, step: int) -> float | None:
    found = sources.accuracy_at(desk.db, desk.campaign, skill, level, up_to=step, since=step)
    return None if found is None else found.accuracy


SUMMARY = "data_file_summary.json"
PUZZLES = "syllo_10level"
_WEIGHTS = ("base", "checkpoint", "step", "force")
REPORTS: Mapping[str, Report] = MappingProxyType({
    "layer_drift": Report(_drift, drift.NAME, "how far each layer went from the base model", 300.0, _WEIGHTS),
    "parameter_stability": Report(_stability, stability.NAME, "weights that explode, vanish or jump", stability.EVERY_S, _WEIGHTS[1:]),
    "data_file_impact": Report(_impact, SUMMARY, "what each training file did to loss and accuracy"),
    "training_analytics": Report(_training, "training_analytics.json", "the three above in one document"),
    "regression_monitoring": Report(_regression, "regression_monitoring.json", "validation loss against the record before"),
    "forgetting": Report(_forgetting, "forgetting.json", "abilities that were there and are not any more"),
    "curriculum_optimization": Report(_curriculum, "curriculum_optimization.json", "level, accuracy and trend of each skill"),
    "learning_history": Report(_history, "learning_history.json", "accuracy of each skill and level over the steps"),
    "skill_radar": Report(_radar, "skill_radar.json", "the skills as a vector"),
    "skill_metrics": Report(_skill_metrics, "skill_metrics.json", "base model against trained model", shared=True),
    "automated_testing": Report(_testing, "automated_testing.json", "evaluations and passives as a test suite", 600.0),
    "confidence_calibration": Report(_calibration, "confidence_calibration.json", "right as often as sure?", 600.0),
    "adversarial_mining": Report(_mining, "adversarial_mining.json", "wrong answers of the newest evaluations by kind"),
    "hard_examples": Report(_hard, "hard_examples.json", "problems that are answered wrong again and again", options=("limit",)),
    "self_correction": Report(_corrections, "self_correction.json", "errors, their patterns, and the rows made of them"),
    "cycles": Report(_cycles, "cycles.json", "the loop turn by turn: file, steps, evaluations"),
    "overview": Report(_overview, "analytics_overview.json", "every report with its verdict and age"),
})  # fmt: skip
"""Name → report, in the order in which to make them: later ones read documents of earlier ones."""
