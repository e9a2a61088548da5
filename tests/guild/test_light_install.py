"""Item 49: the guild's commands without any training package, as `pip install .` leaves them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.guild_training import write_rows
from modelwright.files import read_yaml, write_json, write_yaml

BLOCKED = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "accelerate", "peft", "datasets", "matplotlib")
HOOK = f"""
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def light(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Runs a guild command in a Python that has none of the packages of the extra `training`."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "hook"), "TRAINING_BASE_DIR": str(tmp_path / "house")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "guild.cli", *words]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=120)

    return run


def test_item_49_the_queue_campaigns_and_data_work_without_training_packages(light, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    house = tmp_path / "house"
    rows = write_rows(tmp_path / "rows.jsonl")
    assert light("init").returncode == 0
    for skill in (house / "configs" / "skills").glob("*.yaml"):
        content = read_yaml(skill)
        write_yaml(skill, {**content, "api": {**content["api"], "url": "local"}})
    generate = {"enabled": True, "count": 20, "priority": "low", "host": "localhost", "port": 8090}
    write_json(house / "config.json", {"schema_version": 1, "model_name": "tiny", "auto_generate": generate})
    for words in (
        ("campaign", "new", "--hero", "tiny", "--name", "Light"),
        ("queue", "add", str(rows), "--copy", "--schema", "chat_sft_v1"),
        ("data", "generate", "--force", "--count", "20", "--seed", "1"),
        ("validate", str(rows), "--schema", "chat_sft_v1", "--level", "deep"),
        ("control", "pause"),
        ("control", "status"),
        ("ledger", "list"),
        ("backups", "make"),
        ("retention", "--dry-run"),
        ("eval", "--status"),
    ):
        done = light(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    listed = json.loads(light("queue", "list", "--json").stdout)["files"]
    assert len(listed) == 2


def test_what_needs_them_says_what_to_install(light, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert light("init").returncode == 0
    refused = light("train-4b", "--hero", "tiny", "--data", str(write_rows(tmp_path / "r.jsonl")), "--output", str(tmp_path / "o"))
    assert refused.returncode == 1 and "pip install 'modelwright[training]'" in refused.stderr
