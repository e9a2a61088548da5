"""One tiny model for all tests of the command, and a working directory laid out as the seed's command expects it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from helpers.wizard import write_model

    return write_model(tmp_path_factory.mktemp("model") / "tiny-llama")


@pytest.fixture
def workplace(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with data/instruction.jsonl and models/tiny-llama (hard links), which is the current one."""
    from helpers.wizard import write_data

    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data" / "instruction.jsonl")
    shutil.copytree(tiny_model, tmp_path / "models" / "tiny-llama", copy_function=os.link)
    return tmp_path
