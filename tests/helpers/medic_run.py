"""A small CacheMedic run for tests: a random model on disk, offline text, a configuration of a few training steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cachemedicpp.config.overrides import merge_overrides
from modelwright.files import read_json, read_jsonl, sha256_file

TINY = Path(__file__).parents[2] / "configs" / "medic" / "tiny.yaml"


def write_config(path: Path, model: Path | str, overrides: Mapping[str, Any] | None = None) -> Path:
    """`tiny.yaml` cut down to 6 steps of 2 prefixes of 40 tokens on the model in the folder `model`."""
    document = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    document["stability"].pop("layers")
    small: dict[str, Any] = {
        "model.name": str(model),
        "repair.protect_layers": [0, 1],
        "repair.rank": 4,
        "corruption.params.overwrite_window": [4, 20],
        "train.steps": 6,
        "train.batch_size": 2,
        "train.prefix_len": 40,
        "train.tail_len": 2,
        "train.log_every": 2,
        "train.save_every": 3,
    }
    merged, faults = merge_overrides(document, {**small, **(overrides or {})})
    assert not faults
    path.write_text(yaml.safe_dump(merged), encoding="utf-8")
    return path


def contents(folder: Path, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """Relative name to SHA-256 of every file below `folder`."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in leave_out)
    return {str(path.relative_to(folder)): sha256_file(path) for path in files}


def heartbeat(run: Path, phase: str) -> dict[str, Any]:
    """The newest heartbeat of a phase."""
    found: dict[str, Any] = read_json(run / "logs" / f"{phase}_heartbeat.json")
    return found


def heartbeats(run: Path, phase: str) -> list[dict[str, Any]]:
    """The timeline of a phase, oldest first."""
    return read_jsonl(run / "logs" / f"{phase}_heartbeat.jsonl").records
