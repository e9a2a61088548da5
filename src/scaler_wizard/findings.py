"""Collecting everything that is wrong with a job, so that it is said at once.

A wrong setting is a `Fault`; what another part of the program has already put in words (a model that does not load, a contract
that is refused, a writer that is alive) is kept as the error it is, and keeps its own exit code when nothing else is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from modelwright.errors import ConfigError, Fault, LoadError, ModelwrightError, RunLockedError, UsageError
from scaler_wizard.contract import ContractNotAcceptedError

T = TypeVar("T")
_FIRST: tuple[type[ModelwrightError], ...] = (RunLockedError, ContractNotAcceptedError, LoadError)  # whose exit code counts, of several


@dataclass(frozen=True)
class Said(Fault):
    """A fault that is a sentence already: `found` holds all of it."""

    def sentence(self) -> str:
        return self.found


class Findings:
    """Faults and errors met so far. Every check adds to them and returns what it could find out, so that the later ones can go on."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.faults: list[Fault] = list(faults)
        self.errors: list[ModelwrightError] = []

    def __bool__(self) -> bool:
        return bool(self.faults or self.errors)

    def mentions(self, path: str) -> bool:
        """Whether something was found at `path` (a flag or a dotted path) already."""
        return any(fault.path == path for fault in self.faults)

    def add(self, path: str, found: str, allowed: str, todo: str = "") -> None:
        self.faults.append(Fault(path, found, allowed, todo))

    def guard(self, call: Callable[[], T]) -> T | None:
        """The answer of `call`, or None when it raised LoadError, ContractNotAcceptedError or ConfigError, which are kept."""
        try:
            return call()
        except (LoadError, ContractNotAcceptedError) as error:
            self.errors.append(error)
        except ConfigError as error:
            self.faults.extend(error.faults)
        return None

    def guard_usage(self, path: str, call: Callable[[], T]) -> T | None:
        """As `guard`, for a call about the flag `path` that raises UsageError: `… found; allowed`."""
        try:
            return call()
        except ConfigError as error:
            self.faults.extend(error.faults)
        except UsageError as error:
            found, _, allowed = str(error).rstrip(".").partition("; ")
            found = found.removeprefix("The dataset has ").removeprefix("The dataset ")
            self.add(path, found, allowed.removeprefix("allowed are ") or "see --help")
        return None

    def raise_any(self) -> None:
        """Raise all that was found: ConfigError when a setting is wrong, else the error that counts first with the lines of the
        others.
        """
        if self.faults:
            said = [Said(type(error).__name__, str(error), "") for error in self.errors]
            raise ConfigError(list(dict.fromkeys([*self.faults, *said])))
        if not self.errors:
            return
        first, *others = sorted(self.errors, key=lambda error: _FIRST.index(type(error)) if type(error) in _FIRST else 1)
        if others:
            first.args = ("\n".join(str(error) for error in (first, *others)),)
        raise first
