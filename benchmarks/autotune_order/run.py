"""OQ-E on the models that come with the project: does the order of the cells change the winner?

    python -m benchmarks.autotune_order.run [--models modelwright/tiny-0.4m …] [--pairs 10] [--rest 60] [--out result.json]

Runs `macprovider-cli autotune experiment order-bias` as a user would, one model after the other, and adds what the experiment does not
tell: how often two runs in the *same* order choose differently, which no order can explain.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import table, write_result

from macprovider.autotune.experiments.rules import same_order

COLUMNS = ["model", "pairs", "other order, other winner", "same order, other winner", "keep the order"]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["modelwright/tiny-0.4m"])
    parser.add_argument("--pairs", type=int, default=10, help="forward and reverse runs (least 10)")
    parser.add_argument("--rest", type=int, default=60, help="seconds between pairs (least 60)")
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--kv-bits-axis", default="unset,4,8")
    parser.add_argument("--max-batch-axis", default="1")
    parser.add_argument("--target-context", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    given = parse(arguments)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for model in given.models:
            results.append(summary(model, experiment(model, given, Path(scratch))))
    rows = [
        {
            "model": one["model"],
            "pairs": one["pairs"],
            COLUMNS[2]: f"{one['mismatches']} of {one['pairs']}",
            COLUMNS[3]: f"{one['same_order_mismatches']} of {one['same_order_pairs']}",
            "keep the order": "yes" if one["keep"] else "no",
        }
        for one in results
    ]
    print(table(rows, COLUMNS))
    settings = {name: value for name, value in vars(given).items() if name != "out"}
    write_result(given.out, benchmark="autotune_order", settings=settings, results=results)
    return 0


def experiment(model: str, given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The JSON document of one experiment. Raises RuntimeError with its last words when it found nothing."""
    command = [sys.executable, "-m", "macprovider.cli", "autotune", "experiment", "order-bias", "--model", model, "--json"]
    command += ["--pairs", str(given.pairs), "--pair-idle", str(given.rest), "--engine", given.engine]
    command += ["--kv-bits-axis", given.kv_bits_axis, "--max-batch-axis", given.max_batch_axis, "--max-duration", "36000"]
    command += ["--target-context", str(given.target_context), "--max-tokens", str(given.max_tokens)]
    command += ["--db-path", str(scratch / "tuning.sqlite")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the experiment ended with {done.returncode}")
    text = done.stdout
    return dict(json.loads(text[text.index("\n{") + 1 :]))


def summary(model: str, document: dict[str, Any]) -> dict[str, Any]:
    """The finding, and how often runs in the same order disagree: all pairs of forward runs and all pairs of reverse runs."""
    finding = document["finding"]
    figures = finding["figures"]
    differing, compared = same_order(figures["winners"])
    return {
        "model": model,
        "pairs": figures["pairs"],
        "mismatches": figures["mismatches"],
        "same_order_pairs": compared,
        "same_order_mismatches": differing,
        "keep": finding["keep"],
        "advice": finding["advice"],
        "winners": figures["winners"],
    }


if __name__ == "__main__":
    sys.exit(main())
