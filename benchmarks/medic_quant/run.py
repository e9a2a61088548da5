"""A KV cache at 4, 3 and 2 bits: seven ways to quantise it, each alone and with a trained repair (family D) on top, at equal bytes.

    python -m benchmarks.medic_quant.run [--quick] [--models modelwright/tiny-1.5m modelwright/tiny-5m] [--seeds 3 1] [--folder parts]

Operators are trained on train text, rivals chosen on validation text, everything reported on test text. Finished parts are kept in
`--folder`; a run that was stopped goes on from there. About 20 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import table, write_result
from benchmarks.medic_common.training import Training, as_settings
from benchmarks.medic_quant.measure import Size
from benchmarks.medic_quant.methods import METHODS, STUDIED, WIDTHS, methods_named
from benchmarks.medic_quant.study import Study

from modelwright.errors import ModelwrightError, UsageError

MODELS = ("modelwright/tiny-1.5m", "modelwright/tiny-5m")
QUICK_SIZE = Size(prefix=64, tail=8, texts=4, validation_texts=2, prompts=2, prompt_tokens=144, greedy=4, rounds=2)
COLUMNS = ["model", "settings", "bits/value", "KL", "KL with D", "against", "placement", "at bits/value", "rival", "rival KL", "verdict"]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny-0.4m, two methods at 2 bits, one seed of two steps, a few texts")
    parser.add_argument("--models", nargs="+", help="packaged models or model folders")
    parser.add_argument("--seeds", nargs="+", type=int, help="operators trained for each setting, by model; the last number holds on")
    parser.add_argument("--methods", nargs="+", default=[], choices=[method.name for method in METHODS], help="all when left out")
    parser.add_argument("--bits", nargs="+", type=int, choices=WIDTHS[:-1], help="widths that get a repair")
    parser.add_argument("--steps", type=int, help="training steps of an operator")
    parser.add_argument("--rank", type=int, default=8, help="of the repair")
    parser.add_argument("--threads", type=int, default=2, help="of the processor; timings take one")
    parser.add_argument("--folder", type=Path, help="where finished parts go, and stay; a temporary folder when left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    given = parser.parse_args(arguments)
    given.models = given.models or (["modelwright/tiny-0.4m"] if given.quick else list(MODELS))
    given.seeds = given.seeds or ([1] if given.quick else [3, 1])
    given.bits = given.bits or ([2] if given.quick else list(STUDIED))
    given.steps = given.steps or (2 if given.quick else 60)
    if given.quick and not given.methods:
        given.methods = ["groups", "KIVI"]
    given.widths = sorted({2, 3, *given.bits}) if given.quick else list(WIDTHS)
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 2 when the request cannot be carried out."""
    given = parse(arguments)
    try:
        if min(given.seeds) < 1 or given.steps < 1:
            raise UsageError(f"--seeds {given.seeds} and --steps {given.steps}: each is at least 1.")
        with tempfile.TemporaryDirectory() as scratch:
            _measure(given, given.folder or Path(scratch))
    except ModelwrightError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _measure(given: argparse.Namespace, folder: Path) -> None:
    torch.set_num_threads(given.threads)
    size = QUICK_SIZE if given.quick else Size()
    training = Training(steps=given.steps, rank=given.rank)
    if given.quick:
        training = Training(steps=given.steps, rank=given.rank, batch=2, prefix_tokens=64, tail_tokens=8)
    clean: list[dict[str, Any]] = []
    plain: list[dict[str, Any]] = []
    repaired: list[dict[str, Any]] = []
    for place, name in enumerate(given.models):
        study = Study(name, size, training, folder, given.bits)
        count = given.seeds[min(place, len(given.seeds) - 1)]
        found = study.rows(methods_named(given.methods), given.widths, range(count))
        clean.append(found[0])
        plain += found[1]
        repaired += found[2]
    print(table(_lines(plain, repaired), COLUMNS))
    settings = {name: value for name, value in vars(given).items() if name not in ("out", "folder")}
    settings |= {"size": vars(size), "training": dict(as_settings(training)), "unquantised": "float16"}
    write_result(given.out, benchmark="medic_quant", settings=settings, results=plain, clean=clean, repaired=repaired)


def _lines(plain: Sequence[dict[str, Any]], repaired: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    own = {(row["model"], row["settings"]): row for row in plain}
    return [
        {
            "model": row["model"],
            "settings": row["settings"],
            "bits/value": own[row["model"], row["settings"]]["bits_per_value"],
            "KL": f"{own[row['model'], row['settings']]['kl']['estimate']:.4g}",
            "KL with D": f"{row['kl']['estimate']:.4g}",
            "against": one["against"],
            "placement": one["placement"],
            "at bits/value": one["bits_per_value"],
            "rival": one["rival"],
            "rival KL": f"{one['rival_kl']:.4g}",
            "verdict": one["verdict"],
        }
        for row in repaired
        for one in row["comparisons"]
    ]


if __name__ == "__main__":
    sys.exit(main())
