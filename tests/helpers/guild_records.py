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

from modelwright.files import sha256_file


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
