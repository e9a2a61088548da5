"""Checkpoints: directories that are complete and listed, or ignored.

A checkpoint is written into a staging folder, every file is synced and hashed, `manifest.json` is written last, and
one rename makes it visible. `<root>/<name>/` therefore never holds half a checkpoint. The file `latest` names the
newest one for people and scripts; `latest()` does not trust it and verifies. What the files inside are is the
caller's business.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelwright.checkpoint_folders import (
    MANIFEST_NAME,
    NAME,
    POINTER_NAME,
    REPLACED,
    STAGING,
    check_name,
    exchange,
    marked,
    owner_of,
    remove_tree,
    save_met_full_disk,
    seal,
    this_process,
)
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.errors import (
    DamagedFileError,
    DiskFullError,
    MissingFileError,
    ModelwrightError,
    UsageError,
    storage_error,
)
from modelwright.files import (
    fsync_directory,
    make_folder,
    read_json,
    remove_stale_temporaries,
    sha256_file,
    sha256_json,
    write_json,
    write_text,
)
from modelwright.identity import liveness


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest is sound. sequence: position in the order of saving, independent of clocks. files:
    relative name to `{"size": bytes, "sha256": hex}`. manifest_sha256: digest of everything the manifest says."""

    name: str
    path: Path
    step: int | None
    sequence: int
    created_at: str
    manifest_sha256: str
    metadata: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(int(file["size"]) for file in self.files.values())


class CheckpointStore:
    """The checkpoints below `root`.

    writer: whether this process may write here; a reader creates and cleans nothing. exclusive: the caller holds the
    run's writer lock, so every staging folder of another process is a dead one's; without it only those of processes
    known to be dead are removed.
    """

    def __init__(self, root: Path | str, *, writer: bool = True, exclusive: bool = False, clock: Clock = SYSTEM_CLOCK) -> None:
        self.root = Path(root)
        self._clock = clock
        self._writer = writer
        self._skipped: dict[str, str] = {}
        if writer:
            make_folder(self.root)
            self._recover(exclusive)

    # --- writing

    def save(
        self,
        name: str,
        write: Callable[[Path], None],
        *,
        step: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Checkpoint:
        """Call `write(folder)` with an empty folder, then make what it wrote the checkpoint `name`, durably.

        An older checkpoint of that name stays whole until the new one takes its place. When this raises, nothing has
        changed that a reader could see, except after a failed sync of the directory itself, where the checkpoint may
        or may not outlive a power cut. Raises UsageError (name), DiskFullError, StorageError, and what `write`
        raises.
        """
        check_name(name)
        if not self._writer:
            raise UsageError(f"{self.root} is open for reading only.")
        staging = self.root / marked(STAGING, name)
        try:
            try:
                staging.mkdir()
            except OSError as error:
                raise storage_error(error, staging, "create the folder") from error
            write(staging)
            files = seal(staging)
            if not files:
                raise UsageError(f"checkpoint {name}: found no file written; allowed: at least one.")
            manifest = {
                "schema_version": 1,
                "name": name,
                "step": step,
                "sequence": self._next_sequence(),
                "created_at": stamp(self._clock.now()),
                "metadata": metadata or {},
                "files": files,
            }
            manifest["manifest_sha256"] = sha256_json(manifest)
            write_json(staging / MANIFEST_NAME, manifest)
            self._promote(staging, self.root / name, name)
        except BaseException as error:
            shutil.rmtree(staging, ignore_errors=True)
            if isinstance(error, Exception) and not isinstance(error, DiskFullError) and save_met_full_disk(error, self.root):
                raise DiskFullError(f"Cannot save the checkpoint {name}: no space left for {self.root}. Free some space.") from error
            raise
        write_text(self.root / POINTER_NAME, f"{name}\n", durable=False)
        return self._load(name)

    def _promote(self, staging: Path, target: Path, name: str) -> None:
        """Give the staged folder its name; at every moment a complete checkpoint of that name is found, if there was
        one before."""
        try:
            if not os.path.lexists(target):
                os.rename(staging, target)
                fsync_directory(self.root)
            elif exchange(staging, target):
                fsync_directory(self.root)
                remove_tree(staging)
            else:
                replaced = self.root / staging.name.replace(STAGING, REPLACED, 1)
                os.rename(target, replaced)
                os.rename(staging, target)
                fsync_directory(self.root)
                remove_tree(replaced)
        except OSError as error:
            raise storage_error(error, target, "put the checkpoint in place") from error

    def discard(self, name: str) -> None:
        """Remove a checkpoint; it is gone from every list at once, its space a moment later."""
        check_name(name)
        grave = self.root / marked(STAGING, name)
        try:
            os.rename(self.root / name, grave)
            fsync_directory(self.root)
        except OSError as error:
            raise storage_error(error, self.root / name, "remove the checkpoint") from error
        remove_tree(grave)

    def prune(self, *, keep: int, protect: Iterable[str] = (), dry_run: bool = False) -> list[str]:
        """Remove all but the `keep` newest good checkpoints and the protected ones; returns the removed names, oldest
        first.

        Damaged checkpoints are neither counted nor removed. The newest one that verifies always stays.
        """
        if keep < 1:
            raise UsageError(f"keep: found {keep}; allowed: 1 or more.")
        newest_first = sorted(self.list(), key=lambda found: -found.sequence)
        good = self.latest()
        stay = {found.name for found in newest_first[:keep]} | set(protect) | ({good.name} if good else set())
        doomed = [found.name for found in reversed(newest_first) if found.name not in stay]
        if not dry_run:
            for name in doomed:
                self.discard(name)
        return doomed

    # --- reading

    def list(self) -> list[Checkpoint]:
        """Checkpoints whose manifest is sound and whose files exist with the right sizes, by step (none first), then
        by order of saving."""
        found = []
        for name in self._names():
            with contextlib.suppress(ModelwrightError):
                found.append(self._load(name))
        return sorted(found, key=lambda item: (-1 if item.step is None else item.step, item.sequence))

    def get(self, name: str) -> Checkpoint:
        """The checkpoint of that name. Raises MissingFileError, or DamagedFileError for a manifest or file that
        cannot be right."""
        check_name(name)
        return self._load(name)

    def latest(self) -> Checkpoint | None:
        """The checkpoint saved last whose every byte verifies; newer ones that do not are skipped and named by
        `problems()`."""
        for found in sorted(self.list(), key=lambda item: -item.sequence):
            faults = self.verify(found.name)
            if not faults:
                self._skipped.pop(found.name, None)
                return found
            self._skipped[found.name] = f"{faults[0]} The checkpoint {found.name} is skipped; the newest good one before it is used."
        return None

    def verify(self, name: str) -> Sequence[str]:
        """Read every byte; one sentence per fault, each naming its file. Empty when all is well."""
        try:
            found = self.get(name)
        except ModelwrightError as error:
            return [str(error)]
        faults = []
        for relative, expected in found.files.items():
            path = found.path / relative
            try:
                actual = sha256_file(path)
            except ModelwrightError as error:
                faults.append(str(error))
                continue
            if actual != expected["sha256"]:
                faults.append(str(DamagedFileError(path, f"its SHA-256 is {actual}", str(expected["sha256"]))))
        return faults

    def problems(self, *, deep: bool = False) -> Sequence[str]:
        """One sentence for everything that is not right: unreadable checkpoints, unfinished saves, and what
        `latest()` had to skip.

        deep: hash every file of every checkpoint too.
        """
        sentences = dict(self._skipped)
        for name in self._names():
            faults = self.verify(name) if deep else []
            if not deep:
                try:
                    self._load(name)
                except ModelwrightError as error:
                    faults = [str(error)]
            if faults:
                sentences.setdefault(name, " ".join(faults))
        unfinished = [path.name for path in self._entries() if path.name.startswith(STAGING)]
        leftover = [f"{self.root / name} is an unfinished save; the next writer removes it if its process is dead." for name in unfinished]
        return [*sentences.values(), *leftover]

    # --- inside

    def _entries(self) -> Sequence[Path]:
        try:
            return sorted(self.root.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(error, self.root, "read the folder") from error

    def _names(self) -> Sequence[str]:
        """Names of checkpoint folders, including one that stands under its put-aside name in the middle of a
        replacement."""
        names = set()
        for path in self._entries():
            if path.name.startswith(REPLACED):
                names.add(path.name[len(REPLACED) :].split("~", 1)[0])
            elif NAME.fullmatch(path.name) and path.is_dir():
                names.add(path.name)
        return sorted(names)

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        if not folder.exists():
            aside = sorted(self.root.glob(f"{REPLACED}{name}~*"))
            if aside:
                return aside[-1]
        return folder

    def _load(self, name: str) -> Checkpoint:
        folder = self._folder(name)
        path = folder / MANIFEST_NAME
        if not folder.is_dir():
            raise MissingFileError(f"There is no checkpoint {name} in {self.root}.", folder)
        if not path.exists():
            raise DamagedFileError(folder, f"it has no {MANIFEST_NAME}", "a complete checkpoint", "Delete the folder")
        data = read_json(path)
        digest = data.pop("manifest_sha256", None) if isinstance(data, dict) else None
        try:
            if digest != sha256_json(data):
                raise DamagedFileError(path, "its content does not match its own digest", f"the digest {digest}")
            checkpoint = Checkpoint(
                name=name,
                path=folder,
                step=data["step"],
                sequence=int(data["sequence"]),
                created_at=data["created_at"],
                manifest_sha256=digest,
                metadata=data["metadata"],
                files=data["files"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFileError(path, f"{type(error).__name__}: {error}", "a checkpoint manifest") from error
        for relative, expected in checkpoint.files.items():
            file = folder / relative
            if not file.is_file():
                raise DamagedFileError(file, "it is missing", f"{expected['size']} bytes")
            if file.stat().st_size != expected["size"]:
                raise DamagedFileError(file, f"it has {file.stat().st_size} bytes", f"{expected['size']} bytes")
        return checkpoint

    def _next_sequence(self) -> int:
        """One more than any checkpoint on disk has; damaged manifests count as far as their number can be read."""
        highest = 0
        for name in self._names():
            with contextlib.suppress(ModelwrightError, KeyError, TypeError, ValueError):
                highest = max(highest, int(read_json(self._folder(name) / MANIFEST_NAME)["sequence"]))
        return highest + 1

    def _recover(self, exclusive: bool) -> None:
        """Finish or undo what a dead writer left: bring back a checkpoint put aside, remove stale staging folders."""
        remove_stale_temporaries(self.root)
        for path in self._entries():
            if not path.name.startswith((STAGING, REPLACED)):
                continue
            owner = owner_of(path.name)
            mine = owner is not None and owner == this_process()
            if mine or not (exclusive or owner is None or liveness(owner, here=this_process()) == "dead"):
                continue
            target = self.root / path.name[len(REPLACED) :].split("~", 1)[0]
            try:
                if path.name.startswith(REPLACED) and not target.exists():
                    os.rename(path, target)
                    fsync_directory(self.root)
                    continue
            except OSError as error:
                raise storage_error(error, target, "bring back the checkpoint") from error
            remove_tree(path)
