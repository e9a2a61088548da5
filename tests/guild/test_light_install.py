"""Item 49: the guild's commands without any training package, as `pip install .` leaves them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


HEAVY = {
    *BLOCKED, "bitsandbytes", "deepspeed", "flash-attn", "galore-torch", "jax", "liger-kernel", "onnxruntime", "onnxruntime-gpu",
    "openvino", "openvino-genai", "tensorflow", "torchaudio", "torchvision", "triton", "vllm", "xformers",
}  # fmt: skip
"""Packages that train or serve models, or bring code for GPUs; so is every `nvidia-…`, `cuda-…` and `cupy…`."""
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def is_heavy(package: str) -> bool:
    return package in HEAVY or package.startswith(("nvidia-", "cuda-", "cupy"))


def needed_by(requirements: Iterable[str]) -> set[str]:
    """The packages of requirement lines and all that they bring, as installed here, extras left out."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name in found or (one.marker is not None and not one.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        with suppress(PackageNotFoundError):  # not needed on this system
            waiting += [Requirement(line) for line in requires(name) or ()]
    return found


def test_item_49_the_base_dependencies_bring_no_package_for_training_or_gpus() -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    brought = needed_by(project["dependencies"])
    assert {canonicalize_name(Requirement(line).name) for line in project["dependencies"]} <= brought
    assert "pydantic-core" in brought  # what they bring in turn is looked at too
    assert [name for name in sorted(brought) if is_heavy(name)] == []
    assert is_heavy("torch") and "torch" in needed_by(project["optional-dependencies"]["training"])
    assert not {"dependencies", "optional-dependencies"} & set(project.get("dynamic", []))  # nothing adds to them when it is built


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
