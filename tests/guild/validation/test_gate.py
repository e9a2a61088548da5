"""What is refused before any line is looked at, each with its reason."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from guild.validation.gate import FileLimits
from guild.validation.validate import validate_file
from helpers.guild_rows import chat, many, write_rows
from helpers.unprivileged import _DROP

GOOD = b'{"messages":[{"role":"user","content":"hello there"},{"role":"assistant","content":"good day"}]}\n'


def errors_of(path: Path, **more) -> tuple[str, ...]:
    report = validate_file(path, schema="chat_sft_v1", **more)
    assert report.valid == (not report.errors)
    assert all(str(path) in error for error in report.errors)
    return report.errors


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "an empty file"),
        (b"\n \n\t\n", "only blank lines"),
        (gzip.compress(GOOD, mtime=0), "a gzip archive"),
        (GOOD.decode().encode("utf-16"), "UTF-16"),
        (b"\0" * 4096, "zero bytes"),
        (b"PAR1" + b"\0" * 9, "a Parquet table"),
    ],
)
def test_a_file_that_holds_no_lines_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(data)
    (error,) = errors_of(path)
    assert says in error
    assert "allowed:" in error


def test_a_byte_order_mark_is_named_and_the_row_behind_it_still_checked(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + GOOD)
    assert ["line 1: found a byte order mark" in error for error in errors_of(path)] == [True]
    path.write_bytes(b"\xef\xbb\xbf{}\n" + GOOD)
    assert len(errors_of(path)) == 2


def test_a_directory_a_missing_file_and_a_pipe_are_refused(tmp_path: Path) -> None:
    assert "a directory" in errors_of(tmp_path)[0]
    assert "does not exist" in errors_of(tmp_path / "missing.jsonl")[0]
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "a pipe" in errors_of(tmp_path / "pipe.jsonl")[0]


def test_an_unreadable_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [chat()])
    path.chmod(0)
    look = (
        "import sys\nfrom guild.validation.validate import validate_file\nprint(*validate_file(sys.argv[1], schema='chat_sft_v1').errors)"
    )
    done = subprocess.run([sys.executable, "-c", _DROP, "-c", look, str(path)], capture_output=True, text=True, timeout=60)
    if "cannot be dropped" in done.stderr:
        pytest.skip(done.stderr)
    assert f"Cannot read {path}: permission denied" in done.stdout


def test_a_file_above_the_size_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.jsonl"
    with path.open("wb") as file:
        file.write(GOOD)
        file.truncate(10_000_000_001)  # a hole: no disk is used
    (error,) = errors_of(path)
    assert "found 10,000,000,001 bytes; allowed: at most 10,000,000,000 bytes" in error


def test_a_line_above_the_limit_is_named_and_the_rest_read(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [chat(), chat("x" * 5000), "not json"])
    errors = errors_of(path, limits=FileLimits(line_bytes=4000))
    assert "line 2: found 5," in errors[0] and "at most 4,000 bytes in a line" in errors[0]
    assert "line 3" in errors[1]


def test_bytes_that_are_no_utf_8_are_named_with_their_line(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [chat(), GOOD.strip().replace(b"good day", b"caf\xe9 ole"), chat("b")])
    (error,) = errors_of(path)
    assert "line 2: found the byte 0xe9 at column" in error


def test_a_lone_surrogate_is_no_text(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [GOOD.strip().replace(b"good day", b"\\ud83d alone")])
    assert "line 1" in errors_of(path)[0]


def test_a_file_that_is_written_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", many(300))

    def writes(content: object) -> int:
        with path.open("ab") as file:
            file.write(GOOD)
        return 1

    errors = errors_of(path, level="standard", tokenizer=writes)
    assert "changed while it was read" in errors[-1]


def test_crlf_lines_and_a_last_line_without_newline_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(GOOD.strip() + b"\r\n" + GOOD.strip())
    assert errors_of(path) == ()
