"""Shape A of the pre-warm contract: the weights into the cache that the runtime reads, checked, before anything starts. (7.2)

A model that is there is never fetched again and needs no connection. Otherwise: ask the hub what the commit holds, refuse what
cannot be a model before a byte of weights is fetched, bring the large files (`blob_fetch`) and the small ones, check all of it.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from macprovider.weights.blob_fetch import fetch_blob
from macprovider.weights.cached import (
    DEFAULT_REVISION,
    ListedFile,
    Snapshot,
    find_snapshot,
    repository_folder,
    unfinished_bytes,
    wanted_files,
)
from macprovider.weights.classify import TransientFetchError, WeightIntegrityError, classify_error
from macprovider.weights.progress import ByteProgress, size_text
from macprovider.weights.verify import WeightFault, check_folder, check_snapshot, digest_of, lacking
from modelwright.errors import LoadError, UsageError
from modelwright.files import make_folder, write_text
from modelwright.loading import HUB_ID, TINY_PREFIX, resolve_model

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TIMEOUT_S = 30.0
"""Seconds of silence of the hub."""


@dataclass(frozen=True)
class Pulled:
    """A model that is ready. folder: what a runtime loads. commit: "" for a local folder. fetched: bytes that came over the
    network.
    """

    model: str
    folder: Path
    commit: str
    fetched: int


def pull(
    model: str, *, cache: Path, revision: str | None = None, offline: bool = False, timeout_s: float = TIMEOUT_S, log: TextIO
) -> Pulled:
    """Make `model` ready and return where it is. offline: no connection is opened. log: where progress goes.

    Raises TransientFetchError, WeightIntegrityError (7.3), UsageError for a name that can be no model.
    """
    local = local_folder(model)
    if local is not None:
        _refuse_faults(model, check_folder(local, hashes=False))
        return Pulled(model, local, "", 0)
    try:
        return _pull_hub(model, cache, revision, offline or _offline_by_environment(), timeout_s, log)
    except Exception as error:
        failure = classify_error(error, model)
        if failure is None:
            raise
        raise failure.error() from error


def local_folder(model: str) -> Path | None:
    """The folder of a packaged or local model, None for the id of a hub. Raises UsageError for a name that is none of them."""
    if not model.startswith(TINY_PREFIX) and HUB_ID.match(model) and not Path(model).expanduser().exists():
        return None
    try:
        return resolve_model(model).path
    except LoadError as error:
        raise UsageError(str(error)) from error


def _pull_hub(model: str, cache: Path, revision: str | None, offline: bool, timeout_s: float, log: TextIO) -> Pulled:
    snapshot = find_snapshot(cache, model, revision)
    if snapshot is not None:
        faults = check_snapshot(snapshot, hashes=False)
        if not any(fault.kind == "missing" for fault in faults):
            _check_whole(snapshot, log)
            return Pulled(model, snapshot.folder, snapshot.commit, 0)
    if offline:
        raise TransientFetchError(_offline_sentence(model, cache, revision, snapshot))
    fetched = _fetch(model, cache, revision or DEFAULT_REVISION, timeout_s, log)
    _check_whole(fetched.snapshot, log, known_good=fetched.files)
    _note_revision(fetched.snapshot, revision or DEFAULT_REVISION)
    return Pulled(model, fetched.snapshot.folder, fetched.snapshot.commit, fetched.bytes)


@dataclass(frozen=True)
class _Fetched:
    """files: those that came now; their digests were compared on arrival."""

    snapshot: Snapshot
    files: frozenset[str]
    bytes: int


def _fetch(model: str, cache: Path, revision: str, timeout_s: float, log: TextIO) -> _Fetched:
    """Bring every wanted file of `revision` into the cache."""
    from huggingface_hub import HfApi, hf_hub_url, snapshot_download
    from huggingface_hub.utils import WeakFileLock, build_hf_headers, disable_progress_bars, get_session

    disable_progress_bars()
    get_session().timeout = timeout_s  # the client's own is endless
    commit, listing = _listing(HfApi(), model, revision, timeout_s)
    wanted = wanted_files(listing)
    repository = repository_folder(cache, model)
    blobs = make_folder(repository / "blobs")
    snapshot = Snapshot(model, commit, repository / "snapshots" / commit)
    open_files = [file for file in wanted.values() if not _present(snapshot, file)]
    _require_space(model, cache, sum(file.size for file in open_files) - unfinished_bytes(repository))
    progress = ByteProgress(log, "fetched", sum(file.size for file in wanted.values()), _bytes_there(snapshot, wanted))
    received = 0

    def on_bytes(count: int) -> None:
        nonlocal received
        received += max(count, 0)
        progress.add(count)

    try:
        for file in sorted(open_files, key=lambda file: file.large):  # small ones first: they tell early what is refused
            if file.large:
                lock = cache / ".locks" / repository.name / f"{file.digest}.lock"
                make_folder(lock.parent)
                with WeakFileLock(lock):
                    url = hf_hub_url(model, file.path, revision=commit)
                    fetch_blob(url, file, blobs, model=model, headers=build_hf_headers(), on_bytes=on_bytes)
            _link(model, cache, snapshot, file)
            if not file.large:
                on_bytes(file.size)
    finally:
        progress.close()
    snapshot_download(model, revision=commit, allow_patterns=list(wanted) or None, cache_dir=cache)  # leaves the commit's listing there
    return _Fetched(snapshot, frozenset(file.path for file in open_files), received)


def _note_revision(snapshot: Snapshot, revision: str) -> None:
    """Let `revision` name the commit from now on, which the hub's client and the runtime follow."""
    if revision != snapshot.commit:
        reference = snapshot.repository / "refs" / revision
        make_folder(reference.parent)
        write_text(reference, snapshot.commit)


def _listing(api: HfApi, model: str, revision: str, timeout_s: float) -> tuple[str, dict[str, ListedFile]]:
    """The commit of `revision` and its files. Raises WeightIntegrityError when they are no model."""
    info = api.model_info(model, revision=revision, files_metadata=True, timeout=timeout_s)
    listing = {}
    for file in info.siblings or ():
        digest = file.lfs.sha256 if file.lfs is not None else file.blob_id
        size = file.lfs.size if file.lfs is not None else file.size
        if digest and size is not None:
            listing[file.rfilename] = ListedFile(file.rfilename, int(size), digest)
    missing = lacking(listing)
    if missing:
        raise WeightIntegrityError(
            f"The repository {model} lacks required files ({', '.join(missing)}), so nothing of it was fetched; "
            "a model needs config.json, safetensors weights and a tokenizer such as tokenizer.json."
        )
    return str(info.sha), listing


def _link(model: str, cache: Path, snapshot: Snapshot, file: ListedFile) -> None:
    """Let the hub's client place one file in the snapshot: it fetches a small one and links a blob that is there."""
    from huggingface_hub import hf_hub_download

    path = Path(hf_hub_download(model, file.path, revision=snapshot.commit, cache_dir=cache))
    if not file.large and (found := digest_of(path, file.digest)) != file.digest:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise WeightIntegrityError(
            f"{file.path} of {model} was delivered with Git hash {found[:12]}… where its commit says {file.digest[:12]}…; it was not kept."
        )


def _check_whole(snapshot: Snapshot, log: TextIO, known_good: frozenset[str] = frozenset()) -> None:
    unread = [path for path in snapshot.folder.rglob("*") if path.is_file() and str(path.relative_to(snapshot.folder)) not in known_good]
    progress = ByteProgress(log, "checked", sum(path.stat().st_size for path in unread))
    try:
        _refuse_faults(snapshot.model, check_snapshot(snapshot, known_good=known_good, on_bytes=progress.add))
    finally:
        progress.close()


def _refuse_faults(model: str, faults: list[WeightFault]) -> None:
    if faults:
        more = f" (and {len(faults) - 1} more faults; `macprovider-cli models verify {model}` names all)" if len(faults) > 1 else ""
        raise WeightIntegrityError(f"The weights of {model} are not whole{more}: {faults[0].sentence}")


def _present(snapshot: Snapshot, file: ListedFile) -> bool:
    return (snapshot.folder / file.path).is_file()


def _bytes_there(snapshot: Snapshot, wanted: dict[str, ListedFile]) -> int:
    there = sum(file.size for file in wanted.values() if _present(snapshot, file) or (snapshot.blobs / file.digest).is_file())
    partial = [snapshot.blobs / f"{file.digest}.incomplete" for file in wanted.values()]
    return there + sum(path.stat().st_size for path in partial if path.is_file())


def _require_space(model: str, cache: Path, needed: int) -> None:
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise TransientFetchError(
            f"The disk of the weight cache {cache} has {size_text(free)} free and {model} needs {size_text(needed)} more; free some."
        )


def _offline_by_environment() -> bool:
    return any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def _offline_sentence(model: str, cache: Path, revision: str | None, snapshot: Snapshot | None) -> str:
    name = f"{model} at {revision}" if revision else model
    state = "is only partly in" if snapshot else "is not in"
    return f"{name} {state} the weight cache {cache} and offline mode is on; pull it once with a network, or copy the cache here."
