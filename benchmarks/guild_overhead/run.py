"""What the guild costs per training step, beside the same training by hand.

    python -m benchmarks.guild_overhead.run [--model tiny-0.4m] [--rows 1500] [--rounds 10] [--batch 8] [--threads 1] [--output FILE]

One file of chat rows is trained again and again, in turns:
    guild                      the trainer's path for a file of the queue (gates, run directory, status, heartbeat, ledger, control,
                               metrics), every setting of looking and telling at its default; the daemon is off
    engine                     `TrainerEngine.run_job` alone: no hook of the guild, no looks at held-out rows
    stock                      `transformers.Trainer` by hand, telling its loss every 500 steps, which is its default
    stock, every step logged   the same with `logging_steps=1`: what it costs the library to tell as much as the guild does

All start from the same weights, read the same packed windows in the same order, and use the same optimizer and schedule; that the weights
that come out agree is checked. A step is the time from the end of one `optimizer.step()` to the end of the next, by the wall clock and as
processor time of the process. Compared is the *mean* step of a block, because much of what the guild does comes once a second (status,
metrics to disk) and a median would not see it; the ratio is taken within a round, and its median over rounds is given with a 95 % interval.
Left out in every way alike: the first five steps, the step behind every look at held-out rows or checkpoint, and the one after; what such a
look takes is told on its own. Saving, loading and checking the file are no part of a step.

`hooks` is measured directly, inside the guild's own blocks: the time that it spends in its two calls behind every step. It is exact where
the ratios are as uncertain as their intervals say. In percent everything depends on the step's length, so the model is named; what comes
once a second keeps its share with longer steps, the rest shrinks.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import table, write_result
from benchmarks.guild_common.houses import model_fields, write_rows
from benchmarks.guild_overhead.steps import Block, compare, difference, durations, kept, look_seconds
from benchmarks.guild_overhead.ways import WAYS, Work, through_the_guild

from guild.training.interface import TrainerConfig
from guild.training.quiet import quiet_libraries
from modelwright.lock import file_system

TARGETS = {"against_stock_percent": 1.0, "hooks_percent": 1.0}
GUILD = "guild"
SAME = 1e-3
"""How far the weights of two ways may lie apart, as a share of their norm: the library clips in another order of additions."""


def one_round(work: Work, order: Sequence[str], root: Path, config: TrainerConfig | None) -> tuple[dict[str, Block], TrainerConfig]:
    """Train the file once in each way. config: what the guild told its engine, None in the first round, where the guild is first."""
    found: dict[str, Block] = {}
    for name in order:
        gc.collect()
        with tempfile.TemporaryDirectory(dir=root) as folder:
            if name == GUILD:
                found[name], config = through_the_guild(work, Path(folder))
            else:
                assert config is not None
                found[name] = WAYS[name](config, Path(folder))
    assert config is not None
    for name, block in found.items():
        apart = difference(found[GUILD].weights, block.weights)
        if block.steps != found[GUILD].steps or not apart <= SAME:
            raise RuntimeError(f"{name}: {block.steps} steps, weights {apart:.2g} apart from the guild's: not the same training")
    return found, config


def measure(work: Work, rounds: int, root: Path) -> tuple[dict[str, list[Block]], TrainerConfig]:
    """Blocks of each way by round; a round before them warms everything up and is not kept."""
    names = [GUILD, *WAYS]
    told: dict[str, list[Block]] = {name: [] for name in names}
    _, config = one_round(work, names, root, None)
    for number in range(rounds):
        turned = names[number % len(names) :] + names[: number % len(names)]
        found, config = one_round(work, turned if number % 2 == 0 else turned[::-1], root, config)
        for name, block in found.items():
            told[name].append(block)
        print(f"round {number + 1}/{rounds}", file=sys.stderr)
    return told, config


def looks_of(config: TrainerConfig) -> tuple[int, ...]:
    """Steps between looks at held-out rows, and between checkpoints inside a file."""
    often = config.monitoring
    return often.eval_steps, often.micro_eval_every, often.preview_every, config.hyperparams.save_steps


def summary(told: dict[str, list[Block]], looks: Sequence[int]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row for each way, and the comparisons."""
    steps = kept(told[GUILD][0].steps, looks)
    wall = {name: [statistics.mean(durations(block.wall, steps)) for block in blocks] for name, blocks in told.items()}
    cpu = {name: [statistics.mean(durations(block.cpu, steps)) for block in blocks] for name, blocks in told.items()}
    rows = [
        {
            "way": name,
            "step_ms": _ms(statistics.median(wall[name])),
            "step_cpu_ms": _ms(statistics.median(cpu[name])),
            "median_step_ms": _ms(statistics.median(statistics.median(durations(block.wall, steps)) for block in blocks)),
            "outside_steps_s": round(statistics.median(block.total_s - (block.wall[-1] - block.wall[0]) for block in blocks), 2),
            "steps_compared": len(steps),
            "steps": blocks[0].steps,
            "apart": max(difference(told[GUILD][0].weights, block.weights) for block in blocks),
        }
        for name, blocks in told.items()
    ]
    pairs = [(GUILD, "stock"), (GUILD, "engine"), ("engine", "stock"), ("stock, every step logged", "stock")]
    ratios = {
        f"{one} against {other}": {"wall": compare(wall[one], wall[other]).as_dict(), "cpu": compare(cpu[one], cpu[other]).as_dict()}
        for one, other in pairs
    }
    return rows, {
        "ratios": ratios,
        "hooks": hooks_of(told[GUILD], steps, wall[GUILD], cpu[GUILD]),
        "looks": looks_summary(told[GUILD], steps, looks),
    }


def hooks_of(blocks: Sequence[Block], steps: Sequence[int], means: Sequence[float], cpu_means: Sequence[float]) -> dict[str, float]:
    """Time inside the guild's calls behind a step, and percent of the whole step by the wall clock and of the processor. means, cpu_means:
    of the blocks, s."""
    wall = [statistics.mean(block.hooks.wall[step - 1] for step in steps) for block in blocks]
    cpu = [statistics.mean(block.hooks.cpu[step - 1] for step in steps) for block in blocks]
    ordinary = [statistics.median(block.hooks.wall[step - 1] for step in steps) for block in blocks]
    return {
        "ms_per_step": _ms(statistics.median(wall)),
        "cpu_ms_per_step": _ms(statistics.median(cpu)),
        "ms_of_a_step_without_writing": _ms(statistics.median(ordinary)),
        "longest_ms": _ms(max(max(block.hooks.wall[step - 1] for step in steps) for block in blocks)),
        "percent": round(statistics.median(100 * one / mean for one, mean in zip(wall, means, strict=True)), 3),
        "cpu_percent": round(statistics.median(100 * one / mean for one, mean in zip(cpu, cpu_means, strict=True)), 3),
    }


def looks_summary(blocks: Sequence[Block], steps: Sequence[int], looks: Sequence[int]) -> dict[str, Any]:
    """What a stop for evaluation or saving takes, and how often it comes at the defaults."""
    found = [seconds for block in blocks if (seconds := look_seconds(block, steps, looks)) is not None]
    return {"every_steps": [often for often in looks if often], "seconds": round(statistics.median(found), 4) if found else None}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 4)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tiny-0.4m", help="a packaged model, or random-WIDTHxLAYERS for random weights")
    parser.add_argument("--rows", type=int, default=1500, help="rows of the file; some 23 of them are a step of the default batch")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8, help="windows of 256 tokens in a step (the tiny hero's default: 8)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--output", default=str(Path(__file__).with_name("result.json")))
    given = parser.parse_args(argv)
    import torch

    torch.set_num_threads(given.threads)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            model = model_fields(given.model, root)
        except ValueError as error:
            parser.error(f"--model: {error}")
        work = Work(write_rows(root / "rows.jsonl", given.rows), model, {"batch_size": given.batch})
        told, config = measure(work, given.rounds, root)
        disk = file_system(root)
    rows, more = summary(told, looks_of(config))
    against = more["ratios"][f"{GUILD} against stock"]
    figures = {"against_stock_percent": against["wall"]["percent"], "hooks_percent": more["hooks"]["percent"]}
    met = {name: figures[name] < limit for name, limit in TARGETS.items()}
    settings = {name: getattr(given, name) for name in ("model", "rows", "rounds", "batch", "threads")}
    settings |= {"max_length": config.hyperparams.max_length, "optimizer": config.hyperparams.optimizer["type"], "file_system": disk}
    write_result(
        given.output, benchmark="guild_overhead", settings=settings, results=rows, **more, figures=figures, targets=TARGETS,
        targets_met=met,
    )  # fmt: skip
    print(table(rows, ["way", "step_ms", "step_cpu_ms", "median_step_ms", "outside_steps_s", "steps_compared", "steps"]))
    for name, ratio in more["ratios"].items():
        said = (f"{kind} {one['percent']:+.2f} % ({one['low']:+.2f} to {one['high']:+.2f})" for kind, one in ratio.items())
        print(f"{name}: {', '.join(said)}")
    print(f"hooks: {more['hooks']}")
    print(f"a look at held-out rows or a checkpoint: {more['looks']}")
    for name, limit in TARGETS.items():
        print(f"{name}: {figures[name]:g}, below {limit:g}: {'met' if met[name] else 'NOT met'}")
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
