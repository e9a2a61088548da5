"""`modelwright runs show` on damaged runs: every damaged file is named once, nothing is invented, JSON stays JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelwright.rundir import RunDir
from modelwright.runs_cli import main
from modelwright.runs_study import study
from modelwright.schema_registry import run_files

Show = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that was resumed once and has every document that the registry knows."""
    path = tmp_path / "runs" / "demo"
    with RunDir.create(path, kind="toy", command=["toy", "--token", "hunter2"]) as first, first.phase("p"):
        first.metrics().log("train/loss", 0.5, 1)
    with RunDir.open_writer(path) as second, second.phase("p"):
        second.metrics().log("train/loss", 0.25, 2)
        second.heartbeat().beat(status="running", phase="p", step=7, total=9)
    for name in ("run_metadata.json", "hardware.json", "telegram.json", "memory.json", "plan.json"):
        (path / name).write_text('{"predicted_bytes": 1024}')
    (path / "config.resolved.yaml").write_text("a: 1\n")
    return path


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    def call(path: Path, *arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["show", str(path), *arguments])
        return code, capsys.readouterr().out

    return call


def test_a_healthy_run_has_no_problems(run: Path, show: Show) -> None:
    assert study(run).problems == []
    code, text = show(run)
    assert code == 0 and "attempt   2" in text and "problems" not in text


def test_the_registry_knows_the_documents_of_a_run() -> None:
    expected = {"run.json", "heartbeat.json", "heartbeat.jsonl", "metrics.jsonl", "hardware.json", "run_metadata.json", "memory.json"}
    assert expected | {"control/answered/*-*.json", "checkpoints/*/manifest.json", "config.resolved.yaml"} <= set(run_files())


@pytest.mark.parametrize("name", ["run_metadata.json", "hardware.json", "telegram.json", "memory.json", "plan.json", "heartbeat.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty, 0 bytes"),
        (b'{"phase": 4, "che', "line 1, column"),
        (b"\x00\xff\xfe binary", "line 1, column 1"),
        (b"[1, 2]", "it is not an object"),
        (None, "Cannot read"),
    ],
    ids=["empty", "torn", "binary", "no object", "unreadable"],
)
def test_a_damaged_document_is_named_once(run: Path, show: Show, name: str, content: bytes | None, words: str) -> None:
    (run / name).unlink()
    if content is None:
        (run / name).mkdir()  # which not even root can read as a file
    else:
        (run / name).write_bytes(content)
    code, text = show(run)
    lines = [line for line in text.splitlines() if f"/{name}" in line]
    assert code == 0 and len(lines) == 1 and words in lines[0]
    known = json.loads(show(run, "--json")[1])
    assert [words in sentence for sentence in known["problems"] if f"/{name}" in sentence] == [True]


def test_other_documents_of_the_registry_are_looked_at_too(run: Path) -> None:
    for name in ("config.resolved.yaml", "control/answered/0001-pause.json"):
        (run / name).write_bytes(b"")
    (run / "heartbeat.jsonl").write_bytes(b"\xff\n\xfe\n")
    problems = study(run).problems
    assert len(problems) == 3
    for name in ("config.resolved.yaml", "0001-pause.json", "heartbeat.jsonl: 2 bad lines, the first is line 1"):
        assert sum(name in sentence for sentence in problems) == 1


def test_a_damaged_manifest_is_named_once(run: Path) -> None:
    with RunDir.open_writer(run) as writer:
        writer.checkpoints().save("one", lambda folder: (folder / "n.json").write_text("1"), step=1)
    (run / "checkpoints" / "one" / "manifest.json").write_bytes(b"")
    assert [sentence.count("manifest.json") for sentence in study(run).problems] == [1]


def test_binary_garbage_in_the_metrics_is_one_line(run: Path, show: Show) -> None:
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b"\xde\xad\n" * 500)
    code, text = show(run)
    lines = [line for line in text.splitlines() if "metrics.jsonl" in line]
    assert code == 0 and len(lines) == 1 and "500 bad lines, the first is line" in lines[0] and "train/loss" in text


@pytest.mark.parametrize("content", [b"", b"{", b"\x00\x01", b"[]", b"{}", None], ids=["empty", "torn", "binary", "list", "object", "gone"])
@pytest.mark.parametrize("snapshot", [True, False])
def test_a_damaged_record_invents_nothing(run: Path, show: Show, content: bytes | None, snapshot: bool) -> None:
    run_id = json.loads((run / "run.json").read_text())["run_id"]
    (run / "run.json").unlink()
    if content is not None:
        (run / "run.json").write_bytes(content)
    if not snapshot:
        (run / "heartbeat.json").unlink()
        (run / "heartbeat.jsonl").unlink()
    code, text = show(run)
    assert code == 1
    lines = text.splitlines()
    assert lines[0] == "demo  damaged" and lines[2].startswith(f"The record of this run cannot be read. {run}/run.json")
    assert "Restore it from a copy" in lines[2] and text.count("/run.json") == 1
    for known_from_elsewhere in ("attempt   2 (as the heartbeat says)", f"{run_id} (as the heartbeat says)"):
        assert (known_from_elsewhere in text) == snapshot
    assert "attempt   1" not in text
    assert "train/loss" in text and "writer    process " in text
    assert "hunter2" not in text  # the lock file repeats the command
    code, text = show(run, "--json")
    known: dict[str, Any] = json.loads(text)
    assert code == 1 and known["record"] is None and known["run"]["state"] == "damaged"
    assert known["problems"][0] == lines[2].removeprefix("The record of this run cannot be read. ")
    assert known["run"]["attempt"] == (2 if snapshot else None) and known["metrics"]["events"] == 2


def test_a_record_with_wrong_fields_shows_the_right_ones(run: Path, show: Show) -> None:
    record = json.loads((run / "run.json").read_text())
    changed = {**record, "command": 5, "entries": "none", "environment": [], "files": 3, "cwd": {"a": 1}}
    (run / "run.json").write_text(json.dumps(changed))
    code, text = show(run)
    assert code == 1 and record["run_id"] in text and "run.json is damaged" in text and "train/loss" in text


def test_odd_values_in_the_snapshot_are_no_crash(run: Path, show: Show) -> None:
    snapshot = json.loads((run / "heartbeat.json").read_text())
    odd = {**snapshot, "stale_after_s": "soon", "elapsed_s": "long", "step": "x", "alive_at": 3, "boot_id": "other", "attempt": None}
    (run / "heartbeat.json").write_text(json.dumps(odd))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"metric": "a", "value": "high"}\n')
    assert show(run)[0] == 0
    assert main(["watch", str(run)]) == 0
