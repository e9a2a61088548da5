"""What a repaired KV cache costs while decoding: one protected layer by cache length, and a whole model.

    python -m benchmarks.medic_decode.run [--quick] [--device cuda] [--model modelwright/tiny-5m] [--out result.json]

Forms: plain attention, the materialised repair (the reference, never served), the extended and the collapsed form of
family A, and family D, whose gate looks at each token. Ends with 1 when acceptance 16 of specs/medic.md, section 13, is
missed: at 4,096 tokens the collapsed form costs at most 1.3 times plain attention and a fifth of the materialised form.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmarks.common import table, write_result
from benchmarks.medic_decode.generation import load_model, measure_generation
from benchmarks.medic_decode.layer import SHAPES, Setting, measure_layer

from modelwright.errors import ModelwrightError, UsageError

DECIDED_AT = 4096  # tokens
LAYER_COLUMNS = ["shape", "tokens", "way", "median_us", "best_us", "ratio", "repeats", "cache_bytes_per_token"]


class Goal(NamedTuple):
    """A bound on a figure: `most` for an upper bound, else a lower one. acceptance: part of item 16, else a target."""

    figure: str
    bound: float
    most: bool
    acceptance: bool = False


GOALS = (
    Goal("collapsed A / plain", 1.3, True, acceptance=True),
    Goal("materialised A / collapsed A", 5.0, False, acceptance=True),
    Goal("collapsed A / plain", 1.15, True),
    Goal("extended A / plain", 1.5, True),
    Goal("extended D / plain", 1.5, True),
    Goal("materialised A / collapsed A", 15.0, False),
    Goal("tokens/s, collapsed A / off", 0.97, False),
)


def figures_of(layer: Sequence[dict[str, Any]], generation: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Figure to its values by where they were measured: a shape at `DECIDED_AT` tokens, or the model."""
    found: dict[str, dict[str, float]] = {}
    for shape in {row["shape"]: None for row in layer}:
        ratios = {row["way"]: row["ratio"] for row in layer if row["shape"] == shape and row["tokens"] == DECIDED_AT}
        if not ratios:
            continue
        for way in ("collapsed A", "extended A", "extended D"):
            found.setdefault(f"{way} / plain", {})[shape] = ratios[way]
        found.setdefault("materialised A / collapsed A", {})[shape] = round(ratios["materialised A"] / ratios["collapsed A"], 2)
    for row in generation:
        if row["way"] != "off":
            found[f"tokens/s, {row['way']} / off"] = {"model": row["ratio"]}
    return found


def decide(figures: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Every goal for every place where its figure was measured."""
    return [
        {
            "figure": goal.figure,
            "where": where,
            "measured": measured,
            "bound": goal.bound,
            "at": "most" if goal.most else "least",
            "kind": "acceptance 16" if goal.acceptance else "target",
            "met": measured <= goal.bound if goal.most else measured >= goal.bound,
        }
        for goal in GOALS
        for where, measured in figures.get(goal.figure, {}).items()
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="1,024 and 4,096 tokens, the small heads, short blocks")
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), help="heads of the layer")
    parser.add_argument("--lengths", nargs="+", type=int, help="cached tokens")
    parser.add_argument("--batch", type=int, default=1, help="sequences in the layer's cache")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=40, help="steps of each way and length")
    parser.add_argument("--model", default="modelwright/tiny-5m", help="a packaged model, or a model folder")
    parser.add_argument("--context", type=int, default=2048, help="tokens in the model's cache")
    parser.add_argument("--tokens", type=int, help="decoded tokens in a block")
    parser.add_argument("--blocks", type=int, help="blocks with the repair on and off")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    given = parser.parse_args(arguments)
    given.shapes = given.shapes or (["small"] if given.quick else list(SHAPES))
    given.lengths = given.lengths or ([1024, 4096] if given.quick else [1024, 4096, 16384])
    given.tokens = given.tokens or (8 if given.quick else 32)
    given.blocks = given.blocks or (5 if given.quick else 15)
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 when acceptance 16 is missed, 2 when the request cannot be carried out."""
    given = parse(arguments)
    try:
        return _measured(given)
    except ModelwrightError as error:
        print(error, file=sys.stderr)
        return 2


def _measured(given: argparse.Namespace) -> int:
    if given.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this process sees no CUDA device; use --device cpu.")
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    dtype = torch.float32 if given.device == "cpu" else torch.bfloat16
    model = load_model(given.model, device, dtype)
    layer = []
    for shape in given.shapes:
        setting = Setting(SHAPES[shape], given.rank, given.batch, device, dtype)
        rows = measure_layer(setting, given.lengths, given.repeats, slow_repeats=min(given.repeats, 8))
        layer += [{"shape": shape, **row} for row in rows]
    print(table(layer, LAYER_COLUMNS))
    generation = measure_generation(model, given.context, given.tokens, given.blocks, given.rank)
    print(table(generation, ["way", "tokens_per_s", "ratio", "blocks"]))
    decisions = decide(figures_of(layer, generation))
    for decision in decisions:
        met = "met" if decision["met"] else "MISSED"
        print(
            f"{decision['kind']}: {decision['figure']} ({decision['where']}) {decision['measured']:g}, at {decision['at']} "
            f"{decision['bound']:g}: {met}"
        )
    settings = {name: value for name, value in vars(given).items() if name != "out"}
    settings |= {"dtype": str(dtype).removeprefix("torch."), "heads": {shape: _heads(shape) for shape in given.shapes}}
    if given.device == "cuda":
        settings["gpu"] = torch.cuda.get_device_name(device)
    write_result(given.out, benchmark="medic_decode", settings=settings, results=layer, generation=generation, decisions=decisions)
    return 0 if all(decision["met"] for decision in decisions if decision["kind"] != "target") else 1


def _heads(shape: str) -> str:
    layout = SHAPES[shape]
    return f"{layout.query_heads} query and {layout.kv_heads} KV heads of {layout.head_dim}"


if __name__ == "__main__":
    sys.exit(main())
