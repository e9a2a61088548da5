"""What holds for every test: a home folder of its own, no network, and Ctrl-C that arrives."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Take Ctrl-C even where the tests were started in the background of a script, which has it ignored, children included."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MODELWRIGHT_HOME is a fresh folder, and the Hugging Face libraries ask no hub."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MODELWRIGHT_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    return home
