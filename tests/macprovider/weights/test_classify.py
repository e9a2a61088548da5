"""The table of 7.3: which failure is transient, which is integrity, which is a defect."""

from __future__ import annotations

import errno
import socket

import pytest

from macprovider.weights.classify import (
    Failure,
    TransientFetchError,
    WeightIntegrityError,
    classify_error,
    classify_status,
)
from modelwright.errors import DamagedFileError, DiskFullError


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "", "credentials"),
        (403, "", "credentials"),
        (401, "GatedRepo", "gated"),
        (403, "GatedRepo", "gated"),
        (404, "RepoNotFound", "no repository"),
        (401, "RepoNotFound", "no repository"),
        (404, "", "no repository"),
        (404, "RevisionNotFound", "--revision"),
        (404, "EntryNotFound", "lists a file"),
        (408, "", "408"),
        (429, "", "too many"),
        (500, "", "500"),
        (502, "", "502"),
        (503, "", "503"),
        (504, "", "504"),
        (418, "", "418"),
    ],
)
def test_every_refusal_is_transient_and_is_not_asked_again_at_once(status: int, code: str, words: str) -> None:
    failure = classify_status(status, "a/b", code=code)
    assert (failure.kind, failure.connection) == ("transient", False)
    assert words in failure.sentence and "a/b" in failure.sentence and failure.sentence.endswith(".")


def test_the_hubs_waiting_time_is_passed_on() -> None:
    assert "in 42 s" in classify_status(429, "a/b", retry_after="42").sentence
    assert "later" in classify_status(429, "a/b", retry_after="Wed, 21 Oct 2026 07:28:00 GMT").sentence


def by_name(name: str, *bases: type[BaseException]) -> type[BaseException]:
    return type(name, bases or (Exception,), {})


TRANSIENT = [
    by_name("ConnectError")("[Errno -2] Name or service not known"),
    by_name("ReadTimeout", by_name("TimeoutException"))("timed out"),
    by_name("RemoteProtocolError")("peer closed connection without sending complete message body"),
    by_name("ReadError", by_name("NetworkError"))("reset"),
    by_name("OfflineModeIsEnabled", ConnectionError)("offline"),
    by_name("RepositoryNotFoundError")("404"),
    by_name("LocalEntryNotFoundError", FileNotFoundError)("not in the cache"),
    socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    TimeoutError("timed out"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    OSError(errno.ENETUNREACH, "Network is unreachable"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EFBIG, "File too large"),
    OSError(errno.EACCES, "Permission denied"),
    OSError(errno.EROFS, "Read-only file system"),
    RuntimeError("IO Error: No space left on device (os error 28)"),
    DiskFullError("Cannot write x: no space left on the device or in the quota."),
    TransientFetchError("already known."),
]
INTEGRITY = [
    by_name("SafetensorError")("Error while deserializing header: HeaderTooLarge"),
    by_name("SafetensorsParsingError")("bad"),
    OSError("Consistency check failed: file should be of size 10 but has size 9 (x).\nThis is usually due to"),
    DamagedFileError("x.safetensors", "byte 3", "a header"),
    WeightIntegrityError("already known."),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: f"{type(error).__name__}-{error}"[:40])
def test_these_are_transient(error: BaseException) -> None:
    for outer in (error, raised(RuntimeError("something around it"), error)):
        failure = classify_error(outer, "a/b")
        assert failure is not None and failure.kind == "transient"
        assert "\n" not in failure.sentence and failure.sentence.endswith(".")
        assert failure.error().exit_code == 4


@pytest.mark.parametrize("error", INTEGRITY, ids=lambda error: type(error).__name__)
def test_these_are_integrity_failures(error: BaseException) -> None:
    for outer in (error, raised(RuntimeError("something around it"), error)):
        failure = classify_error(outer, "a/b")
        assert failure is not None and failure.kind == "integrity"
        assert "\n" not in failure.sentence
        assert failure.error().exit_code == 7


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), AssertionError(), AttributeError("x"), ZeroDivisionError()])
def test_a_defect_of_the_program_is_neither(error: BaseException) -> None:
    assert classify_error(error, "a/b") is None


@pytest.mark.parametrize("name", ["ConnectError", "RemoteProtocolError", "ReadTimeout", "WriteTimeout"])
def test_the_clients_real_exceptions_are_known(name: str) -> None:
    httpx = pytest.importorskip("httpx2")
    failure = classify_error(getattr(httpx, name)("x"), "a/b")
    assert failure is not None and failure.connection


def test_a_circle_of_causes_ends() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert classify_error(one, "a/b") is None


def test_a_failure_becomes_the_error_of_its_kind() -> None:
    assert isinstance(Failure("transient", "x").error(), TransientFetchError)
    assert isinstance(Failure("integrity", "x").error(), WeightIntegrityError)
