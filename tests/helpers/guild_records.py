"""Checkpoint folders of every kind that the ledger meets, a process that dies at a chosen line, and digests of a whole tree."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from guild.places import Places
from guild.records.checkpoint_record import CampaignId
from modelwright.files import sha256_file

DIO = CampaignId("dio-qwen3-0.6b", "campaign-001")


def write_safetensors(path: Path, numbers: int = 16) -> None:
    """A file of one float32 tensor, as the format prescribes."""
    tensor = {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "weight": tensor})
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4 * numbers))


def write_checkpoint(
    folder: Path, name: str, *, state: Mapping[str, Any] | None = None, optimizer: bool = True, trainer_state: bool = True
) -> Path:
    """A folder such as Hugging Face Trainer saves; the step is the one in `name`."""
    path = folder / name
    path.mkdir(parents=True)
    step = int(name.split("-")[1])
    (path / "config.json").write_text('{"model_type": "llama"}')
    write_safetensors(path / "model.safetensors")
    if optimizer:
        (path / "optimizer.pt").write_bytes(b"state")
    if trainer_state:
        history = [{"step": step - 1, "loss": 2.5, "learning_rate": 2e-4}, {"step": step, "loss": 1.5, "learning_rate": 1e-4}]
        body = {"global_step": step, "epoch": 0.5, "log_history": [*history, {"step": step, "eval_loss": 1.75}], **(state or {})}
        (path / "trainer_state.json").write_text(json.dumps(body))
    return path


def write_campaign(base: Path, hero: str = "dio-qwen3-0.6b", campaign: str = "campaign-001", created: str = "2025-11-01T00:00:00Z") -> Path:
    """A campaign's folder with its document."""
    folder = base / "campaigns" / hero / campaign
    for name in ("checkpoints", "status", "logs"):
        (folder / name).mkdir(parents=True)
    (folder / "campaign.json").write_text(json.dumps({"id": campaign, "hero_id": hero, "created_at": created}))
    return folder


def original_record(path: Path, step: int, loss: float) -> dict[str, Any]:
    return {
        "step": step,
        "timestamp": f"2025-11-2{step % 10}T14:30:00.123456",
        "path": str(path),
        "canonical_name": path.name,
        "train_loss": loss,
        "val_loss": None,
        "skill_name": "syllo",
        "skill_level": 2,
        "size_bytes": 1234,
        "has_optimizer": True,
        "created_by": "training_daemon",
        "ledger_version": "1.0.0",
        "future_field": {"kept": True},
    }


def original_tree(base: Path, form: str = "object", owner: CampaignId = DIO) -> Places:
    """An installation as the original leaves it: three checkpoints with a sidecar, one known to the ledger document only, one to nobody.

    form: of the ledger documents, `object` or `list`.
    """
    places = Places(base)
    campaign = write_campaign(base, owner.hero_id, owner.campaign_id)
    write_campaign(base, owner.hero_id, "campaign-002", "2025-12-24T00:00:00Z")
    names = ("99999-20251121-1430", "100000-20251122-1430", "183000", "184000", "184001")
    paths = [write_checkpoint(places.current_model, f"checkpoint-{name}") for name in names]
    records = [original_record(path, int(path.name.split("-")[1]), 2.0 - number / 10) for number, path in enumerate(paths[:4])]
    for path, record in list(zip(paths, records, strict=False))[:3]:
        (path / ".ledger.json").write_text(json.dumps(record, indent=1))
    (paths[0] / ".ledger.json").write_text((paths[0] / ".ledger.json").read_text().replace('"val_loss": null', '"val_loss": NaN'))
    places.status.mkdir(exist_ok=True)
    entries: Any = records if form == "list" else {str(record["step"]): record for record in records}
    whole = entries if form == "list" else {"version": "1.0.0", "checkpoint_count": 4, "checkpoints": entries, "operator": "me"}
    (places.status / "checkpoint_ledger.json").write_text(json.dumps(whole))
    (campaign / "status" / "checkpoint_ledger.json").write_text("[]")
    evaluation = {"checkpoint_step": 184000, "skill": "syllo", "level": 2, "accuracy": 0.6, "correct": 3, "total": 5}
    evaluation |= {"timestamp": "2025-11-27T10:00:00", "validation_type": "static", "eval_type": "quick", "problems": [{"prompt": "p"}]}
    (places.status / "evaluation_ledger.json").write_text(json.dumps({"version": "1.0", "count": 1, "evaluations": [evaluation]}))
    (paths[3] / ".evals.json").write_text(json.dumps({"evaluations": [{**evaluation, "skill": "binary", "correct": 1, "accuracy": 0.2}]}))
    (places.status / "passives_ledger.json").write_text(json.dumps({"184000:arithmetic:LITE:1.0.0": {"correct": 4, "total": 5}}))
    totals = {"total": 12, "passed": 9, "failed": 3, "by_validator": {"spec_validator@1.0.0": 12}, "top_errors": ["bad role"]}
    (places.status / "data_lineage.json").write_text(json.dumps({"total_validations": 12, "generators": {"syllo_api@1.0.0": totals}}))
    places.data_manager.mkdir(exist_ok=True)
    places.curriculum_state.write_text(json.dumps({"skills": {"syllo": {"current_level": 1}}}))
    places.baselines.mkdir(exist_ok=True)
    addition = {"skill": "addition", "total": 5, "correct": 4, "errors": [], "accuracy": 0.8, "avg_time": 0.1}
    baseline = {"tag": "base_qwen", "samples_per_skill": 5, "skills": {"addition": addition}}
    (places.baselines / "baseline_base_qwen.json").write_text(json.dumps(baseline))
    (base / "config.json").write_text('{"model_name": "qwen3"}')
    return places


def digests(folder: Path) -> dict[str, str]:
    """Relative path → SHA-256 of every file below `folder`."""
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def killed_at_line(number: int, modules: tuple[str, ...], work: Callable[[], None]) -> bool:
    """Do `work` in a forked process that kills itself (SIGKILL) before the `number`-th line of the named source files; whether it died.

    Raises AssertionError when the work failed by itself.
    """
    left = number

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    def call(frame: FrameType, event: str, _: Any) -> Any:
        return line if frame.f_code.co_filename.endswith(modules) else None

    def traced() -> None:
        sys.settrace(call)
        work()
        sys.settrace(None)

    child = _forked(traced)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed by itself"
    return False


def in_processes(works: list[Callable[[], None]]) -> None:
    """Do every work at the same time, each in a forked process; AssertionError when one fails."""
    children = [_forked(work) for work in works]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0] * len(works)


def _forked(work: Callable[[], None]) -> int:
    """The pid of a new process that does `work` and ends with 0, or 1 after an exception, which it prints."""
    child = os.fork()
    if child != 0:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        if code:
            traceback.print_exception(*sys.exc_info())
        os._exit(code)
