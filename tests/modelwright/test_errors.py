"""Errors are sentences with exit codes."""

from __future__ import annotations

import errno
import os

import pytest

from modelwright import errors
from modelwright.errors import ConfigError, DiskFullError, Fault, MissingFileError, Paused, StorageError


def test_fault_is_one_sentence_with_what_was_found_allowed_and_to_do() -> None:
    fault = Fault("scaling.lora_rank", "600", "1 to 512", "Lower it")
    assert fault.sentence() == "scaling.lora_rank: found 600; allowed: 1 to 512. Lower it."
    assert Fault("a", "x", "y").sentence() == "a: found x; allowed: y."


def test_config_error_reports_every_fault_and_exits_2() -> None:
    faults = [Fault(f"key{number}", "x", "y") for number in range(5)]
    error = ConfigError(faults)
    assert str(error).splitlines() == [fault.sentence() for fault in faults]
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("kind", "code"),
    [("ModelwrightError", 1), ("UsageError", 2), ("LoadError", 5), ("RunLockedError", 1), ("StorageError", 1)],
)
def test_exit_codes(kind: str, code: int) -> None:
    assert getattr(errors, kind)("sentence").exit_code == code


def test_paused_carries_its_reason_and_exit_code() -> None:
    paused = Paused("gate")
    assert (paused.exit_code, paused.reason) == (9, "gate")
    assert "gate" in str(paused)


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, DiskFullError, "no space left"),
        (errno.EDQUOT, DiskFullError, "quota"),
        (errno.ENOENT, MissingFileError, "does not exist"),
        (errno.EROFS, StorageError, "read-only"),
        (errno.EISDIR, StorageError, "a directory stands"),
        (errno.ENOTDIR, StorageError, "not a directory"),
        (errno.EIO, StorageError, "input/output error"),
        (errno.ENOTEMPTY, StorageError, "not empty"),
    ],
)
def test_every_os_error_becomes_a_sentence_naming_the_path(number: int, kind: type, words: str) -> None:
    error = errors.storage_error(OSError(number, os.strerror(number)), "/some/file", "write")
    assert type(error) is kind
    assert words in str(error).lower() or words in str(error)
    assert str(error).startswith("Cannot write /some/file: ")


def test_a_full_disk_is_recognised_behind_other_errors() -> None:
    text_only = RuntimeError("I/O error: No space left on device (os error 28)")
    assert errors.is_disk_full(text_only)
    outer = ValueError("cannot serialise")
    outer.__cause__ = OSError(errno.ENOSPC, "full")
    assert errors.is_disk_full(outer)
    assert not errors.is_disk_full(RuntimeError("shape mismatch"))


def test_a_full_disk_in_the_block_becomes_a_pause() -> None:
    with pytest.raises(Paused) as caught, errors.pausing_on_full_disk():
        raise OSError(errno.ENOSPC, "full")
    assert caught.value.reason == "disk"
    with pytest.raises(KeyError), errors.pausing_on_full_disk():
        raise KeyError("other")
