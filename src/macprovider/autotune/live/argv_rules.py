"""Which command lines are a provider that serves, and which are an autotune. Arithmetic on words: no process is looked at. (8.1)"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Literal

Role = Literal["serve", "autotune", "other"]

_PYTHON = re.compile(r"(?:python|pypy)[\d.]*t?", re.IGNORECASE)
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh"})
_SCRIPTS = {"macprovider-cli": (), "modelwright": ("provider",)}
"""Program → the words before the command of the provider."""
_MODULES = {"macprovider.cli": (), "modelwright.cli": ("provider",)}
_COMMANDS = frozenset({"serve", "models", "autotune", "help"})


def role_of(argv: Sequence[str]) -> Role:
    """What a process with this command line is to autotune.

    Serving are `macprovider-cli serve …`, also through an interpreter (`python …/macprovider-cli serve`), as a module
    (`python -m macprovider.cli serve`), and `modelwright provider serve …` in the same forms. The first command word decides:
    `autotune --candidate-models serve` is an autotune, and an editor with such a file open is neither.
    """
    words = _command_words(argv)
    command = next((word for word in words or () if word in _COMMANDS), None)
    return "serve" if command == "serve" else "autotune" if command == "autotune" else "other"


def _command_words(argv: Sequence[str]) -> Sequence[str] | None:
    """The words behind the provider's own program name; None for any other program."""
    if not argv or not argv[0]:
        return None
    program = PurePath(argv[0]).name.lstrip("-")
    if program in _SCRIPTS:
        return _behind(_SCRIPTS[program], argv[1:])
    if _PYTHON.fullmatch(program):
        return _python_words(argv[1:])
    if program in _SHELLS:
        return _script_words([word for word in argv[1:2] if not word.startswith("-")] and argv[1:])
    return None


def _python_words(words: Sequence[str]) -> Sequence[str] | None:
    """Behind `python`: options, then a script or `-m module`; `-c` is a program of its own."""
    place = 0
    while place < len(words):
        word = words[place]
        if not word.startswith("-") or word == "-":
            return _script_words(words[place:])
        place += 1
        if word == "--":
            return _script_words(words[place:])
        if word.startswith("--"):
            place += word == "--check-hash-based-pycs"
            continue
        taken = re.fullmatch(r"-([^cmWX]*)([cmWX])(.*)", word)
        if taken is None:
            continue
        kind, value = taken[2], taken[3]
        if kind == "c":
            return None
        if kind == "m":
            named = [value, *words[place:]] if value else list(words[place:])
            return _behind(_MODULES[named[0]], named[1:]) if named and named[0] in _MODULES else None
        place += not value
    return None


def _script_words(words: Sequence[str]) -> Sequence[str] | None:
    if not words:
        return None
    path = PurePath(words[0])
    if path.name in _SCRIPTS:
        return _behind(_SCRIPTS[path.name], words[1:])
    module = ".".join(path.with_suffix("").parts[-2:])  # python src/macprovider/cli.py serve
    return _behind(_MODULES[module], words[1:]) if path.suffix == ".py" and module in _MODULES else None


def _behind(leading: Sequence[str], words: Sequence[str]) -> Sequence[str] | None:
    return words[len(leading) :] if list(words[: len(leading)]) == list(leading) else None
