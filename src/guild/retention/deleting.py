"""The two deletions, each safe against a kill at any moment and against links. (specs/guild.md G1; parts.md, faults 2 and 12)

A folder that goes is renamed first, so that no reader ever meets half a checkpoint; what a killed pass left under such a name is removed
by the next one, or by the trainer's own store.
"""

from __future__ import annotations

import os
from pathlib import Path

from guild.errors import RefusedError
from guild.naming import checkpoint_step
from guild.places import Places
from guild.records.checkpoint_marks import checkpoint_bytes, has_optimizer
from guild.records.checkpoint_places import CHECKPOINT_FOLDERS
from guild.records.checkpoint_sidecars import Found, read_sidecar, write_sidecar
from guild.records.ledger import put
from guild.records.ledger_documents import write_ledger_documents
from guild.records.status_documents import records_lock
from guild.retention.inventory import SNAPSHOT, state_paths
from modelwright.checkpoint_folders import MANIFEST_NAME, STAGING, marked, owner_of, remove_tree, this_process
from modelwright.database import Database
from modelwright.errors import ModelwrightError, storage_error
from modelwright.files import confine, fsync_directory, read_json, sha256_json, write_json
from modelwright.identity import liveness


def check_target(places: Places, path: Path) -> Path:
    """`path` when retention may delete it: a real folder below the base directory, named as a checkpoint or a snapshot, directly in one
    of their places, with links and `..` resolved first. Raises RefusedError or UsageError."""
    resolved = confine(path, [places.base])
    if path.is_symlink() or resolved != path or not path.is_dir():
        raise RefusedError(f"{path}: found a link, or no folder; allowed: the folder of a checkpoint or a snapshot itself.")
    if path.parent == places.snapshots.resolve() and SNAPSHOT.fullmatch(path.name):
        return path
    base = places.base.resolve()
    relative = path.parent.relative_to(base) if path.parent.is_relative_to(base) else Path()
    if checkpoint_step(path.name) is not None and any(_matches(relative, pattern) for pattern in CHECKPOINT_FOLDERS):
        return path
    raise RefusedError(f"{path}: found something that is neither a checkpoint nor a snapshot; retention deletes nothing else.")


def _matches(relative: Path, pattern: str) -> bool:
    return len(relative.parts) == pattern.count("/") + 1 and relative.match(pattern)


def delete_whole(places: Places, path: Path) -> None:
    """Remove a checkpoint or a snapshot: out of every list at once, its space a moment later. Raises StorageError, RefusedError."""
    check_target(places, path)
    grave = path.parent / marked(STAGING, path.name)
    try:
        os.rename(path, grave)
        fsync_directory(path.parent)
    except OSError as error:
        raise storage_error(error, path, "remove") from error
    remove_tree(grave)


def strip_optimizer(db: Database, places: Places, path: Path) -> None:
    """Remove the optimizer's state of a checkpoint; its manifest lets go of those files first, so that it is whole at every moment.

    The sidecar and the ledger then say so. Raises StorageError, RefusedError, DamagedFileError.
    """
    check_target(places, path)
    doomed = state_paths(path)
    _release(path, [item.relative_to(path).as_posix() for item in doomed])
    for item in doomed:
        if item.is_dir():
            remove_tree(item)
            continue
        try:
            item.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, item, "remove") from error
    fsync_directory(path)
    with records_lock(places):
        record = read_sidecar(path)
        if record is None:
            return  # an original's checkpoint: nothing of ours is written into it
        lighter = record.model_copy(update={"has_optimizer": has_optimizer(path), "size_bytes": checkpoint_bytes(path)})
        write_sidecar(path, lighter)
        with db.transaction() as connection:
            put(connection, Found(lighter, "sidecar"))
        write_ledger_documents(db, places, [lighter.campaign])


def sweep_graves(places: Places) -> int:
    """Remove what a pass that was killed had renamed already; returns how many."""
    removed = 0
    base = places.base.resolve()
    folders = {folder for pattern in CHECKPOINT_FOLDERS for folder in places.base.glob(pattern)} | {places.snapshots}
    for folder in sorted(folders):
        if folder.is_symlink() or not folder.is_dir() or not folder.resolve().is_relative_to(base):
            continue
        for path in sorted(folder.glob(f"{STAGING}*")):
            owner = owner_of(path.name)
            if owner is not None and not path.is_symlink() and liveness(owner, here=this_process()) == "dead":
                remove_tree(path)
                removed += 1
    return removed


def _release(path: Path, names: list[str]) -> None:
    """Take files out of the manifest of a checkpoint of the kernel's; one of another program has none."""
    file = path / MANIFEST_NAME
    if not file.exists():
        return
    manifest = read_json(file)
    digest = manifest.pop("manifest_sha256", None) if isinstance(manifest, dict) else None
    if not isinstance(manifest, dict) or digest != sha256_json(manifest):
        raise ModelwrightError(f"{file} does not match its own digest; the checkpoint is damaged and left as it is.")
    listed = manifest.get("files", {})
    gone = [name for name in listed if any(name == doomed or name.startswith(f"{doomed}/") for doomed in names)]
    if not gone:
        return
    manifest["files"] = {name: entry for name, entry in listed.items() if name not in gone}
    manifest["manifest_sha256"] = sha256_json(manifest)
    write_json(file, manifest)
