"""What a person asks for: a run of another room for a campaign, and a word to one that is under way. (issue "Build" 8)"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.effective_config import build_effective
from guild.campaigns.pointer import require_active
from guild.campaigns.store import find_campaign
from guild.errors import RefusedError
from guild.places import Places, Priority
from guild.records import jobs
from guild.records.checkpoint_marks import usable_checkpoint
from guild.records.jobs import Job, NewJob
from guild.side_jobs.job_folder import FOLDER, folder_of
from guild.side_jobs.rooms import names, room_of, value_of
from modelwright.control import ask
from modelwright.database import Database
from modelwright.errors import ConfigError, Fault, UsageError
from modelwright.files import make_folder, read_yaml, sha256_json, write_yaml

Verb = Literal["stretch", "medic", "medic-eval", "sweep", "autotune"]
KIND_OF_VERB: dict[str, str] = {
    "stretch": "scale",
    "medic": "medic_train",
    "medic-eval": "medic_eval",
    "sweep": "sweep",
    "autotune": "autotune",
}


@dataclass(frozen=True)
class Asked:
    """The flags of a verb; those that it does not have stay at None. words: passed on to the room's command. campaign: hero and id."""

    words: tuple[str, ...] = ()
    campaign: Sequence[str] | None = None
    model: str | None = None
    priority: str = "normal"
    reason: str = ""
    config: str | None = None
    contract: str | None = None
    target_context: int | None = None
    run: str | None = None
    no_child: bool = False
    child_name: str | None = None
    child_max_length: int | None = None
    train: int | None = None


def campaign_meant(places: Places, named: Sequence[str] | None) -> CampaignFolder:
    """The campaign of that hero and id, else the active one."""
    return find_campaign(places, *named) if named else require_active(places)


def newest_model(places: Places, folder: CampaignFolder) -> str:
    """The newest whole checkpoint of a campaign, else what it starts from, else its base model."""
    from guild.campaigns.checkpoints import checkpoints_of

    for _, path in reversed(checkpoints_of(folder)):
        if not usable_checkpoint(path):
            return str(path)
    effective = build_effective(places, folder).value
    return effective.starting_checkpoint or effective.model_path


def new_run(db: Database, places: Places, verb: str, asked: Asked) -> NewJob:
    """The job that a verb asks for. Raises ConfigError with every file that is not there, and what finding the campaign raises."""
    faults = [
        Fault(f"--{name}", value, "a file that is there")
        for name in ("config", "contract")
        if (value := getattr(asked, name)) is not None and not Path(value).expanduser().is_file()
    ]
    if asked.run is not None and not Path(asked.run).expanduser().is_dir():
        faults.append(Fault("--run", asked.run, "the directory of a medic training"))
    here = Path(asked.model).expanduser() if asked.model else None
    if here is not None and not here.is_dir() and str(asked.model).startswith((".", "/", "~")):
        faults.append(Fault("--model", str(asked.model), "a folder that is there, or a hub id"))
    if faults:
        raise ConfigError(faults)
    campaign = campaign_meant(places, asked.campaign)
    if asked.train is not None:
        asked = _of_training(db, places, asked)
    kind = KIND_OF_VERB[verb]
    if here is not None:
        model = str(here.absolute()) if here.is_dir() else str(asked.model)
    else:
        model = newest_model(places, campaign)
    if verb == "medic":
        asked = replace(asked, config=str(medic_config(campaign, Path(str(asked.config)).expanduser(), model)))
    if verb == "medic-eval" and (asked.config is None or asked.run is None):
        raise UsageError("medic-eval: found no --train, or not both of --config and --run; allowed: one or the other.")
    payload: dict[str, Any] = {
        "arguments": _arguments(verb, asked, model),
        "campaign": "/".join(campaign.key),
        "model": model,
        "reason": asked.reason,
        "cwd": os.getcwd(),
    }
    if asked.run is not None:
        payload["run_dir"] = _absolute(asked.run)
    if verb == "stretch":
        payload |= {"opens_child": not asked.no_child, "child_name": asked.child_name, "child_max_length": asked.child_max_length}
    return NewJob(kind, payload, cast("Priority", asked.priority))


def medic_config(campaign: CampaignFolder, path: Path, model: str) -> Path:
    """A medic configuration with the campaign's model in it, kept beside the campaign's runs; the same one has the same name.

    Raises ConfigError when the file names no model, DamagedFileError when it is no YAML.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ConfigError([Fault(f"--config {path}: model", "no such section", "a medic configuration with model.name")])
    content = {**content, "model": {**content["model"], "name": model, "revision": None}}
    target = make_folder(campaign.path / FOLDER / "configs") / f"{path.stem[:60]}-{sha256_json(content)[:12]}.yaml"
    write_yaml(target, content)
    return target


def _of_training(db: Database, places: Places, asked: Asked) -> Asked:
    """Configuration and run directory of a medic training that was carried out."""
    job = jobs.get(db, int(asked.train or 0))
    config = value_of(job.payload.get("arguments", []), "--config")
    if job.kind != "medic_train" or job.run is None or config is None:
        raise RefusedError(f"{job.label}: found no run of a medic training; allowed: the job of one that was started.")
    return replace(asked, config=config, run=str(places.base / job.run))


def _arguments(verb: str, asked: Asked, model: str) -> list[str]:
    """The words of the room's command; what stands behind `--` wins by coming last."""
    words: list[str] = []
    config = _absolute(asked.config) if asked.config else None
    if verb == "stretch":
        words += ["--config", config] if config else []
        words += ["--base-model", model] if not names(asked.words, "--base-model") else []
        words += ["--target-context", str(asked.target_context)] if asked.target_context is not None else []
        words += ["--contract", _absolute(asked.contract)] if asked.contract else []
        words += [] if asked.no_child or "--merge" in asked.words else ["--merge"]
    elif verb in ("medic", "medic-eval"):
        words += ["--config", str(config)]
    elif verb == "sweep":
        words += ["--sweep_config", str(config)]
    elif not names(asked.words, "--candidate-models"):
        words += ["--candidate-models", model]
    return [*words, *asked.words]


def ask_run(db: Database, places: Places, job: Job, word: str) -> str:
    """Ask for a pause, a resume or the end of a job of a room; a sentence for the person. Raises RefusedError when its state does not
    allow it, UnknownKindError when it is no such job."""
    room_of(job.kind)
    if word == "cancel":
        jobs.cancel(db, job.id, reason="asked for by a person")
        held = job.state in ("running", "paused")
        return f"{job.label} {'is asked to stop; its state is saved first' if held else 'is cancelled'}."
    needed = "running" if word == "pause" else "paused"
    if job.state != needed:
        raise RefusedError(f"{job.label} is {job.state}: found {word}; allowed for a job that is {needed}.")
    ask(folder_of(places, job).path, word, actor="person")
    return f"{job.label} is asked to {word}."


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())
