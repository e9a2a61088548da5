"""Runs one measurement in a process of its own, and looks at the GPU from outside while it goes on.

On a processor the children are forked from a server that has imported the training libraries, so that six of them start in seconds; with a
GPU each is started anew, since a fork of a process that has looked for a GPU may not use it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelwright.gpus import find_gpus

PRELOADED = ["torch", "transformers.trainer", "guild.training.engine"]
LOOK_S = 0.2
GIB = 1 << 30


class ChildFailed(RuntimeError):
    """A measurement that ended without an answer; the text says how."""


def in_child(device: str, work: Callable[..., dict[str, Any]], *arguments: Any, patience_s: float = 560.0) -> dict[str, Any]:
    """What `work(*arguments)` answers in a child, with the `cpu_seconds` that it took. With a GPU, `device_used_bytes` is added: how much
    more memory of the device was in use at the most than before, by everybody, seen five times a second. Raises ChildFailed."""
    context: Any = multiprocessing.get_context("forkserver" if device == "cpu" else "spawn")
    if device == "cpu":
        context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    before = _free_bytes(device)
    child = context.Process(target=_answer, args=(sender, work, arguments))
    child.start()
    sender.close()
    least, until = before, time.monotonic() + patience_s
    try:
        while not receiver.poll(LOOK_S):
            free = _free_bytes(device)
            least = free if least is None or free is None else min(least, free)
            if time.monotonic() > until:
                raise ChildFailed(f"{work.__name__} took more than {patience_s:.0f} s")
        answer = receiver.recv()
    except EOFError as error:
        child.join()
        raise ChildFailed(
            f"{work.__name__} ended with code {child.exitcode} and no answer (a code of -9: killed, mostly for memory)"
        ) from error
    finally:
        if child.is_alive():
            child.join(10)
            child.kill()
        child.join()
    if "error" in answer:
        raise ChildFailed(answer["error"])
    found = dict(answer["found"])
    if before is not None and least is not None:
        found["device_used_bytes"] = before - least
    return found


def _answer(sender: Any, work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    sys.stdout = sys.stderr  # the parent's answer is a table
    try:
        found = work(*arguments)
        sender.send({"found": {**found, "cpu_seconds": round(time.process_time(), 1)}})
    except BaseException:
        sender.send({"error": traceback.format_exc()})
        raise
    finally:
        sender.close()


def _free_bytes(device: str) -> int | None:
    """Free memory of the first GPU; None on a processor, or where nobody can read it."""
    if device == "cpu":
        return None
    found = find_gpus(Path("/dev"), os.environ)
    free = found.gpus[0].vram_free_gb if found.known and found.gpus else None
    return None if free is None else int(free * GIB)
