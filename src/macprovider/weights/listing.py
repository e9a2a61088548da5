"""What `models list` shows: packaged and cached models, their size, whether they are whole, when they were last used."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from macprovider.weights.cached import cached_snapshots, unfinished_bytes
from macprovider.weights.candidates import parameters_b
from macprovider.weights.safetensors_header import DTYPE_BITS, TensorEntry, read_header
from macprovider.weights.verify import check_folder, check_snapshot
from modelwright.clock import stamp
from modelwright.errors import LoadError, ModelwrightError
from modelwright.tiny import PREFIX, TINY_NAMES, tiny_model_path


@dataclass(frozen=True)
class ListedModel:
    """One model on this machine.

    commit: "" for a packaged one. parameters, bits: None when neither its files nor its name tell. bytes: of its files, partly
    fetched ones included. complete: whether every file is there and readable (contents are for `models verify`). last_used: when a
    file was last read, as far as the file system notes it.
    """

    id: str
    source: Literal["packaged", "cache"]
    commit: str
    folder: str
    parameters: int | None
    bits: float | None
    bytes: int
    complete: bool
    last_used: str | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def listed_models(cache: Path) -> list[ListedModel]:
    """Packaged models, then those of the cache, by name."""
    found = []
    for name in TINY_NAMES:
        try:
            folder = tiny_model_path(PREFIX + name)
        except LoadError:  # installed without its weights
            continue
        found.append(_listed(PREFIX + name, "packaged", "", folder, not check_folder(folder, hashes=False), 0))
    for snapshot in cached_snapshots(cache):
        complete = not check_snapshot(snapshot, hashes=False)
        found.append(_listed(snapshot.model, "cache", snapshot.commit, snapshot.folder, complete, unfinished_bytes(snapshot.repository)))
    return found


def _listed(model: str, source: Literal["packaged", "cache"], commit: str, folder: Path, complete: bool, partial: int) -> ListedModel:
    files = [path for path in folder.rglob("*") if path.is_file()]
    tensors = _tensors(files)
    parameters, bits = _size(model, _config(folder), tensors)
    used = max((os.stat(path).st_atime for path in files), default=None)
    return ListedModel(
        model,
        source,
        commit,
        str(folder),
        parameters,
        bits,
        sum(path.stat().st_size for path in files) + partial,
        complete,
        stamp(datetime.fromtimestamp(used, UTC)) if used is not None else None,
    )


def _size(model: str, config: Mapping[str, Any], tensors: list[TensorEntry]) -> tuple[int | None, float | None]:
    """(parameters, bits of one). Counted from the tensors; by the config, or else the name, where those are packed integers."""
    quantised = config.get("quantization") or config.get("quantization_config")
    if not quantised:
        wide = max((DTYPE_BITS.get(tensor.dtype, 0) for tensor in tensors), default=0)
        count = sum(tensor.elements for tensor in tensors)
        return (count or _named(model)), (float(wide) if wide else None)
    from modelwright.model_shape import ModelShape

    try:
        parameters: int | None = ModelShape.from_config(config).parameters()
    except ModelwrightError:
        parameters = _named(model)
    bits = quantised.get("bits") or (4 if quantised.get("load_in_4bit") else 8 if quantised.get("load_in_8bit") else None)
    return parameters, float(bits) if bits else None


def _named(model: str) -> int | None:
    billions = parameters_b(model)
    return round(billions * 1e9) if billions else None


def _tensors(files: list[Path]) -> list[TensorEntry]:
    found: list[TensorEntry] = []
    for path in files:
        if path.suffix == ".safetensors":
            try:
                found += read_header(path)
            except ModelwrightError:  # an unreadable file shows as "not complete"
                continue
    return found


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
