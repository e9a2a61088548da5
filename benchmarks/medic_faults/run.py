"""Memory faults in a KV cache: family D against per-block checksums with recomputation and against range clipping.

    python -m benchmarks.medic_faults.run [--quick] [--models modelwright/tiny-1.5m …] [--folder PARTS] [--out result.json]

Caches are stored in 16 bits and struck once after the write, in the keys or values of one layer; see `patterns` for the
faults, `defences` for what is compared. Detection is reported apart from repair, and both beside the price on clean caches
and the time. Ranges and operators come from `train` text, thresholds from `validation`, figures from `test`. With `--folder`
every finished operator and fault kind stays there, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import table, write_result
from benchmarks.medic_common.subjects import Subject, load_subject
from benchmarks.medic_common.training import Lesson
from benchmarks.medic_faults.costs import measure_costs
from benchmarks.medic_faults.defences import FALSE_ALARMS, LARGEST, TRAINED, WORDS, Limits, Trained, calibrate
from benchmarks.medic_faults.patterns import KINDS
from benchmarks.medic_faults.summary import clean_rows, comparison_rows, detection_rows, fault_rows, repair_rows
from benchmarks.medic_faults.training import Study, clean_caches, gate_threshold, new_operator_of, stored_lessons, train
from benchmarks.medic_faults.trials import Bench, make_batches, measure_clean, measure_kind
from benchmarks.medic_faults.verdicts import HARM

from cachemedicpp.repair.operator import RepairOperator
from modelwright.errors import ModelwrightError, UsageError
from modelwright.files import make_folder, read_bytes, read_json, write_bytes, write_json

QUICK = Study(trials=4, prefix=64, tail=4, greedy=4, training_seeds=1, steps=2, batch=2, rows=4, calibration=4)
QUICK_MODEL, USUAL_MODEL = "modelwright/tiny-0.4m", "modelwright/tiny-1.5m"
ROUNDS = 30


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Study]:
    usual = Study()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_MODEL}, {QUICK.trials} faults of each kind, {QUICK.steps} training steps"
    )
    parser.add_argument("--models", nargs="+", help=f"packaged models or model folders (default {USUAL_MODEL})")
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default=usual.dtype, help="how the cache is stored")
    parser.add_argument("--trials", type=int, help=f"faults of each kind, each in a text of its own (default {usual.trials})")
    parser.add_argument("--training-seeds", type=int, help=f"operators of each trained defence (default {usual.training_seeds})")
    parser.add_argument("--steps", type=int, help=f"training steps (default {usual.steps})")
    parser.add_argument("--seed", type=int, default=0, help="of texts and faults")
    parser.add_argument("--threads", type=int, default=2, help="of the processor")
    parser.add_argument("--folder", type=Path, help="where finished parts stay; a temporary folder when left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    given = parser.parse_args(arguments)
    given.models = given.models or [QUICK_MODEL if given.quick else USUAL_MODEL]
    sizes = {name: value for name in ("trials", "training_seeds", "steps") if (value := getattr(given, name)) is not None}
    if wrong := [f"--{name.replace('_', '-')} {value}" for name, value in sizes.items() if value < 1]:
        raise UsageError(f"{', '.join(wrong)}: found less than 1; give at least one.")
    return given, replace(QUICK if given.quick else usual, dtype=given.dtype, seed=given.seed, **sizes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 2 when the request cannot be carried out."""
    try:
        given, study = parse(arguments)
        torch.set_num_threads(given.threads)
        with tempfile.TemporaryDirectory() as scratch:
            found = [measure_model(name, study, (given.folder or Path(scratch)) / name.replace("/", "-")) for name in given.models]
    except ModelwrightError as error:
        print(error, file=sys.stderr)
        return 2
    results = {key: [row for one in found for row in one[key]] for key in found[0] if key != "costs"}
    settings = asdict(study) | {"models": given.models, "threads": given.threads}
    settings |= {"largest": LARGEST, "false_alarms": FALSE_ALARMS, "harm": HARM, "kinds": {kind.name: kind.words for kind in KINDS}}
    settings["defences"] = dict(WORDS)
    repair = results.pop("repair")
    write_result(given.out, benchmark="medic_faults", settings=settings, results=repair, **results, costs=[one["costs"] for one in found])
    print(_printed(repair, results["comparisons"]))
    return 0


def measure_model(name: str, study: Study, folder: Path) -> dict[str, Any]:
    """All rows of one model; finished parts are read from `folder`. Raises UsageError when it holds parts of another study."""
    _claim(folder, {"model": name, **asdict(study)})
    subject = load_subject(name)
    study.shape(subject.layers)
    caches = clean_caches(subject, study, "validation")
    limits, margin = calibrate(clean_caches(subject, study, "train"), caches, study.size)
    operators = _operators(subject, study, limits, folder)
    thresholds = {
        one.name: [gate_threshold(operator, caches, study.size, one.front, limits) for operator in operators[one.name]] for one in TRAINED
    }
    bench, batches = Bench(subject, study, limits, operators, thresholds), make_batches(subject, study)
    parts = []
    for kind in KINDS:
        parts.append(_kept(folder / f"{kind.name}.json", lambda kind=kind: measure_kind(bench, batches, kind)))  # type: ignore[misc]
        print(f"{name}: {kind.name} measured", file=sys.stderr)
    clean = _kept(folder / "clean.json", lambda: measure_clean(bench, batches))
    first = {defence: own[0] for defence, own in operators.items()}
    costs = _kept(folder / "costs.json", lambda: measure_costs(subject, study, limits, first, ROUNDS))
    return {
        "faults": fault_rows(name, parts),
        "repair": repair_rows(name, parts),
        "detection": detection_rows(name, parts, clean),
        "comparisons": comparison_rows(name, parts),
        "clean": clean_rows(name, clean),
        "costs": {"model": name, "clip_margin": margin, "ceiling": bench.ceiling, **costs},
    }


def _operators(subject: Subject, study: Study, limits: Limits, folder: Path) -> dict[str, list[RepairOperator]]:
    """Every trained defence with every seed; texts of a seed are prefilled once for all of them."""
    found: dict[str, list[RepairOperator]] = {one.name: [] for one in TRAINED}
    for seed in range(1, study.training_seeds + 1):
        prepared: list[Lesson] = []
        for one in TRAINED:
            path = folder / f"{one.name}_seed{seed}.pt"
            if path.is_file():
                found[one.name].append(_load(subject, study, one, seed, path))
                continue
            prepared = prepared or stored_lessons(subject, study, seed)
            operator = train(subject, study, limits, one, seed, prepared)
            buffer = io.BytesIO()
            torch.save(operator.state_dict(), buffer)
            write_bytes(path, buffer.getvalue())
            found[one.name].append(operator)
            print(f"{subject.name}: {one.name} trained with seed {seed}", file=sys.stderr)
    return found


def _load(subject: Subject, study: Study, defence: Trained, seed: int, path: Path) -> RepairOperator:
    operator = new_operator_of(subject, study, defence, seed)
    operator.load_state_dict(torch.load(io.BytesIO(read_bytes(path)), weights_only=True))
    return operator.requires_grad_(False)


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    make_folder(folder)
    path = folder / "settings.json"
    if not path.is_file():
        write_json(path, settings)
    elif (held := read_json(path)) != settings:
        differing = ", ".join(key for key in settings if held.get(key) != settings[key])
        raise UsageError(f"{folder} holds parts of a study with other settings ({differing}); give another --folder, or remove it.")


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The part at `path`, made and written first when it is not there."""
    if not path.is_file():
        write_json(path, make())
    part: dict[str, Any] = read_json(path)
    return part


def _printed(repair: list[dict[str, Any]], comparisons: list[dict[str, Any]]) -> str:
    shown = [
        {
            "model": row["model"],
            "fault": row["kind"],
            "defence": row["defence"],
            "KL": f"{row['kl']['estimate']:.5f}",
            "unchanged": f"{row['unchanged']:.3f}",
            "harmed": f"{row['harmed']:.3f}",
        }
        for row in repair
    ]
    decided = [
        {
            "fault": row["kind"],
            "ours": row["ours"],
            "theirs": row["theirs"],
            "difference": f"{row['effect']['estimate']:+.5f}",
            "verdict": row["verdict"],
        }
        for row in comparisons
        if row["theirs"] in ("clip", "recompute")
    ]
    return "\n\n".join((table(shown, list(shown[0])), table(decided, list(decided[0]))))


if __name__ == "__main__":
    sys.exit(main())
