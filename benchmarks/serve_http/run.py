"""What HTTP costs: our server with streaming clients against its own engine without any server, in turns.

    python -m benchmarks.serve_http.run [--quick] [--clients 8] [--turns 7] [--folder models] [--out result.json]

Both run the same prompts on the same random-weight model in a process of their own. Target: at most 3 % fewer tokens per processor second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import table, write_result
from benchmarks.serve_common.model import make_model
from benchmarks.serve_common.servers import measured, ours, running

TARGET = 0.97


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a model of 3 M, one turn, short answers")
    parser.add_argument("--shape", choices=("29m", "3m"))
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--turns", type=int)
    parser.add_argument("--prompt-words", type=int)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--folder", type=Path, help="where the model is made, and stays; a temporary folder when left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    given = parser.parse_args(arguments)
    given.shape = given.shape or ("3m" if given.quick else "29m")
    given.turns = given.turns or (1 if given.quick else 7)
    given.prompt_words = given.prompt_words or (30 if given.quick else 200)
    given.max_tokens = given.max_tokens or (8 if given.quick else 64)
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 when the target is missed."""
    given = parse(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        home = given.folder or Path(scratch)
        folder = make_model(home / given.shape, given.shape)
        command, model = ours(folder, given.context, given.clients)
        rows: list[dict[str, Any]] = []
        with running("server", command, model, home / "server.log", threads=1) as server, _bare(folder, given) as bare:
            for turn in range(-1, given.turns):  # one turn of each is not counted
                seed = 1000 * (turn + 2)
                size = {"words": given.prompt_words, "max_tokens": given.max_tokens, "seed": seed}
                pair = {"bare": _asked(bare, seed), "server": measured(server, clients=given.clients, rounds=2, **size)}
                if turn >= 0:
                    rows += [{"way": way, "turn": turn, **found} for way, found in pair.items()]
    ratios = {
        key: [_of(rows, "server", turn)[key] / _of(rows, "bare", turn)[key] for turn in range(given.turns)]
        for key in ("tokens_per_cpu_s", "tokens_per_s")
    }
    summary = {
        key: {"median": round(median(found), 4), "low": round(min(found), 4), "high": round(max(found), 4)} for key, found in ratios.items()
    }
    print(table(rows, ["way", "turn", "tokens", "cpu_s", "wall_s", "tokens_per_cpu_s", "tokens_per_s"]))
    met = summary["tokens_per_cpu_s"]["median"] >= TARGET
    print(f"server / bare: {summary}; target {TARGET} of tokens per processor second: {'met' if met else 'MISSED'}")
    settings = {name: value for name, value in vars(given).items() if name not in ("out", "folder")}
    write_result(given.out, benchmark="serve_http", settings=settings, results=rows, ratios=summary, target=TARGET, met=met)
    return 0 if met else 1


class _bare:
    """The engine in a process of its own, asked turn by turn over its standard input."""

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        words = [str(value) for value in (folder, given.context, given.clients, given.prompt_words, given.max_tokens)]
        command = [sys.executable, "-m", "benchmarks.serve_http.bare", *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])

    def __enter__(self) -> subprocess.Popen[str]:
        assert self.process.stdout is not None
        self.process.stdout.readline()  # loaded
        return self.process

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def _asked(bare: subprocess.Popen[str], seed: int) -> dict[str, Any]:
    assert bare.stdin is not None and bare.stdout is not None
    bare.stdin.write(f"{seed}\n")
    bare.stdin.flush()
    found: dict[str, Any] = json.loads(bare.stdout.readline())
    return found


def _of(rows: Sequence[dict[str, Any]], way: str, turn: int) -> dict[str, Any]:
    return next(row for row in rows if (row["way"], row["turn"]) == (way, turn))


if __name__ == "__main__":
    sys.exit(main())
