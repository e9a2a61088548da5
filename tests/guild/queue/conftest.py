"""Fixtures of the queue's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from guild.places import Places
from guild.records.database import open_guild
from helpers.guild_queue import new_queue
from modelwright.database import Database


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of trials need not wait for a disk, and a kill does not lose what memory holds."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A house with the queue's folders."""
    return new_queue(tmp_path)


@pytest.fixture
def db(places: Places) -> Iterator[Database]:
    with open_guild(places) as opened:
        yield opened
