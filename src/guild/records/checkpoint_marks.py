"""By which marks a checkpoint is known to be whole, and where training may go on. (specs/guild.md 2.1.8, G5, 10.1 no. 5)

Two kinds of folders are met. The kernel's (`modelwright.checkpoints`) hold `manifest.json`, written last and moved into place by one
rename; its sizes are compared with the files. Those of Hugging Face Trainer are written in place, `trainer_state.json` last: it must
be there, be whole and name the step of the folder, or the ledger's own sidecar must be there, which is written after the save. The
weights must all be there, and a safetensors file must be as long as its own header says.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from guild.errors import RefusedError
from guild.naming import checkpoint_name, checkpoint_step
from modelwright.checkpoint_folders import MANIFEST_NAME
from modelwright.checkpoints import CheckpointStore
from modelwright.errors import ModelwrightError, UsageError, storage_error
from modelwright.files import fsync_directory, read_json

SIDECAR_NAME = ".ledger.json"
EVALUATIONS_NAME = ".evals.json"
TRAINER_STATE = "trainer_state.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
WEIGHT_LISTS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin", "optimizer.safetensors")


@dataclass(frozen=True)
class ResumePoint:
    """Where training goes on. path, step: of the newest whole checkpoint, None when there is none. weights_only: it has no state of the
    trainer or of the optimizer. skipped: one sentence for each newer one that is not whole."""

    path: Path | None
    step: int | None
    weights_only: bool = False
    skipped: tuple[str, ...] = ()


def usable_checkpoint(path: Path, *, finished: bool = False, deep: bool = False) -> list[str]:
    """Why the model in the folder `path` must not be used; empty when it is whole.

    finished: the caller saw the save end, so no mark of it is asked for. deep: also compare every byte with the manifest's digests.
    """
    step = checkpoint_step(path.name)
    if step is None:
        return [f"{path}: found the name {path.name!r}; allowed: checkpoint-<step>, or checkpoint-<step>-<YYYYMMDD>-<HHMM>."]
    if not path.is_dir():
        return [f"{path}: there is no such folder."]
    if (path / MANIFEST_NAME).exists():
        return _manifest_faults(path, deep)
    reasons = model_faults(path) + _state_faults(path, step)
    if not finished and not (path / TRAINER_STATE).exists() and not (path / SIDECAR_NAME).exists():
        reasons.append(f"{path} has neither {MANIFEST_NAME} nor {TRAINER_STATE} nor {SIDECAR_NAME}: its save was cut off.")
    return reasons


def model_faults(path: Path) -> list[str]:
    """Why the folder `path`, of whatever name, holds no whole model; empty when it does. Nothing says whether its save had an end."""
    reasons = [] if any((path / name).is_file() for name in ("config.json", "adapter_config.json")) else [f"{path} has no config.json."]
    return reasons + _weight_faults(path)


def resumable_checkpoint(path: Path) -> list[str]:
    """Why training cannot go on from the folder `path` with its optimizer: what makes it unusable, and a state that is missing."""
    reasons = usable_checkpoint(path)
    if not reasons and not (path / TRAINER_STATE).is_file():
        reasons.append(f"{path} has no {TRAINER_STATE}: it holds weights only.")
    if not reasons and not has_optimizer(path):
        reasons.append(f"{path} has no state of the optimizer: it holds weights only.")
    return reasons


def latest_resumable(folder: Path) -> ResumePoint:
    """The checkpoint of the highest step directly below `folder` that training may go on from, under either kind of name.

    Whole weights are enough: an older checkpoint with its optimizer would lack the rows that were trained since, and their files count as
    trained. Steps are compared as numbers; of two folders of one step the one saved later is taken. Raises StorageError.
    """
    skipped: list[str] = []
    for path in sorted(checkpoint_folders(folder), key=_newest_first, reverse=True):
        reasons = usable_checkpoint(path)
        if not reasons:
            return ResumePoint(path, checkpoint_step(path.name), bool(resumable_checkpoint(path)), tuple(skipped))
        skipped += reasons
    return ResumePoint(None, None, skipped=tuple(skipped))


def checkpoint_folders(folder: Path) -> list[Path]:
    """The folders directly below `folder` that have a checkpoint's name, whole or not. A missing folder has none."""
    try:
        return sorted(path for path in folder.iterdir() if checkpoint_step(path.name) is not None and path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise storage_error(error, folder, "read the folder") from error


def rename_to_canonical(path: Path, step: int, moment: datetime) -> Path:
    """Give a saved checkpoint its canonical name by one rename, durably; returns the new path.

    One that has such a name keeps it. Killed before the record is made, the checkpoint is an orphan that a scan finds. Raises UsageError
    when the name says another step, RefusedError when the canonical name is taken, StorageError.
    """
    named = checkpoint_step(path.name)
    if named != step:
        raise UsageError(f"{path}: found the step {named} in its name; allowed: {step}, the step that was saved.")
    if path.name != f"checkpoint-{step}":
        return path
    target = path.with_name(checkpoint_name(step, moment))
    if target.exists():
        raise RefusedError(f"{path} cannot be named {target.name}: that checkpoint is there already. Move one of the two away.")
    try:
        os.rename(path, target)
    except OSError as error:
        raise storage_error(error, path, "rename the checkpoint") from error
    fsync_directory(target.parent)
    return target


def has_optimizer(path: Path) -> bool:
    """Whether the optimizer's state was saved too, in one file or in DeepSpeed's folder `global_step<n>`."""
    return any((path / name).is_file() for name in OPTIMIZER_FILES) or any(path.glob("global_step*/*"))


def checkpoint_bytes(path: Path) -> int:
    """Bytes of all files below `path`, except the ledger's own records."""
    own = (SIDECAR_NAME, EVALUATIONS_NAME)
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.name.startswith(own))


def trainer_state(path: Path) -> dict[str, Any]:
    """`trainer_state.json` of a checkpoint. Raises MissingFileError, DamagedFileError or StorageError."""
    state = read_json(path / TRAINER_STATE)
    return state if isinstance(state, dict) else {}


def _newest_first(path: Path) -> tuple[int, int, str]:
    mark = path / TRAINER_STATE
    return checkpoint_step(path.name) or 0, mark.stat().st_mtime_ns if mark.exists() else 0, path.name


def _manifest_faults(path: Path, deep: bool) -> list[str]:
    store = CheckpointStore(path.parent, writer=False)
    if deep:
        return list(store.verify(path.name))
    try:
        store.get(path.name)
    except ModelwrightError as error:
        return [str(error)]
    return []


def _state_faults(path: Path, step: int) -> list[str]:
    if not (path / TRAINER_STATE).exists():
        return []
    try:
        found = trainer_state(path).get("global_step")
    except ModelwrightError as error:
        return [f"{error} Its save was cut off."]
    return [] if found == step else [f"{path / TRAINER_STATE}: found global_step {found}; allowed: {step}, as its folder is named."]


def _weight_faults(path: Path) -> list[str]:
    files = [path / name for name in WEIGHTS if (path / name).is_file()]
    for name in WEIGHT_LISTS:
        if (path / name).is_file():
            try:
                listed = set(read_json(path / name)["weight_map"].values())
            except (ModelwrightError, KeyError, TypeError, AttributeError) as error:
                return [f"{path / name} does not list the files of the weights ({type(error).__name__}: {error})."]
            files += [path / shard for shard in sorted(listed)]
    if not files:
        return [f"{path} holds no weights ({', '.join((*WEIGHTS, *WEIGHT_LISTS))})."]
    return [fault for file in files if (fault := _file_fault(file))]


def _file_fault(file: Path) -> str:
    """Why a file of weights is not whole, "" when it is, without reading the weights."""
    if not file.is_file():
        return f"{file} is missing."
    if file.suffix != ".safetensors":
        return "" if zipfile.is_zipfile(file) else f"{file} is cut off: it has no end mark."
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            return f"{file} is cut off: {size} bytes do not hold its header."
        try:
            header = orjson.loads(stream.read(length))
            end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, IndexError) as error:
            return f"{file} is damaged: its header cannot be read ({type(error).__name__})."
    expected = 8 + length + end
    return "" if size == expected else f"{file} is cut off: it has {size} bytes, its header says {expected}."
