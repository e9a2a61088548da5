"""Finding the run a user means, and remembering where runs were listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelwright.errors import UsageError
from modelwright.home import home
from modelwright.lookup import find_run, forget_roots, remember_roots, remembered_roots
from modelwright.scan import RunRow, row, summarise


def make(path: Path, run_id: str) -> RunRow:
    path.mkdir(parents=True)
    (path / "run.json").write_text(f'{{"run_id": "{run_id}", "status": "completed"}}')
    return row(str(path), summarise(str(path)))


@pytest.fixture
def rows(tmp_path: Path) -> list[RunRow]:
    return [make(tmp_path / "demo", "aaaa1111"), make(tmp_path / "sweep" / "one", "aaaa2222"), make(tmp_path / "other" / "one", "bbbb3333")]


@pytest.mark.parametrize("text", ["demo", "aaaa1", "AAAA1111"])
def test_by_name_and_id(tmp_path: Path, rows: list[RunRow], text: str) -> None:
    assert find_run(text, rows, [tmp_path]) == tmp_path / "demo"


def test_by_path(tmp_path: Path, rows: list[RunRow], monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_run(str(tmp_path / "sweep" / "one"), [], []) == tmp_path / "sweep" / "one"
    assert find_run("sweep/one", rows, [tmp_path]) == tmp_path / "sweep" / "one"
    monkeypatch.chdir(tmp_path / "sweep")
    assert find_run("one", [], []) == tmp_path / "sweep" / "one"


def test_several_matches_are_listed(tmp_path: Path, rows: list[RunRow]) -> None:
    with pytest.raises(UsageError, match="fits 2 runs"):
        find_run("one", rows, [tmp_path])
    with pytest.raises(UsageError, match="fits 2 runs"):
        find_run("aaaa", rows, [tmp_path])


def test_no_match_names_near_ones(tmp_path: Path, rows: list[RunRow]) -> None:
    with pytest.raises(UsageError, match=r"Did you mean demo\?"):
        find_run("deom", rows, [tmp_path])
    with pytest.raises(UsageError, match="runs list"):
        find_run("", rows, [tmp_path])
    with pytest.raises(UsageError, match=r"has no run\.json, so it is no run"):
        find_run(str(tmp_path), rows, [tmp_path])
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not a directory, so it is no run"):
        find_run(str(tmp_path / "file"), rows, [tmp_path])


def test_roots_are_remembered_once_and_forgotten(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    remember_roots([first, tmp_path / "never-there"])
    remember_roots([first, second])
    assert remembered_roots() == [first, second]
    forget_roots([first])
    assert remembered_roots() == [second]
    (home() / "run-roots.json").write_text("{")
    assert remembered_roots() == []
    remember_roots([first])
    assert remembered_roots() == [first]
