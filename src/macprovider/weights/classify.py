"""What a failed fetch means: transient (try the next model, or again later) or integrity (stop: the weights are wrong). (7.3, D18)

Pure: exceptions are known by their class names, so that neither the hub's client nor its HTTP library is imported here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from modelwright.errors import DISK_FULL_ERRNOS, DamagedFileError, ModelwrightError, StorageError

Kind = Literal["transient", "integrity"]

EXIT_TRANSIENT = 4
EXIT_INTEGRITY = 7

_CUT = frozenset({"RemoteProtocolError", "ReadError", "IncompleteRead", "ChunkedEncodingError", "StreamError"})
_TIMEOUTS = frozenset({"TimeoutException", "TimeoutError"})
_NO_NETWORK = frozenset({"ConnectError", "NetworkError", "ProxyError", "ConnectionError", "gaierror"})
_NOT_FOUND = frozenset({"RepositoryNotFoundError", "RevisionNotFoundError"})
_DISK_FULL = DISK_FULL_ERRNOS | {errno.EFBIG}
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})


class TransientFetchError(ModelwrightError):
    """The weights could not be fetched now, by no fault of theirs; one sentence."""

    exit_code = EXIT_TRANSIENT


class WeightIntegrityError(ModelwrightError):
    """The weights are there, or were delivered, and are not what they must be; one sentence."""

    exit_code = EXIT_INTEGRITY


@dataclass(frozen=True)
class Failure:
    """One failed fetch. sentence: for the operator, with what to do. connection: no answer came, so asking again at once may help."""

    kind: Kind
    sentence: str
    connection: bool = False

    def error(self) -> ModelwrightError:
        """The exception that carries the exit code of its kind."""
        return TransientFetchError(self.sentence) if self.kind == "transient" else WeightIntegrityError(self.sentence)


def classify_status(status: int, model: str, *, code: str = "", retry_after: str = "") -> Failure:
    """A refusal of the hub. status: HTTP. code: its `X-Error-Code` header. Every refusal is transient: none says that weights are
    wrong.
    """
    if code == "GatedRepo":
        text = f"The hub refused {model}: the repository is gated; accept its terms on its page and log in by `hf auth login`."
    elif code == "RevisionNotFound":
        text = f"The hub has {model} but not this revision; check --revision."
    elif code == "EntryNotFound":
        text = f"The hub lists a file of {model} and then did not find it (HTTP {status}); try again later."
    elif code == "RepoNotFound" or status == 404:
        text = f"The hub has no repository {model}, or hides it from you (HTTP {status}); check its name, or log in by `hf auth login`."
    elif status in (401, 403):
        text = f"The hub refused {model} for these credentials (HTTP {status}); log in by `hf auth login`, or accept the terms on its page."
    elif status == 429:
        wait = f" in {retry_after} s" if retry_after.strip().isdigit() else " later"
        text = f"The hub answered with too many requests (HTTP 429) while {model} was fetched; try again{wait}."
    elif status == 408:
        text = f"The hub waited too long for the request for {model} (HTTP 408); try again."
    elif status >= 500:
        text = f"The hub failed (HTTP {status}) while {model} was fetched; try again later."
    else:
        text = f"The hub refused the request for {model} (HTTP {status}); try again, or check the endpoint in HF_ENDPOINT."
    return Failure("transient", text)


def classify_error(error: BaseException, model: str) -> Failure | None:
    """What `error`, or what caused it, means for the fetch of `model`; None for an exception that is a defect of the program."""
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, TransientFetchError | WeightIntegrityError):
            return Failure("transient" if isinstance(link, TransientFetchError) else "integrity", str(link))
        if isinstance(link, DamagedFileError):
            return Failure("integrity", str(link))
        names = {kind.__name__ for kind in type(link).__mro__}
        if "SafetensorError" in names or "SafetensorsParsingError" in names:
            return Failure("integrity", f"A weight file of {model} has an unreadable safetensors header ({_first_line(link)}).")
        if "Consistency check failed" in str(link):
            return Failure("integrity", f"The hub delivered a file of {model} in the wrong size: {_first_line(link)}")
        status = getattr(getattr(link, "response", None), "status_code", None)
        if isinstance(status, int):
            headers: Any = getattr(getattr(link, "response", None), "headers", {})
            return classify_status(status, model, code=headers.get("X-Error-Code", ""), retry_after=headers.get("Retry-After", ""))
        failure = _of_system(link, names, model)
        if failure is not None:
            return failure
    if any(kind.__name__ in ("LocalEntryNotFoundError", "RevisionResolutionError") for link in chain for kind in type(link).__mro__):
        return Failure("transient", f"{model} is not complete in the weight cache and the hub could not be asked; connect and try again.")
    return None


def _of_system(link: BaseException, names: set[str], model: str) -> Failure | None:
    number = getattr(link, "errno", None)
    if number in _DISK_FULL or "No space left on device" in str(link):
        return Failure(
            "transient",
            f"The disk is full (or a quota or file size limit is reached) while {model} is fetched; free space, then pull again.",
        )
    if "OfflineModeIsEnabled" in names:
        return Failure("transient", f"{model} is not complete in the weight cache and offline mode is on; pull it once with a network.")
    if names & _TIMEOUTS or number == errno.ETIMEDOUT:
        return Failure("transient", f"The hub did not answer in time while {model} was fetched; try again, or raise --timeout.", True)
    if names & _CUT or number in (errno.ECONNRESET, errno.EPIPE):
        return Failure(
            "transient",
            f"The connection was cut while {model} was fetched ({_first_line(link)}); pull again, it goes on where it stopped.",
            True,
        )
    if names & _NO_NETWORK or number in _UNREACHABLE:
        return Failure(
            "transient",
            f"The hub cannot be reached ({_first_line(link)}), so {model} was not fetched; check network, DNS and HF_ENDPOINT.",
            True,
        )
    if names & _NOT_FOUND:
        return classify_status(404, model)
    if isinstance(link, StorageError) or (isinstance(link, OSError) and number is not None):
        return Failure(
            "transient",
            f"The weight cache could not be used while {model} was fetched: {_first_line(link).rstrip('.')}; repair it and pull again.",
        )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
