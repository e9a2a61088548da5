"""Whether the files of a model are whole: there, readable, of the size their header states, of the digest the cache knows. (7.3)"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from macprovider.weights.cached import ListedFile, Snapshot, digest_in_name, known_listing, unfinished_bytes, wanted_files
from macprovider.weights.safetensors_header import read_header
from modelwright.errors import DamagedFileError, StorageError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""One of these makes a tokenizer."""
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_BLOCK = 1 << 22


@dataclass(frozen=True)
class WeightFault:
    """One thing wrong with one file. kind: `missing` when a fetch can bring the file, `integrity` otherwise. sentence: names the
    file.
    """

    file: str
    kind: Literal["missing", "integrity"]
    sentence: str


def check_snapshot(
    snapshot: Snapshot,
    *,
    hashes: bool = True,
    known_good: frozenset[str] = frozenset(),
    on_bytes: Callable[[int], None] | None = None,
) -> list[WeightFault]:
    """Everything wrong with a cached snapshot, empty when it is whole.

    hashes: read every byte and compare with the digest, but for the files `known_good`. on_bytes: told the bytes read. A file that
    the commit has and the snapshot lacks is `missing`; one that the commit itself lacks, where it is needed, is an `integrity`
    fault.
    """
    listing = known_listing(snapshot)
    wanted = wanted_files(listing) if listing is not None else None
    partial = unfinished_bytes(snapshot.repository) > 0
    return check_folder(snapshot.folder, wanted=wanted, hashes=hashes, known_good=known_good, partial=partial, on_bytes=on_bytes)


def check_folder(
    folder: Path,
    *,
    wanted: Mapping[str, ListedFile] | None = None,
    hashes: bool = True,
    known_good: frozenset[str] = frozenset(),
    partial: bool = False,
    on_bytes: Callable[[int], None] | None = None,
) -> list[WeightFault]:
    """The same for any folder. wanted: what its commit has, None when unknown. partial: a fetch was interrupted, so what lacks can
    still come.
    """
    faults = [_absent(folder, path, "missing") for path in sorted(wanted or {}) if not (folder / path).is_file()]
    known = {fault.file for fault in faults}
    for path in _required(folder):
        if path not in known:
            listed_elsewhere = partial or (wanted is not None and path in wanted)
            faults.append(_absent(folder, path, "missing" if listed_elsewhere else "integrity"))
            known.add(path)
    for file in sorted(_files(folder, wanted)):
        fault = _file_fault(folder, file, (wanted or {}).get(file), hashes and file not in known_good, on_bytes)
        if fault is not None:
            faults.append(fault)
    return faults


def lacking(paths: Iterable[str]) -> list[str]:
    """What a repository of these files lacks to be a model: config.json, weights as safetensors, a tokenizer."""
    names = set(paths)
    found = [] if "config.json" in names else ["config.json"]
    if not any(name.endswith(".safetensors") and "/" not in name for name in names):
        found.append(SINGLE)
    if not names.intersection(TOKENIZER_FILES):
        found.append(TOKENIZER_FILES[0])
    return found


def digest_of(path: Path, like: str, on_bytes: Callable[[int], None] | None = None) -> str:
    """The digest of a file in the form of `like`: SHA-256 for 64 digits, Git's blob hash for 40. Raises OSError."""
    if len(like) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            if on_bytes is not None:
                on_bytes(len(block))
    return digest.hexdigest()


def _required(folder: Path) -> list[str]:
    """Names of required files that are not there."""
    there = {path.name for path in folder.iterdir() if path.is_file()}
    index = _read_object(folder / INDEX)
    if index is None or SINGLE in there:
        return lacking(there)
    shards = {str(shard) for shard in dict(index.get("weight_map") or {}).values()}
    return [*lacking(there | {SINGLE}), *sorted(shards - there)]


def _files(folder: Path, wanted: Mapping[str, ListedFile] | None) -> set[str]:
    if wanted is not None:
        return {path for path in wanted if (folder / path).is_file()}
    names = {path.name for path in folder.iterdir() if path.is_file()}
    return {name for name in names if name.endswith((".safetensors", ".json", ".model", ".jinja", ".txt"))}


def _file_fault(
    folder: Path, file: str, listed: ListedFile | None, hashes: bool, on_bytes: Callable[[int], None] | None
) -> WeightFault | None:
    path = folder / file
    try:
        size = path.stat().st_size
        if listed is not None and size != listed.size:
            return _wrong(path, file, f"it has {size:,} bytes; its commit says {listed.size:,}")
        if file.endswith(".safetensors"):
            read_header(path)
        elif file == "config.json" or file == INDEX or file == TOKENIZER_FILES[0]:
            if _read_object(path) is None:
                return _wrong(path, file, "it is no JSON object")
            if file == INDEX and (names := _unlisted_tensors(folder)):
                return _wrong(path, file, f"it names {len(names)} tensors that their files lack, first {names[0]}")
        expected = listed.digest if listed is not None else digest_in_name(path)
        if hashes and expected and (found := digest_of(path, expected, on_bytes)) != expected:
            kind = "SHA-256" if len(expected) == 64 else "Git hash"
            return _wrong(path, file, f"its {kind} is {found[:12]}…; expected {expected[:12]}…")
    except DamagedFileError as error:
        return _wrong(path, file, f"{error.where}; expected {error.expected}")
    except (OSError, StorageError) as error:
        return _wrong(path, file, f"it cannot be read: {error}")
    return None


def _unlisted_tensors(folder: Path) -> list[str]:
    """Tensors that the index places in a shard whose header lacks them; shards that are not there have a fault of their own."""
    weight_map = dict((_read_object(folder / INDEX) or {}).get("weight_map") or {})
    found = []
    for shard in sorted({str(name) for name in weight_map.values()}):
        if (folder / shard).is_file():
            try:
                there = {entry.name for entry in read_header(folder / shard)}
            except DamagedFileError:
                continue
            found += [name for name, where in weight_map.items() if where == shard and name not in there]
    return sorted(found)


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _absent(folder: Path, file: str, kind: Literal["missing", "integrity"]) -> WeightFault:
    broken = (folder / file).is_symlink()
    return WeightFault(file, kind, f"{file} is missing from {folder}{': its link leads nowhere' if broken else ''}.")


def _wrong(path: Path, file: str, what: str) -> WeightFault:
    cached = path.parent.parent.name == "snapshots"
    todo = f"Delete {path.resolve()} and pull the model again." if cached else "Put a whole copy of it there."
    return WeightFault(file, "integrity", f"{file} is damaged: {what}. {todo}")
