"""One retention pass: look, decide, delete, write down. A dry run stops after deciding. (specs/guild.md 2.8.4, acceptance item 43)"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from guild.campaigns.config_file import installation_config
from guild.campaigns.effective_config import build_effective
from guild.campaigns.store import list_campaigns
from guild.places import Places
from guild.records import events, ledger
from guild.retention.deleting import delete_whole, strip_optimizer, sweep_graves
from guild.retention.inventory import Sighting, checkpoint_paths, take_stock
from guild.retention.references import needed_now, references
from guild.retention.rules import GB, HOUR, Item, Limits, Plan, Step, decide
from modelwright.clock import SYSTEM_CLOCK, Clock, boot_seconds, stamp
from modelwright.database import Database
from modelwright.errors import DamagedFileError, MissingFileError, ModelwrightError
from modelwright.files import make_folder, read_json, write_json
from modelwright.identity import boot_id
from modelwright.lock import WriterLock

INDEX = "retention_index.json"
SOURCE = "retention"
PATIENCE_S = 10.0


@dataclass
class Done:
    """What a pass did. failed: path → why it could not go. stopped: why the pass ended early, or ""."""

    plan: Plan
    dry_run: bool
    done: list[Step] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: str = ""

    @property
    def freed(self) -> int:
        """Bytes."""
        return sum(step.size for step in self.done)

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Sizes in bytes."""
        plan = self.plan
        return {
            "dry_run": self.dry_run,
            "before_bytes": plan.before,
            "after_bytes": plan.after,
            "cap_bytes": plan.cap,
            "over_bytes": plan.over,
            "planned": [asdict(step) for step in plan.steps],
            "done": [step.path for step in self.done],
            "freed_bytes": self.freed,
            "failed": dict(self.failed),
            "kept": dict(plan.kept),
        }


def limits_of(places: Places) -> Limits:
    """The limits of this installation: `retention` of config.json, and each campaign's `save_total_limit`.

    A campaign whose configuration has faults keeps every optimizer state. Raises ConfigError for config.json's own faults.
    """
    section = installation_config(places).retention
    keep: dict[str, int] = {}
    for archived in (False, True):
        for folder in list_campaigns(places, archived=archived).campaigns:
            try:
                keep["/".join(folder.key)] = build_effective(places, folder).value.save_total_limit
            except ModelwrightError:
                continue  # its own commands name the faults
    return Limits(round(section.cap_gb * GB), section.min_age_hours * HOUR, keep_optimizer=keep)


def retain(
    db: Database,
    places: Places,
    *,
    dry_run: bool = False,
    campaign: str | None = None,
    limits: Limits | None = None,
    stop: Callable[[], str] = lambda: "",
    but_job: int | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Done:
    """One pass. campaign: delete of this one alone. limits: of the installation when None. stop: asked between two deletions. but_job: the
    job that this pass is, which needs nothing itself.

    A dry run writes nothing at all. Raises what looking raises (a campaign that cannot be read might name any checkpoint), RunLockedError
    while another pass runs; a single deletion that fails is told in the result.
    """
    limits = limits or limits_of(places)
    if dry_run:
        return Done(decide(_stock(db, places, limits, campaign, but_job, clock), limits), True)
    lock = WriterLock(make_folder(places.pids / "retention"), command=("guild", "retention"), patience_s=PATIENCE_S, clock=clock)
    try:
        sweep_graves(places)
        items = _stock(db, places, limits, campaign, but_job, clock)
        done = Done(decide(items, limits), False)
        _carry_out(db, places, done, stop, but_job)
        _forget(db, places)
        _write_index(places, items, done, clock)
        _tell(db, done, but_job, clock)
    finally:
        lock.release()
    return done


def _stock(db: Database, places: Places, limits: Limits, campaign: str | None, but_job: int | None, clock: Clock) -> list[Item]:
    reasons = references(db, places, checkpoint_paths(places), but_job=but_job)
    boot, uptime = boot_id(), boot_seconds() or 0.0
    items = take_stock(places, reasons, _seen(places), boot=boot, uptime_s=uptime, fresh_s=limits.fresh_s, clock=clock)
    if campaign is None:
        return items
    return [
        item if item.campaign == campaign else replace(item, protected=(*item.protected, "another campaign is meant")) for item in items
    ]


def _carry_out(db: Database, places: Places, done: Done, stop: Callable[[], str], but_job: int | None) -> None:
    for step in done.plan.steps:
        done.stopped = stop()
        if done.stopped:
            return
        path = Path(step.path)
        try:
            why = needed_now(db, places, path, but_job=but_job)
            if why:
                done.failed[step.path] = f"it stays after all: {why}"
                continue
            if step.what == "whole":
                delete_whole(places, path)
            else:
                strip_optimizer(db, places, path)
        except ModelwrightError as error:
            done.failed[step.path] = str(error)
            continue
        done.done.append(step)


def _forget(db: Database, places: Places) -> None:
    """Checkpoints that are gone leave the ledger, those too that a killed pass had deleted."""
    base = places.base.resolve()
    listed = [Path(record.path) for record in ledger.list_all(db)]
    gone = [path for path in listed if path.is_relative_to(base) and not path.exists()]
    if gone:
        ledger.forget(db, places, gone)


def _index(places: Places) -> dict[str, Any]:
    try:
        content = read_json(places.status / INDEX)
    except (MissingFileError, DamagedFileError):
        return {}  # an index that is gone or damaged costs the memory of first sightings and nothing else
    return content if isinstance(content, dict) else {}


def _seen(places: Places) -> Mapping[str, Sighting]:
    seen = {}
    items = _index(places).get("items")
    for path, entry in items.items() if isinstance(items, dict) else ():
        try:
            first = entry["first_seen"]
            seen[path] = Sighting(str(first["boot"]), float(first["uptime_s"]), float(first["age_s"]))
        except (KeyError, TypeError, ValueError):
            continue
    return seen


def _write_index(places: Places, items: list[Item], done: Done, clock: Clock) -> None:
    """`status/retention_index.json`: what lies there, since when it is known, why it stays; and the pass."""
    seen, boot, uptime = _seen(places), boot_id(), boot_seconds() or 0.0
    removed = {step.path for step in done.done if step.what == "whole"}
    lighter = {step.path: step.size for step in done.done if step.what == "optimizer"}
    listed = {}
    for item in items:
        if item.path in removed:
            continue
        first = seen.get(item.path)
        if first is None or first.boot != boot:
            first = Sighting(boot, uptime, item.age_s)
        listed[item.path] = {
            "sort": item.sort,
            "campaign": item.campaign or None,
            "step": item.step if item.sort == "checkpoint" else None,
            "size_bytes": item.size - lighter.get(item.path, 0),
            "protected": list(item.protected),
            "first_seen": asdict(first),
        }
    content = {**_index(places), "schema_version": 1, "updated_at": stamp(clock.now()), "items": listed, "last_pass": done.as_dict()}
    write_json(make_folder(places.status) / INDEX, content)


def _tell(db: Database, done: Done, job: int | None, clock: Clock) -> None:
    plan = done.plan
    if done.done:
        text = f"Retention freed {done.freed / GB:.2f} GB: {len(done.done)} of {len(plan.steps)} planned deletions."
        data = {"done": [asdict(step) for step in done.done[:100]]}
        events.record(db, "vault.retention", text, source=SOURCE, job=job, data=data, clock=clock)
    for path, why in list(done.failed.items())[:20]:
        events.record(db, "vault.retention_failed", f"{path}: {why}", source=SOURCE, severity="warning", job=job, clock=clock)
    if plan.over:
        text = f"{plan.after / GB:.1f} GB of checkpoints and snapshots must stay; the cap of {plan.cap / GB:g} GB does not hold."
        events.record(db, "vault.retention_over_cap", text, source=SOURCE, severity="warning", job=job, clock=clock)
