"""`modelwright runs` against real writers: live, obeying, deaf, killed, resumed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.unprivileged import runs_without_privilege
from modelwright.errors import MissingFileError
from modelwright.lock import writer_liveness
from modelwright.rundir import RunDir
from modelwright.runs_arguments import EXIT_CODES, FORMATS, HELP_PAGES, SORT_KEYS, STATUSES
from modelwright.runs_cli import main
from modelwright.scan import record_error

TOY = Path(__file__).parents[1] / "helpers" / "toy_run.py"
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a toy run in a process of its own and wait until it has beaten; whatever still lives is killed at the
    end.
    """
    children: list[subprocess.Popen[bytes]] = []

    def begin(path: str, *arguments: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen([sys.executable, str(TOY), path, *arguments])
        children.append(child)
        wait_until(lambda: (Path(path) / "heartbeat.json").exists() or child.poll() is not None)
        return child

    yield begin
    for child in children:
        child.kill()
        child.wait()


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def finished(name: str, status: str = "completed", tags: tuple[str, ...] = ()) -> Path:
    path = Path("runs") / name
    with RunDir.create(path, kind="toy", command=["toy"], tags=tags, resume_command=[sys.executable, "-c", "raise SystemExit(6)"]) as run:
        run.start_phase("p")
        run.metrics().log("train/loss", 0.5, 1)
        run.metrics().log("eval/perplexity", 9.0, 1, length=512)
        run.finish(status, 0 if status == "completed" else 1)  # type: ignore[arg-type]
    return path.absolute()


@pytest.fixture
def runs(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(arguments))
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


Runs = Callable[..., tuple[int, str, str]]


def as_json(answer: tuple[int, str, str]) -> Any:
    return json.loads(answer[1])


def test_list_filters_sorts_and_limits(runs: Runs) -> None:
    finished("one", tags=("x", "y"))
    finished("two", "failed", tags=("x",))
    finished("group/three")
    listed = as_json(runs("list", "--json"))
    assert {entry["name"] for entry in listed["runs"]} == {"one", "two", "three"} and listed["total"] == 3
    names = lambda *arguments: [entry["name"] for entry in as_json(runs("list", "--json", *arguments))["runs"]]  # noqa: E731
    assert names("--status", "failed") == ["two"]
    assert names("--tag", "x", "--tag", "y") == ["one"]
    assert names("--kind", "other") == []
    assert names("--sort", "name") == ["one", "three", "two"]
    assert names("--sort", "name", "--limit", "1") == ["one"]
    code, text, _ = runs("list", "--limit", "2")
    assert code == 0 and "… and 1 more" in text and text.startswith("name")
    assert runs("list", "--limit", "-1")[0] == 2
    assert runs("list", "--runs", "nowhere")[0] == 2
    assert "No runs" in runs("list", "--runs", ".", "--kind", "none")[1]


def test_list_elsewhere_uses_the_remembered_folders(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = finished("one")
    runs("list")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [entry["path"] for entry in as_json(runs("list", "--json"))["runs"]] == [str(path)]
    assert as_json(runs("show", "one", "--json"))["run"]["path"] == str(path)


def test_damage_is_told_and_hides_nothing(runs: Runs) -> None:
    finished("good")
    broken = finished("broken")
    (broken / "run.json").write_text("{")
    code, text, _ = runs("list")
    assert code == 0 and "good" in text and "broken: " in text and "run.json is damaged" in text
    with open(broken / "metrics.jsonl", "ab") as file:
        file.write(b'not json\n{"torn')
    (broken / "heartbeat.json").write_bytes(b"")
    code, text, _ = runs("show", "broken")
    assert code == 1
    for part in ("run.json is damaged", "heartbeat.json is damaged", "metrics.jsonl line 3", "last line is torn", "train/loss"):
        assert part in text
    assert as_json(runs("show", "broken", "--json"))["record"] is None


def test_show_says_what_is_known(runs: Runs) -> None:
    path = finished("one", tags=("x",))
    record = json.loads((path / "run.json").read_text())
    code, text, _ = runs("show", record["run_id"][:8])
    assert code == 0
    for part in (record["run_id"], "completed", "train/loss", "eval/perplexity", "phases:", "p "):
        assert part in text
    known = as_json(runs("show", str(path), "--json"))
    assert known["problems"] == [] and known["metrics"]["events"] == 2 and known["heartbeat"]["state"] == "terminal"


def test_an_unknown_run_is_a_usage_error_with_near_names(runs: Runs) -> None:
    finished("demo")
    code, _, error = runs("show", "deom")
    assert code == 2 and "Did you mean demo?" in error


def test_pause_waits_for_the_acknowledgement_and_resume_goes_on(runs: Runs, start: Start) -> None:
    child = start("runs/toy")
    assert as_json(runs("list", "--json"))["runs"][0]["state"] == "running"
    code, text, _ = runs("watch", "toy")
    assert code == 0 and "phase count" in text and "train/loss" in text and "counting" in text
    code, text, error = runs("resume", "toy")
    assert code == 13 and str(child.pid) in error
    code, text, _ = runs("ask", "toy", "skip")
    assert code == 12
    code, text, _ = runs("pause", "toy", "--wait", "60")
    assert code == 0 and "answered: paused" in text and "checkpoint last" in text
    assert child.wait(60) == 9
    shown = as_json(runs("show", "toy", "--json"))
    assert shown["run"]["state"] == "paused" and [item["name"] for item in shown["checkpoints"]] == ["last"]
    assert [item["outcome"] for item in shown["requests"]] == ["refused", "paused"]
    assert runs("watch", "toy", "--stop-on-terminal")[0] == 9
    assert runs("resume", "toy")[0] == 0
    shown = as_json(runs("show", "toy", "--json"))
    assert (shown["run"]["state"], shown["run"]["attempt"]) == ("completed", 2)
    assert runs("resume", "toy")[0] == 13
    assert runs("watch", "toy", "--stop-on-terminal")[0] == 0


def test_stop_through_the_command_line_as_json(runs: Runs, start: Start) -> None:
    child = start("runs/toy")
    answer = as_json(runs("stop", "toy", "--json", "--wait", "60"))
    assert answer["outcome"] == "stopped" and answer["exit_code"] == 0 and answer["detail"]["step"] >= 1
    assert child.wait(60) == 7


def test_a_killed_writer_is_dead_and_can_be_resumed_in_the_background(runs: Runs, start: Start) -> None:
    child = start("runs/toy")
    child.send_signal(signal.SIGKILL)
    child.wait()
    shown = as_json(runs("show", "toy", "--json"))
    assert (shown["run"]["status"], shown["run"]["state"], shown["heartbeat"]["liveness"]) == ("running", "dead", "dead")
    assert runs("watch", "toy", "--stop-on-terminal")[0] == 1
    code, _, error = runs("pause", "toy")
    assert code == 10 and "No live process" in error and "runs resume" in error
    assert not list(Path("runs/toy/control").glob("*.request"))
    code, text, _ = runs("resume", "toy", "--detach")
    assert code == 0 and "goes on in process" in text
    wait_until(lambda: as_json(runs("show", "toy", "--json"))["run"]["state"] == "completed")
    phases = as_json(runs("show", "toy", "--json"))["record"]["entries"]
    assert [entry["status"] for entry in phases] == ["died", "completed"]


def test_a_deaf_writer_does_not_answer_in_time(runs: Runs, start: Start) -> None:
    start("runs/toy", "--deaf")
    code, _, error = runs("pause", "toy", "--wait", "0.3")
    assert code == 11 and "has not answered" in error
    assert Path("runs/toy/control/pause.request").exists()
    assert runs("stop", "toy", "--wait", "0")[0] == 0


def test_requests_are_checked(runs: Runs) -> None:
    finished("one")
    assert runs("ask", "one", "dance")[0] == 2
    assert runs("ask", "one", "rollback", "--body", "[1]")[0] == 2
    assert runs("ask", "one", "rollback", "--body", "{")[0] == 2


def test_resume_ends_with_the_code_of_the_command_and_refuses_with_reasons(runs: Runs) -> None:
    path = finished("failed", "failed")
    assert runs("resume", "failed")[0] == 6
    assert runs("resume", "failed", "--detach")[0] == 6
    document = json.loads((path / "run.json").read_text())
    for change, reason in (
        ({"resume_command": []}, "no resume command"),
        ({"resume_command": ["x", "--token", "[redacted]"]}, "a secret was taken out"),
        ({"cwd": "/nowhere/at/all"}, "is gone"),
        ({"resume_command": ["/no/such/program"]}, "cannot be started"),
    ):
        (path / "run.json").write_text(json.dumps({**document, **change}))
        code, _, error = runs("resume", "failed")
        assert code in (1, 13) and reason in error


SLEEP = "for _ in range(600): time.sleep(0.1)\n"
"""A minute in short sleeps: a signal that arrives just before a long one would be heard at its end only."""


def test_interrupting_resume_interrupts_the_command_and_waits_for_it(start: Start) -> None:
    child = start("runs/toy")
    child.kill()
    child.wait()
    record = json.loads(Path("runs/toy/run.json").read_text())
    script = "import signal, sys, time\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(7))\nprint('ready', flush=True)\n" + SLEEP
    record["resume_command"] = [sys.executable, "-c", script]
    Path("runs/toy/run.json").write_text(json.dumps(record))
    command = [sys.executable, "-m", "modelwright.cli", "runs", "resume", "toy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as resumed:
        assert resumed.stdout is not None and resumed.stdout.readline() == b"ready\n"
        os.killpg(resumed.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
        assert resumed.wait(60) == 7


def test_terminating_resume_terminates_the_command_and_leaves_nothing_behind(start: Start) -> None:
    """What a service manager does: SIGTERM to the one process it started."""
    child = start("runs/toy")
    child.kill()
    child.wait()
    record = json.loads(Path("runs/toy/run.json").read_text())
    script = "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    script += "print(os.getpid(), flush=True)\n" + SLEEP
    record["resume_command"] = [sys.executable, "-c", script]
    Path("runs/toy/run.json").write_text(json.dumps(record))
    command = [sys.executable, "-m", "modelwright.cli", "runs", "resume", "toy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as resumed:
        assert resumed.stdout is not None
        command_pid = int(resumed.stdout.readline())
        resumed.terminate()
        assert resumed.wait(60) == 7
    with pytest.raises(ProcessLookupError):
        os.kill(command_pid, 0)


def test_watch_follows_until_the_end(start: Start) -> None:
    start("runs/toy", "--steps", "40")
    command = [sys.executable, "-m", "modelwright.cli", "runs", "watch", "toy", "--stop-on-terminal", "--every", "0.1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["run"]["state"] == "completed" and lines[-1]["run"]["step"] == 40
    assert writer_liveness(Path("runs/toy")) == "dead"


def test_export(runs: Runs, tmp_path: Path) -> None:
    finished("one")
    code, text, _ = runs("export", "one")
    rows = list(csv.DictReader(text.splitlines()))
    assert code == 0 and [(row["metric"], row["value"], row["length"]) for row in rows] == [
        ("train/loss", "0.5", ""),
        ("eval/perplexity", "9.0", "512"),
    ]
    assert runs("export", "one", "--metrics", "json", "--metric", "train/loss", "--out", str(tmp_path / "m.json"))[0] == 0
    assert [event["value"] for event in json.loads((tmp_path / "m.json").read_text())] == [0.5]
    code, _, error = runs("export", "one", "--metric", "nothing")
    assert code == 2 and "train/loss" in error


def test_reindex(runs: Runs, tmp_path: Path) -> None:
    finished("one")
    runs("list")
    assert "indexed 1 runs" in runs("reindex")[1]
    (tmp_path / "runs").rename(tmp_path / "moved")
    code, text, _ = runs("reindex")
    assert code == 0 and "no directory" in text
    assert as_json(runs("reindex", "--forget-missing", "--json")) == {"runs": 0, "roots": [], "problems": []}


@pytest.mark.parametrize("page", HELP_PAGES, ids=" ".join)
def test_every_command_explains_itself(runs: Runs, page: tuple[str, ...]) -> None:
    code, text, _ = runs(*page, "--help")
    assert code == 0 and "example:" in text and EXIT_CODES.splitlines()[3] in text


def test_wrong_arguments_are_usage_errors(runs: Runs) -> None:
    assert runs()[0] == 2
    assert runs("watch", "x", "--every", "0")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (("list", "--status", "foo"), STATUSES),
        (("list", "--status", "running", "--status", "foo"), STATUSES),
        (("list", "--sort", "foo"), SORT_KEYS),
        (("export", "x", "--metrics", "foo"), FORMATS),
    ],
    ids=" ".join,
)
def test_a_value_outside_a_closed_set_is_refused_in_one_sentence(runs: Runs, arguments: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    code, text, error = runs(*arguments)
    assert (code, text) == (2, "")
    assert error == f"{arguments[-2]}: found 'foo'; allowed: {', '.join(allowed)}.\n"
    assert json.loads(runs(*arguments, "--json")[1]) == {"message": error.strip(), "exit_code": 2}


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_can_be_asked_for(runs: Runs, status: str) -> None:
    finished("one")
    assert len(as_json(runs("list", "--json", "--status", status))["runs"]) == (status == "completed")


def test_what_is_no_run_is_said_alike_by_every_command(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, sentence in (
        ("empty", "has no run.json, so it is no run. Give the directory of a run; `modelwright runs list` shows them."),
        ("file", "is not a directory, so it is no run. Give the directory of a run; `modelwright runs list` shows them."),
    ):
        for command in (["show"], ["watch"], ["pause"], ["resume"], ["export"]):
            assert runs(*command, name) == (2, "", f"{name} {sentence}\n")
        assert as_json(runs("show", name, "--json")) == {"message": f"{name} {sentence}", "exit_code": 2}
        assert as_json(runs("resume", str(tmp_path / name), "--json"))["message"] == f"{tmp_path / name} {sentence}"
    code, _, error = runs("show", "nowhere/at/all")
    assert code == 2 and "found no run 'nowhere/at/all'" in error and "Traceback" not in error
    assert runs("show", "~no-such-user-here")[0] == 2
    assert runs("show", "a" * 300)[0] == 1


def test_a_lost_record_is_one_sentence_in_every_command(runs: Runs) -> None:
    path = finished("one")
    (path / "run.json").unlink()
    sentence = str(record_error(path))
    assert sentence.startswith(f"{path}/run.json, the record of this run, is missing. Restore it from a copy")
    assert sentence in runs("list")[1]
    for name in ("one", str(path)):
        assert runs("show", name)[0] == 1 and sentence in runs("show", name)[1]
        assert runs("watch", name)[0] == 1 and sentence in runs("watch", name)[1]
        assert runs("resume", name) == (1, "", f"{sentence}\n")
        assert runs("export", name) == (1, "", f"{sentence}\n")
    assert as_json(runs("resume", "one", "--json")) == {"message": sentence, "exit_code": 1}
    with pytest.raises(MissingFileError, match="the record of this run, is missing"):
        RunDir.open_reader(path)


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
def test_a_run_that_may_not_be_read(mode: int) -> None:
    path = finished("one")
    path.chmod(mode)
    commands = ("show", "watch", "pause", "resume", "export")
    try:
        results = runs_without_privilege(path, [*([command, str(path)] for command in commands), ["list"]])
    finally:
        path.chmod(0o755)
    if isinstance(results, str):
        pytest.skip(results)
    assert results[-1][0] == 0
    for command, (code, text, error) in zip(commands, results, strict=False):
        assert code in (0, 1, 10, 13) and "Traceback" not in error, command
        if mode != 0o111:
            assert (code, text) == (1, "") and "run.json: permission denied" in error, command
