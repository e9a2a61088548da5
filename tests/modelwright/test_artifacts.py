"""What the kernel really writes into a run directory is what its schemas say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

from modelwright.control import answers, ask
from modelwright.hardware import inventory
from modelwright.rundir import RunDir
from modelwright.schema_registry import get, json_schema


def check(name: str, document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(json_schema(get(name))).validate(document)
    artifact = get(name)
    unknown = set(document) - set(artifact.model.model_fields)
    assert unknown <= ALLOWED_EXTRAS.get(name, set()), f"{name}: the model does not describe {unknown}"


ALLOWED_EXTRAS = {"metric-event": {"rung"}, "heartbeat": {"colour"}}


def test_a_real_run_directory(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunDir.create(path, kind="toy", command=["toy"], config={"a": 1}, tags=["t"], group="g") as run, run.phase("train"):
        run.metrics().log("train/loss", float("nan"), 1, rung=512)
        run.metrics().log("train/loss", 2, 2)
        run.heartbeat().beat(status="running", phase="train", step=1, total=2, throughput=3.0, colour="red")
        run.checkpoints().save("one", lambda folder: (folder / "w.json").write_text("{}"), step=1, metadata={"x": 1})
        ask(path, "skip", actor="test", body={"why": "x"})
        check("control-request", json.loads((path / "control" / "skip.request").read_text()))
        (request,) = run.control().poll()
        run.control().ack(request, "skipped", step=1)
    check("run-record", json.loads((path / "run.json").read_text()))
    check("heartbeat", json.loads((path / "heartbeat.json").read_text()))
    for line in (path / "heartbeat.jsonl").read_text().splitlines():
        check("heartbeat", json.loads(line))
    for line in (path / "metrics.jsonl").read_text().splitlines():
        check("metric-event", json.loads(line))
    check("checkpoint-manifest", json.loads((path / "checkpoints" / "one" / "manifest.json").read_text()))
    (answered,) = answers(path)
    check("control-answer", answered)


def test_the_inventory_of_this_machine() -> None:
    check("hardware-inventory", inventory().model_dump(mode="json"))
