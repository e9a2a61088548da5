"""How fast jobs are queued and taken, beside other queues that run on one machine.

    python -m benchmarks.guild_queue.run            10,000 jobs, 4 takers, 5 rounds
    python -m benchmarks.guild_queue.run --quick    200 jobs, 1 round

Needs the packages `huey`, `rq`, `redis` and the program `redis-server` for the others; what is not there is named and left out.
Procrastinate needs a PostgreSQL server and is left out by name.

One round of one queue: put N jobs in at once (10,000; a queue without a batch gets fewer and puts them in one by one); put 200 in one by
one; then 4 processes take 500 jobs each, one after the other, and say of each that it is done, waiting for the disk, while the others do
the same. The latency of a take is what a worker waits. Rounds are interleaved; every figure is the median over rounds of the figure of a
round, p99 over all takes of all takers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import table, write_result
from benchmarks.guild_queue.ways import WAYS, missing, open_way, server

TARGETS = {"enqueue_10000_s": 2.0, "take_p99_ms": 5.0}
BATCHLESS_SHARE = {"huey": 0.2}
"""Share of the jobs that a queue without a batch gets, because each waits for the disk."""


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the sorted values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def take(name: str, folder: str, count: int) -> None:
    """The work of one taker process: wait for a line, take and finish `count` jobs, print the two lists of ms."""
    way = open_way(name, folder)
    sys.stdin.readline()
    taken, done = [], []
    for _ in range(count):
        begin = time.perf_counter()
        job = way.take()
        between = time.perf_counter()
        if job is None:
            break
        way.done(job)
        taken.append((between - begin) * 1000)
        done.append((time.perf_counter() - between) * 1000)
    way.close()
    print(json.dumps([taken, done]))


def one_round(name: str, jobs: int, singles: int, takers: int, takes: int) -> dict[str, float]:
    """The figures of one round of one queue."""
    count = int(jobs * BATCHLESS_SHARE.get(name, 1))
    with tempfile.TemporaryDirectory() as folder:
        beside = server(name, Path(folder))
        try:
            way = open_way(name, folder)
            begin = time.perf_counter()
            way.enqueue_many(count)
            batch_s = time.perf_counter() - begin
            single_ms = []
            for _ in range(singles):
                begin = time.perf_counter()
                way.enqueue()
                single_ms.append((time.perf_counter() - begin) * 1000)
            command = [sys.executable, "-m", "benchmarks.guild_queue.run", "--taker", name, folder, str(takes)]
            processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(takers)]
            time.sleep(1.0)  # all of them stand at the line
            begin = time.perf_counter()
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            said = [json.loads(process.communicate()[0]) for process in processes]
            seconds = time.perf_counter() - begin
            way.close()
        finally:
            if beside is not None:
                beside.terminate()
                beside.wait()
    taken = [value for one in said for value in one[0]]
    done = [value for one in said for value in one[1]]
    assert len(taken) == takers * takes, f"{name}: {len(taken)} of {takers * takes} jobs were taken"
    return {
        "enqueue_per_s": count / batch_s,
        "enqueue_batch_s": batch_s,
        "enqueue_one_p50_ms": percentile(single_ms, 0.5),
        "enqueue_one_p99_ms": percentile(single_ms, 0.99),
        "take_p50_ms": percentile(taken, 0.5),
        "take_p99_ms": percentile(taken, 0.99),
        "take_max_ms": max(taken),
        "done_p50_ms": percentile(done, 0.5),
        "done_p99_ms": percentile(done, 0.99),
        "jobs_per_s": len(taken) / seconds,
    }


def measure(jobs: int, singles: int, takers: int, takes: int, rounds: int) -> list[dict[str, Any]]:
    """One row per queue: medians over the rounds."""
    rows: list[dict[str, Any]] = [{"queue": name, "note": missing(name)} for name in WAYS if missing(name)]
    usable = [name for name in WAYS if not missing(name)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in usable}
    for number in range(rounds):
        for name in usable if number % 2 == 0 else reversed(usable):
            found[name].append(one_round(name, jobs, singles, takers, takes))
            print(f"round {number + 1}/{rounds}: {name}", file=sys.stderr)
    for name, figures in found.items():
        medians = {key: round(statistics.median(one[key] for one in figures), 3) for key in figures[0]}
        rows.append({"queue": name, "jobs": int(jobs * BATCHLESS_SHARE.get(name, 1)), **medians, "rounds": figures})
    rows.append({"queue": "procrastinate", "note": "not measured: it needs a PostgreSQL server"})
    return sorted(rows, key=lambda row: "note" in row)


def main() -> int:
    if sys.argv[1:2] == ["--taker"]:
        take(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--singles", type=int, default=200, help="jobs put in one by one")
    parser.add_argument("--takers", type=int, default=4, help="processes")
    parser.add_argument("--takes", type=int, default=500, help="jobs that each of them takes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a try: 200 jobs, 20 takes, 1 round, and no result is written")
    parser.add_argument("--output", default=str(Path(__file__).with_name("result.json")))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.jobs, arguments.singles, arguments.takes, arguments.rounds = 200, 10, 10, 1
    if arguments.takers * arguments.takes > arguments.jobs * min(BATCHLESS_SHARE.values()) + arguments.singles:
        parser.error("--jobs: too few for what the takers are to take")
    rows = measure(arguments.jobs, arguments.singles, arguments.takers, arguments.takes, arguments.rounds)
    ours = next(row for row in rows if row["queue"] == "guild")
    met = {
        "enqueue_10000_s": 10_000 / ours["enqueue_per_s"] <= TARGETS["enqueue_10000_s"],
        "take_p99_ms": ours["take_p99_ms"] <= TARGETS["take_p99_ms"],
    }
    settings = {name: getattr(arguments, name) for name in ("jobs", "singles", "takers", "takes", "rounds")}
    if not arguments.quick:
        write_result(arguments.output, benchmark="guild_queue", settings=settings, results=rows, targets=TARGETS, targets_met=met)
    columns = ["queue", "jobs", "enqueue_per_s", "enqueue_one_p50_ms", "take_p50_ms", "take_p99_ms", "done_p50_ms", "done_p99_ms"]
    print(table(rows, [*columns, "jobs_per_s", "note"]))
    print(", ".join(f"{name} <= {TARGETS[name]}: {'met' if good else 'NOT met'}" for name, good in met.items()))
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
