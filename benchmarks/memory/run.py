"""Peak memory and tokens per second at growing length, ours beside stock Trainer + PEFT, and how far each gets in 8 GiB.

    python -m benchmarks.memory.run [--lengths 512,1024,…] [--limit-gib 8] [--device cpu|cuda] [--quick]

Four sides: stock Trainer + PEFT and ours, each with and without recomputed blocks (gradient checkpointing). All train
the same random-weight Llama (vocabulary 32,000) with the same LoRA on the same tokens, batch 1. Every (side, length) is
a process of its own with a memory limit; at each length the sides take turns, so that other work on the machine meets
all of them. Beside each measured peak stands what the kernel's estimator had said. After the given lengths each side is
taken further, along the line through its own figures, until it no longer fits or one process would take too long.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import table, write_result
from benchmarks.memory.child import OURS, STOCK, Case, side_name

from modelwright.files import read_json

GIB = 1 << 30
SIDES = ((STOCK, False), (OURS, False), (STOCK, True), (OURS, True))
TOLERANCE = 0.05  # the longest length is known to this share of itself
GRAIN = 128  # tokens
WORTHWHILE = 0.2  # where patience ends the search, one more length is measured if it is longer by this share
BODIES = {
    "cpu": {
        "vocab_size": 32000,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "cuda": {
        "vocab_size": 32000,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
}
LENGTHS = {"quick": (512, 2048, 4096), "cpu": (512, 1024, 2048, 4096, 8192), "cuda": (512, 1024, 2048, 4096, 8192, 16384)}


@dataclass(frozen=True)
class Point:
    """One measurement. `peak` and `predicted` in bytes (0 when the case did not finish), `seconds` per step."""

    length: int
    outcome: str  # done | out of memory | over the time limit
    peak: int = 0
    predicted: int = 0
    seconds: float = 0.0

    def fits(self, limit: int) -> bool:
        return self.outcome == "done" and self.peak <= limit

    def row(self, side: str) -> dict[str, Any]:
        """The point as a line of the result."""
        if self.outcome != "done":
            return {"side": side, "length": self.length, "outcome": self.outcome}
        return {
            "side": side,
            "length": self.length,
            "outcome": self.outcome,
            "peak_gib": round(self.peak / GIB, 3),
            "predicted_gib": round(self.predicted / GIB, 3),
            "predicted_error": round(self.predicted / self.peak - 1, 3),
            "seconds_per_step": round(self.seconds, 3),
            "tokens_per_s": round(self.length / self.seconds, 1),
        }


def point_of(row: Mapping[str, Any]) -> Point:
    """The point of a line that `Point.row` made."""
    if row["outcome"] != "done":
        return Point(row["length"], row["outcome"])
    return Point(row["length"], "done", int(row["peak_gib"] * GIB), int(row["predicted_gib"] * GIB), row["seconds_per_step"])


@dataclass(frozen=True)
class Reach:
    """How far one side gets. `longest` fitted when it was run, `too_long` did not (0: no such length was found);
    `line` is the length at which the straight line through the figures meets the limit.
    """

    side: str
    longest: int
    too_long: int
    line: int
    why_it_ended: str


Outcome = tuple[list[dict[str, Any]], list[Reach]]


def length_at(points: Sequence[Point], limit: int) -> int:
    """Tokens at which the line through the two longest finished points reaches `limit` bytes; 0 when no line rises."""
    done = sorted((point for point in points if point.outcome == "done"), key=lambda point: point.length)[-2:]
    if len(done) < 2 or done[1].peak <= done[0].peak:
        return 0
    slope = (done[1].peak - done[0].peak) / (done[1].length - done[0].length)  # bytes per token
    return int(done[1].length + (limit - done[1].peak) / slope)


def next_length(points: Sequence[Point], limit: int) -> int | None:
    """The length to try next, or None when the longest that fits is known to `TOLERANCE` (or nothing fits at all)."""
    fitting = [point.length for point in points if point.fits(limit)]
    if not fitting:
        return None
    longest = max(fitting)
    beyond = min((point.length for point in points if not point.fits(limit) and point.length > longest), default=None)
    if beyond is not None and beyond <= longest * (1 + TOLERANCE) + GRAIN:
        return None
    guess = length_at(points, limit) or 2 * longest
    guess = max(guess, int(longest * (1 + TOLERANCE)))
    if beyond is not None and guess >= beyond:
        guess = (longest + beyond) // 2
    return max(longest + GRAIN, guess // GRAIN * GRAIN)


def expected_seconds(points: Sequence[Point], length: int) -> float:
    """Seconds of one step at `length`, as if every cost grew with the square of the length (an upper estimate)."""
    last = max((point for point in points if point.outcome == "done"), key=lambda point: point.length)
    return last.seconds * (length / last.length) ** 2


def affordable_length(points: Sequence[Point], patience: float) -> int:
    """The longest length whose step should not take more than `patience` seconds, by the same estimate."""
    last = max((point for point in points if point.outcome == "done"), key=lambda point: point.length)
    return int(last.length * (patience / last.seconds) ** 0.5) // GRAIN * GRAIN


def find_reach(side: str, points: list[Point], limit: int, patience: float, measure: Callable[[int], Point]) -> Reach:
    """Go on from the points of the sweep until the longest fitting length is known; appends what it measures."""
    ended = "found"
    while (length := next_length(points, limit)) is not None:
        needed = expected_seconds(points, length)
        if needed > patience:
            ended = f"one step at {length} tokens could take {needed:.0f} s, more than the {patience:.0f} s allowed"
            length = affordable_length(points, patience)
            if length <= (1 + WORTHWHILE) * max(point.length for point in points if point.fits(limit)):
                break
        points.append(measure(length))
        if points[-1].outcome == "over the time limit":
            ended = f"{length} tokens took more than the {patience:.0f} s allowed"
            break
    fitting = [point.length for point in points if point.fits(limit)]
    longest = max(fitting, default=0)
    failed = [point.length for point in points if not point.fits(limit) and point.outcome != "over the time limit"]
    return Reach(side, longest, min(failed, default=0), length_at(points, limit), ended)


def run_case(case: Case, timeout: float) -> Point:
    """Measure one case in a process of its own. Raises SystemExit when it ends in any way that is no measurement."""
    command = [sys.executable, "-m", "benchmarks.memory.child", json.dumps(asdict(case))]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return Point(case.length, "over the time limit")
    if done.returncode != 0:
        raise SystemExit(f"{case.side} at {case.length} tokens ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["outcome"] != "done":
        return Point(case.length, found["outcome"])
    steps = found["step_seconds"]
    return Point(case.length, "done", found["peak_bytes"], found["predicted_bytes"], statistics.median(steps[1:] or steps))


def benchmark(given: argparse.Namespace, lengths: Sequence[int], earlier: Sequence[Mapping[str, Any]] = ()) -> Outcome:
    """The sweep over the lengths, then the search for the longest of each side. earlier: lines that need no second measurement."""
    limit = int(given.limit_gib * GIB)
    points: dict[str, list[Point]] = {side_name(*side): [] for side in SIDES}
    for row in earlier:
        points[row["side"]].append(point_of(row))

    def measure(trainer: str, recompute: bool, length: int, steps: int) -> Point:
        body = BODIES[given.device]
        case = Case(trainer, recompute, length, steps, limit, given.device, given.threads, body, given.documents)
        point = run_case(case, given.patience * steps + 120)
        print(f"{case.side} at {length}: {json.dumps(point.row(case.side))}", file=sys.stderr, flush=True)
        return point

    for length in lengths:
        for trainer, recompute in SIDES:
            series = points[side_name(trainer, recompute)]
            if length not in {point.length for point in series} and all(point.fits(limit) for point in series):
                series.append(measure(trainer, recompute, length, given.steps))
    reaches = []
    for trainer, recompute in SIDES:
        name = side_name(trainer, recompute)
        one = lambda length, trainer=trainer, recompute=recompute: measure(trainer, recompute, length, 1)  # noqa: E731
        reaches.append(find_reach(name, points[name], limit, given.patience, one))
    rows = [point.row(name) for name, series in points.items() for point in sorted(series, key=lambda point: point.length)]
    return rows, reaches


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lengths", help="comma-separated, in tokens")
    parser.add_argument("--limit-gib", type=float, default=8.0)
    parser.add_argument("--device", choices=sorted(BODIES), default="cpu")
    parser.add_argument("--steps", type=int, default=3, help="steps per case of the sweep; the first is left out of the speed")
    parser.add_argument("--documents", type=int, default=1, help="documents per window; more than one needs an attention mask")
    parser.add_argument("--patience", type=float, help="longest time of one step in seconds (600; 60 with --quick)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="fewer lengths and less patience")
    parser.add_argument("--go-on", type=Path, metavar="RESULT", help="an earlier result of the same settings, whose lines are kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    given = parser.parse_args(argv)
    given.patience = given.patience or (60.0 if given.quick else 600.0)
    return given


def main(argv: Sequence[str] | None = None) -> int:
    given = parse(argv)
    chosen = given.lengths.split(",") if given.lengths else LENGTHS["quick" if given.quick else given.device]
    lengths = sorted(int(length) for length in chosen)
    earlier = read_json(given.go_on)["results"] if given.go_on else ()
    rows, reaches = benchmark(given, lengths, earlier)
    settings = {name: value for name, value in vars(given).items() if name not in ("out", "lengths", "go_on")}
    number = "float32" if given.device == "cpu" else "bfloat16"
    settings |= {"lengths": lengths, "body": BODIES[given.device], "batch": 1, "number_format": number}
    longest = [asdict(reach) for reach in reaches]
    write_result(given.out, benchmark="memory", settings=settings, results=rows, longest=longest)
    print(table(rows, ["side", "length", "peak_gib", "predicted_gib", "predicted_error", "tokens_per_s", "outcome"]))
    print()
    print(table(longest, ["side", "longest", "too_long", "line", "why_it_ended"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
