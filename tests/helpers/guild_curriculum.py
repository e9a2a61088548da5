"""A house that may generate data: settings, schedule, and where its skills are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guild.places import Places
from guild.records.checkpoint_record import CampaignId
from guild.records.evaluation_records import Evaluation, new_evaluation
from helpers.guild_house import make_house
from modelwright.files import read_json, read_yaml, write_json, write_yaml

CAMPAIGN = CampaignId("tiny", "campaign-001")
SMALL = {
    "forms": ["brief"], "operations": ["increment", "decrement"], "tasks": [], "auxiliary_share": 0, "symbol_share": 0,
    "hint_share": 0, "chains": False,
}  # fmt: skip
"""Options of `bin` for tiny models."""


def make_curriculum_house(base: Path, *, api: str | int = "local", preset: str = "bin_only", **auto_generate: Any) -> Places:
    """A house with the tiny hero's campaign, automatic generation switched on, and `bin` in process (or at a port)."""
    places = make_house(base)
    section = {"enabled": True, "host": "127.0.0.1", "port": 8090, "count": 40, "priority": "normal", **auto_generate}
    write_json(places.config_file, {"schema_version": 1, "model_name": "tiny", "auto_generate": section})
    choose_preset(places, preset)
    if api == "local":
        edit_skill(places, "bin", api={"url": "local"})
    else:
        set_port(places, "skill_bin", int(api))
    return places


def choose_preset(places: Places, preset: str) -> None:
    write_yaml(places.schedule, {**read_yaml(places.schedule), "active": preset})


def edit_skill(places: Places, skill: str, **fields: Any) -> None:
    """Replace fields of a skill's file, which is made where there is none."""
    path = places.skills / f"{skill}.yaml"
    old = read_yaml(path) if path.is_file() else {"id": skill}
    write_yaml(path, {**old, **fields})


def set_port(places: Places, service: str, port: int) -> None:
    content = read_json(places.hosts)
    content["hosts"]["local"]["services"].setdefault(service, {"name": service})["port"] = port
    write_json(places.hosts, content)


def evaluation(step: int, level: int = 1, correct: int = 18, total: int = 20, **more: Any) -> Evaluation:
    """An evaluation of `bin` in the house's campaign."""
    fields = {"timestamp": "2026-01-01T00:00:00Z", **more}
    return new_evaluation(CAMPAIGN, step, "bin", level, correct=correct, total=total, **fields)
