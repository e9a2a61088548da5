"""Clients of an OpenAI-compatible server, in a process of their own: streamed chats, several at a time, timed one by one.

    python -m benchmarks.serve_common.load --url http://127.0.0.1:8080 --model NAME [--clients 8] [--rounds 2] [--max-tokens 64]

Prints one JSON document. Every prompt begins differently, so that no prefix cache answers it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import asdict, dataclass
from random import Random
from urllib.parse import urlsplit

WORDS = "river stone window garden letter bridge market winter copper signal forest paper island engine morning cellar".split()  # noqa: SIM905


@dataclass(frozen=True)
class Answer:
    """One streamed answer, times in seconds from sending the request."""

    first_s: float
    total_s: float
    prompt_tokens: int
    tokens: int
    characters: int


def prompt(words: int, seed: int) -> str:
    """`words` words of filler that start with what no other seed starts with."""
    rng = Random(seed)
    return f"{seed} {rng.random():.12f} " + " ".join(rng.choice(WORDS) for _ in range(words))


async def ask(url: str, model: str, text: str, max_tokens: int) -> Answer:
    """One streamed chat completion. Raises RuntimeError for anything but a complete answer."""
    parts = urlsplit(url)
    messages = [{"role": "user", "content": text}]
    body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    payload = json.dumps(body | {"stream_options": {"include_usage": True}}).encode()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 22)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    started = time.perf_counter()
    writer.write(head.encode() + f"Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"{status.decode().strip()}: {(await reader.read())[-300:].decode(errors='replace')}")
    first, characters, events, usage = 0.0, 0, 0, {}
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        usage = chunk.get("usage") or usage
        content = "".join((choice.get("delta") or {}).get("content") or "" for choice in chunk.get("choices") or [])
        if content:
            first = first or time.perf_counter() - started
            characters += len(content)
            events += 1
    total = time.perf_counter() - started
    writer.close()
    if not events:
        raise RuntimeError("the answer had no content")
    return Answer(first, total, usage.get("prompt_tokens", 0), usage.get("completion_tokens", events), characters)


async def drive(url: str, model: str, clients: int, rounds: int, words: int, max_tokens: int, seed: int) -> tuple[float, list[Answer]]:
    """`clients` at a time, each asking `rounds` times; (wall seconds, answers)."""

    async def client(number: int) -> list[Answer]:
        return [await ask(url, model, prompt(words, seed + number * rounds + turn), max_tokens) for turn in range(rounds)]

    started = time.perf_counter()
    answers = await asyncio.gather(*(client(number) for number in range(clients)))
    return time.perf_counter() - started, [answer for one in answers for answer in one]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--prompt-words", type=int, default=300)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    wall, answers = asyncio.run(
        drive(given.url, given.model, given.clients, given.rounds, given.prompt_words, given.max_tokens, given.seed)
    )
    print(json.dumps({"wall_s": wall, "answers": [asdict(answer) for answer in answers]}))


if __name__ == "__main__":
    main()
