"""The files around the phases of a run: folders, the records written once, and the archive. (specs/medic.md, 8.1, 8.4)

    <run_dir>/
      run_record.json  config_resolved.yaml  env.json  git.json     written when there is no run record yet
      checkpoints/  control/  logs/  metrics/  paper/figures/  paper/tables/
      archive/<timestamp>/                                          what --no-resume moved away
      run.json  writer.lock                                         the kernel's record and lock

`run_id` is the name of the directory. Imports no torch before `write_records`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachemedicpp.config.devices import runtime_dtype
from cachemedicpp.config.settings import config_hash, resolved_document
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.environment import capture_environment, code_version, redact
from modelwright.errors import DamagedFileError, storage_error
from modelwright.files import make_folder, read_json, write_json, write_yaml

if TYPE_CHECKING:
    from cachemedicpp.config.sections import RunConfig

FOLDERS = ("checkpoints", "control", "logs", "metrics", "paper/figures", "paper/tables")
RECORD, RESOLVED, ENVIRONMENT, GIT = "run_record.json", "config_resolved.yaml", "env.json", "git.json"
RECORDS = (ENVIRONMENT, GIT, RESOLVED, RECORD)
"""In the order of writing: the run record last, so that where it stands the others do too."""
OF_ANOTHER_CONFIG = ("metrics/*", "logs/*", "paper/figures/*", "paper/tables/*", "report.html", "control/pause_ack*.json", *RECORDS)
"""What a run with another configuration leaves behind; checkpoints only where the phase owns them."""


def run_id_of(folder: Path) -> str:
    """The name of the run directory."""
    return folder.absolute().name


def make_layout(folder: Path) -> None:
    """Create every folder of the run layout that is missing. Raises StorageError."""
    for name in FOLDERS:
        make_folder(folder / name)


def recorded_hash(folder: Path) -> str | None:
    """`config_hash` of `run_record.json`; None when there is no run record. Raises DamagedFileError for a broken one."""
    path = folder / RECORD
    if not path.exists():
        return None
    document = read_json(path)
    found = document.get("config_hash") if isinstance(document, dict) else None
    if not isinstance(found, str):
        raise DamagedFileError(path, "it has no config_hash", "a run record", "Start anew with --no-resume")
    return found


def write_records(folder: Path, config: RunConfig, config_path: str | Path, command: Sequence[str], *, clock: Clock = SYSTEM_CLOCK) -> None:
    """Write `env.json`, `git.json`, `config_resolved.yaml` and at last `run_record.json`.

    config_path: the file the configuration came from, as the user named it. command: argument vector; secrets are
    redacted. Raises StorageError.
    """
    environment, git = environment_record(config), git_record()
    write_json(folder / ENVIRONMENT, environment)
    write_json(folder / GIT, git)
    write_yaml(folder / RESOLVED, resolved_document(config, folder))
    record = {
        "run_id": run_id_of(folder),
        "created_utc": stamp(clock.now(), millis=True),
        "command": redact(command),
        "config_path": str(config_path),
        "config_hash": config_hash(config),
        "git": git,
        "env": {name: value for name, value in environment.items() if name != "platform"},
    }
    write_json(folder / RECORD, record)


def environment_record(config: RunConfig) -> dict[str, Any]:
    """`env.json`: python, torch, transformers, cuda, gpu_name, platform, and the number format that really runs."""
    import torch

    captured = capture_environment()
    gpu = config.device != "cpu" and torch.cuda.is_available()
    return {
        "python": captured["python"],
        "torch": captured["packages"].get("torch", torch.__version__),
        "transformers": captured["packages"].get("transformers", "unknown"),
        "cuda": torch.version.cuda if gpu else None,
        "gpu_name": torch.cuda.get_device_name(config.device) if gpu else None,
        "platform": captured["platform"],
        "runtime_dtype": runtime_dtype(config.dtype, config.device),
    }


def git_record() -> dict[str, Any]:
    """`git.json`: commit and whether the checkout has local changes; null for both outside a checkout."""
    found = code_version()["git"]
    if found is None:
        return {"commit": None, "dirty": None}
    return {"commit": found.removesuffix("-dirty"), "dirty": found.endswith("-dirty")}


def archive(folder: Path, patterns: Iterable[str], *, clock: Clock = SYSTEM_CLOCK) -> Path | None:
    """Move what matches `patterns` (relative to `folder`, in that order) to `archive/<timestamp>/`; None when nothing does.

    A move is a rename, so a file is in one place or the other whatever happens. Name progress before logs: a phase whose
    progress is gone starts anew. Raises StorageError.
    """
    moment = stamp(clock.now(), millis=True).replace("-", "").replace(":", "").replace(".", "")
    target, number = folder / "archive" / moment, 1
    while target.exists():
        target, number = target.with_name(f"{moment}-{number}"), number + 1
    moved = False
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            if path.is_dir() or path.name.startswith("."):
                continue
            place = target / path.relative_to(folder)
            make_folder(place.parent)
            try:
                os.rename(path, place)
            except OSError as error:
                raise storage_error(error, path, "move to the archive") from error
            moved = True
    return target if moved else None
