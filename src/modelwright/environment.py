"""What a run record says about code, packages and host, with secrets left out."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import modelwright

MAIN_PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "huggingface_hub",
    "trl", "snorkel", "numpy", "pydantic", "orjson", "apsw", "bitsandbytes", "deepspeed", "openvino",
)  # fmt: skip
REDACTED = "[redacted]"

_SECRET_ENDINGS = frozenset({
    "token", "secret", "password", "passwd", "passphrase", "pw", "apikey", "key", "credential", "credentials",
    "auth", "bearer",
})  # fmt: skip
_HARMLESS_NAMES = frozenset({
    "eos-token", "bos-token", "pad-token", "unk-token", "sep-token", "cls-token", "mask-token", "stop-token",
    "sort-key", "group-key", "label-key", "text-key", "public-key",
})  # fmt: skip
_SECRET_VALUE = re.compile(
    r"^(hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|xox[abpr]-[\w-]{10,}|AKIA[A-Z0-9]{12,}|Bearer\s+\S+"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)$"
)
_URL_PASSWORD = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")
_ASSIGNMENT = re.compile(r"^(-{0,2}[A-Za-z][\w.-]*)=(.*)$", re.DOTALL)


def names_secret(name: str) -> bool:
    """Whether a flag, variable or config key of this name holds a secret: its last word is token, key, password or
    the like."""
    plain = re.sub(r"[_.]+", "-", name.lstrip("-")).lower()
    return plain not in _HARMLESS_NAMES and plain.rsplit("-", 1)[-1] in _SECRET_ENDINGS


def redact(argv: Sequence[str]) -> list[str]:
    """The command line with every secret replaced by `[redacted]`: values behind or inside flags such as --token and
    --api-key, NAME=value of secret variables, passwords in URLs, and values of well-known token shapes."""
    clean: list[str] = []
    hide_next = False
    for word in argv:
        assignment = _ASSIGNMENT.match(word)
        if hide_next and not word.startswith("--"):
            clean.append(REDACTED)
            hide_next = False
            continue
        hide_next = word.startswith("-") and not assignment and names_secret(word)
        if assignment and (names_secret(assignment[1]) or _SECRET_VALUE.match(assignment[2])):
            clean.append(f"{assignment[1]}={REDACTED}")
        elif _SECRET_VALUE.match(word):
            clean.append(REDACTED)
        else:
            clean.append(_URL_PASSWORD.sub(REDACTED, word))
    return clean


def redact_config(value: Any, name: str = "") -> Any:
    """A copy of plain config data in which strings under secret names, and strings that look like secrets, are
    replaced."""
    if isinstance(value, dict):
        return {key: redact_config(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_config(item, name) for item in value]
    if isinstance(value, str) and value and (names_secret(name) or _SECRET_VALUE.match(value)):
        return REDACTED
    return _URL_PASSWORD.sub(REDACTED, value) if isinstance(value, str) else value


def code_version() -> dict[str, str | None]:
    """`version` of this distribution and, when it runs from its own checkout, `git`: the commit, with `-dirty` for
    local changes."""
    return {"version": modelwright.__version__, "git": _git_commit(Path(__file__).resolve().parents[2])}


def _git_commit(checkout: Path) -> str | None:
    """The commit of a checkout whose root is `checkout`; None when that is not a git checkout or git does not answer
    in 5 s."""
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def package_versions() -> dict[str, str]:
    """Version of every main part that is installed, without importing any."""
    versions: dict[str, str] = {}
    for name in MAIN_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def capture_environment() -> dict[str, Any]:
    """`{python, implementation, packages, platform, machine, hostname, cpu_count}` of this process."""
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "packages": package_versions(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "hostname": socket.gethostname(),
        "cpu_count": os.cpu_count(),
    }
