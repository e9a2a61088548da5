"""One key scheme for every HTTP surface: a read key and an admin key, and nothing is allowed without one.

Where the keys are, first match per role:

1. environment ``MODELWRIGHT_READ_TOKEN`` / ``MODELWRIGHT_ADMIN_TOKEN`` (set but empty: nobody holds that role);
2. ``$MODELWRIGHT_HOME/tokens.json``, mode 0600, made by :func:`ensure_keys`.

The file holds the keys themselves, not digests, because its owner must be able to read and copy them; that is why a
file that anybody else may read is refused whole. Everything here fails closed: a missing, unreadable, empty, damaged
or too open file gives no key, and no key means that no request is allowed.

Framework-free: :meth:`KeyRing.authorize` takes the ``Authorization`` header and answers with a :class:`Decision`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from modelwright import home as places
from modelwright.errors import ModelwrightError

Role = Literal["read", "admin"]
ROLES: tuple[Role, ...] = ("read", "admin")
VARIABLES: dict[Role, str] = {"read": "MODELWRIGHT_READ_TOKEN", "admin": "MODELWRIGHT_ADMIN_TOKEN"}
MINIMUM_LENGTH = 16  # characters; a shorter key from the environment is treated as absent
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARD_BINDS = frozenset({"0.0.0.0", "::", ""})


class TokenError(ModelwrightError):
    """The key file cannot be made or used."""


@dataclass(frozen=True)
class Decision:
    """Answer to one request. ``status`` is the HTTP status to send when ``allowed`` is false (401 no valid key, 403
    not enough).
    """

    allowed: bool
    status: int
    reason: str
    role: Role | None = None


@dataclass(frozen=True)
class Keys:
    """Keys found for each role (None: nobody holds it) and, for a person, why something is missing."""

    read: str | None
    admin: str | None
    problems: tuple[str, ...] = ()


def load_keys(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Keys:
    """Read the keys in force now. Never raises: whatever is wrong appears in ``problems`` and its key is None."""
    env = os.environ if environ is None else environ
    problems: list[str] = []
    found: dict[Role, str | None] = {}
    from_file: dict[Role, str] | None = None
    for role in ROLES:
        variable = VARIABLES[role]
        if variable in env:
            found[role] = _acceptable(env[variable], f"environment variable {variable}", problems)
            continue
        if from_file is None:
            from_file = _read_file(path or places.tokens_path(), problems)
        found[role] = from_file.get(role)
    return Keys(read=found["read"], admin=found["admin"], problems=tuple(problems))


def ensure_keys(path: Path | None = None) -> Path:
    """Create the key file if there is none (default: in `MODELWRIGHT_HOME`); return its path.

    Raises:
        TokenError: a file is there but unusable. It is never overwritten, since somebody may hold its keys.
    """
    path = path or places.tokens_path()
    places.ensure_folder(path.parent)
    if not path.exists():
        try:
            _create(path)
        except FileExistsError:
            pass  # another process made it between the two lines; its keys are as good as ours
    problems: list[str] = []
    _read_file(path, problems)
    if problems:
        raise TokenError("\n".join(problems))
    return path


def rotate(role: Role, path: Path | None = None) -> str:
    """Replace one role's key by a new one and return it; surfaces in operation accept it from their next request on."""
    path = ensure_keys(path)
    problems: list[str] = []
    keys = _read_file(path, problems)
    keys[role] = new_key()
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    staged.unlink(missing_ok=True)
    _create(staged, keys)
    os.replace(staged, path)
    return keys[role]


def new_key() -> str:
    """A new random key: 256 bits, safe in a URL and a header."""
    return secrets.token_urlsafe(32)


class KeyRing:
    """The keys of one HTTP surface. Reads them again for every decision, so that a rotated or removed key counts at
    once.
    """

    def __init__(self, path: Path | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._environ = environ

    def authorize(self, header: str | None, need: Role) -> Decision:
        """Decide on a request.

        Args:
            header: value of the ``Authorization`` header, ``Bearer <key>``, or None when it was not sent.
            need: ``read`` to look, ``admin`` to change something. The admin key also reads.
        """
        if need not in ROLES:
            raise ValueError(f"need is {need!r}; allowed are 'read' and 'admin'")
        keys = load_keys(self._path, self._environ)
        presented = _bearer(header)
        # Both comparisons always run, on digests of equal length, so that time says nothing about either key.
        is_admin = _matches(presented, keys.admin)
        is_read = _matches(presented, keys.read)
        role: Role | None = "admin" if is_admin else "read" if is_read else None
        if keys.read is None and keys.admin is None:
            why = "; ".join(keys.problems) or "no key is configured"
            return Decision(False, 401, f"nothing is allowed: {why}")
        if presented is None:
            return Decision(False, 401, "no key was sent; send the header 'Authorization: Bearer <key>'")
        if role is None:
            return Decision(False, 401, "the key that was sent is not a key of this installation")
        if need == "admin" and role != "admin":
            return Decision(False, 403, "the read key may look but not change anything; use the admin key", role)
        return Decision(True, 200, f"{role} key", role)


def check_host_origin(host: str | None, origin: str | None, bind: tuple[str, int], allowed_hosts: Sequence[str] = ()) -> Decision:
    """Check the ``Host`` and ``Origin`` headers of a request, against DNS rebinding and cross-site requests.

    Args:
        host: ``Host`` header (``name`` or ``name:port``), or None.
        origin: ``Origin`` header, or None when absent (programs other than browsers do not send it).
        bind: address and port the server listens on.
        allowed_hosts: further names (``name`` or ``name:port``) a user allows, needed when bound to every address.
    """
    address, port = bind
    named = _host_port(host)
    if named is None:
        return Decision(False, 400, "the request names no valid Host")
    allowed = _allowed_pairs(address, port, allowed_hosts)
    if (named[0], named[1] if named[1] is not None else port) not in allowed:
        names = ", ".join(sorted(f"{name}:{number}" for name, number in allowed))
        return Decision(False, 421, f"Host {host!r} is not served here; allowed are {names}")
    if origin is None:
        return Decision(True, 200, "host accepted, no origin")
    parts = urlsplit(origin)
    try:
        source = (parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme))
    except ValueError:
        source = (None, None)
    default_port = 443 if parts.scheme == "https" else 80
    same = source == (named[0], named[1] if named[1] is not None else default_port)
    if parts.scheme not in ("http", "https") or not (same or source in allowed):
        return Decision(False, 403, f"Origin {origin!r} is another site; requests from other sites are refused")
    return Decision(True, 200, "host and origin accepted")


def _acceptable(key: str, source: str, problems: list[str]) -> str | None:
    if len(key) >= MINIMUM_LENGTH and key == key.strip():
        return key
    what = "empty" if not key.strip() else f"{len(key)} characters long or has spaces around it"
    problems.append(f"{source} is {what}; a key has at least {MINIMUM_LENGTH} characters, so this role stays closed")
    return None


def _read_file(path: Path, problems: list[str]) -> dict[Role, str]:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        problems.append(f"{path} does not exist")
        return {}
    except OSError as error:
        problems.append(f"{path} cannot be read ({error.strerror})")
        return {}
    with os.fdopen(descriptor, "rb") as handle:
        state = os.fstat(handle.fileno())
        if os.name == "posix" and stat.S_IMODE(state.st_mode) & 0o077:
            problems.append(f"{path} is open to other users (mode {stat.S_IMODE(state.st_mode):o}); run: chmod 600 {path}")
            return {}
        content = handle.read(65536)
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        problems.append(f"{path} is not a JSON object with the keys 'read' and 'admin'; remove it to have a new one made")
        return {}
    keys: dict[Role, str] = {}
    for role in ROLES:
        value = document.get(role)
        key = _acceptable(value if isinstance(value, str) else "", f"{path}: {role}", problems)
        if key is not None:
            keys[role] = key
    return keys


def _create(path: Path, keys: Mapping[Role, str] | None = None) -> None:
    chosen = dict(keys) if keys else {role: new_key() for role in ROLES}
    document = json.dumps({"schema_version": 1, **chosen}, indent=2) + "\n"
    # A link from a complete staged file, so that nobody can read a half-written one under the real name.
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(document)
            handle.flush()
            os.fsync(handle.fileno())
        os.link(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def _bearer(header: str | None) -> str | None:
    scheme, _, key = (header or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def _matches(presented: str | None, key: str | None) -> bool:
    left = hashlib.sha256((presented or "").encode("utf-8", "surrogateescape")).digest()
    right = hashlib.sha256((key or "").encode("utf-8", "surrogateescape")).digest()
    return hmac.compare_digest(left, right) and presented is not None and key is not None


def _host_port(host: str | None) -> tuple[str, int | None] | None:
    if not host or any(mark in host for mark in "/@?# \\"):
        return None
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    return (name.rstrip("."), port) if name else None


def _allowed_pairs(address: str, port: int, extra: Sequence[str]) -> set[tuple[str | None, int | None]]:
    pairs: set[tuple[str | None, int | None]] = {(name, port) for name in LOOPBACK_NAMES}
    if address not in WILDCARD_BINDS:
        pairs.add((address.lower(), port))
    for text in extra:
        named = _host_port(text)
        if named is not None:
            pairs.add((named[0], named[1] if named[1] is not None else port))
    return pairs
