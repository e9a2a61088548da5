"""Atomic replace, whole-line appends, tolerant reading, digests, confinement."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.errors import DamagedFileError, DiskFullError, MissingFileError, StorageError, UsageError
from modelwright.files import (
    JsonlAppender,
    canonical_json,
    confine,
    make_folder,
    read_json,
    read_jsonl,
    read_yaml,
    sha256_file,
    sha256_json,
    write_bytes,
    write_json,
    write_text,
    write_yaml,
)

AWKWARD_NAME = "läufe mit leerzeichen ⓪/été.json"


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("durable", [True, False])
def test_documents_are_replaced_whole_and_leave_no_temporary_file(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / AWKWARD_NAME
    path.parent.mkdir()
    write_json(path, {"a": 1, "path": tmp_path, "nan": math.nan, "set": {2, 1}}, durable=durable)
    write_json(path, {"a": 2, "text": "⓪"}, durable=durable)
    assert read_json(path) == {"a": 2, "text": "⓪"}
    assert path.read_bytes().endswith(b"\n")
    assert leftovers(path.parent) == []


def test_nan_becomes_null_in_documents(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"v": math.inf, "w": [math.nan]})
    assert read_json(tmp_path / "x.json") == {"v": None, "w": [None]}


def test_a_value_without_json_form_leaves_the_old_document(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": True})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert read_json(path) == {"old": True}
    assert leftovers(tmp_path) == []


def test_yaml_round_trip_keeps_order_and_letters(tmp_path: Path) -> None:
    write_yaml(tmp_path / "c.yaml", {"z": 1, "a": ["ß", None]})
    assert read_yaml(tmp_path / "c.yaml") == {"z": 1, "a": ["ß", None]}
    assert (tmp_path / "c.yaml").read_text().index("z") < (tmp_path / "c.yaml").read_text().index("a:")


def test_secrets_can_have_mode_0600(tmp_path: Path) -> None:
    write_bytes(tmp_path / "key", b"k", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_failed_fsync_keeps_the_old_document_and_is_not_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": True})
    calls = []

    def failing(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError, match="input/output error"):
        write_json(path, {"new": True})
    assert len(calls) == 1
    assert read_json(path) == {"old": True}
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("reader", [read_json, read_yaml, read_jsonl, sha256_file])
def test_each_wrong_thing_in_place_of_a_file_is_one_sentence(tmp_path: Path, reader) -> None:
    with pytest.raises(MissingFileError, match="does not exist"):
        reader(tmp_path / "missing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="a directory stands"):
        reader(tmp_path / "folder")
    (tmp_path / "plain").write_text("x")
    with pytest.raises(StorageError, match="not a directory"):
        reader(tmp_path / "plain" / "below")


@pytest.mark.parametrize("data", [b"", b"\n", b'{"a": 1', b"\x00\x00", b'{"a": NaN}', b"\xff\xfe"])
def test_damaged_json_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(DamagedFileError) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and "expected" in str(caught.value)
    assert caught.value.where


@pytest.mark.parametrize("data", [b"", b"a: [1", b"!!python/object/apply:os.system ['true']", b"a: \xff"])
def test_damaged_or_unsafe_yaml_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.yaml").write_bytes(data)
    with pytest.raises(DamagedFileError):
        read_yaml(tmp_path / "x.yaml")


def test_writing_where_nothing_can_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="not a directory"):
        write_text(tmp_path / "plain" / "x", "y")
    with pytest.raises(StorageError, match="a directory stands"):
        write_text(tmp_path / "folder", "y")
    with pytest.raises(MissingFileError):
        write_text(tmp_path / "gone" / "x", "y")
    with pytest.raises(StorageError):
        make_folder(tmp_path / "plain" / "x")
    with pytest.raises(StorageError, match="a directory stands"):
        JsonlAppender(tmp_path / "folder")
    assert leftovers(tmp_path) == []


# --- JSON lines


@given(st.lists(st.dictionaries(st.text(), st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text())))
@settings(deadline=None, max_examples=25)
def test_every_appended_record_comes_back_once_in_order(tmp_path_factory: pytest.TempPathFactory, records: list) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "x.jsonl"
    with JsonlAppender(path, fsync_every_s=None) as appender:
        for record in records:
            appender.append(record)

    def plain(record: dict) -> dict:
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}

    read = read_jsonl(path)
    assert read.records == [plain(record) for record in records]
    assert not read.torn_tail and read.damage == [] and read.offset == path.stat().st_size


@given(cut=st.integers(min_value=1, max_value=60))
@settings(deadline=None, max_examples=25)
def test_a_torn_tail_is_never_data_and_costs_no_neighbour(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """Cut the file anywhere behind the first record: the cut record is gone, everything before and after it stays."""
    path = tmp_path_factory.mktemp("torn") / "x.jsonl"
    with JsonlAppender(path) as appender:
        appender.append({"n": 1})
        kept = appender.size
        appender.append({"n": 2, "text": "x" * 40})
        size = appender.size
    length = min(kept + cut, size - 1)
    os.truncate(path, length)
    torn = read_jsonl(path)
    assert torn.records == [{"n": 1}] and torn.torn_tail and torn.damage == [] and torn.offset == kept
    with JsonlAppender(path) as appender:
        appender.append({"n": 3})
        appender.append({"n": 4})
    healed = read_jsonl(path)
    assert healed.records == [{"n": 1}, {"n": 3}, {"n": 4}]
    assert healed.lines == [1, 3, 4]
    assert not healed.torn_tail
    assert len(healed.damage) == 1 and "line 2" in healed.damage[0] and "torn" in healed.damage[0]


def test_damaged_inner_lines_are_named_and_hide_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n":1}\n{"n":2\n[3]\n\n{"n":5}\n')
    read = read_jsonl(path)
    assert read.records == [{"n": 1}, {"n": 5}]
    assert len(read.damage) == 1 and read.damage[0].startswith(f"{path}: 3 bad lines, the first is line 2: found '{{\"n\":2'; expected")


def test_binary_garbage_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n":1}\n' + bytes(range(256)) * 50 + b'\n{"n":2}\n')
    read = read_jsonl(path)
    assert read.records == [{"n": 1}, {"n": 2}]
    assert len(read.damage) == 1 and ": 51 bad lines, the first is line 2: found " in read.damage[0]
    assert read.damage[0].isprintable() and len(read.damage[0]) < 400


def test_an_empty_file_has_no_records_and_a_missing_one_may(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").touch()
    assert read_jsonl(tmp_path / "x.jsonl").records == []
    assert read_jsonl(tmp_path / "none.jsonl", missing_ok=True).records == []


def test_a_follower_reads_on_from_the_offset(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with JsonlAppender(path) as appender:
        appender.append({"n": 1})
        first = read_jsonl(path)
        appender.append({"n": 2})
    assert read_jsonl(path, offset=first.offset).records == [{"n": 2}]


def test_after_a_failed_sync_nothing_more_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appender = JsonlAppender(tmp_path / "x.jsonl", fsync_every_s=0)
    appender.append({"n": 1})

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing)
        with pytest.raises(StorageError, match="sync"):
            appender.append({"n": 2})
    with pytest.raises(StorageError, match="earlier sync"):
        appender.append({"n": 3})
    with pytest.raises(StorageError, match="earlier sync"):
        appender.sync()
    appender.close()
    appender.close()


SHORT_WRITER = """
import resource, signal, sys
from modelwright.errors import StorageError
from modelwright.files import JsonlAppender
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
appender = JsonlAppender(sys.argv[1], fsync_every_s=None)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
accepted = 0
try:
    for number in range(1000):
        appender.append({"n": number, "pad": "x" * 30})
        accepted += 1
except StorageError as error:
    print(accepted, str(error).count("."), type(error).__name__)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
appender.append({"n": -1})
"""


@pytest.mark.parametrize("limit", [100, 137, 400])
def test_a_short_write_is_noticed_and_taken_back(tmp_path: Path, limit: int) -> None:
    """A file size limit gives the same short write as a full disk: the unfinished line goes, the appender goes on."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"torn":')
    done = subprocess.run([sys.executable, "-c", SHORT_WRITER, str(path), str(limit)], capture_output=True, text=True, check=True)
    accepted = int(done.stdout.split()[0])
    read = read_jsonl(path)
    assert [record["n"] for record in read.records] == [*range(accepted), -1]
    assert not read.torn_tail and len(read.damage) == 1  # only the tail that stood there before


def test_disk_full_in_the_middle_of_a_document_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": True})
    real, calls = os.write, []

    def short_then_full(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(descriptor, bytes(data)[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short_then_full)
        with pytest.raises(DiskFullError):
            write_json(path, {"new": "x" * 100})
    assert len(calls) == 2
    assert read_json(path) == {"old": True}
    assert leftovers(tmp_path) == []


# --- digests and paths


def test_canonical_json_has_one_form_per_value() -> None:
    assert canonical_json({"b": 1, "a": "ß"}) == '{"a":"ß","b":1}'.encode()
    assert sha256_json({"b": 1, "a": 2}) == sha256_json({"a": 2, "b": 1})
    with pytest.raises(ValueError):
        sha256_json({"a": math.nan})


def test_sha256_file_matches_a_known_digest(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_confine_follows_links_and_dots(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    assert confine(root / "a" / ".." / "b", [root]) == (root / "b").resolve()
    for path in (root / "link" / "x", root / ".." / "outside", outside, Path("/etc/passwd")):
        with pytest.raises(UsageError, match="allowed: a path below"):
            confine(path, [root])
    (root / "loop").symlink_to(root / "loop")
    assert confine(outside / "x", [root, outside]) == (outside / "x").resolve()
