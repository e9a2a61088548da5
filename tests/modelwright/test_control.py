"""Requests are consumed once and acknowledged, whoever writes them and whatever they contain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modelwright.clock import ManualClock
from modelwright.control import KINDS, Control, answer, answers, ask, signals_as_requests
from modelwright.errors import UsageError
from modelwright.identity import current_identity


def drop(run: Path, name: str, content: bytes = b"") -> None:
    (run / "control").mkdir(exist_ok=True)
    (run / "control" / name).write_bytes(content)


@pytest.mark.parametrize("kind", KINDS)
def test_touch_and_ask_give_the_same_request(tmp_path: Path, kind: str) -> None:
    control = Control(tmp_path)
    request_id = ask(tmp_path, kind, body={"target": "phase_1"}, actor="me")
    assert (tmp_path / "control" / f"{kind}.request").exists()
    assert control.pending() == [kind]
    (asked,) = control.poll()
    assert (asked.id, asked.kind, asked.actor, asked.body) == (request_id, kind, "me", {"target": "phase_1"})
    drop(tmp_path, f"{kind}.request")
    (touched,) = control.poll()
    assert touched.kind == kind and touched.body == {} and touched.actor.startswith("file:")
    assert control.poll() == [] and control.pending() == []


def test_an_acknowledgement_says_outcome_by_whom_and_when(tmp_path: Path) -> None:
    control = Control(tmp_path, clock=ManualClock())
    request_id = ask(tmp_path, "pause", actor="alice", clock=ManualClock())
    assert answer(tmp_path, request_id) is None
    (request,) = control.poll()
    taken = answer(tmp_path, request_id)
    assert taken is not None and taken["outcome"] is None and taken["taken_by"]["pid"] == os.getpid()
    control.ack(request, "paused", step=12)
    done = answer(tmp_path, request_id)
    assert done is not None
    assert (done["outcome"], done["detail"], done["actor"], done["n"]) == ("paused", {"step": 12}, "alice", 1)
    assert done["answered_at"] == "2026-01-01T00:00:00Z" and done["answered_by"] == current_identity().as_dict()
    assert request.record.name == "0001-pause.json"


def test_a_body_may_be_written_by_hand(tmp_path: Path) -> None:
    drop(tmp_path, "rollback.request", b'{"target": "phase_2", "actor": "bob"}')
    (request,) = Control(tmp_path).poll()
    assert request.body == {"target": "phase_2"} and request.actor == "bob"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("pause.request", b"{not json", "not valid JSON"),
        ("pause.request", b"[1, 2]", "a JSON list"),
        ("pause.request", b"\xff\xfe\x00", "not valid JSON"),
        ("pause.request", b" " * 70000, "70000 bytes"),
        ("explode.request", b"", "unknown request; allowed: pause, resume"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_a_sentence(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    control = Control(tmp_path)
    drop(tmp_path, name, content)
    drop(tmp_path, "stop.request")
    assert [request.kind for request in control.poll()] == ["stop"]
    refused = next(record for record in answers(tmp_path) if record["kind"] != "stop")
    assert refused["outcome"] == "refused" and words in refused["detail"]["reason"]
    assert control.pending() == []


def test_links_folders_and_special_files_are_refused_and_not_followed(tmp_path: Path) -> None:
    control = Control(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text('{"password": "x"}')
    (tmp_path / "control" / "pause.request").symlink_to(secret)
    (tmp_path / "control" / "stop.request").mkdir()
    os.mkfifo(tmp_path / "control" / "skip.request")
    assert control.poll() == []
    assert [record["outcome"] for record in answers(tmp_path)] == ["refused"] * 3
    assert "password" not in json.dumps(answers(tmp_path)) and secret.exists()
    assert control.pending() == []


def test_two_requests_of_one_kind_both_get_their_answer(tmp_path: Path) -> None:
    ids = [ask(tmp_path, "pause", actor=name) for name in ("a", "b", "c")]
    control = Control(tmp_path)
    requests = control.poll()
    assert sorted(request.id for request in requests) == sorted(ids)
    for request in requests:
        control.ack(request, "paused")
    assert all((answer(tmp_path, request_id) or {})["outcome"] == "paused" for request_id in ids)
    assert sorted(record["n"] for record in answers(tmp_path)) == [1, 2, 3]


def test_requests_come_in_the_order_they_were_asked(tmp_path: Path) -> None:
    for age, kind in ((30, "stop"), (20, "pause"), (10, "approve")):
        drop(tmp_path, f"{kind}.request")
        os.utime(tmp_path / "control" / f"{kind}.request", ns=(0, 10**18 - age * 10**9))
    assert [request.kind for request in Control(tmp_path).poll()] == ["stop", "pause", "approve"]


POLLER = """
import sys, time
from modelwright.control import Control
control = Control(sys.argv[1])
deadline = time.monotonic() + 20
print("ready", flush=True)
while time.monotonic() < deadline:
    for request in control.poll():
        control.ack(request, "done")
        if request.kind == "stop":
            sys.exit()
        print(request.id, flush=True)
"""


def test_two_polling_processes_share_requests_and_take_each_once(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    pollers = [subprocess.Popen([sys.executable, "-c", POLLER, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for poller in pollers:
        assert poller.stdout is not None and poller.stdout.readline() == "ready\n"
    asked = {ask(tmp_path, kind, actor="t") for _ in range(15) for kind in ("pause", "skip", "approve")}
    for _ in range(200):
        if all(answer(tmp_path, request_id) for request_id in asked):
            break
        threading.Event().wait(0.05)
    for _ in pollers:
        ask(tmp_path, "stop", actor="t")
    seen = [line for poller in pollers for line in poller.communicate(timeout=30)[0].split()]
    assert sorted(seen) == sorted(asked)
    outcomes = [record["outcome"] for record in answers(tmp_path) if record["kind"] != "stop"]
    assert outcomes == ["done"] * len(asked)


def test_waiting_takes_what_it_waits_for_and_keeps_the_rest(tmp_path: Path) -> None:
    clock = ManualClock()
    control = Control(tmp_path, clock=clock)
    ask(tmp_path, "skip", actor="t")
    assert control.wait_for({"approve", "abort"}, timeout_s=120) is None
    assert 120 <= clock.monotonic() < 121
    assert control.pending() == ["skip"]
    ask(tmp_path, "abort", actor="t")
    request = control.wait_for({"approve", "abort"}, timeout_s=120)
    assert request is not None and request.kind == "abort"
    assert [kept.kind for kept in control.poll()] == ["skip"]


def test_what_a_dead_writer_took_is_answered_as_lost_and_what_it_did_not_take_still_waits(tmp_path: Path) -> None:
    first = Control(tmp_path)
    taken = ask(tmp_path, "pause", actor="t")
    first.poll()
    (tmp_path / "control" / "answered" / "stop.0123456789abcdef.taken").write_bytes(b'{"id": "claimed"}')
    (tmp_path / "control" / "answered" / "0002-skip.json").touch()  # killed while it made the record
    ask(tmp_path, "approve", actor="t")
    later = Control(tmp_path)
    assert later.settle_lost() == 3
    assert later.settle_lost() == 0
    assert (answer(tmp_path, taken) or {})["outcome"] == "lost"
    assert (answer(tmp_path, "claimed") or {})["outcome"] == "lost"
    assert [request.kind for request in later.poll()] == ["approve"]


def test_settling_answers_everything_open(tmp_path: Path) -> None:
    control = Control(tmp_path)
    ids = [ask(tmp_path, "pause", actor="t")]
    control.poll()
    ids.append(ask(tmp_path, "stop", actor="t"))
    assert control.settle("ended", reason="The run completed.") == 2
    assert [(answer(tmp_path, request_id) or {})["outcome"] for request_id in ids] == ["ended", "ended"]


def test_asking_for_nonsense_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found 'explode'; allowed: pause"):
        ask(tmp_path, "explode", actor="t")
    with pytest.raises(UsageError, match="no directory"):
        ask(tmp_path / "gone", "pause", actor="t")


def test_a_request_that_cannot_be_recorded_stays_pending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelwright import control as control_module
    from modelwright.errors import DiskFullError

    control = Control(tmp_path)
    request_id = ask(tmp_path, "pause", actor="t")

    def full(*_: object, **__: object) -> None:
        raise DiskFullError("full")

    with monkeypatch.context() as patch:
        patch.setattr(control_module, "write_json", full)
        with pytest.raises(DiskFullError):
            control.poll()
    assert control.pending() == ["pause"]
    assert [request.id for request in control.poll()] == [request_id]


# --- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_sets_the_flag_and_a_sigint_after_it_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with signals_as_requests() as flag:
        assert not flag and flag.name == ""
        os.kill(os.getpid(), number)
        assert flag.requested and flag.signal == number and flag.name == number.name
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.signal == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_the_flag_stays_unset() -> None:
    seen: list[bool] = []

    def work() -> None:
        with signals_as_requests() as flag:
            seen.append(flag.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
