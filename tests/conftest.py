"""What holds for every test: a home folder of its own, and no network."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MODELWRIGHT_HOME is a fresh folder, and the Hugging Face libraries ask no hub."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MODELWRIGHT_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    return home
