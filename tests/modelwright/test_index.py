"""The index is a cache: whatever happens to it, a listing says what the files say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from modelwright import index as index_module
from modelwright.home import index_path
from modelwright.index import NewerIndexError, RunIndex


def make(root: Path, name: str, *, status: str = "completed", aged: bool = True) -> Path:
    """A minimal run directory; `aged` files are old enough to be trusted by their change time."""
    path = root / name
    path.mkdir(parents=True)
    write(path, name, status)
    if aged:
        os.utime(path / "run.json", ns=(10**18, 10**18))
    return path


def write(path: Path, name: str, status: str) -> None:
    document = {"run_id": f"{abs(hash(name)):032x}", "kind": "toy", "status": status, "attempt": 1, "created_at": "2026-01-01T00:00:00Z"}
    staged = path / ".new"
    staged.write_text(json.dumps(document))
    staged.replace(path / "run.json")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(20):
        make(tmp_path / "runs", f"run-{number:02d}")
    return tmp_path / "runs"


def names(root: Path) -> tuple[dict[str, str], list[str]]:
    with RunIndex() as index:
        found = index.refresh([root])
    return {entry.name: entry.state for entry in found.rows}, found.problems


EXPECTED = {f"run-{number:02d}": "completed" for number in range(20)}


def test_a_warm_listing_reads_no_file_that_did_not_change(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(root) == (EXPECTED, [])
    read: list[str] = []
    original = index_module.summarise
    monkeypatch.setattr(index_module, "summarise", lambda path: read.append(Path(path).name) or original(path))
    assert names(root) == (EXPECTED, [])
    assert read == []
    write(root / "run-03", "run-03", "failed")
    (root / "run-04" / "run.json").unlink()
    (root / "run-04").rmdir()
    make(root, "new")
    listed, _ = names(root)
    assert listed == {name: state for name, state in EXPECTED.items() if name != "run-04"} | {"run-03": "failed", "new": "completed"}
    assert sorted(read) == ["new", "run-03"]


def test_two_changes_within_one_tick_of_the_clock_are_seen(root: Path) -> None:
    for status in ("running", "failed", "stopped", "paused"):
        write(root / "run-00", "run-00", status)
        assert names(root)[0]["run-00"] == {"running": "dead"}.get(status, status)


def test_a_lost_index_is_rebuilt(root: Path) -> None:
    names(root)
    for path in index_path().parent.glob("index.db*"):
        path.unlink()
    assert names(root) == (EXPECTED, [])


@pytest.mark.parametrize("offset", [0, 20, 100, 4096])
def test_a_damaged_index_is_moved_aside_and_rebuilt(root: Path, offset: int) -> None:
    names(root)
    content = bytearray(index_path().read_bytes())
    content[offset : offset + 200] = b"\xa5" * len(content[offset : offset + 200])
    index_path().write_bytes(content)
    listed, problems = names(root)
    assert listed == EXPECTED
    assert problems and "moved to" in problems[0]
    assert names(root) == (EXPECTED, [])
    assert list(index_path().parent.glob("index.db.damaged-*"))


def test_a_changed_row_is_noticed_and_read_again(root: Path) -> None:
    names(root)
    content = index_path().read_bytes()
    index_path().write_bytes(content.replace(b'"status":"completed"', b'"status":"complexed"'))
    listed, problems = names(root)
    assert listed == EXPECTED and "20 rows" in problems[0] and "wrong checksum" in problems[0]
    assert names(root) == (EXPECTED, [])


def test_any_flipped_byte_is_harmless(root: Path) -> None:
    names(root)
    whole = index_path().read_bytes()
    for offset in range(0, len(whole), 331):
        content = bytearray(whole)
        content[offset] ^= 0x55
        for path in index_path().parent.glob("index.db*"):
            path.unlink()
        index_path().write_bytes(content)
        try:
            listed, _ = names(root)
        except NewerIndexError:
            continue  # the flipped byte was the format number: refused in words
        assert listed == EXPECTED, f"byte {offset}"


def test_a_newer_index_is_refused_in_plain_words(root: Path) -> None:
    names(root)
    connection = apsw.Connection(str(index_path()))
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(NewerIndexError, match=r"newer than format \d.*delete the file"):
        RunIndex()


def test_an_older_index_is_replaced(root: Path) -> None:
    names(root)
    connection = apsw.Connection(str(index_path()))
    connection.execute("PRAGMA user_version=0; DROP TABLE runs; CREATE TABLE runs (old TEXT)")
    connection.close()
    assert names(root) == (EXPECTED, [])


def test_another_programs_database_is_left_alone(root: Path) -> None:
    index_path().parent.mkdir(parents=True, exist_ok=True)
    connection = apsw.Connection(str(index_path()))
    connection.execute("CREATE TABLE precious (x)")
    connection.close()
    listed, problems = names(root)
    assert listed == EXPECTED and "another program" in problems[0]
    connection = apsw.Connection(str(index_path()))
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("precious",)]
    connection.close()


def test_a_home_that_cannot_be_used_only_costs_time(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODELWRIGHT_HOME", str(tmp_path / "file" / "below"))
    listed, problems = names(root)
    assert listed == EXPECTED and "cannot be used" in problems[0]


def test_a_root_that_is_gone_is_said(tmp_path: Path) -> None:
    listed, problems = names(tmp_path / "gone")
    assert listed == {} and "no directory" in problems[0]


def test_roots_of_similar_names_do_not_mix(tmp_path: Path) -> None:
    make(tmp_path / "runs", "a")
    make(tmp_path / "runs2", "b")
    make(tmp_path / "runs" / "deep", "c")
    with RunIndex() as index:
        index.refresh([tmp_path / "runs", tmp_path / "runs2"])
        assert {entry.name for entry in index.refresh([tmp_path / "runs"]).rows} == {"a", "c"}
        assert {entry.name for entry in index.rebuild([tmp_path / "runs2"]).rows} == {"b"}


def test_a_path_that_is_not_unicode_is_listed(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "runs")
    os.makedirs(root + b"/r\xff")
    with open(root + b"/r\xff/run.json", "w") as file:
        json.dump({"run_id": "x", "status": "completed"}, file)
    for _ in range(2):
        assert list(names(tmp_path / "runs")[0].values()) == ["completed"]


LISTER = """
import sys
from pathlib import Path
from modelwright.index import RunIndex
for _ in range(10):
    with RunIndex() as index:
        found = index.refresh([Path(sys.argv[1])])
    assert len(found.rows) == 20 and not found.problems, found.problems
"""


def test_several_processes_at_once(root: Path) -> None:
    children = [subprocess.Popen([sys.executable, "-c", LISTER, str(root)], stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for number in range(30):
        write(root / f"run-{number % 20:02d}", f"run-{number % 20:02d}", "completed")
    assert [(child.communicate()[1], child.returncode) for child in children] == [("", 0)] * 4
