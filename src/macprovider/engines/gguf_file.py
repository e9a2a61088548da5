"""The GGUF export of a model folder, kept below `places.cache_folder()` for the engines that read GGUF."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from macprovider.places import cache_folder

if TYPE_CHECKING:
    from macprovider.weights.gguf_export import Kind

EXPORT_FORMAT = 1
"""Raised when the export changes, so that older files are not used."""


def export_path(folder: Path, kind: Kind, *, by_token: bool = False) -> Path:
    """Where the export of the model as it is now belongs, whether it is there or not. by_token: see `export_gguf`."""
    parts = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".jinja"))
    facts = [(path.name, str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in parts]
    key = hashlib.sha256(json.dumps([EXPORT_FORMAT, kind, by_token, facts]).encode()).hexdigest()[:24]
    return cache_folder() / "gguf" / f"{key}-{kind}.gguf"


def exported(folder: Path, name: str, kind: Kind, *, by_token: bool = False) -> Path:
    """The export; written when it is not there or the model has changed. Raises ExportError."""
    from macprovider.weights.gguf_export import export_gguf
    from modelwright.files import make_folder

    out = export_path(folder, kind, by_token=by_token)
    make_folder(out.parent)
    if not out.is_file():
        export_gguf(folder, out, name=name, kind=kind, by_token=by_token)
    return out
