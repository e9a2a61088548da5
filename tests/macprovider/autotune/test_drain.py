"""Draining and putting back: real processes, real signals, service managers that really stop and start one."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from helpers.fake_services import FakeMachine, fake_machine, free_port, until_listening
from macprovider.autotune.candidate.ports import port_free
from macprovider.autotune.live.conflicts import Conflict, ConflictError, find_conflicts
from macprovider.autotune.live.drain import Drained, drain, refusal, restart_hint
from macprovider.autotune.live.services import user_service
from modelwright.clock import ManualClock
from modelwright.identity import process_start

PLATFORMS = ("linux", "darwin")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMachine]:
    with fake_machine(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def foreground(machine: FakeMachine, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A provider that somebody started in a terminal, in a folder of its own; whatever has its port at the end is killed."""
    port = free_port()
    folder = tmp_path / "where it was started"
    folder.mkdir()
    with subprocess.Popen([machine.program, "serve", "--port", str(port)], cwd=folder, env={**os.environ, "MARK": "kept"}) as child:
        until_listening(port)
        yield child
        child.kill()
    for process in psutil.process_iter():
        try:
            if machine.program in process.cmdline():
                process.kill()
        except psutil.Error:
            continue


def conflict_of(pid: int | None, platform: str = sys.platform) -> Conflict:
    (found,) = [conflict for conflict in find_conflicts(free_port(), platform) if conflict.pid == pid]
    return found


def managed(machine: FakeMachine, platform: str, *more: str) -> tuple[Conflict, int]:
    """A running service and its port."""
    port = free_port()
    machine.install("serve", "--port", str(port), *more, platform=platform)
    assert machine.manage(*user_service(platform).start).returncode == 0
    until_listening(port)
    return conflict_of(machine.managed_pid(), platform), port


def restarted(drained: Drained, applied: bool = False) -> tuple[str, ...]:
    result = drained.restore(applied)
    assert result.complete, result.sentences
    return result.sentences


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("applied", [False, True])
def test_managed_provider_stops_and_comes_back(machine: FakeMachine, platform: str, applied: bool) -> None:
    conflict, port = managed(machine, platform)
    drained = drain([conflict], grace_s=10, port=free_port(), restart_foreground=False)
    assert not conflict.alive() and port_free(port) and machine.managed_pid() is None
    said = restarted(drained, applied)
    until_listening(port)
    again = machine.managed_pid()
    assert again is not None and again != conflict.pid
    assert (conflict.name in said[0]) and ("applied settings" in said[0]) == applied
    assert drained.restore(not applied).sentences == said, "a second restore did something else"
    assert machine.managed_pid() == again
    verbs = [call.split()[1 if platform == "darwin" else 2] for call in machine.calls()]
    start, stop = ("bootstrap", "bootout") if platform == "darwin" else ("start", "stop")
    assert [verb for verb in verbs if verb in (start, stop)] == [start, stop, start]
    exact = {
        "linux": "systemctl --user stop macprovider.service",
        "darwin": f"launchctl bootout gui/{os.getuid()}/live.streamvc.macprovider",
    }
    assert exact[platform] in machine.calls()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_managed_provider_that_does_not_stop_is_never_killed(machine: FakeMachine, platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("macprovider.autotune.live.restore.PATIENCE_S", 1.0)
    conflict, _ = managed(machine, platform, "--stubborn")
    with pytest.raises(ConflictError, match="Nothing was killed") as caught:
        drain([conflict], grace_s=0.5, port=free_port(), restart_foreground=False)
    assert conflict.name in str(caught.value) and "--drain-grace" in str(caught.value) and caught.value.exit_code == 4
    assert conflict.alive(), "the service was killed"
    assert shlex.join(user_service(platform).start) in machine.calls(), "it comes back when it has stopped, if its manager can do that"
    os.kill(conflict.pid or 0, signal.SIGKILL)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_managed_provider_that_is_slow_comes_back_after_the_refusal(
    machine: FakeMachine, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_DRAIN_S", "1.5")
    conflict, port = managed(machine, platform)
    clock = ManualClock()

    def pause(seconds: float) -> None:
        while not (machine.state / "stopping").exists():
            time.sleep(0.02)
        clock.advance(100)

    with pytest.raises(ConflictError, match="runs again"):
        drain([conflict], grace_s=30, port=free_port(), restart_foreground=False, clock=clock, pause=pause)
    until_listening(port)
    assert machine.managed_pid() not in (None, conflict.pid)


def test_manager_that_refuses_says_why(machine: FakeMachine) -> None:
    conflict, port = managed(machine, "linux")
    (machine.state / "refuses to stop").touch()
    with pytest.raises(ConflictError, match=r"status 4: Failed to stop macprovider\.service: Access denied"):
        drain([conflict], grace_s=60, port=free_port(), restart_foreground=False)
    assert conflict.alive() and not port_free(port)


@pytest.mark.parametrize("applied", [False, True])
def test_foreground_restarts_only_when_asked(
    machine: FakeMachine, foreground: subprocess.Popen[bytes], tmp_path: Path, applied: bool
) -> None:
    conflict = conflict_of(foreground.pid)
    logs = tmp_path / "logs"
    drained = drain([conflict], grace_s=10, port=free_port(), restart_foreground=True, log_folder=logs)
    assert foreground.wait() == 0, "SIGTERM, and nothing else"
    assert not conflict.alive() and all(port_free(port) for port in conflict.ports)
    (said,) = restarted(drained, applied)
    assert conflict.port is not None
    until_listening(conflict.port)
    again = conflict_of(int(said.partition(" as PID ")[2].partition(";")[0]))
    assert (again.argv, again.cwd, again.environment["MARK"]) == (conflict.argv, conflict.cwd, "kept")
    assert again.pid and os.getsid(again.pid) == again.pid, "it would die with this terminal"
    (log,) = logs.iterdir()
    assert log.read_text() == f"listening {conflict.cwd} kept\n" and log.stat().st_mode & 0o777 == 0o600
    restarted(drained)
    assert [one.pid for one in find_conflicts(free_port()) if one.argv == conflict.argv] == [again.pid], "started twice"


def test_a_real_server_drains_and_comes_back(machine: FakeMachine, tmp_path: Path) -> None:
    """`macprovider-cli serve` itself, by its module form."""
    port = free_port()
    (tmp_path / "config.yaml").write_text("log_level: warning\n")
    argv = [sys.executable, "-m", "macprovider.cli", "serve", "--model", "modelwright/tiny-0.4m", "--port", str(port), "--no-join"]
    argv += ["--config", str(tmp_path / "config.yaml")]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as first:
        until_listening(port)
        conflict = conflict_of(first.pid)
        assert conflict.port == port
        drained = drain([conflict], grace_s=60, port=free_port(), restart_foreground=True, log_folder=tmp_path / "logs")
        assert first.wait() == 0
    (said,) = restarted(drained, applied=True)
    assert "names --model, which wins over the applied settings" in said
    again = int(said.partition(" as PID ")[2].partition(";")[0])
    try:
        until_listening(port)
        assert conflict_of(again).argv == conflict.argv
    finally:
        os.kill(again, signal.SIGKILL)


def test_foreground_stays_stopped_without_the_flag(machine: FakeMachine, foreground: subprocess.Popen[bytes]) -> None:
    conflict = conflict_of(foreground.pid)
    drained = drain([conflict], grace_s=10, port=free_port(), restart_foreground=False)
    (said,) = restarted(drained)
    assert "stays stopped" in said and f"cd '{conflict.cwd}' && " in said and machine.program in said
    assert conflict.port is not None and port_free(conflict.port)


def test_foreground_that_cannot_start_again_is_told(machine: FakeMachine, foreground: subprocess.Popen[bytes], tmp_path: Path) -> None:
    conflict = conflict_of(foreground.pid)
    drained = drain([conflict], grace_s=10, port=free_port(), restart_foreground=True, log_folder=tmp_path / "logs")
    foreground.wait()
    Path(machine.program).write_text("#!/bin/sh\nexit 3\n")
    done = drained.restore(applied=False)
    assert not done.complete and "ended at once with status" in done.sentences[0] and str(tmp_path / "logs") in done.sentences[0]


def test_foreground_whose_folder_is_gone_is_told(machine: FakeMachine, foreground: subprocess.Popen[bytes], tmp_path: Path) -> None:
    conflict = conflict_of(foreground.pid)
    drained = drain([conflict], grace_s=10, port=free_port(), restart_foreground=True, log_folder=tmp_path / "logs")
    foreground.wait()
    os.rmdir(conflict.cwd)
    done = drained.restore(applied=False)
    assert not done.complete and conflict.cwd in done.sentences[0] and "by hand" in done.sentences[0]


def test_foreground_that_does_not_stop_is_never_killed(machine: FakeMachine) -> None:
    port = free_port()
    with subprocess.Popen([machine.program, "serve", "--stubborn", "--port", str(port)]) as child:
        until_listening(port)
        with pytest.raises(ConflictError, match=f"foreground-PID-{child.pid}") as caught:
            drain([conflict_of(child.pid)], grace_s=0.3, port=free_port(), restart_foreground=True)
        assert "has not yet" in str(caught.value) and child.poll() is None
        child.kill()


def test_one_that_stays_brings_the_others_back(machine: FakeMachine) -> None:
    conflict, service_port = managed(machine, "linux")
    port = free_port()
    with subprocess.Popen([machine.program, "serve", "--stubborn", "--port", str(port)]) as child:
        until_listening(port)
        with pytest.raises(ConflictError, match="runs again"):
            drain([conflict, conflict_of(child.pid)], grace_s=1.0, port=free_port(), restart_foreground=False)
        child.kill()
    until_listening(service_port)
    assert machine.managed_pid() not in (None, conflict.pid)


def test_foreign_listener_cannot_be_drained_and_nothing_stops(machine: FakeMachine) -> None:
    conflict, _ = managed(machine, "linux")
    listener = Conflict("listener", "foreign-listener-18080", ports=frozenset({18080}), program="nginx")
    with pytest.raises(ConflictError, match="foreign-listener-18080") as caught:
        drain([conflict, listener], grace_s=5, port=18080, restart_foreground=False)
    assert "--port" in str(caught.value) and "nginx" in str(caught.value)
    assert conflict.alive() and machine.managed_pid() == conflict.pid


def test_a_signal_while_waiting_puts_back(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_DRAIN_S", "0.5")
    conflict, port = managed(machine, "linux")

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drain([conflict], grace_s=30, port=free_port(), restart_foreground=False, pause=interrupted)
    until_listening(port)
    assert machine.managed_pid() not in (None, conflict.pid)


def test_a_number_that_was_given_to_another_process_is_left_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        gone = Conflict("foreground", "foreground-PID-1", bystander.pid, (process_start(bystander.pid) or 0) - 1, argv=("x",))
        drain([gone], grace_s=5, port=free_port(), restart_foreground=False).restore(applied=False)
        time.sleep(0.2)
        assert bystander.poll() is None
        bystander.kill()


DRAINING = """
import os, signal, sys, threading, time
from macprovider.autotune.live.conflicts import find_conflicts
from macprovider.autotune.live.drain import drain
conflicts = [one for one in find_conflicts(int(sys.argv[2]), "linux") if one.kind == "managed"]
drained = drain(conflicts, grace_s=20, port=int(sys.argv[2]), restart_foreground=False)
assert drained.stopped == tuple(conflicts) and conflicts
def stop(number, frame):
    drained.restore(False)
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, stop)
print("drained", flush=True)
ending = sys.argv[1]
if ending == "exception":
    raise RuntimeError("a defect")
if ending == "exit":
    sys.exit(3)
if ending == "twice":
    signal.signal(signal.SIGINT, stop)
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    drained.restore(False)
time.sleep(60)
"""


@pytest.mark.parametrize("ending", ["exception", "exit", "signal", "twice"])
def test_every_way_out_puts_back(machine: FakeMachine, ending: str) -> None:
    conflict, port = managed(machine, "linux")
    words = [sys.executable, "-c", DRAINING, ending, str(free_port())]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout and child.stdout.readline() == "drained\n"
        if ending == "signal":
            child.send_signal(signal.SIGTERM)
        try:
            _, told = child.communicate(timeout=60)
        finally:
            child.kill()
        assert child.returncode != 0
    until_listening(port)
    assert machine.managed_pid() not in (None, conflict.pid)
    assert sum(call == "systemctl --user start macprovider.service" for call in machine.calls()) == 2, "started more than once"
    assert ("runs again" in told) == (ending in ("exception", "exit"))


def test_refusals_name_each_and_what_to_do(machine: FakeMachine) -> None:
    conflicts = [
        Conflict("managed", "systemd-managed", 11, 1, frozenset({8080}), service=user_service("linux")),
        Conflict("managed", "launchd-managed", service=user_service("darwin")),
        Conflict("foreground", "foreground-PID-7", 7, 1, argv=("macprovider-cli", "serve")),
        Conflict("listener", "foreign-listener-18080", ports=frozenset({18080})),
    ]
    lines = refusal(conflicts).splitlines()
    assert len(lines) == 4
    for line, conflict in zip(lines, conflicts, strict=True):
        assert conflict.name in line and "--drain" in line and "by hand" in line
    assert "systemctl --user stop macprovider.service" in lines[0] and "PID 11" in lines[0] and "port 8080" in lines[0]
    assert "launchctl bootout gui/" in lines[1] and "kill 7" in lines[2] and "cannot stop it" in lines[3]


def test_restart_hints(machine: FakeMachine) -> None:
    assert restart_hint("linux").endswith("systemctl --user restart macprovider.service")
    plist = machine.home / "Library" / "LaunchAgents" / "live.streamvc.macprovider.plist"
    mac = f"launchctl bootout gui/$UID/live.streamvc.macprovider && launchctl bootstrap gui/$UID {plist}"
    assert restart_hint("darwin").endswith(mac)
