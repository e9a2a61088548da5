"""The hosts registry: lookups, errors instead of built-in addresses, and health by real connections."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import guild
from guild.errors import RefusedError, UnknownHostError, UnknownServiceError
from guild.hosts.health import check_health
from guild.hosts.registry import HostRegistry, load_registry
from guild.places import Places
from modelwright.errors import ConfigError, DamagedFileError, MissingFileError
from modelwright.identity import ProcessIdentity, boot_id, current_identity, process_start


def document(**changes: Any) -> dict[str, Any]:
    """Two machines: `forge` trains, `arena` serves; this machine is `forge`."""
    forge = {
        "name": "Forge", "host": "forge.lan", "role": "trainer", "base_dir": "/data/guild", "devices": {"trainer": "cuda:0"},
        "services": {"vault": {"port": 8767}, "training": {"type": "process", "pid_file": ".daemon.pid"}, "warden": {"port": 8760}},
    }  # fmt: skip
    arena = {
        "host": "10.0.0.3", "role": "inference",
        "services": {"inference": {"port": 8765, "path": "/v1/"}, "warden": {"port": 8761}, "vault": {"port": 9999}},
    }  # fmt: skip
    base = {"version": 3, "warden_port": 8760, "local_host": "forge", "default_trainer": "forge", "default_inference": "arena"}
    return {**base, "hosts": {"forge": forge, "arena": arena}, **changes}


def registry(tmp_path: Path, **changes: Any) -> HostRegistry:
    places = Places.of(tmp_path)
    places.hosts.parent.mkdir(parents=True, exist_ok=True)
    places.hosts.write_text(json.dumps(document(**changes)))
    return load_registry(places)


def test_a_service_is_looked_up_here_then_by_its_default_then_anywhere(tmp_path: Path) -> None:
    here = registry(tmp_path)
    assert here.get_service_url("warden") == "http://forge.lan:8760"
    assert here.get_service_url("inference") == "http://10.0.0.3:8765/v1"
    assert here.get_service_url("warden", "arena") == "http://10.0.0.3:8761"
    there = registry(tmp_path, local_host="arena")
    assert there.get_service_url("warden") == "http://10.0.0.3:8761"
    assert there.get_service_url("vault") == "http://10.0.0.3:9999"  # local first, even before the default trainer
    del (content := document(local_host="arena"))["hosts"]["arena"]["services"]["vault"]
    (tmp_path / "config" / "hosts.json").write_text(json.dumps(content))
    assert load_registry(Places.of(tmp_path)).get_service_url("vault") == "http://forge.lan:8767"


def test_hosts_by_id_role_and_locality(tmp_path: Path) -> None:
    found = registry(tmp_path)
    assert found.list_hosts() == ("forge", "arena")
    assert found.list_by_role("trainer") == ("forge",) and found.list_by_role("inference") == ("arena",)
    assert found.get_local_host() == found.get_trainer() == found.get_host("forge")
    assert found.is_local("forge") and not found.is_local("arena")
    assert found.get_host_base_dir("forge") == "/data/guild"
    assert found.device("trainer") == "cuda:0"
    with pytest.raises(RefusedError, match=r"hosts\.arena\.devices\.inference"):
        found.device("inference")
    with pytest.raises(RefusedError, match=r"hosts\.arena\.base_dir"):
        found.get_host_base_dir("arena")


def test_a_hybrid_host_has_both_roles(tmp_path: Path) -> None:
    hosts = document()["hosts"]
    hosts["forge"]["role"] = "hybrid"
    assert registry(tmp_path, hosts=hosts).list_by_role("inference") == ("forge", "arena")


def test_item_12_unknown_hosts_and_services_are_typed_errors(tmp_path: Path) -> None:
    found = registry(tmp_path)
    with pytest.raises(UnknownServiceError, match="Did you mean 'warden'") as unknown:
        found.get_service_url("wardn")
    assert set(unknown.value.known) == {"inference", "training", "vault", "warden"} and unknown.value.exit_code == 1
    with pytest.raises(UnknownServiceError, match="host Forge"):
        found.get_service_url("inference", "forge")
    for call in (found.get_host, found.is_local, found.get_host_base_dir):
        with pytest.raises(UnknownHostError, match="forge, arena"):
            call("nas")
    with pytest.raises(RefusedError, match="no port"):
        found.get_service_url("training")


def test_item_25_without_an_inference_entry_lookups_fail_clearly(tmp_path: Path) -> None:
    only = {"forge": document()["hosts"]["forge"]}
    found = registry(tmp_path, hosts=only, default_inference="")
    with pytest.raises(UnknownServiceError, match="found 'inference'; allowed"):
        found.get_service_url("inference")
    with pytest.raises(RefusedError, match="default_inference"):
        found.get_inference()
    with pytest.raises(ConfigError, match="default_inference: found 'arena'; allowed: forge"):
        registry(tmp_path, hosts=only)


def test_a_missing_or_empty_registry_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="guild init"):
        load_registry(Places.of(tmp_path))
    with pytest.raises(ConfigError, match="at least one host"):
        registry(tmp_path, hosts={})
    Places.of(tmp_path).hosts.write_text("[]")
    with pytest.raises(DamagedFileError):
        load_registry(Places.of(tmp_path))


def test_every_fault_of_a_registry_is_named_at_once(tmp_path: Path) -> None:
    hosts = {"forge": {"role": "king", "host": "", "services": {"vault": {"port": 99999}}}}
    with pytest.raises(ConfigError) as refused:
        registry(tmp_path, version=2, local_host="nobody", default_trainer="nas", hosts=hosts)
    paths = {fault.path for fault in refused.value.faults}
    expected = {"version", "local_host", "default_trainer", "default_inference", "hosts.forge.role", "hosts.forge.host"}
    assert expected | {"hosts.forge.services.vault.port"} <= paths


def test_unknown_fields_of_a_newer_registry_are_kept(tmp_path: Path) -> None:
    found = registry(tmp_path, colour="blue")
    assert found.document.model_dump()["colour"] == "blue"


# --- health


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response({"/health": 200, "/sick": 503}.get(self.path, 404))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def health(tmp_path: Path, services: dict[str, Any], *, local: bool = True) -> tuple[str, dict[str, str]]:
    host = {"host": "127.0.0.1", "role": "hybrid", "base_dir": str(tmp_path), "services": services}
    hosts = {"here": host, "other": {"host": "other.lan", "role": "storage"}}
    found = registry(tmp_path, hosts=hosts, local_host="here" if local else "other", default_trainer="", default_inference="")
    seen = check_health(found, "here", timeout=5)
    assert [service.service for service in seen.services] == list(services)
    return seen.status, {service.service: service.status for service in seen.services}


def test_health_by_http_and_by_connection(tmp_path: Path, port: int) -> None:
    status, seen = health(
        tmp_path,
        {
            "well": {"port": port},
            "sick": {"port": port, "health": "/sick"},
            "gone": {"port": closed_port()},
            "open": {"port": port, "type": "tcp"},
            "shut": {"port": closed_port(), "type": "tcp"},
        },
    )
    assert seen == {"well": "online", "sick": "degraded", "gone": "offline", "open": "online", "shut": "offline"}
    assert status == "degraded"
    assert health(tmp_path, {"well": {"port": port, "critical": True}}) == ("online", {"well": "online"})
    assert health(tmp_path, {"well": {"port": port}, "gone": {"port": closed_port(), "critical": True}})[0] == "offline"


def test_health_ignores_the_proxy_of_the_environment(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    assert health(tmp_path, {"well": {"port": port}})[1] == {"well": "online"}


def test_health_of_a_process_by_its_pid_file(tmp_path: Path) -> None:
    service = {"training": {"type": "process", "pid_file": ".daemon.pid", "critical": True}}
    assert health(tmp_path, service) == ("offline", {"training": "offline"})
    (tmp_path / ".daemon.pid").write_text(json.dumps(current_identity().as_dict()))
    assert health(tmp_path, service) == ("online", {"training": "online"})
    assert health(tmp_path, service, local=False) == ("offline", {"training": "unknown"})  # unknown is not well

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    me = current_identity()
    identity = ProcessIdentity(child.pid, process_start(child.pid), boot_id(), me.host, me.namespace)
    child.communicate()
    (tmp_path / ".daemon.pid").write_text(json.dumps(identity.as_dict()))
    assert health(tmp_path, service)[1] == {"training": "offline"}
    (tmp_path / ".daemon.pid").write_text(str(child.pid))
    assert health(tmp_path, service)[1] == {"training": "offline"}
    (tmp_path / ".daemon.pid").write_text(str(me.pid))  # a bare pid names nobody for sure
    assert health(tmp_path, service)[1] == {"training": "unknown"}
    (tmp_path / ".daemon.pid").write_text("garbage")
    assert health(tmp_path, service)[1] == {"training": "unknown"}


# --- the source tree

_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
_LOOPBACK = re.compile(r"127\.0\.0\.1|0\.0\.0\.0|\blocalhost\b|::1")
_BINDING_DEFAULTS = ("hosts/addresses.py", "templates/", "skill_server.py")
_URL = re.compile(r"https?://(?![{<*]|\.\.\.|…)[\w.-]+")


def test_item_25_no_literal_address_stands_in_the_source_tree() -> None:
    """Addresses come from the registry. Loopback may stand in templates and where a server's binding default lives."""
    source = Path(guild.__file__).parent
    files = [path for path in source.rglob("*") if path.suffix in (".py", ".yaml", ".json", ".toml", ".sh")]
    assert len(files) > 20
    found = []
    for path in files:
        name = path.relative_to(source).as_posix()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            literal = [match for match in _IPV4.findall(line) if match not in ("127.0.0.1", "0.0.0.0")]
            local = [*_LOOPBACK.findall(line), *_URL.findall(line)] if not name.startswith(_BINDING_DEFAULTS) else []
            if literal or local:
                found.append(f"{name}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_the_grep_of_item_25_finds_what_it_looks_for() -> None:
    assert _IPV4.findall('connect("192.168.1.40", 8765)') == ["192.168.1.40"]
    assert not _IPV4.findall("version 1.2.3 and 1.2.3.4.5")
    assert _LOOPBACK.findall('host = "localhost"') and _URL.findall("http://trainer.lan:8767/api") and not _URL.findall("http://{host}")
