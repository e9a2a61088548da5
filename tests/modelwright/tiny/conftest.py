"""A small corpus and what is prepared from it, made once per session."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from modelwright.tiny.corpus import is_held_out, standard_library
from modelwright.tiny.training import Prepared, prepare


@pytest.fixture(scope="session")
def small_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some thirty files of the standard library, held-out ones among them."""
    root = tmp_path_factory.mktemp("library")
    files = sorted(standard_library().glob("*.py"))
    held_out = [path for path in files if is_held_out(path.name)][:3]
    for path in [*files[:27], *held_out]:
        shutil.copy(path, root / path.name)
    return root


@pytest.fixture(scope="session")
def prepared(small_library: Path) -> Prepared:
    """Tokenizer and data of the small corpus."""
    return prepare(1024, 512, small_library)
