"""What a model folder itself tells."""

from __future__ import annotations

from pathlib import Path


def weight_bytes(folder: Path) -> int:
    """Bytes of its safetensors files: what the weights take in memory where they are loaded as they are."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
