"""How far the context of a tiny reference model can be stretched: one run through the real command, before and after.

    python -m benchmarks.context.run [--model modelwright/tiny-5m] [--schedule 1024,2048,4096,8192] [--steps 4,12,56,60,60]

Writes the demo's kind of data and contract, runs `python -m scaler_wizard.cli` with them as a process of its own, and
takes perplexity and passkey accuracy by length from the results that the run itself wrote. Tens of minutes on two
cores at the defaults. `--folder` keeps the run; a run there that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import write_result

import scaler_wizard
from modelwright.errors import UsageError
from modelwright.files import read_json, read_yaml
from modelwright.loading import load_model, load_tokenizer, resolve_model
from modelwright.record import read_record
from modelwright.tiny.corpus import load_corpus
from modelwright.tiny.evaluation import measure_bits_per_byte
from scaler_wizard.demo import Recipe, command_arguments, write_contract, write_data
from scaler_wizard.output_dir import holds_run
from scaler_wizard.report import PASSKEY, lengths_of, load_results, summary_table


def rows_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per length: perplexity and passkey accuracy before and after, with the trials and the 95 % interval after."""
    intervals = {detail["length"]: detail for detail in results["final"]["details"] if detail.get("name") == PASSKEY}
    rows = []
    for length in lengths_of(results):
        row: dict[str, Any] = {"length": length, "times": round(length / results["base_context"], 2)}
        for state, word in (("preflight", "before"), ("final", "after")):
            row[f"perplexity_{word}"] = results[state]["perplexity"].get(str(length))
            row[f"passkey_{word}"] = results[state]["scores"].get(PASSKEY, {}).get(str(length))
        detail = intervals.get(length, {})
        row |= {"trials": detail.get("n"), "passkey_after_95": [detail.get("ci_low"), detail.get("ci_high")]}
        rows.append(row)
    return rows


def refused_rung(run: Path, achieved: int) -> dict[str, Any] | None:
    """What the rung that was trained but not promoted had at its own length; None when every trained rung passed."""
    files = {int(path.stem.removeprefix("rung_")): path for path in (run / "evaluations").glob("rung_*.json")}
    length = min((length for length in files if length > achieved), default=None)
    if length is None:
        return None
    found = read_json(files[length])
    perplexity, accuracy = found.get(f"sliding_ppl/{length}", {}), found.get(f"{PASSKEY}/{length}", {})
    return {"length": length, "perplexity": perplexity.get("perplexity"), "passkey": accuracy.get("mean"), "trials": accuracy.get("n")}


def trained_tokens(run: Path) -> int:
    """Tokens trained over all rungs, padding included, from the run's resolved configuration."""
    rungs = read_yaml(run / "config.resolved.yaml")["rungs"]
    return sum(rung["steps"] * rung["micro_batch_size"] * rung["gradient_accumulation"] * rung["length"] for rung in rungs)


def stretch(folder: Path, recipe: Recipe, extra: Sequence[str]) -> tuple[int, float]:
    """Run the command in `folder`, going on with what is there; returns its exit code and the minutes it took."""
    run = folder / "run"
    if not (folder / "data").is_dir():
        write_data(folder / "data", recipe)
        write_contract(folder, recipe)
    arguments = [*command_arguments(folder, recipe), *extra, *(["--resume"] if holds_run(run) else [])]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "scaler_wizard.cli", *arguments], env=environment, check=False)
    return done.returncode, (time.perf_counter() - started) / 60


def unseen_text(run: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """Bits per byte by length, before and after, on files of the interpreter's library that neither training has read.

    The run's own perplexity is on rows held out of its data, which are of the kind it trains on; this is on source text alone.
    """
    corpus, lengths = load_corpus(), (recipe.base_context, *recipe.schedule)
    source = resolve_model(recipe.base_model, offline=True)
    tokenizer: Any = load_tokenizer(source)
    found = {}
    for state, model in (("before", load_model(source, dtype="float32")), ("after", scaler_wizard.load(run)[0])):
        found[state] = measure_bits_per_byte(model.eval(), tokenizer, corpus, lengths, recipe.piece_characters)
    return [{"length": length, **{state: bits[str(length)] for state, bits in found.items()}} for length in lengths]


def result_of(run: Path, recipe: Recipe) -> dict[str, Any]:
    """What the run reached, beside the rows of `rows_of`."""
    results = load_results(run)
    memory = run / "memory.json"
    record = read_record(run)
    return {
        "base_context": results["base_context"],
        "target_context": recipe.target,
        "achieved_context": results["achieved_context"],
        "shortfall": results["shortfall"],
        "refused_rung": refused_rung(run, results["achieved_context"]),
        "context_method": results["context_method"],
        "short_context": results["short_context"],
        "trained_tokens": trained_tokens(run),
        "attempts": record.attempt,
        "memory": {name: read_json(memory)[name] for name in ("predicted_bytes", "measured_bytes")} if memory.exists() else None,
    }


def recipe_from(given: argparse.Namespace) -> Recipe:
    """The demo's recipe with what the flags change; source pieces grow with the target, so that one fills a window.

    Raises UsageError when `--steps` has neither one number nor one for each rung.
    """
    schedule = tuple(int(length) for length in given.schedule.split(","))
    steps = tuple(int(number) for number in given.steps.split(","))
    if len(steps) == 1:
        steps *= 1 + len(schedule)
    if len(steps) != 1 + len(schedule):
        raise UsageError(
            f"--steps: found {len(steps)} numbers for {1 + len(schedule)} rungs; give one number, or one for the base length "
            "and one for each length of the schedule."
        )
    base = Recipe()
    return replace(
        base,
        base_model=given.model,
        schedule=schedule,
        steps=steps,
        batch_tokens=given.batch_tokens,
        learning_rate=given.learning_rate,
        probe_samples=given.probe_samples,
        source_rows=given.source_rows,
        recall_rows=given.recall_rows,
        piece_characters=base.piece_characters * max(1, schedule[-1] // base.target),
        seed=given.seed,
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    base = Recipe()
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], epilog="Flags that are not listed are handed to scaler_wizard.cli."
    )
    parser.add_argument("--model", default="modelwright/tiny-5m")
    parser.add_argument("--schedule", default="1024,2048,4096,8192", help="lengths in tokens; the last is the target")
    parser.add_argument("--steps", default="4,12,56,60,60", help="optimizer steps: one number, or one per rung, base length first")
    parser.add_argument("--batch-tokens", type=int, default=base.batch_tokens, help="tokens per optimizer step")
    parser.add_argument("--learning-rate", type=float, default=base.learning_rate)
    parser.add_argument("--probe-samples", type=int, default=base.probe_samples)
    parser.add_argument("--source-rows", type=int, default=base.source_rows)
    parser.add_argument("--recall-rows", type=int, default=base.recall_rows)
    parser.add_argument("--seed", type=int, default=base.seed)
    parser.add_argument("--folder", type=Path, help="where data and run go, and stay; a temporary folder when left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    given, given.extra = parser.parse_known_args(argv)
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Stretch, collect, write; the exit code is the run's."""
    given = parse(argv)
    try:
        recipe = recipe_from(given)
    except UsageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        code, minutes = stretch(folder, recipe, given.extra)
        if code != 0:
            print(f"The run ended with code {code}; no result was written.", file=sys.stderr)
            return code
        run = folder / "run"
        settings = {name: value for name, value in vars(given).items() if name not in ("out", "folder")}
        write_result(
            given.out,
            benchmark="context",
            settings=settings,
            results=rows_of(load_results(run)),
            minutes=round(minutes, 1),
            unseen_text=unseen_text(run, recipe),
            **result_of(run, recipe),
        )
        print(summary_table(load_results(run)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
