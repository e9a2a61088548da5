"""Nothing is allowed without a key; the key file must be private; hosts and origins are checked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.tokens import KeyRing, TokenError, check_host_origin, ensure_keys, load_keys, rotate

BIND = ("127.0.0.1", 8765)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return ensure_keys(tmp_path / "home" / "tokens.json")


def keys_of(file: Path) -> dict[str, str]:
    return json.loads(file.read_text())


def test_the_file_is_private_and_made_once(file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_text()
    assert ensure_keys(file).read_text() == before
    keys = keys_of(file)
    assert keys["read"] != keys["admin"] and len(keys["read"]) >= 40
    assert [path.name for path in file.parent.iterdir()] == ["tokens.json"]


def test_roles(file: Path) -> None:
    ring, keys = KeyRing(file, {}), keys_of(file)
    assert ring.authorize(f"Bearer {keys['read']}", "read").allowed
    assert ring.authorize(f"bearer {keys['admin']}", "read").allowed
    assert ring.authorize(f"Bearer {keys['admin']}", "admin").allowed
    weak = ring.authorize(f"Bearer {keys['read']}", "admin")
    assert not weak.allowed and weak.status == 403 and "admin key" in weak.reason
    for header in (None, "", "Bearer", "Bearer ", keys["read"], f"Basic {keys['read']}", "Bearer wrong"):
        decision = ring.authorize(header, "read")
        assert not decision.allowed and decision.status == 401


@given(st.text(max_size=60))
def test_no_text_but_the_keys_opens_anything(text: str) -> None:
    ring = KeyRing(Path("/nonexistent"), {"MODELWRIGHT_READ_TOKEN": "r" * 20, "MODELWRIGHT_ADMIN_TOKEN": "a" * 20})
    allowed = ring.authorize(f"Bearer {text}", "read").allowed
    assert allowed == (text.strip() in ("r" * 20, "a" * 20))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_file_others_can_read_gives_no_key(file: Path, mode: int) -> None:
    key = keys_of(file)["admin"]
    file.chmod(mode)
    decision = KeyRing(file, {}).authorize(f"Bearer {key}", "read")
    assert not decision.allowed and "chmod 600" in decision.reason
    with pytest.raises(TokenError, match="chmod 600"):
        ensure_keys(file)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"read": "", "admin": ""}', '{"read": 3}', '{"read": "short"}'])
def test_an_unusable_file_gives_no_key(file: Path, content: str) -> None:
    file.write_text(content)
    keys = load_keys(file, {})
    assert keys.read is None and keys.admin is None and keys.problems
    for header in (None, "Bearer ", "Bearer short", "Bearer None"):
        assert not KeyRing(file, {}).authorize(header, "read").allowed


def test_a_missing_file_or_a_link_gives_no_key(tmp_path: Path, file: Path) -> None:
    assert not KeyRing(tmp_path / "none", {}).authorize("Bearer x", "read").allowed
    link = tmp_path / "link.json"
    link.symlink_to(file)
    assert load_keys(link, {}).admin is None


def test_the_environment_comes_first_and_empty_means_nobody(file: Path) -> None:
    keys = keys_of(file)
    ring = KeyRing(file, {"MODELWRIGHT_READ_TOKEN": "from-the-environment"})
    assert ring.authorize("Bearer from-the-environment", "read").role == "read"
    assert not ring.authorize(f"Bearer {keys['read']}", "read").allowed
    assert ring.authorize(f"Bearer {keys['admin']}", "admin").allowed
    closed = KeyRing(file, {"MODELWRIGHT_ADMIN_TOKEN": ""})
    assert closed.authorize(f"Bearer {keys['admin']}", "admin").status == 401
    assert not closed.authorize("Bearer ", "admin").allowed


def test_a_rotated_key_counts_at_once(file: Path) -> None:
    ring, old = KeyRing(file, {}), keys_of(file)
    new = rotate("read", file)
    assert not ring.authorize(f"Bearer {old['read']}", "read").allowed
    assert ring.authorize(f"Bearer {new}", "read").allowed
    assert ring.authorize(f"Bearer {old['admin']}", "admin").allowed
    assert file.stat().st_mode & 0o777 == 0o600


def test_two_processes_making_the_file_agree(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                ensure_keys(path)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
    assert load_keys(path, {}).problems == ()


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "LOCALHOST:8765", "[::1]:8765", "localhost"])
def test_our_own_hosts_are_accepted(host: str) -> None:
    assert check_host_origin(host, None, BIND).allowed
    assert check_host_origin(host, "http://localhost:8765", BIND).allowed


@pytest.mark.parametrize("host", [None, "", "evil.example:8765", "127.0.0.1:80", "a@127.0.0.1:8765", "127.0.0.1:8765/x", "x:y"])
def test_other_hosts_are_refused(host: str | None) -> None:
    assert not check_host_origin(host, None, BIND).allowed


@pytest.mark.parametrize("origin", ["null", "", "http://evil.example", "http://127.0.0.1:80", "file://", "ftp://127.0.0.1:8765"])
def test_other_origins_are_refused(origin: str) -> None:
    decision = check_host_origin("127.0.0.1:8765", origin, BIND)
    assert not decision.allowed and decision.status == 403


def test_a_wildcard_bind_serves_only_named_hosts() -> None:
    everywhere = ("0.0.0.0", 8765)
    assert not check_host_origin("10.0.0.5:8765", None, everywhere).allowed
    assert not check_host_origin("0.0.0.0:8765", None, everywhere).allowed
    assert check_host_origin("10.0.0.5:8765", "http://10.0.0.5:8765", everywhere, ["10.0.0.5"]).allowed
    assert check_host_origin("box.local", "https://box.local", ("10.0.0.5", 8765), ["box.local:443", "box.local"]).allowed
