"""The engine without a server: for each seed it reads, answers the prompts that clients would send, and prints the bill."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.serve_common.load import prompt

from macprovider.codec import Codec
from macprovider.engines.base import EngineSettings, FinishReason, GenerationRequest, Sampling, Token
from macprovider.engines.choice import make_engine

ROUNDS = 2


class Client:
    """Asks one prompt after the other, as a client of the server does."""

    def __init__(self, engine: Any, prompts: list[list[int]], max_tokens: int, done: threading.Semaphore) -> None:
        self.engine, self.prompts, self.max_tokens, self.done, self.count = engine, prompts, max_tokens, done, 0
        self.next()

    def next(self) -> None:
        if not self.prompts:
            self.done.release()
            return
        self.engine.submit(GenerationRequest(self.prompts.pop(0), self.max_tokens, Sampling(temperature=0.0)), self)

    def tokens(self, tokens: Sequence[Token]) -> None:
        self.count += len(tokens)

    def finished(self, reason: FinishReason, error: str = "") -> None:
        self.next()


def main() -> None:
    folder, context, clients, words, max_tokens = Path(sys.argv[1]), *map(int, sys.argv[2:6])
    torch.set_num_threads(1)
    engine = make_engine("transformers", EngineSettings(str(folder), folder, max_context=context, max_batch=clients, threads=1))
    engine.load()
    codec = Codec.load(folder, str(folder))
    print("loaded", flush=True)
    for line in sys.stdin:
        seed = int(line)
        before, started = _cpu_s(), time.perf_counter()
        done = threading.Semaphore(0)
        asked = [
            Client(engine, [_ids(codec, prompt(words, seed + number * ROUNDS + turn)) for turn in range(ROUNDS)], max_tokens, done)
            for number in range(clients)
        ]
        for _ in asked:
            done.acquire()
        cpu, wall, tokens = _cpu_s() - before, time.perf_counter() - started, sum(client.count for client in asked)
        bill = {"tokens": tokens, "cpu_s": cpu, "wall_s": wall, "tokens_per_cpu_s": tokens / cpu, "tokens_per_s": tokens / wall}
        print(json.dumps({key: round(value, 3) for key, value in bill.items()}), flush=True)
    engine.close()


def _ids(codec: Codec, text: str) -> list[int]:
    return codec.encode(codec.render([{"role": "user", "content": text}]))


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system


if __name__ == "__main__":
    main()
