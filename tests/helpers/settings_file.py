"""A provider's settings file as an operator keeps it, and two recommendations to write into it."""

from __future__ import annotations

from pathlib import Path

from macprovider.autotune.config_file.apply import Recommended

FIRST = Recommended("org/Model-7B-4bit", 4, 4000, 2)
UNSET = Recommended("org/Model-7B-4bit", None, 8000, 1)
OPERATOR = """\
# my provider
port: 8080
model: "old/model"   # the fast one
coordinator_url: wss://pool.example/ws  # never touch

kv_bits: 8  # good enough
provider_token: 's3cret'
notes: |
  model: not a key
  kv_bits: 3

log_format:   json
"""


def written(tmp_path: Path, content: str | bytes, name: str = "config.yaml") -> Path:
    """A file of this content."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
