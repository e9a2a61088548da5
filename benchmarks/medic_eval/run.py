"""How fast the corruption grid is evaluated: batches on stored caches against one example at a time through everything.

    python -m benchmarks.medic_eval.run [--model modelwright/tiny-1.5m] [--rounds 3] [--examples 16] [--out result.json]

Three ways through the same cells of `configs/medic/tiny.yaml`: the original's scheme (one example, its whole sequence
recomputed for every defence and cell, the repair materialised), stored caches with one example at a time, and stored caches
in batches, which is what `eval` does. They take turns, cell by cell. Ends with 1 when batches are less than four times as fast as the
original's scheme.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import write_result

from cachemedicpp.config.settings import load_run_config
from cachemedicpp.evaluation.defences import BATCH, Bench, Setup
from cachemedicpp.evaluation.examples import task_examples
from cachemedicpp.evaluation.grid import DEFENCES
from cachemedicpp.evaluation.setup import evaluated_operator, evaluation_setup
from cachemedicpp.faults.events import Event
from cachemedicpp.phases.base_model import load_base_model
from modelwright.errors import ModelwrightError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "medic" / "tiny.yaml"
ORIGINAL, ALONE, BATCHED = "original's scheme, one by one", "stored caches, one by one", f"stored caches, batches of {BATCH}"
TARGET = 4.0
EPSILON = 1.0


def ways_of(setup: Setup) -> dict[str, Setup]:
    """The setups that take turns."""
    return {ORIGINAL: replace(setup, inline=True, form="materialised"), ALONE: replace(setup, batch=1), BATCHED: setup}


def measure(config: Any, rounds: int) -> list[dict[str, Any]]:
    """Seconds of each way in each task: the median over rounds of all its cells, everything included; and examples per second.

    A cell is one kind of damage at one severity under all six defences. The model stays loaded; the clean caches do not.
    """
    model, tokenizer = load_base_model(config)
    layers = tuple(range(model.config.num_hidden_layers))
    config = config.model_copy(update={"repair": config.repair.model_copy(update={"protect_layers": layers})})
    operator = evaluated_operator(config, model, None)
    types = config.eval.corruption_eval.types
    ways = ways_of(evaluation_setup(config, model, tokenizer, types))
    examples, _ = task_examples(config, tokenizer)
    rows = []
    for task, of_task in examples.items():
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            for name, setup in ways.items():
                bench = Bench(model, operator, setup, of_task)
                began = time.perf_counter()
                for kind in types:
                    bench.measure(Event(kind, EPSILON), DEFENCES)
                if turn:  # the first round warms up
                    seconds[name].append(time.perf_counter() - began)
        done = len(of_task) * len(types) * len(DEFENCES)
        rows += [
            {"task": task, "way": name, "median_s": statistics.median(found), "examples_per_s": done / statistics.median(found)}
            for name, found in seconds.items()
        ]
    return rows


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How many times faster than the original's scheme: by way, over the sum of all tasks."""
    total: dict[str, float] = {}
    for row in rows:
        total[row["way"]] = total.get(row["way"], 0.0) + row["median_s"]
    return {name: total[ORIGINAL] / seconds for name, seconds in total.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="modelwright/tiny-1.5m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=16, help="examples of each task")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    given = parser.parse_args(argv)
    try:
        config = load_run_config(CONFIG, {"model.name": given.model})
        tasks = [task.model_copy(update={"num_examples": given.examples}) for task in config.eval.tasks]
        config = config.model_copy(update={"eval": config.eval.model_copy(update={"tasks": tasks})})
        rows = measure(config, given.rounds)
    except ModelwrightError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    faster = ratios(rows)
    for row in rows:
        print(f"{row['task']:22} {row['way']:32} {row['median_s']:8.2f} s  {row['examples_per_s']:8.1f} examples/s")
    for name, ratio in faster.items():
        print(f"{name:32} {ratio:6.2f} times the original's scheme")
    settings = {name: value for name, value in vars(given).items() if name != "out"} | {"batch": BATCH, "epsilon": EPSILON}
    write_result(given.out, benchmark="medic_eval", settings=settings, results=rows, ratios=faster, target=TARGET)
    return 0 if faster[BATCHED] >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
