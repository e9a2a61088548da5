"""The home folder follows the environment and is made only when asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelwright import home
from modelwright.errors import StorageError


def test_home_follows_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELWRIGHT_HOME", str(tmp_path / "mw"))
    assert home.home() == tmp_path / "mw"
    assert home.index_path().parent == tmp_path / "mw"
    assert home.cache_folder().is_relative_to(home.home()) and home.tokens_path().is_relative_to(home.home())
    assert not (tmp_path / "mw").exists()


def test_home_without_the_variable_is_below_the_users_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELWRIGHT_HOME", "  ")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home.home() == tmp_path / ".modelwright"


def test_ensure_folder_makes_a_private_folder_or_says_why_not(tmp_path: Path) -> None:
    made = home.ensure_folder(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="not a directory"):
        home.ensure_folder(tmp_path / "file" / "below")
