"""Decoding speed of the transformers engine: unquantised, 8 and 4 bits, and the library's own `generate` beside it.

    python -m benchmarks.serve_engine.run [--quick] [--out FILE]

All variants hold the same random prompts of modelwright/tiny-5m (its config stretched, so that 2,048 tokens fit) and decode a few
tokens each in turn, round after round; the medians over the rounds are compared. One thread. CPU seconds are those of the
process; the wall clock stands beside them because other programs may share the machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import table, write_result

from macprovider.engines.base import EngineSettings, GenerationRequest, KvBits, Sampling, Token
from macprovider.engines.embedded.loading import Loaded, load
from macprovider.engines.embedded.requests import answer_to
from modelwright.loading import load_model, resolve_model
from modelwright.tiny import tiny_model_path

MODEL = "modelwright/tiny-5m"
VARIANTS: dict[str, KvBits | None] = {"16 bits": None, "8 bits": 8, "4 bits": 4}
"""16 bits stands for the unquantised cache, which is float32 on a processor."""
PEER = "transformers generate"
TARGET = 0.85
OUT = Path(__file__).with_name("result.json")


class _Silent:
    def tokens(self, tokens: Sequence[Token]) -> None:
        """Nothing is done with a token."""

    def finished(self, reason: str, error: str = "") -> None:
        """An answer must not end while it is measured."""
        if reason == "error":
            raise RuntimeError(error)


def stretched(folder: Path) -> Path:
    """A copy of the model in `folder` whose config allows 4,096 positions; its answers there are nonsense, its speed is not."""
    target = folder / "model"
    shutil.copytree(tiny_model_path(MODEL), target)
    path = target / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "max_position_embeddings": 4096}), encoding="utf-8")
    return target


def prompts_of(batch: int, tokens: int) -> list[list[int]]:
    """Random ordinary tokens, another prompt for each row."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(10, 1000, (batch, tokens), generator=generator).tolist()


def engine_rounds(folder: Path, bits: KvBits | None, prompts: list[list[int]], steps: int) -> tuple[Callable[[], None], Loaded]:
    """An engine with running answers to all prompts; returns what decodes `steps` tokens in each. No thread of its own, so that
    the seconds are those of its turns.
    """
    context = min(4096, len(prompts[0]) + 1024)
    settings = EngineSettings(MODEL, folder, kv_bits=bits, max_context=context, max_batch=len(prompts), device="cpu", prefix_reuse=False)
    loaded = load(settings, 256)
    blocks = loaded.blocks
    requests = [GenerationRequest(prompt, 10_000, Sampling(temperature=0)) for prompt in prompts]
    waiting = [answer_to(request, _Silent(), loaded, lambda: None) for request in requests]
    runner = loaded.runner

    def turns(wanted: int) -> None:
        with torch.inference_mode(), ExitStack() as inside:
            for block in blocks:
                inside.enter_context(block())
            done = 0
            while done < wanted:
                running = all(slot.state == "answer" for slot in runner.slots)
                runner.turn(len(waiting), lambda: waiting.pop(0))
                done += running

    turns(2)
    return (lambda: turns(steps)), loaded


def peer_rounds(folder: Path, prompts: list[list[int]], steps: int) -> Callable[[], None]:
    """The same with `generate` and a DynamicCache that holds the prompts already."""
    from transformers import DynamicCache

    model = load_model(resolve_model(str(folder)))
    cache = DynamicCache(config=model.config)
    state = {"ids": torch.tensor(prompts)}
    with torch.inference_mode():
        model(state["ids"][:, :-1], past_key_values=cache, logits_to_keep=1)

    def run() -> None:
        ids = state["ids"]
        state["ids"] = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            do_sample=False,
            min_new_tokens=steps,
            max_new_tokens=steps,
            pad_token_id=0,
        )

    run()
    return run


def measure(folder: Path, batch: int, tokens: int, *, steps: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each variant: tokens per CPU second and per second, their ratio to the unquantised cache, bytes."""
    prompts = prompts_of(batch, tokens)
    engines = {name: engine_rounds(folder, bits, prompts, steps) for name, bits in VARIANTS.items()}
    runs = {**{name: run for name, (run, _) in engines.items()}, PEER: peer_rounds(folder, prompts, steps)}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            spent[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    made = steps * batch
    base = statistics.median(cpu for cpu, _ in spent["16 bits"])
    rows = []
    for name, pairs in spent.items():
        cpu, wall = (statistics.median(values) for values in zip(*pairs, strict=True))
        row: dict[str, Any] = {"variant": name, "batch": batch, "context": tokens, "tokens_per_cpu_second": round(made / cpu, 1)}
        spread = [made / value for value, _ in pairs]
        row |= {"lowest": round(min(spread), 1), "highest": round(max(spread), 1), "tokens_per_second": round(made / wall, 1)}
        row["against_16_bits"] = round(base / cpu, 3)
        if name in engines:
            loaded = engines[name][1]
            row |= {"kv_bytes": loaded.runner.cache.nbytes, "kv_bytes_per_token": round(loaded.facts.kv_bytes_per_token, 1)}
        rows.append(row)
    return rows


def decide(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The target: a single stream over 512 cached tokens with 8 bits keeps 0.85 of the unquantised speed."""
    found = next(row for row in rows if (row["variant"], row["batch"], row["context"]) == ("8 bits", 1, 512))
    measured = found["against_16_bits"]
    return [{"figure": "8 bits / unquantised, one stream, 512 tokens", "measured": measured, "target": TARGET, "met": measured >= TARGET}]


def main() -> None:
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="batch 1 and 8 at 512 tokens, few rounds, no file unless --out")
    parser.add_argument("--out", type=Path, help=f"where the result goes; default {OUT.name} beside this script")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    steps, rounds = (12, 5) if arguments.quick else (32, 9)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = stretched(Path(name))
        for tokens in (512,) if arguments.quick else (512, 2048):
            for batch in (1, 8):
                rows += measure(folder, batch, tokens, steps=steps, rounds=rounds)
    print(
        table(
            rows,
            [
                "variant",
                "batch",
                "context",
                "tokens_per_cpu_second",
                "lowest",
                "highest",
                "tokens_per_second",
                "against_16_bits",
                "kv_bytes",
            ],
        )
    )
    out = arguments.out or (None if arguments.quick else OUT)
    if out is not None:
        settings = {"model": MODEL, "steps": steps, "rounds": rounds, "threads": 1, "positions": "config stretched to 4096"}
        write_result(out, benchmark="serve_engine", settings=settings, results=rows, decisions=decide(rows))


if __name__ == "__main__":
    main()
