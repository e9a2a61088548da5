"""The report is the same for any number of processes, ranges and blocks; a process that fails never lets a file pass."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guild.validation import workers
from guild.validation.gate import FileLimits
from guild.validation.scan import ScanTask
from guild.validation.validate import ReadingPlan, validate_file
from guild.validation.workers import ScanFailedError, scanned
from helpers.guild_rows import chat, many, write_rows

KINDS: dict[str, Any] = {
    "good": None,
    "broken": b'{"messages": [',
    "blank": b"",
    "role": {"messages": [{"role": "bot", "content": "x"}]},
    "leak": chat("the harbour lamp is lit", "harbour lamp"),
    "same": chat("always this", "and that reply"),
    "long": chat("z" * 700, "a reply of some words"),
    "other": chat("which schema?", "another one than yours", schema_id="syllo_v1"),
    "torn": b"\xff\xfe",
}


def written(path: Path, kinds: list[str]) -> Path:
    good = many(len(kinds))
    return write_rows(path, [good[at] if kind == "good" else KINDS[kind] for at, kind in enumerate(kinds)])


def words(content: Any) -> int:
    return len(str(content).split())


@settings(max_examples=120, deadline=None)
@given(
    kinds=st.lists(st.sampled_from([*KINDS, "good", "good", "same"]), min_size=1, max_size=160),
    rewrite=st.integers(0, 3),
    step=st.integers(20, 3000),
    block=st.integers(1, 2000),
)
def test_any_ranges_and_blocks_give_the_same_report(tmp_path_factory, kinds: list[str], rewrite: int, step: int, block: int) -> None:
    if rewrite == 0:  # many errors, so that the hundredth ends the scan
        kinds = [kind if kind != "good" else "role" for kind in kinds] * 2
    path = written(tmp_path_factory.getbasetemp() / "any.jsonl", kinds)
    settings_ = {"schema": "chat_sft_v1", "tokenizer": words, "max_length": 60, "limits": FileLimits(line_bytes=600)}
    whole = validate_file(path, "deep", **settings_)
    cut = validate_file(path, "deep", reading=ReadingPlan(block, step), **settings_)
    assert cut == whole


@pytest.mark.parametrize("shape", ["mostly good", "many errors"])
def test_any_number_of_processes_gives_the_same_report(tmp_path: Path, shape: str) -> None:
    draw = random.Random(7)
    faulty = ["good"] * 40 + list(KINDS) if shape == "mostly good" else ["good", "good", "broken", "role", "blank"]
    path = written(tmp_path / "data.jsonl", [draw.choice(faulty) for _ in range(800 if shape == "mostly good" else 900)])
    one = validate_file(path, "deep", schema="chat_sft_v1", workers=1)
    assert len(one.errors) >= 20 and (shape == "mostly good" or one.stats["stopped"])
    for count in (2, 3):
        assert validate_file(path, "deep", schema="chat_sft_v1", workers=count, reading=ReadingPlan(999, 7001)) == one


def test_a_process_that_is_killed_is_an_error_and_never_a_pass(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never.jsonl")  # nobody writes to it: no process can have answered before the kill
    tasks = [ScanTask(str(tmp_path / "never.jsonl"), 0, 10, "chat_sft_v1", 100)] * 3
    with scanned(tasks, 2) as parts:
        children = scanning_children()
        for child in children:
            child.kill()
        with pytest.raises(ScanFailedError, match=r"a scanning process that ended early \(exit status -9\)"):
            next(parts)
    assert len(children) == 2
    assert not scanning_children()


def scanning_children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "guild.validation.worker" in child.cmdline()]


def test_what_a_process_cannot_read_makes_the_file_invalid(tmp_path: Path) -> None:
    missing = [ScanTask(str(tmp_path / "gone.jsonl"), at, at + 10, "chat_sft_v1", 100) for at in (0, 10)]
    with scanned(missing, 2) as parts, pytest.raises(ScanFailedError, match=r"Cannot read .*gone\.jsonl: it does not exist"):
        next(parts)


def test_processes_end_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", many(2000))
    program = (
        "import sys, time\n"
        "from guild.validation.scan import ScanTask\n"
        "from guild.validation.workers import scanned\n"
        f"tasks = [ScanTask({str(path)!r}, 0, 999, 'chat_sft_v1', 100)] * 4\n"
        "with scanned(tasks, 2) as parts:\n"
        "    next(parts); print('ready', flush=True); time.sleep(600)\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert caller.stdout is not None
    assert caller.stdout.readline() == b"ready\n"
    children = psutil.Process(caller.pid).children()
    assert len(children) == 2
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    caller.stdout.close()
    limit = time.monotonic() + 30
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children if psutil.pid_exists(child.pid)):
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_no_more_processes_than_this_one_may_use() -> None:
    assert 1 <= workers.usable_workers() <= len(os.sched_getaffinity(0))
