"""How fast jobs are queued and taken, beside other queues that run on one machine.

    python -m benchmarks.guild_queue.run            10,000 jobs, 4 takers, 5 rounds
    python -m benchmarks.guild_queue.run --quick    200 jobs, 1 round

Needs the packages `huey`, `rq`, `redis` and the program `redis-server` for the others; what is not there is named and left out.
Procrastinate needs a PostgreSQL server and is left out by name. Every queue lies in the same temporary folder (TMPDIR), which should be
on a disk: in memory, waiting for it costs nothing. What each queue keeps through a kill and a power cut differs; the result says it row by
row.

One round of one queue: put N jobs in at once (10,000; a queue without a batch gets fewer and puts them in one by one); put 200 in one by
one; then 4 processes, all of them ready before the first begins, take 500 jobs each, one after the other, and say of each that it is
done, while the others do the same. The latency of a take is what a worker waits. Rounds are interleaved; every figure is the median over
rounds of the figure of a round, p99 over all takes of all takers. RQ gets less work than it would have: its worker writes more about a job
than is done here, which favours it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import table, write_result
from benchmarks.guild_queue.ways import WAYS, missing, open_way, server

from modelwright.lock import file_system

TARGETS = {"enqueue_10000_s": 2.0, "take_p99_ms": 5.0}


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the sorted values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def take(name: str, folder: str, count: int) -> None:
    """The work of one taker process: say that it is ready, wait for a line, take and finish `count` jobs, print the two lists of ms."""
    way = open_way(name, folder)
    print("ready", flush=True)
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
    count = int(jobs * WAYS[name].share)
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
            for process in processes:
                assert process.stdout is not None
                if process.stdout.readline() != "ready\n":
                    raise RuntimeError(f"{name}: a taker did not start")
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
        rows.append({"queue": name, "jobs": int(jobs * WAYS[name].share), "keeps": WAYS[name].keeps, **medians, "rounds": figures})
    rows.append({"queue": "procrastinate", "note": "not measured: it needs a PostgreSQL server"})
    return sorted(rows, key=lambda row: "note" in row)


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--taker"]:
        take(words[1], words[2], int(words[3]))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--singles", type=int, default=200, help="jobs put in one by one")
    parser.add_argument("--takers", type=int, default=4, help="processes")
    parser.add_argument("--takes", type=int, default=500, help="jobs that each of them takes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a try: 200 jobs, 20 takes, 1 round, and no result is written")
    parser.add_argument("--output", default=str(Path(__file__).with_name("result.json")))
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.jobs, arguments.singles, arguments.takes, arguments.rounds = 200, 10, 10, 1
    if arguments.takers * arguments.takes > arguments.jobs * min(choice.share for choice in WAYS.values()) + arguments.singles:
        parser.error("--jobs: too few for what the takers are to take")
    rows = measure(arguments.jobs, arguments.singles, arguments.takers, arguments.takes, arguments.rounds)
    ours = next(row for row in rows if row["queue"] == "guild")
    met = {
        "enqueue_10000_s": 10_000 / ours["enqueue_per_s"] <= TARGETS["enqueue_10000_s"],
        "take_p99_ms": ours["take_p99_ms"] <= TARGETS["take_p99_ms"],
    }
    settings = {name: getattr(arguments, name) for name in ("jobs", "singles", "takers", "takes", "rounds")}
    settings["file_system"] = file_system(Path(tempfile.gettempdir()))
    if not arguments.quick:
        write_result(arguments.output, benchmark="guild_queue", settings=settings, results=rows, targets=TARGETS, targets_met=met)
    columns = ["queue", "jobs", "enqueue_per_s", "enqueue_one_p50_ms", "take_p50_ms", "take_p99_ms", "done_p50_ms", "done_p99_ms"]
    print(table(rows, [*columns, "jobs_per_s", "note"]))
    print(", ".join(f"{name} <= {TARGETS[name]}: {'met' if good else 'NOT met'}" for name, good in met.items()))
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
