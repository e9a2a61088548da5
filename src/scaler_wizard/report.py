"""One page about one run: what the model could do before and after, how training went, on what, with whose consent.

Made from the files of the run directory alone, so it can be made again at any time: `python -m scaler_wizard.report RUN`.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelwright.errors import MissingFileError
from modelwright.files import read_json, read_yaml, write_text
from modelwright.report import Html, Series, code, facts, heat_map, line_chart, number, page, paragraph, section, table

REPORT_FILE = "report.html"
PASSKEY = "passkey"
GIB = 1 << 30
DATASET_SCHEMES = {"local_upload": "local://", "huggingface_hub": "hf://", "synthetic": "synthetic://"}


def load_results(run: Path) -> dict[str, Any]:
    """The newest `benchmarks/results/*.json` of a run. Raises MissingFileError for a run that has not finished."""
    found = sorted((run / "benchmarks" / "results").glob("*.json"))
    if not found:
        raise MissingFileError(f"{run} has no results yet: they are written when a run completes. Look at `modelwright runs show {run}`.")
    return dict(read_json(found[-1]))


def lengths_of(results: Mapping[str, Any]) -> list[int]:
    """Every length in tokens at which something was measured, ascending."""
    return sorted({int(length) for state in ("preflight", "final") for length in results[state]["perplexity"]})


def summary_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """One row per length: length, perplexity before and after, passkey accuracy before and after, as text."""
    rows = []
    for length in lengths_of(results):
        row = [str(length)]
        for state in ("preflight", "final"):
            row.append(number(results[state]["perplexity"].get(str(length)), 3))
        for state in ("preflight", "final"):
            row.append(_percent(results[state]["scores"].get(PASSKEY, {}).get(str(length))))
        rows.append(row)
    return rows


def summary_table(results: Mapping[str, Any]) -> str:
    """The summary for a terminal."""
    header = ["tokens", "perplexity before", "after", "passkey before", "after"]
    rows = summary_rows(results)
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    return "\n".join("   " + "   ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in [header, *rows])


def write_report(run: Path) -> Path:
    """Write `report.html` into the run directory; returns its path. Raises MissingFileError for a run that has not finished."""
    path = run / REPORT_FILE
    write_text(path, build(run))
    return path


def build(run: Path) -> str:
    """The report of a finished run as one HTML document that needs no network."""
    results = load_results(run)
    config = read_yaml(run / "config.resolved.yaml")
    base, reached = results["base_context"], results["achieved_context"]
    return page(
        f"{results['model']}: {base} → {reached} tokens",
        _before_and_after(results),
        _by_depth(results),
        _training(run, results),
        _short_context(results),
        _how(run, config, results),
        _honesty(results),
        lead=_lead(results),
        footer=f"Run {results['run_id']}, {results['timestamp']}. Made by Modelwright from the files in this run directory.",
    )


def _lead(results: Mapping[str, Any]) -> str:
    reached = str(results["achieved_context"])
    before = results["preflight"]["scores"].get(PASSKEY, {}).get(reached)
    after = results["final"]["scores"].get(PASSKEY, {}).get(reached)
    words = f"At {reached} tokens the model finds the pass key in {_percent(after)} of the trials"
    words += f" ({_percent(before)} before)" if before is not None else ""
    ppl_before, ppl_after = (results[state]["perplexity"].get(reached) for state in ("preflight", "final"))
    words += f"; perplexity there is {number(ppl_after, 3)}"
    words += f" ({number(ppl_before, 3)} before)." if ppl_before is not None else "."
    return f"{words} {_price(results)} {results['shortfall']}".strip()


def _price(results: Mapping[str, Any]) -> str:
    """What short context paid, in one sentence."""
    short, base = results["short_context"], results["base_context"]
    change = 100 * (short["perplexity_after"] / short["perplexity_before"] - 1) if short["perplexity_before"] else math.nan
    words = f"At {base} tokens, where nothing had to be stretched, perplexity changed by {change:+.1f} %"
    if short["accuracy_before"] is not None and short["accuracy_after"] is not None:
        words += f" and the pass key is found in {_percent(short['accuracy_after'])} ({_percent(short['accuracy_before'])} before)"
    return f"{words}; verdict on short context: {short['verdict']}."


def _before_and_after(results: Mapping[str, Any]) -> Html:
    names = (("preflight", "untouched base"), ("final", "after"))
    perplexity = [
        Series(name, [(int(length), value) for length, value in sorted(results[state]["perplexity"].items(), key=_by_length)])
        for state, name in names
    ]
    passkey = [
        Series(name, [(int(length), value) for length, value in sorted(results[state]["scores"].get(PASSKEY, {}).items(), key=_by_length)])
        for state, name in names
    ]
    header = ["tokens", "perplexity, before", "after", "passkey, before", "after"]
    return section(
        "Before and after",
        table(header, summary_rows(results), "Held-out text and passkey trials, the same for both models"),
        line_chart(perplexity, title="Perplexity by length (lower is better)", x_label="tokens", y_label="perplexity", log_x=True),
        line_chart(passkey, title="Passkey accuracy by length", x_label="tokens", y_label="accuracy", log_x=True, y_range=(0.0, 1.0)),
    )


def _by_depth(results: Mapping[str, Any]) -> Html:
    blocks: list[Html] = []
    for state, name in (("preflight", "Untouched base"), ("final", "After")):
        found = sorted((d for d in results[state]["details"] if d.get("name") == PASSKEY), key=lambda detail: detail["length"])
        depths = sorted({int(depth) for detail in found for depth in detail["by_depth"]})
        if not found:
            continue
        blocks.append(
            heat_map(
                [f"{depth} %" for depth in depths],
                [str(detail["length"]) for detail in found],
                [[detail["by_depth"].get(str(depth)) for detail in found] for depth in depths],
                title=f"{name}: passkey accuracy in percent, by length and by how deep in the text the key stands",
                row_label="depth",
                column_label="tokens",
            )
        )
        intervals = [
            [str(d["length"]), str(d["n"]), _percent(d["mean"]), f"{_percent(d['ci_low'])} to {_percent(d['ci_high'])}"] for d in found
        ]
        blocks.append(table(["tokens", "trials", "accuracy", "95 % interval (Wilson)"], intervals))
    return section("Where in the text", *blocks)


def _training(run: Path, results: Mapping[str, Any]) -> Html:
    from modelwright.metrics import read_metrics

    events = read_metrics(run / "metrics.jsonl").events
    losses: dict[int, list[tuple[float, float | None]]] = {}
    for event in events:
        if event["metric"] == "train/loss" and event.get("rung") is not None:
            losses.setdefault(int(event["rung"]), []).append((float(event["step"]), event["value"]))
    tokens = [event["value"] for event in events if event["metric"] == "train/tokens" and event["value"] is not None]
    series = [Series(f"{length} tokens", _thinned(points)) for length, points in sorted(losses.items())]
    shown = {"trained tokens": number(max(tokens), 6) if tokens else None, "rungs": ", ".join(str(length) for length in sorted(losses))}
    return section(
        "Training",
        facts(shown),
        line_chart(series, title="Training loss by step, one line per rung", x_label="optimizer step", y_label="loss"),
    )


def _short_context(results: Mapping[str, Any]) -> Html:
    short = results["short_context"]
    before, after = short["perplexity_before"], short["perplexity_after"]
    change = 100 * (after / before - 1) if before else math.nan
    rows = [
        ["perplexity", number(before, 4), number(after, 4), f"{change:+.2f} %"],
        ["passkey accuracy", _percent(short["accuracy_before"]), _percent(short["accuracy_after"]), ""],
    ]
    return section(
        f"What short context paid ({results['base_context']} tokens)",
        table(["", "before", "after", "change"], rows),
        paragraph(f"Verdict: {short['verdict']}; drop {number(short['drop_points'], 2)} points."),
    )


def _how(run: Path, config: Mapping[str, Any], results: Mapping[str, Any]) -> Html:
    scaling, hardware = config["scaling"], read_json(run / "hardware.json")
    record, arithmetic = read_json(run / "run.json"), results.get("arithmetic") or {}
    shown: dict[str, object] = {
        "base model": results["model"],
        "dataset": DATASET_SCHEMES.get(config["dataset"]["source"], "") + config["dataset"]["identifier"],
        "method": scaling["context_method"],
        "strategy": f"{scaling['strategy']}, rank {scaling['lora_rank']}, alpha {scaling['lora_alpha']}",
        "machine": _machine(hardware),
        "matrix products": f"float32, {arithmetic['matmul']}" if arithmetic.get("matmul") else arithmetic.get("weights"),
        "config digest": results["config_sha256"],
        "contract digest": results["contract_sha256"],
    }
    memory = _optional(run / "memory.json")
    if memory:
        shown["memory, predicted peak"] = f"{memory['predicted_bytes'] / GIB:.2f} GiB"
        shown["memory, measured peak"] = f"{memory['measured_bytes'] / GIB:.2f} GiB ({memory['source']})"
    exported = results["export"]
    if exported["merged"]:
        difference, tokens = exported["logit_difference"], exported["checked_tokens"]
        shown["merged weights"] = f"largest logit difference to the adapters {difference:.1e} over {tokens} tokens"
    return section("How it was made", facts(shown), paragraph("The command:"), code(shlex.join(["python", *record["command"][1:]])))


def _machine(hardware: Mapping[str, Any]) -> str:
    """Processor, memory and GPUs in one line, as far as they were found."""
    cpu, gpus = hardware.get("cpu") or {}, hardware.get("gpus") or []
    parts = [f"{cpu['model']}, {cpu['logical']} processors"] if cpu.get("model") else []
    parts += [f"{hardware['ram_total']:.0f} GiB of memory"] if hardware.get("ram_total") else []
    parts.append(", ".join(str(gpu["name"]) for gpu in gpus) or "no GPU")
    return "; ".join(parts)


def _honesty(results: Mapping[str, Any]) -> Html:
    return section(
        "What this does not show",
        paragraph(
            "Perplexity and passkey say that the model stays fluent and can fetch one number from a long text. They do not show that it "
            "reasons over the whole of it. Trials are few: read the intervals, not the points. A fall of perplexity at the base length is "
            "ordinary adaptation to the training text, and the same share of the fall at longer lengths is too."
        ),
    )


def _thinned(points: Sequence[tuple[float, float | None]], most: int = 300) -> list[tuple[float, float | None]]:
    """At most `most` points, evenly taken, so that the page stays small."""
    step = max(1, math.ceil(len(points) / most))
    return list(points[::step])


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _by_length(item: tuple[str, Any]) -> int:
    return int(item[0])


def _optional(path: Path) -> Mapping[str, Any] | None:
    return dict(read_json(path)) if path.exists() else None


def main(argv: Iterable[str] | None = None) -> int:
    """`python -m scaler_wizard.report RUN`: write the report again; exit 0, or 1 when the run has nothing to report."""
    import argparse

    from modelwright.errors import ModelwrightError

    parser = argparse.ArgumentParser(prog="python -m scaler_wizard.report", description="Write report.html into a finished run directory.")
    parser.add_argument("run", type=Path, help="run directory")
    given = parser.parse_args(None if argv is None else list(argv))
    try:
        print(write_report(given.run))
    except ModelwrightError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
