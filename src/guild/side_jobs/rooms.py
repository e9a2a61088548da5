"""The other rooms' commands, as far as the guild needs to know them: how each is called, resumed, asked to stop, and what its exit codes
mean. A table; nothing of the rooms is imported. (issue "Build" 8; specs/guild.md 8.5)"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from guild.records.job_errors import UnknownKindError

Meaning = Literal["completed", "paused", "unfit", "failed", "stopped", "ended"]
"""What an exit code says: done; its state is saved; trying again would not help; trying again may help; ended by itself for a reason of
its own (a circuit breaker), and trying again would not help; ended because somebody asked."""
KILLED = "it was killed"


@dataclass(frozen=True)
class Room:
    """One kind of run. command: module and words after it. place: the flag that names where its results go, "" when it has none.
    contract: it writes a run directory there. below: the run directory is a folder of that place, named after a configuration file's
    own name, so it is found by looking. again: words that go on with what is there. asks: the request that makes it stop with its state
    saved, "" for a room that takes signals alone. cancels: the request that ends it for good. said: words that make it print its result
    as JSON. codes: exit codes beside 0; any other is a failure."""

    kind: str
    command: tuple[str, ...]
    place: str
    contract: bool = True
    below: bool = False
    again: tuple[str, ...] = ()
    asks: str = "pause"
    cancels: str = "pause"
    said: tuple[str, ...] = ()
    codes: Mapping[int, tuple[Meaning, str]] = field(default_factory=dict)

    def argv(self, arguments: Sequence[str], place: Path, *, resume: bool) -> list[str]:
        """The argument vector of a start. place: where its results go unless the arguments say so themselves. resume: something is there
        to go on with."""
        words = [word for word in arguments if word not in self.again]
        if self.place and not names(words, self.place):
            words += [self.place, str(place)]
        words += [word for word in self.said if word not in words]
        return [sys.executable, "-m", *self.command, *words, *(self.again if resume else ())]

    def meaning(self, code: int | None) -> tuple[Meaning, str]:
        """What an exit code means, and a sentence's middle. None or a negative code: killed."""
        if code == 0:
            return "completed", "it is completed"
        if code is None or code < 0:
            return "failed", KILLED if code is None else f"{KILLED} by signal {-code}"
        return self.codes.get(code, ("failed", f"it ended with code {code}"))


_MEDIC: dict[int, tuple[Meaning, str]] = {
    1: ("failed", "it failed"),
    2: ("unfit", "its configuration or its flags are refused"),
    3: ("paused", "it is paused"),
}
_TABLE = (
    Room(
        "scale", ("scaler_wizard.cli",), "--output-dir", again=("--resume",), cancels="stop", said=("--json",),
        codes={
            1: ("failed", "it failed, or its directory has another writer"),
            2: ("unfit", "its configuration or its flags are refused"),
            3: ("unfit", "its contract is refused"),
            4: ("unfit", "this hardware cannot hold the plan"),
            5: ("failed", "model or data could not be loaded"),
            6: ("stopped", "the circuit breaker stopped it"),
            7: ("ended", "a person or a signal ended it"),
            8: ("failed", "a rollback or a checkpoint failed"),
            9: ("paused", "it is paused"),
        },
    ),
    Room("medic_train", ("cachemedicpp.train",), "--run_dir", codes=_MEDIC),
    Room("medic_eval", ("cachemedicpp.eval",), "--run_dir", codes=_MEDIC),
    Room("sweep", ("cachemedicpp.sweep",), "--out_root", below=True, codes=_MEDIC),
    Room(
        "autotune", ("macprovider.cli", "autotune"), "", contract=False, again=("--resume",), asks="", cancels="", said=("--json",),
        codes={
            1: ("completed", "the recommendation that is stored is stale"),
            2: ("unfit", "its settings or its flags are refused"),
            3: ("stopped", "no model fits this machine"),
            4: ("failed", "another provider is in the way"),
            5: ("failed", "its time was over before a model was chosen"),
            6: ("completed", "its time was over with a partial recommendation"),
            7: ("unfit", "the weights are not what they should be"),
            8: ("completed", "it is tuned, but the configuration could not be written"),
            130: ("ended", "it was interrupted"),
        },
    ),
)  # fmt: skip
ROOMS: Mapping[str, Room] = MappingProxyType({room.kind: room for room in _TABLE})


def room_of(kind: str) -> Room:
    """The room of a job kind. Raises UnknownKindError."""
    try:
        return ROOMS[kind]
    except KeyError:
        raise UnknownKindError(kind, ROOMS) from None


def names(words: Sequence[str], flag: str) -> bool:
    """Whether a command line gives a flag a value."""
    return any(word == flag or word.startswith(f"{flag}=") for word in words)


def value_of(words: Sequence[str], flag: str) -> str | None:
    """The value that a command line gives to a flag, the last one; None when it does not."""
    found = None
    for number, word in enumerate(words):
        if word == flag and number + 1 < len(words):
            found = words[number + 1]
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found
