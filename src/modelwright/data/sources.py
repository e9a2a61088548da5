"""From a dataset reference to records: local files, the Hugging Face hub, or generated text; and the fingerprint of
each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from modelwright.data.files import data_files, read_rows
from modelwright.data.records import Record, to_records
from modelwright.data.references import DatasetReference
from modelwright.data.synthetic import generate_rows
from modelwright.errors import LoadError

_BLOCK = 1 << 20


def load_records(reference: DatasetReference, *, limit: int | None = None, offline: bool = False) -> list[Record]:
    """All records of the dataset, or the first `limit`. Raises LoadError when it is missing, unreadable, of mixed
    shape,
    or empty.
    """
    records = list(islice(iterate_records(reference, offline=offline), limit))
    if not records:
        raise LoadError(f"The dataset {reference.uri} has no records after parsing; give a file with at least one row.")
    return records


def iterate_records(reference: DatasetReference, *, offline: bool = False) -> Iterator[Record]:
    """The records one by one; local text formats are never held whole. Raises LoadError at the first row that does not
    fit.
    """
    return to_records(iterate_rows(reference, offline), reference.text_field)


def fingerprint(reference: DatasetReference, *, offline: bool = False) -> str:
    """SHA-256 (hex) of the dataset's content.

    Local files are digested byte by byte with their relative names and the options that change what is read; hub and
    synthetic datasets by their rows as canonical JSON, so the same rows give the same fingerprint wherever they are
    cached.
    """
    digest = hashlib.sha256()
    if reference.scheme == "local":
        root = Path(reference.identifier).expanduser()
        for path in data_files(root, reference.split):
            _add(digest, path.relative_to(root).as_posix().encode() if root.is_dir() else path.suffix.encode())
            _add(digest, _file_digest(path))
        _add(digest, (reference.text_field or "").encode())
    else:
        for _, row in iterate_rows(reference, offline):
            _add(digest, json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str).encode())
        _add(digest, (reference.text_field or "").encode())
    return digest.hexdigest()


def iterate_rows(reference: DatasetReference, offline: bool) -> Iterator[tuple[str, Any]]:
    """The raw rows of a dataset, each with its place in words (`file: line 3`). Raises LoadError when it cannot be read."""
    if reference.scheme == "synthetic":
        for number, row in enumerate(generate_rows(reference.identifier, reference.n or 1, reference.seed or 0), start=1):
            yield f"{reference.uri}: row {number}", row
    elif reference.scheme == "local":
        for path in data_files(Path(reference.identifier).expanduser(), reference.split):
            yield from read_rows(path)
    else:
        yield from _hub_rows(reference, offline)


def _hub_rows(reference: DatasetReference, offline: bool) -> Iterator[tuple[str, Any]]:
    dataset = _hub_dataset(reference, offline)
    for number, row in enumerate(dataset, start=1):
        yield f"{reference.uri}: row {number}", row


def _hub_dataset(reference: DatasetReference, offline: bool) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise LoadError(f"The dataset {reference.uri} needs the package datasets; install it or use a local:// file.") from error
    with _cache_only(offline) as without_network:
        try:
            return datasets.load_dataset(reference.identifier, reference.config, split=reference.split, revision=reference.revision)
        except Exception as error:  # the library raises its own, the hub client's, and plain network errors without a common base
            cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            mode = "offline mode is on and it is not in the cache" if without_network else "the hub did not deliver it"
            raise LoadError(
                f"The dataset {reference.uri} could not be loaded: {mode} ({type(error).__name__}: {cause}); "
                "fetch it where there is a network, or save it as jsonl and use local://."
            ) from error


@contextmanager
def _cache_only(offline: bool) -> Iterator[bool]:
    """Keep `datasets` and the hub client off the network inside the block; yields whether they are.

    Neither takes an argument for it: their switches are read from the environment once, at import, so they are set here.
    """
    import datasets
    from huggingface_hub import constants

    holders: tuple[Any, ...] = (datasets.config, constants)
    before = [holder.HF_HUB_OFFLINE for holder in holders]
    without_network = offline or any(before)
    try:
        for holder in holders:
            holder.HF_HUB_OFFLINE = without_network
        yield without_network
    finally:
        for holder, value in zip(holders, before, strict=True):
            holder.HF_HUB_OFFLINE = value


def _file_digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise LoadError(f"{path} could not be read: {error.strerror or error}.") from error
    return digest.digest()


def _add(digest: Any, data: bytes) -> None:
    digest.update(len(data).to_bytes(8, "big"))
    digest.update(data)
