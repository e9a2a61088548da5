"""What lies in the Hugging Face cache: repositories, their snapshots, and the digests that the cache knows of its files.

Layout (huggingface_hub, "Understand caching"): `models--owner--name/refs/<revision>` holds a commit, `snapshots/<commit>/` links to
`blobs/<digest>`: SHA-256 of a large file, Git's blob hash of a small one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from modelwright.loading import HUB_FILES

DEFAULT_REVISION = "main"
LISTING_VERSION = 1
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REPOSITORY = re.compile(r"models--(.+)")


@dataclass(frozen=True)
class ListedFile:
    """A file of a commit as the hub lists it. digest: SHA-256 (64 digits) of a large file, Git's blob hash (40) of a small one."""

    path: str
    size: int
    digest: str

    @property
    def large(self) -> bool:
        """Whether it is kept outside Git, as weights are."""
        return len(self.digest) == 64


@dataclass(frozen=True)
class Snapshot:
    """One commit of a cached repository. folder: its files, or links to them."""

    model: str
    commit: str
    folder: Path

    @property
    def repository(self) -> Path:
        return self.folder.parent.parent

    @property
    def blobs(self) -> Path:
        return self.repository / "blobs"


def repository_folder(cache: Path, model: str) -> Path:
    """Where the hub's client keeps `model`."""
    return cache / f"models--{model.replace('/', '--')}"


def find_snapshot(cache: Path, model: str, revision: str | None = None) -> Snapshot | None:
    """The cached snapshot of `revision` (branch, tag or commit; main by default), complete or not; None when there is none."""
    repository = repository_folder(cache, model)
    wanted = revision or DEFAULT_REVISION
    commit = wanted if _COMMIT.fullmatch(wanted) else _read_ref(repository / "refs" / wanted)
    folder = repository / "snapshots" / commit
    return Snapshot(model, commit, folder) if commit and folder.is_dir() else None


def cached_snapshots(cache: Path) -> Iterator[Snapshot]:
    """Every cached snapshot of a model that has a config.json or weights, by name; data sets and other things are passed over."""
    for repository in sorted(cache.glob("models--*")):
        name = _REPOSITORY.fullmatch(repository.name)
        if name is None or not repository.is_dir():
            continue
        for folder in sorted((repository / "snapshots").glob("*")):
            if folder.is_dir() and any(fnmatch(entry, "*.safetensors") or entry == "config.json" for entry in os.listdir(folder)):
                yield Snapshot(name[1].replace("--", "/", 1), folder.name, folder)


def wanted_files(listing: dict[str, ListedFile]) -> dict[str, ListedFile]:
    """Those of a listing that a runtime reads."""
    return {path: file for path, file in listing.items() if any(fnmatch(path, pattern) for pattern in HUB_FILES)}


def known_listing(snapshot: Snapshot) -> dict[str, ListedFile] | None:
    """The listing of the snapshot's commit that the hub's client left in the cache (`trees/<commit>.json`), None when it left none.

    The file is read here because the client's own reader of it leaves the SHA-256 of large files out.
    """
    try:
        document = json.loads((snapshot.repository / "trees" / f"{snapshot.commit}.json").read_bytes())
        if document["format_version"] != LISTING_VERSION:
            return None
        return {
            path: ListedFile(path, int(about["size"]), str(about.get("lfs_sha256") or about["blob_id"]))
            for path, about in document["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def digest_in_name(path: Path) -> str:
    """The digest that the name of the blob behind `path` states, or "": where links are not kept, or by an unusual hub."""
    if not path.is_symlink():
        return ""
    name = Path(os.readlink(path)).name
    return name if _DIGEST.fullmatch(name) else ""


def unfinished_bytes(snapshot_or_repository: Path) -> int:
    """Bytes of partly fetched files of a repository."""
    return sum(path.stat().st_size for path in (snapshot_or_repository / "blobs").glob("*.incomplete") if path.is_file())


def _read_ref(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return text if _COMMIT.fullmatch(text) else ""
