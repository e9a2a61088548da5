"""The files under `checkpoints/`: plain tensors and containers in `.pt` files, replaced whole, read back restricted. (specs/medic.md, 4.4)

    repair_step_<N>.pt        the operator, loadable without the configuration
    train_state_latest.pt     everything a training needs to go on
    train_state_step_<N>.pt   the same, kept

Writing goes through a temporary file, fsync and rename; reading is `torch.load(weights_only=True)`, then the keys must be
exactly those of `checkpoint_keys`.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from cachemedicpp.repair.operator import RepairOperator
from cachemedicpp.repair.spec import HeadLayout, OperatorSpec
from cachemedicpp.training.checkpoint_keys import check_keys
from modelwright.errors import ConfigError, DamagedFileError, Fault, LoadError, MissingFileError
from modelwright.files import read_bytes, write_bytes

FOLDER = "checkpoints"
LATEST = "train_state_latest.pt"
CHECKPOINT_FILES = (f"{FOLDER}/train_state_*.pt", f"{FOLDER}/repair_step_*.pt")


def repair_path(run_dir: Path, step: int) -> Path:
    """`checkpoints/repair_step_<N>.pt`"""
    return run_dir / FOLDER / f"repair_step_{step}.pt"


def state_path(run_dir: Path, step: int) -> Path:
    """`checkpoints/train_state_step_<N>.pt`"""
    return run_dir / FOLDER / f"train_state_step_{step}.pt"


def latest_repair(run_dir: Path) -> Path | None:
    """The repair file of the highest step; None when there is none."""
    return _highest(run_dir, "repair_step")


def latest_state(run_dir: Path) -> Path | None:
    """Where a training goes on: `train_state_latest.pt`, else the highest `train_state_step_<N>.pt`, else None."""
    latest = run_dir / FOLDER / LATEST
    return latest if latest.exists() else _highest(run_dir, "train_state_step")


def save_repair(path: Path, operator: RepairOperator, *, step: int, config_hash: str, model_name: str) -> None:
    """Write a repair file. Raises StorageError."""
    document = {
        "step": step,
        "repair_state": operator.state_dict(),
        "config_hash": config_hash,
        "repair_config": operator.spec.as_mapping(),
        "model_name": model_name,
        "head_dim": operator.layout.head_dim,
        "num_kv_heads": operator.layout.kv_heads,
    }
    write_document(path, document)


def load_repair(path: Path, layout: HeadLayout, device: str | torch.device = "cpu") -> tuple[RepairOperator, Mapping[str, Any]]:
    """The operator in a repair file, and the whole document.

    layout: of the model that shall carry it (`layout_of(model)`). The file's SHA-256, which names its content, is
    `modelwright.files.sha256_file(path)`. Raises MissingFileError, DamagedFileError, ConfigError when it was made for other
    heads, LoadError when its tensors are not those of its operator.
    """
    document = read_document(path, "repair")
    made_for, here = (document["head_dim"], document["num_kv_heads"]), (layout.head_dim, layout.kv_heads)
    if made_for != here:
        found = "{} dimensions and {} KV heads".format(*made_for)
        allowed = "{} dimensions and {} KV heads of the model".format(*here)
        raise ConfigError([Fault(f"{path.name} (made for {document['model_name']})", found, allowed, "use the repair of this model")])
    operator = RepairOperator(OperatorSpec.from_mapping(document["repair_config"]), layout)
    load_parameters(operator, document["repair_state"], path)
    return operator.to(device).eval(), document


def load_parameters(operator: RepairOperator, tensors: Mapping[str, Any], path: Path) -> None:
    """Copy `tensors` into the operator, every name matching. Raises LoadError naming the file and what does not match."""
    try:
        operator.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise LoadError(f"{path} does not fit the repair operator: {' '.join(str(error).split())}") from error


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Replace `path` by the document, durably and whole. Raises StorageError."""
    buffer = io.BytesIO()
    torch.save(dict(document), buffer)
    write_bytes(path, buffer.getvalue())


def read_document(path: Path, kind: Literal["repair", "state"]) -> Mapping[str, Any]:
    """The document in `path`, on the CPU, with the keys of its kind. Raises MissingFileError, DamagedFileError."""
    if not path.exists():
        raise MissingFileError(f"There is no {path}; train first, or choose the run that holds it.", path)
    try:
        document = torch.load(io.BytesIO(read_bytes(path)), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        # torch's own words for these advise to load the file with its code
        unpickling = isinstance(error, pickle.UnpicklingError)
        first = "no archive of tensors, or one that holds code" if unpickling else str(error).strip().split("\n")[0]
        raise DamagedFileError(path, first, "tensors and plain containers written by torch.save", "Use another checkpoint") from error
    return check_keys(document, path, kind)


def _highest(run_dir: Path, stem: str) -> Path | None:
    pattern = re.compile(rf"{stem}_(\d+)\.pt")
    found = [(int(name[1]), path) for path in (run_dir / FOLDER).glob(f"{stem}_*.pt") if (name := pattern.fullmatch(path.name))]
    return max(found)[1] if found else None
