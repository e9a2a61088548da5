"""How fast a training file is validated: the three levels with one and two processes, beside bare parsing and beside others.

python -m benchmarks.guild_validation.run [--size-mb 400] [--rounds 5] [--output benchmarks/guild_validation/result.json]

Writes one file of chat rows (arithmetic in circled digits, puzzles answered in JSON, prose), then measures every way in each round, in
turns, each in a process of its own, which has imported what it needs: seconds from the call to the report, with our scanning processes'
start and imports, and the peak of resident memory. Processor seconds are of all processes of a way; they are what to compare on a machine
that others use. The floor is reading the file and parsing every line by orjson, nothing else; its two processes are ready before the clock
starts. STANDARD counts with a tokenizer that splits at spaces, so that its figure is the cost of sampling, not of a tokenizer. Everything
is bound to two cores where there are more, and reads the file from the page cache, which one reading before the rounds fills.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from benchmarks.common import table, write_result

from modelwright.hardware import peak_rss_bytes

TARGETS = {"quick_mb_per_s": 150.0, "deep_mb_per_s": 15.0}
CORES = 2
RANGE = "floor of a range"
_TEXT = """
river stone cloud garden lamp harbour violin winter letter bridge morning paper engine island mirror orchard shadow candle ocean forest
carries holds turns opens follows leaves finds keeps moves crosses under over behind before between along quiet bright narrow heavy old
"""
WORDS = _TEXT.split()


# --- the file


def arithmetic(draw: random.Random) -> tuple[str, str]:
    left, right = draw.getrandbits(draw.randint(2, 24)), draw.getrandbits(draw.randint(2, 24))
    circled = [f"{number:b}".replace("0", "⓪").replace("1", "①") for number in (left, right, left + right)]
    return (
        f"Compute [verify]: add({circled[0]}, {circled[1]})",
        f"add({circled[0]}, {circled[1]}) = {circled[2]}\nVerification: {left} + {right} = {left + right}",
    )


def puzzle(draw: random.Random) -> tuple[str, str]:
    words = draw.sample(WORDS, 6)
    clues = "\n".join(f"{at}. a word of {len(word)} letters that begins with {word[0]}" for at, word in enumerate(words, start=1))
    answer = {"solutions": [{"ans_num": at, "answer": word.upper()} for at, word in enumerate(words, start=1)], "status": "complete"}
    return f"Find the words for the clues and answer in JSON.\n{clues}\nBank: {' '.join(sorted(words))[:40]}", orjson.dumps(answer).decode()


def prose(draw: random.Random) -> tuple[str, str]:
    def sentence() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(7, 16))).capitalize() + "."

    return "Tell me about it: " + sentence(), " ".join(sentence() for _ in range(draw.randint(3, 7)))


def write_file(path: Path, size: int) -> int:
    """Write rows until `size` bytes are reached; how many there are."""
    draw = random.Random(1)
    rows = 0
    with path.open("wb") as file:
        while file.tell() < size:
            lines = []
            for _ in range(1000):
                user, reply = draw.choice((arithmetic, puzzle, prose))(draw)
                messages = [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
                metadata = {"generator_id": "bin_api", "generator_version": "1.0.0", "skill": "bin", "sample_id": f"s{rows}"}
                lines.append(orjson.dumps({"messages": messages, "metadata": {**metadata, "level": rows % 30}}))
                rows += 1
            file.write(b"\n".join(lines) + b"\n")
    return rows


# --- the ways; each returns what it found, so that a way that looked at nothing shows


def by_level(path: Path, workers: int, level: Any) -> Any:
    from guild.validation.validate import validate_file

    report = validate_file(path, level, schema="chat_sft_v1", workers=workers, tokenizer=lambda content: len(str(content).split()))
    return {"valid": report.valid, "rows": report.stats["sound_rows"], "warnings": len(report.warnings)}


def floor(path: Path, workers: int) -> Any:
    """With several processes also `seconds`, from the moment when all of them are ready, and `cpu`, of the parsing alone."""
    size = path.stat().st_size
    if workers == 1:
        return floor_of_range(path, 0, size)
    edges = [size * at // workers for at in range(workers + 1)]
    children = [start_child(RANGE, path, at, edges) for at in range(workers)]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    begin = time.perf_counter()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    told = [json.loads(child.stdout.readline()) for child in children if child.stdout is not None]
    seconds = time.perf_counter() - begin
    for child in children:
        child.communicate()
    return {"rows": sum(one["found"]["rows"] for one in told), "seconds": seconds, "cpu": sum(one["cpu"] for one in told)}


def floor_of_range(path: Path, start: int, end: int) -> Any:
    from guild.validation.reading import read_blocks

    loads, rows = orjson.loads, 0
    for block in read_blocks(path, start, end):
        for line in block.lines:
            loads(line)  # type: ignore[arg-type]
        rows += len(block.lines)
    return {"rows": rows}


def datasets_json(path: Path, workers: int) -> Any:
    """Parses into Arrow tables in a fresh cache; knows no rule for rows."""
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        found = datasets.load_dataset("json", data_files=str(path), cache_dir=cache, split="train")
        return {"rows": len(found)}


def pydantic_rows(path: Path, workers: int) -> Any:
    from typing import Literal

    from pydantic import BaseModel, Field

    class Message(BaseModel):
        role: Literal["system", "user", "assistant"]
        content: str

    class Row(BaseModel):
        messages: list[Message] = Field(min_length=1)

    rows = 0
    with path.open("rb") as file:
        for line in file:
            Row.model_validate_json(line)
            rows += 1
    return {"rows": rows}


SCHEMA = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string"}},
            },
        }
    },
}


def jsonschema_rs_rows(path: Path, workers: int) -> Any:
    import jsonschema_rs

    validator = jsonschema_rs.validator_for(SCHEMA)
    rows = 0
    with path.open("rb") as file:
        for line in file:
            rows += validator.is_valid(orjson.loads(line))
    return {"rows": rows}


Way = tuple[Callable[[Path, int], Any], int, tuple[str, ...]]
WAYS: dict[str, Way] = {
    **{f"orjson alone, {n} process{'es' * (n > 1)}": (floor, n, ()) for n in (1, 2)},
    **{
        f"{level.upper()}, {n} process{'es' * (n > 1)}": ((lambda path, workers, level=level: by_level(path, workers, level)), n, ())
        for level in ("quick", "standard", "deep")
        for n in (1, 2)
    },
    "datasets.load_dataset, 1 process": (datasets_json, 1, ("datasets",)),
    "pydantic, 1 process": (pydantic_rows, 1, ("pydantic",)),
    "orjson and jsonschema-rs, 1 process": (jsonschema_rs_rows, 1, ("jsonschema_rs",)),
}
"""Name: (what to call, processes, packages it needs)."""


# --- measuring


def start_child(way: str, path: Path, at: int = 0, edges: list[int] | None = None) -> subprocess.Popen[str]:
    request = json.dumps({"way": way, "path": str(path), "at": at, "edges": edges})
    command = [sys.executable, "-m", "benchmarks.guild_validation.run", "--child", request]
    environment = {**os.environ, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def child(request: dict[str, Any]) -> None:
    """One way, measured in this process; prints what it found."""
    path, edges, at = Path(request["path"]), request["edges"], request["at"]
    if request["way"] == RANGE:
        importlib.import_module("guild.validation.reading")
        print("ready", flush=True)
        sys.stdin.readline()
        call, workers = (lambda path, workers: floor_of_range(path, edges[at], edges[at + 1])), 1
    else:
        call, workers, needs = WAYS[request["way"]]
        for package in ("guild.validation.validate", *needs):
            importlib.import_module(package)
    before = processor_seconds()
    begin = time.perf_counter()
    found = call(path, workers)
    seconds = time.perf_counter() - begin
    cpu = processor_seconds() - before
    worker_peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    told = {"seconds": found.pop("seconds", seconds), "cpu": found.pop("cpu", cpu)}
    print(json.dumps({**told, "peak": peak_rss_bytes(), "worker_peak": worker_peak, "found": found}))


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime for usage in (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def measure(path: Path, rows: int, rounds: int, only: Sequence[str]) -> list[dict[str, Any]]:
    """One row per way of `only`: the median over the rounds."""
    size = path.stat().st_size
    os.sync()  # nothing is written to disk any more while others are measured
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass
    results: list[dict[str, Any]] = []
    usable = []
    for name in only:
        _, _, needs = WAYS[name]
        missing = [package for package in needs if importlib.util.find_spec(package) is None]
        if missing:
            results.append({"way": name, "note": f"not measured: {', '.join(missing)} is not installed"})
        else:
            usable.append(name)
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in usable}
    for number in range(rounds):
        for name in usable if number % 2 == 0 else reversed(usable):
            output = start_child(name, path).communicate()[0]
            told[name].append(json.loads(output.splitlines()[-1]))
            assert told[name][-1]["found"]["rows"] == rows, name
            print(f"round {number + 1}/{rounds}: {name}: {told[name][-1]['seconds']:.2f} s", file=sys.stderr)
    for name, measured in told.items():
        seconds = [one["seconds"] for one in measured]
        results.append(
            {
                "way": name,
                "mb_per_s": round(size / 1e6 / statistics.median(seconds), 1),
                "best_mb_per_s": round(size / 1e6 / min(seconds), 1),
                "mb_per_cpu_s": round(size / 1e6 / statistics.median(one["cpu"] for one in measured), 1),
                "rows_per_s": round(rows / statistics.median(seconds)),
                "peak_rss_mb": round(max(one["peak"] for one in measured) / 1e6),
                "worker_peak_rss_mb": round(max(one["worker_peak"] for one in measured) / 1e6) if name.endswith("processes") else None,
                "found": measured[0]["found"],
            }
        )
    return results


def bind_to_cores() -> int:
    """Bind this process and its children to two cores; how many they may use then."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, allowed)
    return len(allowed)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size-mb", type=float, default=400, help="millions of bytes of the file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY", help="these ways alone")
    parser.add_argument("--output", default=str(Path(__file__).with_name("result.json")))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        child(json.loads(arguments.child))
        return 0
    cores = bind_to_cores()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        rows = write_file(path, int(arguments.size_mb * 1e6))
        results = measure(path, rows, arguments.rounds, arguments.only)
        settings = {"bytes": path.stat().st_size, "rows": rows, "rounds": arguments.rounds, "cores": cores}
    speed = {row["way"]: row.get("mb_per_s", 0.0) for row in results}
    judged = {"quick": ("QUICK, 2 processes", "quick_mb_per_s"), "deep": ("DEEP, 2 processes", "deep_mb_per_s")}
    met = {name: speed[way] >= TARGETS[target] for name, (way, target) in judged.items() if way in speed}
    write_result(arguments.output, benchmark="guild_validation", settings=settings, results=results, targets=TARGETS, targets_met=met)
    columns = ["way", "mb_per_s", "best_mb_per_s", "mb_per_cpu_s", "rows_per_s", "peak_rss_mb", "worker_peak_rss_mb", "note"]
    print(table(results, columns))
    print(f"targets on two cores: QUICK >= {TARGETS['quick_mb_per_s']:.0f} MB/s, DEEP >= {TARGETS['deep_mb_per_s']:.0f} MB/s")
    print(", ".join(f"{name}: {'met' if good else 'NOT met'}" for name, good in met.items()))
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
