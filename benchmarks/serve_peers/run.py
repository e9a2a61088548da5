"""Our server beside `transformers serve` and `llama-server`: the same model, the same prompts, the same clients.

    python -m benchmarks.serve_peers.run [--quick] [--clients 8 1] [--turns 5] [--threads 2] [--folder models] [--out result.json]

All servers are up at once and idle but for the one whose turn it is; turns alternate, medians are compared. Processor seconds are those of
the server and its children, memory is its largest resident set. A peer that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import table, write_result
from benchmarks.serve_common.model import make_model
from benchmarks.serve_common.servers import Server, llama_server, measured, ours, running, transformers_serve

COLUMNS = ["server", "clients", "tokens_per_cpu_s", "tokens_per_s", "first_p95_s", "memory_mb", "turns"]
OURS = "transformers engine, 16-bit KV"
OPENVINO, LLAMA = "openvino engine, 8-bit KV", "llama-server, q8_0 KV"
PEERS = ("transformers serve, continuous batching", "transformers serve")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a model of 3 M, one turn, short answers")
    parser.add_argument("--shape", choices=("29m", "3m"))
    parser.add_argument("--clients", nargs="+", type=int, help="at the same time; one after the other when several are given")
    parser.add_argument("--turns", type=int)
    parser.add_argument("--prompt-words", type=int)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--context", type=int, default=2048, help="tokens of prompt and answer that a server keeps for each client")
    parser.add_argument("--threads", type=int, default=1, help="of the processor, for every server")
    parser.add_argument("--folder", type=Path, help="where the model is made, and stays; a temporary folder when left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    given = parser.parse_args(arguments)
    given.shape = given.shape or ("3m" if given.quick else "29m")
    given.clients = given.clients or ([2] if given.quick else [8, 1])
    given.turns = given.turns or (1 if given.quick else 5)
    given.prompt_words = given.prompt_words or (30 if given.quick else 200)
    given.max_tokens = given.max_tokens or (8 if given.quick else 64)
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 when a target is missed."""
    given = parse(arguments)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as up:
        home = given.folder or Path(scratch)
        folder = make_model(home / given.shape, given.shape)
        servers, left_out = _start(folder, home, given, up)
        rows = [row for clients in given.clients for row in _measure(servers, clients, given, left_out)]
        for row in rows:
            row["memory_mb"] = round(next(server.memory_mb for server in servers if server.name == row["server"]), 1)
    decisions = decide(rows)
    print(table(rows, COLUMNS))
    for line in [
        *left_out,
        *(f"{d['figure']}: {d['measured']:g}, target {d['target']}: {'met' if d['met'] else 'MISSED'}" for d in decisions),
    ]:
        print(line)
    settings = {name: value for name, value in vars(given).items() if name not in ("out", "folder")}
    write_result(given.out, benchmark="serve_peers", settings=settings, results=rows, decisions=decisions, left_out=left_out)
    return 0 if all(decision["met"] for decision in decisions) else 1


def decide(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At the most clients: our engines against their peers, `transformers serve` in its faster way; nothing of what was not measured."""
    most = max(row["clients"] for row in rows)
    found = {row["server"]: row for row in rows if row["clients"] == most}
    decisions = []
    if OPENVINO in found and LLAMA in found:
        speed = round(found[OPENVINO]["tokens_per_cpu_s"] / found[LLAMA]["tokens_per_cpu_s"], 2)
        figure = "openvino engine, 8-bit KV: tokens per processor second, times llama-server's with q8_0 KV"
        decisions.append({"figure": figure, "measured": speed, "target": "at least 2", "met": speed >= 2})
    others = [found[name] for name in (*PEERS, LLAMA) if name in found]
    if OPENVINO in found and others:
        first = round(found[OPENVINO]["first_p95_s"] / min(other["first_p95_s"] for other in others), 2)
        figure = "openvino engine, 8-bit KV: p95 of the time to the first token, times the best other server"
        decisions.append({"figure": figure, "measured": first, "target": "below 1", "met": first < 1})
    peers = [found[name] for name in PEERS if name in found]
    if OURS not in found or not peers:
        return decisions
    best = max(peers, key=lambda row: row["tokens_per_cpu_s"])
    speed = round(found[OURS]["tokens_per_cpu_s"] / best["tokens_per_cpu_s"], 2)
    memory = round(found[OURS]["memory_mb"] / best["memory_mb"], 2)
    first = round(found[OURS]["first_p95_s"] / min(peer["first_p95_s"] for peer in peers), 2)
    return [
        *decisions,
        {
            "figure": f"tokens per processor second, times {best['server']}",
            "measured": speed,
            "target": "at least 1.5",
            "met": speed >= 1.5,
        },
        {"figure": f"memory, times {best['server']}", "measured": memory, "target": "at most 0.5", "met": memory <= 0.5},
        {"figure": "p95 of the time to the first token, times the better peer", "measured": first, "target": "below 1", "met": first < 1},
    ]


def _start(folder: Path, home: Path, given: argparse.Namespace, up: ExitStack) -> tuple[list[Server], list[str]]:
    slots = max(given.clients)
    planned: dict[str, tuple[list[str], str] | None] = {
        OURS: ours(folder, given.context, slots, threads=given.threads),
        **{
            f"transformers engine, {bits}-bit KV": ours(folder, given.context, slots, kv_bits=bits, threads=given.threads)
            for bits in (8, 4)
        },
        **{f"openvino engine, {words} KV": _openvino(folder, given, slots, bits) for words, bits in (("f16", None), ("8-bit", 8))},
        PEERS[0]: transformers_serve(folder, continuous=True),
        PEERS[1]: transformers_serve(folder, continuous=False),
    }
    for cache in ("f16", "q8_0", "q4_0"):
        planned[f"llama-server, {cache} KV"] = llama_server(_gguf(folder, home), given.context, slots, cache, given.threads)
    servers, left_out = [], []
    for name, command in planned.items():
        if command is None:
            left_out.append(f"{name}: not installed, left out")
            continue
        log = home / f"{name.replace(' ', '-').replace(',', '')}.log"
        try:
            servers.append(up.enter_context(running(name, *command, log, given.threads)))
            measured(servers[-1], clients=1, rounds=1, words=20, max_tokens=4, seed=10**6)  # the first request pays for loading
        except RuntimeError as error:
            left_out.append(f"{name}: left out, {error}")
            servers = [server for server in servers if server.name != name]
    return servers, left_out


def _openvino(folder: Path, given: argparse.Namespace, slots: int, kv_bits: int | None) -> tuple[list[str], str] | None:
    if importlib.util.find_spec("openvino_genai") is None:
        return None
    return ours(folder, given.context, slots, engine="openvino", kv_bits=kv_bits, threads=given.threads)


def _gguf(folder: Path, home: Path) -> Path:
    target = home / f"{folder.name}-q8_0.gguf"
    if not target.exists():
        from macprovider.models_cli import main as models

        if code := models(["export-gguf", str(folder), "--out", str(target), "--type", "q8_0"]):
            raise RuntimeError(f"export-gguf ended with {code}")
    return target


def _measure(servers: Sequence[Server], clients: int, given: argparse.Namespace, left_out: list[str]) -> list[dict[str, Any]]:
    """A server that fails to answer is named in `left_out` and measured no more."""
    failed: set[str] = set()
    found: dict[str, list[dict[str, Any]]] = {server.name: [] for server in servers}
    for turn in range(given.turns):
        for place in range(len(servers)):
            server = servers[(place + turn) % len(servers)]
            if server.name in failed:
                continue
            rounds = max(1, 2 if clients > 1 else 3)
            seed = 1000 * (turn + 1) * clients
            size = {"words": given.prompt_words, "max_tokens": given.max_tokens}
            try:
                found[server.name].append(measured(server, clients=clients, rounds=rounds, seed=seed, **size))
            except RuntimeError as error:
                failed.add(server.name)
                left_out.append(f"{clients} clients: {error}")
                continue
            print(f"{server.name}, {clients} clients, turn {turn + 1}: {found[server.name][-1]['tokens_per_cpu_s']} tokens per CPU second")
    rows = []
    for name, turns in found.items():
        if name in failed or not turns:
            continue
        middle = {key: median(turn[key] for turn in turns) for key in turns[0]}
        spread = [min(turn["tokens_per_cpu_s"] for turn in turns), max(turn["tokens_per_cpu_s"] for turn in turns)]
        rows.append({"server": name, "clients": clients, **middle, "spread_tokens_per_cpu_s": spread, "turns": len(turns)})
    return rows


if __name__ == "__main__":
    sys.exit(main())
