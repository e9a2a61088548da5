"""Texts of stop tokens that no answer may contain, from the model's own files in the local cache. (specs/autotune.md, 3.6)"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from macprovider.weights.cache_dir import cache_dir
from macprovider.weights.cached import find_snapshot

FALLBACK = ("<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<|end|>", "<|start_header_id|>", "<|end_header_id|>")
FILE = "tokenizer_config.json"


def stop_texts(model: str) -> tuple[str, ...]:
    """The stop tokens of a model as text, the fallback list when its file is not here. Never fetches."""
    path = tokenizer_config(model)
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path is not None else None
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        return FALLBACK
    return collected(content) or FALLBACK


def collected(config: dict[str, Any]) -> tuple[str, ...]:
    """`eos_token`, `bos_token` and every special added token; blank and one-character ones are left out."""
    found = [_text(config.get("eos_token")), _text(config.get("bos_token"))]
    added = config.get("added_tokens_decoder")
    for entry in added.values() if isinstance(added, dict) else ():
        if isinstance(entry, dict) and entry.get("special") is True:
            found.append(_text(entry))
    return tuple(dict.fromkeys(text for text in found if len(text) > 1 and text.strip()))


def tokenizer_config(model: str) -> Path | None:
    """The file of a packaged model, of a folder, or of the snapshot in the cache that a provider loads."""
    if model.startswith("modelwright/tiny-"):
        from modelwright.tiny import tiny_model_path

        folder = Path(tiny_model_path(model))
    else:
        folder = Path(model).expanduser()
        if not folder.is_dir():
            snapshot = find_snapshot(cache_dir(), model)
            if snapshot is None:
                return None
            folder = snapshot.folder
    return folder / FILE if (folder / FILE).is_file() else None


def _text(token: Any) -> str:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
