"""What one logged metric costs: ours beside others, in the same rounds on the same disk.

python -m benchmarks.logging.run [--events 20000] [--rounds 7] [--output benchmarks/logging/result.json]

Every way to log gets the same events (metric name, value, step, two extras), one metric per call, and is asked to
have each event out of the process when the call returns where it can do that; the column "safe from kill" says who
does. Two figures per way, each the median over the rounds, in which the ways alternate: the latency of single calls
(p50, p99, timer cost included), and events per second of a plain loop, by the wall clock and by CPU time. On a
machine with other work the second is the one that travels.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import table, write_result

from modelwright.metrics import MetricWriter, read_metrics

Log = Callable[[str, float, int], object]
TARGETS = {"p50_us": 10.0, "events_per_s": 100_000}


class Way(NamedTuple):
    """A way to log: `log(metric, value, step)`, what to call at the end, and whether an event is out of the process
    on return."""

    log: Log
    close: Callable[[], object]
    safe_from_kill: bool


def modelwright(folder: Path) -> Way:
    writer = MetricWriter(folder / "metrics.jsonl")
    return Way(lambda metric, value, step: writer.log(metric, value, step, rung=1024, split="train"), writer.close, True)


def modelwright_buffered(folder: Path) -> Way:
    writer = MetricWriter(folder / "metrics.jsonl", flush_every=64)
    return Way(lambda metric, value, step: writer.log(metric, value, step, rung=1024, split="train"), writer.close, False)


def stdlib_logging(folder: Path) -> Way:
    """The standard library's logging with a JSON formatter, which flushes after every record."""

    class Formatter(logging.Formatter):
        converter = time.gmtime

        def format(self, record: logging.LogRecord) -> str:
            return json.dumps({"timestamp": self.formatTime(record, "%Y-%m-%dT%H:%M:%SZ"), **record.__dict__["event"]})

    logger = logging.Logger("benchmark", logging.INFO)
    handler = logging.FileHandler(folder / "log.jsonl")
    handler.setFormatter(Formatter())
    logger.addHandler(handler)

    def log(metric: str, value: float, step: int) -> None:
        event = {"metric": metric, "value": value, "step": step, "rung": 1024, "split": "train"}
        logger.info("", extra={"event": event})

    return Way(log, handler.close, True)


def sqlite_wal(folder: Path) -> Way:
    """One row per transaction, write-ahead log, synchronous=NORMAL."""
    import apsw

    database = apsw.Connection(str(folder / "metrics.db"))
    database.execute("pragma journal_mode=wal; pragma synchronous=normal")
    database.execute("create table metric(timestamp real, metric text, value real, step integer, rung integer, split text)")

    def log(metric: str, value: float, step: int) -> None:
        database.execute("insert into metric values (?,?,?,?,?,?)", (time.time(), metric, value, step, 1024, "train"))

    return Way(log, database.close, True)


def tensorboard(folder: Path) -> Way:
    """torch.utils.tensorboard.SummaryWriter with its defaults: a queue and a thread that flushes every two minutes."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    return Way(lambda metric, value, step: writer.add_scalar(metric, value, step), writer.close, False)


def mlflow_file(folder: Path) -> Way:
    """mlflow.log_metric into a local SQLite store, synchronous."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.start_run()
    return Way(lambda metric, value, step: mlflow.log_metric(metric, value, step=step), mlflow.end_run, True)


WAYS: dict[str, tuple[Callable[[Path], Way], tuple[str, ...], float]] = {
    "modelwright": (modelwright, (), 1.0),
    "modelwright, flush_every=64": (modelwright_buffered, (), 1.0),
    "stdlib logging, JSON": (stdlib_logging, (), 0.2),
    "SQLite WAL row (apsw)": (sqlite_wal, ("apsw",), 0.05),
    "TensorBoard SummaryWriter": (tensorboard, ("torch", "tensorboard"), 0.1),
    "MLflow": (mlflow_file, ("mlflow",), 0.01),
}
"""Name: (how to open it, packages it needs, share of the events it gets because it is slower)."""


def latencies(way: Way, events: int) -> list[int]:
    """Nanoseconds of each of `events` calls."""
    clock, log = time.perf_counter_ns, way.log
    spent = []
    for step in range(events):
        before = clock()
        log("train/loss", 2.5 + step * 1e-6, step)
        spent.append(clock() - before)
    return spent


def events_per_second(way: Way, events: int) -> tuple[float, float]:
    """Events per second, and per CPU second of this process with all its threads; a loop that does nothing else,
    close included."""
    log = way.log
    begin, used = time.perf_counter(), time.process_time()
    for step in range(events):
        log("train/loss", 2.5 + step * 1e-6, step)
    way.close()
    return events / (time.perf_counter() - begin), events / (time.process_time() - used)


def measure(events: int, rounds: int) -> list[dict[str, Any]]:
    """One row per way: medians over the rounds."""
    rows: list[dict[str, Any]] = []
    usable = {}
    for name, (opener, needs, share) in WAYS.items():
        missing = [package for package in needs if importlib.util.find_spec(package) is None]
        if missing:
            rows.append({"way": name, "note": f"not measured: {', '.join(missing)} is not installed"})
        else:
            usable[name] = (opener, max(100, int(events * share)))
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in usable}
    safe: dict[str, bool] = {}
    for number in range(rounds):
        order = list(usable) if number % 2 == 0 else list(reversed(usable))
        for name in order:
            opener, count = usable[name]
            with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
                way = opener(Path(one))
                safe[name] = way.safe_from_kill
                spent = sorted(latencies(way, count))
                way.close()
                rates = events_per_second(opener(Path(two)), count)
                if name == "modelwright":
                    assert len(read_metrics(Path(two) / "metrics.jsonl").events) == count
            found[name].append((spent[count // 2] / 1000, spent[count * 99 // 100] / 1000, *rates))
            print(f"round {number + 1}/{rounds}: {name}", file=sys.stderr)
    for name, figures in found.items():
        p50, p99, rate, cpu_rate = (statistics.median(column) for column in zip(*figures, strict=True))
        rows.append(
            {
                "way": name,
                "events": usable[name][1],
                "p50_us": round(p50, 2),
                "p99_us": round(p99, 2),
                "events_per_s": round(rate),
                "best_events_per_s": round(max(figure[2] for figure in figures)),
                "events_per_cpu_s": round(cpu_rate),
                "safe_from_kill": safe[name],
            }
        )
    return sorted(rows, key=lambda row: -row.get("events_per_s", -1))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--events", type=int, default=20_000, help="events per way and round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", default=str(Path(__file__).with_name("result.json")))
    arguments = parser.parse_args()
    rows = measure(arguments.events, arguments.rounds)
    ours = next(row for row in rows if row["way"] == "modelwright")
    met = {
        "p50": ours["p50_us"] <= TARGETS["p50_us"],
        "events_per_s": ours["events_per_s"] >= TARGETS["events_per_s"],
        "events_per_cpu_s": ours["events_per_cpu_s"] >= TARGETS["events_per_s"],
    }
    settings = {"events": arguments.events, "rounds": arguments.rounds, "folder": "the system's temporary folder"}
    write_result(arguments.output, benchmark="logging", settings=settings, results=rows, targets=TARGETS, targets_met=met)
    print(
        table(
            rows, ["way", "events", "p50_us", "p99_us", "events_per_s", "best_events_per_s", "events_per_cpu_s", "safe_from_kill", "note"]
        )
    )
    print(f"target: p50 <= {TARGETS['p50_us']} us and >= {TARGETS['events_per_s']} events/s by the wall clock")
    print(", ".join(f"{name}: {'met' if good else 'NOT met'}" for name, good in met.items()))
    return 0 if met["p50"] and met["events_per_s"] else 1


if __name__ == "__main__":
    sys.exit(main())
