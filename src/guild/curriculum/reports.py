"""Quality reports, and what `guild data` and `guild curriculum` show. (specs/guild.md 2.4, 3.5)"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from guild.curriculum import rule as rules
from guild.curriculum.choosing import active
from guild.curriculum.progress import settings_of
from guild.curriculum.quality import QualityVerdict
from guild.curriculum.settings import SkillSettings, known_skills
from guild.curriculum.sources import SkillApiError, source_of
from guild.curriculum.state import CurriculumDocument, read_state
from guild.curriculum.totals import Plan, Totals
from guild.errors import RefusedError
from guild.places import Places
from guild.queue.status import get_queue_status
from guild.records.intervals import wilson
from modelwright.clock import Clock, stamp
from modelwright.errors import ModelwrightError
from modelwright.files import make_folder, read_json, write_json

KEPT = 500
"""Quality reports that are kept, the newest."""
PREFIX = "quality_report_"


def report_path(places: Places, data_file: str) -> Path:
    """Where the quality report on a generated file lies."""
    return places.reports / f"{PREFIX}{data_file.removesuffix('.jsonl')}.json"


def write_report(places: Places, plan: Plan, verdict: QualityVerdict, errors: tuple[str, ...], clock: Clock) -> Path:
    """Write the report on one generation, durably, and delete the oldest beyond `KEPT`. errors: of validation."""
    make_folder(places.reports)
    path = report_path(places, plan.file)
    content = {"generated_at": stamp(clock.now()), "file": plan.file, "skill": plan.skill, "level": plan.level, "seed": plan.seed}
    write_json(path, {"schema_version": 1, **content, **verdict.as_dict(), "validation_errors": list(errors)})
    reports = sorted(places.reports.glob(f"{PREFIX}*.json"), key=lambda one: one.stat().st_mtime_ns)
    for old in reports[: max(0, len(reports) - KEPT)]:
        with contextlib.suppress(FileNotFoundError):
            old.unlink()
    return path


def read_report(places: Places, data_file: str) -> dict[str, Any]:
    """The report on a generated file; {} when it is gone or cannot be read."""
    try:
        found = read_json(report_path(places, data_file))
    except ModelwrightError:
        return {}
    return found if isinstance(found, dict) else {}


def skill_document(places: Places, skill: str, state: CurriculumDocument) -> dict[str, Any]:
    """Where a skill stands: levels, evidence, what is missing. Shares are from 0 to 1, None where nothing is known."""
    settings = settings_of(places, skill)
    rule, standing = settings.rule, state.standing(settings.id)
    level, now = rule.training_level(standing.mastered), rules.mean(standing, rule)
    last = standing.evidence[-rule.min_evals :]
    correct, total = sum(one.correct for one in last), sum(one.total for one in last)
    interval = wilson(correct, total) if total else None
    threshold = rule.threshold_of(level)
    return {
        "skill": settings.id,
        "name": settings.name,
        "mastered": standing.mastered,
        "training_level": level,
        "max_level": rule.max_level,
        "threshold": None if threshold is None else float(threshold),
        "evaluations": len(standing.evidence),
        "evaluations_needed": rule.min_evals,
        "mean_accuracy": None if now is None else float(now),
        "interval_low": None if interval is None else interval.low,
        "interval_high": None if interval is None else interval.high,
        "ready": not rules.missing(standing, rule),
        "missing": rules.missing(standing, rule),
        "history": state.entry(settings.id).get("accuracy_history", [])[-10:],
    }


def curriculum_document(places: Places) -> dict[str, Any]:
    """Every skill of the installation in the active campaign."""
    campaign = active(places)
    state = read_state(places, campaign)
    skills = {skill: skill_document(places, skill, state) for skill in known_skills(places)}
    return {"schema_version": 1, "campaign": campaign.key, "active_skill": state.active_skill, "skills": skills}


def data_document(places: Places) -> dict[str, Any]:
    """What `guild data status` shows: APIs, levels with their names, counts, queue."""
    document = curriculum_document(places)
    for skill, fields in document["skills"].items():
        fields.pop("history")
        fields |= _api(places, settings_of(places, skill), fields["training_level"])
    return {**document, "generation": Totals.read(places).as_dict(), "queue": get_queue_status(places)}


def _api(places: Places, skill: SkillSettings, level: int) -> dict[str, Any]:
    """Whether the source of a skill answers, and what it calls a level."""
    try:
        source = source_of(places, skill)
        info = source.info()
        return {"api": "online", "address": info.address, "level_name": source.levels().get(level, ""), "why": ""}
    except (SkillApiError, RefusedError) as error:
        return {"api": "offline", "address": "", "level_name": "", "why": str(error)}
