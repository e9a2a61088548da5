"""A job of kind `health_check`: every service of the hosts asked, the answer on record. (specs/guild.md 8.4, 8.5)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from guild.hosts.health import HostHealth, check_health
from guild.hosts.registry import load_registry
from guild.records import events
from guild.side_jobs.work import SOURCE, Work
from modelwright.clock import stamp
from modelwright.files import make_folder, write_json

TIMEOUT_S = 3.0
DOCUMENT = "health.json"


def carry_out(work: Work) -> Mapping[str, Any]:
    """Ask the hosts that the payload names, or all; write `status/health.json`, tell of every host that is not online, and return it.

    What cannot be asked is `unknown`, never well. Raises UnknownHostError, and what reading the registry raises.
    """
    registry = load_registry(work.places)
    named = list(work.job.payload.get("hosts") or registry.list_hosts())
    for name in named:
        registry.get_host(name)  # every name is known, before anything is asked
    found = [check_health(registry, name, TIMEOUT_S, clock=work.clock) for name in named]
    document = {
        "schema_version": 1,
        "checked_at": stamp(work.clock.now()),
        "hosts": {host.host: _told(host) for host in found},
    }
    write_json(make_folder(work.places.status) / DOCUMENT, document)
    for host in found:
        if host.status != "online":
            bad = [f"{service.service}: {service.status} ({service.detail})" for service in host.services if service.status != "online"]
            text = f"Host {host.host} is {host.status}. {'; '.join(bad)}"
            events.record(work.db, "service.host_not_well", text, source=SOURCE, severity="warning", job=work.job.id, clock=work.clock)
    return document


def _told(host: HostHealth) -> dict[str, Any]:
    return {"status": host.status, "services": [asdict(service) for service in host.services]}
