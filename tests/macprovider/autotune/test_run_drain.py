"""AC-6 over whole runs: a managed provider and one in the foreground are drained, the run completes, they come back (specification 8)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from helpers.fake_services import FakeMachine, fake_machine, free_port, until_listening
from helpers.tuning import Behaviour, Bench
from macprovider.autotune.live.conflicts import Conflict, find_conflicts

X = "o/X-7B"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMachine]:
    with fake_machine(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def bench(machine: FakeMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    made = Bench(tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("HOME", str(machine.home))
    return made


def mine(machine: FakeMachine, port: int) -> list[Conflict]:
    """What really is in the way, other tests' servers on this machine left out."""
    found = find_conflicts(port, "linux")
    return [conflict for conflict in found if conflict.kind == "managed" or any(machine.program in word for word in conflict.argv)]


def managed(machine: FakeMachine) -> int:
    port = free_port()
    machine.install("serve", "--port", str(port), platform="linux")
    machine.manage("systemctl", "--user", "start", "macprovider.service")
    until_listening(port)
    return port


@pytest.mark.skipif(sys.platform != "linux", reason="the service of this test is systemd's")
@pytest.mark.parametrize(
    ("behaviour", "flags", "code"),
    [
        ({}, (), 0),
        ({}, ("--apply",), 0),
        ({"exit_in_load": 1}, (), 3),
        ({"pull": 7}, (), 7),
        ({"mute": True}, ("--max-duration", "6"), 5),
    ],
)
def test_ac6_managed_provider_comes_back_on_every_path(
    machine: FakeMachine, bench: Bench, behaviour: Behaviour, flags: tuple[str, ...], code: int
) -> None:
    port, config = managed(machine), machine.home / "config.yaml"
    refused = bench.tune({X: behaviour}, "--candidate-models", X, conflicts=lambda free: mine(machine, free))
    assert refused.code == 4 and "systemd-managed" in refused.err and "--drain" in refused.err and refused.trials == []
    before = machine.managed_pid()
    done = bench.tune(
        {X: behaviour}, "--candidate-models", X, "--drain", "--config", str(config), *flags, conflicts=lambda free: mine(machine, free)
    )
    assert done.code == code, done.err
    until_listening(port)
    assert machine.managed_pid() not in (None, before)
    verbs = [call.split()[2] for call in machine.calls() if call.split()[2] in ("stop", "start")]
    assert verbs == ["start", "stop", "start"]
    assert config.exists() == ("--apply" in flags)
    if config.exists():
        assert yaml.safe_load(config.read_text())["model"] == X and "systemctl --user restart" not in done.err


@pytest.mark.skipif(sys.platform != "linux", reason="the foreground provider is found by its Linux argv")
def test_ac6_foreground_provider_is_started_again(machine: FakeMachine, bench: Bench) -> None:
    port = free_port()
    process = subprocess.Popen([machine.program, "serve", "--port", str(port)], start_new_session=True)
    again: list[psutil.Process] = []
    try:
        until_listening(port)
        refused = bench.tune({}, "--candidate-models", X, conflicts=lambda free: mine(machine, free))
        assert refused.code == 4 and f"foreground-PID-{process.pid}" in refused.err
        flags = ("--candidate-models", X, "--drain", "--restart-foreground")
        done = bench.tune({}, *flags, conflicts=lambda free: mine(machine, free))
        assert done.code == 0 and process.wait(5) == 0
        until_listening(port)
        again = [
            p for p in psutil.process_iter(["cmdline"]) if machine.program in (p.info["cmdline"] or ()) and str(port) in p.info["cmdline"]
        ]
        assert len(again) == 1 and again[0].pid != process.pid and again[0].uids().real == os.getuid()
    finally:
        for left in (process, *again):
            left.kill()
            left.wait()
