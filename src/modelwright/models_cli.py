"""`modelwright models`: the tiny reference models, listed and trained."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.errors import DamagedFileError, ModelwrightError, UsageError
from modelwright.tiny import PREFIX, TINY_NAMES, weights_folder

if TYPE_CHECKING:
    from modelwright.tiny.training import Progress

SIZES = tuple(name.removeprefix("tiny-") for name in TINY_NAMES)
_EXAMPLES = """\
examples:
  modelwright models list
  modelwright models make-tiny --size 0.4m --out my-models
  modelwright models make-tiny --size all --out my-models --resume
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `modelwright models`."""
    parser = argparse.ArgumentParser(
        prog="modelwright models",
        description="List and train the tiny reference models.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="models_command", required=True, metavar="COMMAND")
    listing = commands.add_parser(
        "list",
        help="show the packaged models and what was measured on them",
        epilog="example: modelwright models list --json",
    )
    listing.add_argument("--json", action="store_true", help="print JSON for programs")
    making = commands.add_parser(
        "make-tiny",
        help="train tiny models from scratch on this interpreter's standard library",
        description="Train tiny reference models from scratch. The 1.5m model takes about 40 minutes on two CPU cores.",
        epilog="example: modelwright models make-tiny --size 0.4m --out my-models",
    )
    making.add_argument("--size", choices=(*SIZES, "all"), default="1.5m", help="which member of the family (default: 1.5m)")
    making.add_argument(
        "--out",
        type=Path,
        default=Path("models"),
        metavar="DIR",
        help="folder that gets one folder per model (default: models)",
    )
    making.add_argument("--seed", type=int, default=0, metavar="N", help="seed of weights and rows (default: 0)")
    making.add_argument(
        "--resume",
        action="store_true",
        help="go on from the checkpoints in the folder; models that are complete are kept",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `modelwright models ARGV`; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        return run(arguments)
    except ModelwrightError as error:
        print(f"modelwright models: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "\nmodelwright models: stopped; run the same command with --resume to go on from the last checkpoint",
            file=sys.stderr,
        )
        return 130


def run(arguments: argparse.Namespace) -> int:
    """Carry out parsed arguments. Raises ModelwrightError for what the user can repair."""
    if arguments.models_command == "list":
        return _list(as_json=arguments.json)
    return _make_tiny(arguments)


def packaged_models() -> list[dict[str, Any]]:
    """One entry per member of the family: name, folder (None when its weights are not installed) and figures."""
    entries = []
    for name in TINY_NAMES:
        folder = weights_folder() / name
        present = (folder / "model.safetensors").is_file()
        entries.append(
            {
                "name": PREFIX + name,
                "path": str(folder) if present else None,
                "figures": _figures(folder) if present else None,
            }
        )
    return entries


def _figures(folder: Path) -> dict[str, Any] | None:
    path = folder / "figures.json"
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFileError(path, str(error), "a JSON document", "Restore it from the distribution") from error


def _list(*, as_json: bool) -> int:
    entries = packaged_models()
    if as_json:
        print(json.dumps(entries, indent=2))
        return 0
    print(f"{'name':24} {'parameters':>11} {'bits/byte':>10} {'passkey 512':>12} {'passkey 2048':>13}")
    for entry in entries:
        figures = entry["figures"]
        if figures is None:
            print(f"{entry['name']:24} not in this installation; `modelwright models make-tiny` trains it")
            continue
        measured = figures["measured"]
        print(
            f"{entry['name']:24} {figures['parameters']:>11,} {measured['bits_per_byte']['512']:>10.3f} "
            f"{measured['passkey']['raw']['512']:>12.0%} {measured['passkey']['raw']['2048']:>13.0%}"
        )
    return 0


def _make_tiny(arguments: argparse.Namespace) -> int:
    if not 0 <= arguments.seed < 2**32:
        raise UsageError(f"--seed is {arguments.seed}; allowed are whole numbers from 0 to 4294967295.")
    from modelwright.tiny.checkpoint import CHECKPOINT_NAME
    from modelwright.tiny.making import WORK_FOLDER, make
    from modelwright.tiny.recipe import RECIPES
    from modelwright.tiny.training import prepare

    sizes = SIZES if arguments.size == "all" else (arguments.size,)
    recipes = [RECIPES[f"tiny-{size}"] for size in sizes]
    print("reading the standard library and training the tokenizer", flush=True)
    prepared = prepare(recipes[0].vocabulary_size, recipes[0].context)
    for recipe in recipes:
        out = arguments.out / recipe.name
        if arguments.resume and (out / "figures.json").exists():
            print(f"{recipe.name}: complete, kept")
            continue
        resume = arguments.resume and (out / WORK_FOLDER / CHECKPOINT_NAME).exists()
        print(f"{recipe.name}: {recipe.steps} steps, {recipe.tokens:,} tokens{', resumed' if resume else ''}", flush=True)
        figures = make(
            recipe,
            prepared,
            arguments.seed,
            out,
            resume=resume,
            report=_report,
            say=lambda what: print(f"  {what}", flush=True),
        )
        measured = figures["measured"]
        print(
            f"{recipe.name}: passkey at 512 tokens {measured['passkey']['raw']['512']:.0%}, "
            f"{measured['bits_per_byte']['512']:.3f} bits per byte"
        )
        print(f"  in {out}; load it by that path, for example with AutoModelForCausalLM.from_pretrained")
    return 0


def _report(progress: Progress) -> None:
    left = f"{progress.seconds_left // 60:.0f} min {progress.seconds_left % 60:.0f} s"
    line = (
        f"  step {progress.step}/{progress.steps}  length {progress.length}  loss {progress.loss:.3f}  "
        f"{progress.tokens_per_second:,.0f} tokens/s  {left} left"
    )
    end_of_line = "\n" if not sys.stdout.isatty() or progress.step == progress.steps else ""
    print(f"\r{line}   " if sys.stdout.isatty() else line, end=end_of_line, flush=True)
