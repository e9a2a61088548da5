"""A process that scans ranges for another: a task a line on standard input, findings on standard output, until the input ends.

It ends with its parent, however that ends, because the pipe does. `workers.py` starts it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import orjson

from guild.validation.failures import failure_sentence
from guild.validation.merging import to_wire
from guild.validation.scan import ScanTask, scan


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a check prints must not stand between the answers
    for line in sys.stdin.buffer:
        head, *blobs = _answer(orjson.loads(line))
        sink.write(orjson.dumps({**head, "blobs": [len(blob) for blob in blobs]}) + b"\n" + b"".join(blobs))
        sink.flush()
    return 0


def _answer(request: dict[str, Any]) -> list[Any]:
    task = ScanTask(**{**request, "skip": tuple(request["skip"])})
    try:
        return list(to_wire(scan(task)))
    except Exception as error:  # noqa: BLE001 - told to the parent, for whom the file then counts as invalid
        return [{"failure": failure_sentence(error, task.path)}]


if __name__ == "__main__":
    raise SystemExit(main())
