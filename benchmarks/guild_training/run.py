"""The guild's optimizers and its low-memory recipe on models of Qwen3's shapes with random weights. (specs/guild.md 9, items 50 and 51)

    python -m benchmarks.guild_training.run --what all --size tiny --device cpu          about a minute on two cores
    python -m benchmarks.guild_training.run --what optimizers --size 0.6b --device cuda  item 50: 16 GB of GPU memory, some minutes
    python -m benchmarks.guild_training.run --what recipe --size 4b --device cuda        item 51: 24 GB; 50 GB of disk under --scratch

optimizers: a file of 200 rows, made by the guild's own generator, goes through the real engine with adamw, muon and both 8-bit AdamWs:
half of it, a checkpoint, the rest in a new engine. Beside each stands a stock `transformers.Trainer` with the same optimizer on the same
windows. recipe: five steps of `guild train-4b` and one more from its checkpoint. Every measurement is a process of its own; sides take
turns. An optimizer or recipe whose package is not installed is refused by name, and that sentence is the result. The exit code is 0 when
every check holds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.common import table, write_result
from benchmarks.guild_training.children import ChildFailed, in_child
from benchmarks.guild_training.figures import (
    FLOP_FORMULA,
    flop_per_token,
    largest_difference,
    memory_forecast,
    middle,
    state_bytes,
    utilisation,
)
from benchmarks.guild_training.optimizer_runs import OPTIMIZERS, guild_run, stock_run
from benchmarks.guild_training.recipe_run import recipe_resumed, recipe_run
from benchmarks.guild_training.subjects import (
    RECIPE_STEPS,
    SIZES,
    Size,
    Subjects,
    hero_id,
    matmul_rates,
    plain_precision,
    write_subjects,
)

from modelwright.hardware import inventory

LIMIT_BYTES = 24e9
"""Of item 51: the memory of the reference's GPU, in decimal gigabytes."""
Row = dict[str, Any]


def optimizers(size: Size, subjects: Subjects, device: str, matmul: float, rounds: int) -> list[Row]:
    """Both sides of every optimizer, in turns."""
    rows = []
    for kind in OPTIMIZERS:
        found: dict[str, list[Row]] = {"guild": [], "stock Trainer": []}
        for number in range(rounds):
            sides = [("guild", guild_run), ("stock Trainer", stock_run)]
            for name, work in sides if number % 2 == 0 else reversed(sides):
                if any(row["outcome"] == "refused" for row in found["guild"]):
                    continue  # the package is missing: the other side has nothing to build either
                row = _measured(device, work, size, subjects, kind, device)
                found[name].append({"side": name, "optimizer": kind, **row})
                print(f"{kind}, {name}: {row['outcome']}", file=sys.stderr, flush=True)
        sides_of_kind = [middle(each) for each in found.values() if each]
        for row in sides_of_kind:
            _complete(row, size, device, matmul, kind, size.precision, recomputed=False, fused=False)
        _compare(sides_of_kind)
        rows += sides_of_kind
    return rows


def recipes(size: Size, subjects: Subjects, device: str, matmul: Mapping[str, float]) -> list[Row]:
    """The recipe; where it is refused for a package, also its plain twin, which every installation can train."""
    rows: list[Row] = []
    for plain in (False, True):
        if plain and rows[0]["outcome"] != "refused":
            break
        hero = hero_id(size.name, plain=plain)
        row = _measured(device, recipe_run, subjects, hero, device)
        print(f"recipe {hero}: {row['outcome']}", file=sys.stderr, flush=True)
        if row["outcome"] == "trained":
            told = row["settings"]
            kind, precision, recomputed = told["optimizer"], told["precision"], told["gradient_checkpointing"]
            fused = told["liger_kernel"]
            _complete(row, size, device, matmul[precision], kind, precision, recomputed=recomputed, fused=fused)
            later = _measured(device, recipe_resumed, subjects, hero, device)
            row |= {name: later[name] for name in ("resume", "resumed_state", "resumed_peak") if name in later}
            row.setdefault("resume", {"began_at": None, "last_step": None, "message": later.get("message", "")})
            row["resume"]["stopped_at"] = row["global_step"]
        rows.append({"hero": hero, **row, "stand_in": plain})
    return rows


def _measured(device: str, work: Any, *arguments: Any) -> Row:
    try:
        return in_child(device, work, *arguments)
    except ChildFailed as error:
        return {"outcome": "failed", "error_type": "ChildFailed", "message": str(error)}


def _complete(row: Row, size: Size, device: str, matmul: float, kind: str, precision: str, *, recomputed: bool, fused: bool) -> None:
    """Add what follows by arithmetic: utilisation, forecasts."""
    if row["outcome"] != "trained":
        return
    rate, length = row["tokens_per_s"], row["mean_window"]
    row["flop_per_token"] = round(flop_per_token(size.shape, length))
    row["mfu"] = None if rate is None else round(utilisation(size.shape, length, rate, matmul), 4)
    row["state_bytes_expected"] = state_bytes(kind, size.shape, 2 if precision == "bf16" else 4)
    longest = size.max_length if "side" in row else row["settings"]["max_length"]
    row["forecast"] = memory_forecast(
        size.shape,
        kind,
        precision=precision,
        length=longest,
        recomputed=recomputed,
        fused_loss=fused,
        device=device,
        held=row["before_bytes"],
    )


def _compare(rows: Sequence[Row]) -> None:
    """How far the guild's losses are from the stock Trainer's, before and behind the resume, and the ratio of the speeds."""
    if len(rows) != 2 or any(row["outcome"] != "trained" for row in rows):
        return
    ours, stock = rows
    half = ours["resume"]["stopped_at"]
    ours["loss_difference_to_stock"] = {
        "before_resume": largest_difference(ours["losses"][:half], stock["losses"][:half]),
        "behind_resume": largest_difference(ours["losses"][half:], stock["losses"][half:]),
    }
    if ours["tokens_per_s"] and stock["tokens_per_s"]:
        ours["speed_over_stock"] = round(ours["tokens_per_s"] / stock["tokens_per_s"], 3)


def checks(results: Mapping[str, Sequence[Row]], device: str) -> Iterator[tuple[str, bool]]:
    """What must hold, by name."""
    for row in results.get("optimizers", ()):
        name = f"{row['optimizer']}, {row['side']}"
        if row["outcome"] == "refused":
            yield f"{name}: refused by name", "pip install" in row["message"]
            continue
        yield f"{name}: trained", row["outcome"] == "trained"
        if row["outcome"] == "trained":
            yield f"{name}: at least ten steps", row["steps"] >= 10
            yield f"{name}: the loss falls", row["loss_last"] < row["loss_first"]
            if "resume" in row:
                yield f"{name}: goes on at the right step", _goes_on(row["resume"])
                yield f"{name}: the resumed state is as large and as paged", _same_state(row)
    trained = [row for row in results.get("recipe", ()) if row["outcome"] == "trained"]
    for row in results.get("recipe", ()):
        name = row["hero"]
        if row["outcome"] == "refused":
            yield f"{name}: refused by name", any(word in row["message"] for word in ("pip install", "liger_kernel"))
            continue
        yield f"{name}: trained", row["outcome"] == "trained"
    for row in trained:
        name, resume = row["hero"], row["resume"]
        yield f"{name}: {RECIPE_STEPS} steps", row["steps"] == RECIPE_STEPS
        gone_on = resume["began_at"] == resume["stopped_at"] and resume["last_step"] > resume["began_at"]
        yield f"{name}: goes on at the right step", gone_on
        yield f"{name}: the resumed state is as large and as paged", _same_state(row)
        if device != "cpu" and not row["stand_in"]:
            yield f"{name}: below 24 GB", row["peak"]["bytes"] < LIMIT_BYTES
            yield f"{name}: below 24 GB when gone on with", "resumed_peak" in row and row["resumed_peak"]["bytes"] < LIMIT_BYTES


def _goes_on(resume: Mapping[str, Any]) -> bool:
    stopped = resume["stopped_at"]
    return bool(resume["began_at"] == stopped and resume["first_step"] == stopped + 1 and resume["last_step"] == resume["total_steps"])


def _same_state(row: Mapping[str, Any]) -> bool:
    before, behind = row["state"], row.get("resumed_state") or {}
    return all(before[name] == behind.get(name) for name in ("class", "bytes", "paged_bytes"))


def without_paths(value: Any, hidden: Sequence[tuple[str, str]]) -> Any:
    """The same with places of this machine replaced: results are published."""
    if isinstance(value, str):
        for place, name in hidden:
            value = value.replace(place, name)
        return value
    if isinstance(value, Mapping):
        return {key: without_paths(item, hidden) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item, hidden) for item in value]
    return value


def lines(results: Mapping[str, Sequence[Row]]) -> str:
    """Tables for the terminal."""
    parts = []
    for what, rows in results.items():
        shown = []
        for row in rows:
            resume = row.get("resume", {})
            shown.append(
                {
                    "optimizer": row.get("optimizer") or row.get("hero"),
                    "side": row.get("side", "recipe"),
                    "outcome": row["outcome"],
                    "loss": f"{row['loss_first']:.3f} → {row['loss_last']:.3f}" if "loss_first" in row else "",
                    "ms/step": row.get("ms_per_step", ""),
                    "tokens/s": row.get("tokens_per_s", ""),
                    "MFU": row.get("mfu", ""),
                    "peak GiB": round(row["peak"]["bytes"] / 2**30, 3) if "peak" in row else "",
                    "forecast GiB": round(row["forecast"]["bytes"] / 2**30, 3) if "forecast" in row else "",
                    "state MiB": round(row["state"]["bytes"] / 2**20, 2) if "state" in row else "",
                    "resumed at": resume.get("began_at", ""),
                }
            )
        parts.append(f"{what}\n{table(shown, list(shown[0]))}")
        parts += [f"{row.get('optimizer') or row.get('hero')}: {row['message']}" for row in rows if row["outcome"] != "trained"]
    return "\n\n".join(parts)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("optimizers", "recipe", "all"), default="all")
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of both sides of every optimizer; the one of median speed counts")
    parser.add_argument("--scratch", type=Path, help="where models and checkpoints are written meanwhile (default: the system's)")
    parser.add_argument("--out", type=Path, help="default: result-<size>-<device>.json beside this file")
    given = parser.parse_args(argv)
    if given.device == "cuda" and inventory().gpu_count == 0:
        parser.error("--device: found cuda; allowed here: cpu, for this machine has no GPU that this process may use")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    given = parse(argv)
    size, device = SIZES[given.size], given.device
    out = given.out or Path(__file__).with_name(f"result-{given.size}-{device}.json")
    results: dict[str, list[Row]] = {}
    precisions = sorted({size.precision, plain_precision(device)})
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        subjects = Subjects(size.name, scratch)
        want = {"optimizers": given.what != "recipe", "recipe": given.what != "optimizers"}
        made = in_child(device, write_subjects, size, Path(scratch), device, want["optimizers"], want["recipe"])
        matmul = in_child(device, matmul_rates, device, precisions)
        if want["optimizers"]:
            results["optimizers"] = optimizers(size, subjects, device, matmul[size.precision], given.rounds)
        if want["recipe"]:
            results["recipe"] = recipes(size, subjects, device, matmul)
        hidden = [(scratch, "<scratch>"), (str(Path(__file__).parents[2]), "<project>"), (sys.prefix, "<python>"), (str(Path.home()), "~")]
    verdicts = dict(checks(results, device))
    settings = {
        "what": given.what,
        "size": given.size,
        "device": device,
        "rounds": given.rounds,
        "rows": size.rows,
        "max_length": size.max_length,
        "windows_per_step": size.accumulation,
        "precision": size.precision,
        "learning_rate": size.learning_rate,
        "config": size.body,
        "parameters": made["parameters"],
        "matmul_flop_per_s": {name: round(matmul[name]) for name in precisions},
        "mfu": f"({FLOP_FORMULA}) x tokens/s over matmul_flop_per_s, a large matrix product measured here",
    }
    gpus = [gpu.model_dump(exclude={"vram_free_gb"}) for gpu in inventory().gpus] if device != "cpu" else []
    packages = {name: _version(name) for name in ("bitsandbytes", "liger-kernel", "accelerate", "triton")}
    write_result(
        out,
        benchmark="guild_training",
        settings=settings,
        results=without_paths(results, hidden),
        checks=verdicts,
        gpus=gpus,
        training_packages=packages,
    )
    print(without_paths(lines(results), hidden))
    print()
    print("\n".join(f"{'yes' if holds else 'NO '}  {name}" for name, holds in verdicts.items()))
    return 0 if all(verdicts.values()) else 1


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
