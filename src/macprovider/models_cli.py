"""`macprovider-cli models`: fetch, list, check and convert model weights."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from macprovider.weights.candidates import ENGINES
from modelwright.errors import ModelwrightError, UsageError

if TYPE_CHECKING:
    from macprovider.weights.verify import WeightFault

EXIT_INTERRUPTED = 130
GGUF_TYPES = ("f32", "f16", "q8_0")
_EXAMPLES = """\
examples:
  macprovider-cli models pull Qwen/Qwen2.5-Coder-7B-Instruct
  macprovider-cli models list
  macprovider-cli models verify --all
  macprovider-cli models export-gguf modelwright/tiny-5m --out tiny-5m.gguf --type q8_0
  macprovider-cli models candidates --engine mlx

exit codes:
  0    done, the weights are ready
  1    the conversion is not possible, or a file could not be written
  2    wrong arguments
  4    transient: no network, time-out, refused, not found, disk full, interrupted; try again or take another model
  7    integrity: a wrong digest or size, an unreadable header, a required file missing
  130  interrupted; what was fetched stays, the same command goes on from there
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `macprovider-cli models`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="macprovider-cli models", description="Fetch, list, check and convert model weights.", epilog=_EXAMPLES, formatter_class=raw
    )
    commands = parser.add_subparsers(dest="models_command", required=True, metavar="COMMAND")

    pulling = commands.add_parser(
        "pull",
        help="fetch a model into the Hugging Face cache and check it",
        description="Fetch a model into the Hugging Face cache and check it. A model that is there is checked and not fetched again; "
        "packaged models and folders are ready at once. The last line on standard error is the reason of a failure.",
        epilog="example: macprovider-cli models pull Qwen/Qwen2.5-Coder-7B-Instruct\nexit codes: 0 ready, 2 wrong arguments, 4 transient, "
        "7 integrity, 130 interrupted",
        formatter_class=raw,
    )
    pulling.add_argument("id", metavar="ID", help="hub id, modelwright/tiny-..., or a folder")
    pulling.add_argument("--revision", metavar="R", help="branch, tag or commit (default: main)")
    pulling.add_argument("--offline", action="store_true", help="open no connection (also HF_HUB_OFFLINE=1)")
    pulling.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="seconds of silence before the hub counts as gone (default: 30)"
    )

    listing = commands.add_parser(
        "list",
        help="show the packaged models and those in the cache",
        epilog="example: macprovider-cli models list --json",
    )
    listing.add_argument("--json", action="store_true", help="print JSON for programs")

    verifying = commands.add_parser(
        "verify",
        help="read every byte of a model and name each fault",
        description="Compare every file of a model with its digest and name each fault. Opens no connection.",
        epilog="example: macprovider-cli models verify --all\nexit codes: 0 whole, 2 wrong arguments, 4 not on this machine, 7 faults",
        formatter_class=raw,
    )
    verifying.add_argument("id", metavar="ID", nargs="?", help="hub id, modelwright/tiny-..., or a folder")
    verifying.add_argument("--all", action="store_true", help="every packaged and cached model")
    verifying.add_argument("--revision", metavar="R", help="branch, tag or commit (default: main)")
    verifying.add_argument("--json", action="store_true", help="print JSON for programs")

    exporting = commands.add_parser(
        "export-gguf",
        help="write a model as one GGUF file, for llama.cpp and OpenVINO GenAI",
        description="Write a Llama, Qwen2 or Qwen3 model on this machine as one GGUF file. The file appears whole or not at all.",
        epilog="example: macprovider-cli models export-gguf modelwright/tiny-5m --out tiny-5m.gguf --type q8_0\n"
        "exit codes: 0 written, 1 not convertible, 2 wrong arguments, 4 the model is not on this machine, 7 its weights are damaged",
        formatter_class=raw,
    )
    exporting.add_argument("id", metavar="ID", help="hub id, modelwright/tiny-..., or a folder")
    exporting.add_argument("--out", type=Path, required=True, metavar="FILE", help="the GGUF file to write")
    exporting.add_argument("--type", choices=GGUF_TYPES, default="f16", help="of the matrices; norms stay f32 (default: f16)")
    exporting.add_argument("--revision", metavar="R", help="branch, tag or commit (default: main)")

    candidates = commands.add_parser(
        "candidates",
        help="show the built-in list that autotune walks",
        epilog="example: macprovider-cli models candidates --engine mlx",
    )
    candidates.add_argument("--engine", choices=ENGINES, help="one engine's list (default: all)")
    candidates.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `macprovider-cli models ARGV`; returns the exit code."""
    from macprovider.parent_watch import watch_parent

    watch_parent()
    arguments = build_parser().parse_args(argv)
    try:
        with _terminate_as_interrupt():
            return _run(arguments)
    except ModelwrightError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nInterrupted; what was fetched stays, the same command goes on from there.", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    if arguments.models_command == "pull":
        return _pull(arguments)
    if arguments.models_command == "list":
        return _list(as_json=arguments.json)
    if arguments.models_command == "verify":
        return _verify(arguments)
    if arguments.models_command == "export-gguf":
        return _export(arguments)
    return _candidates(arguments.engine, as_json=arguments.json)


def _pull(arguments: argparse.Namespace) -> int:
    from macprovider.weights.cache_dir import cache_dir
    from macprovider.weights.progress import size_text
    from macprovider.weights.pull import pull

    if not 0 < arguments.timeout <= 86400:
        raise UsageError(f"--timeout: found {arguments.timeout:g}; allowed: seconds above 0, at most 86400.")
    pulled = pull(
        arguments.id,
        cache=cache_dir(),
        revision=arguments.revision,
        offline=arguments.offline,
        timeout_s=arguments.timeout,
        log=sys.stderr,
    )
    how = f"{size_text(pulled.fetched)} fetched" if pulled.fetched else "nothing to fetch"
    print(f"{pulled.model} is ready: {pulled.folder} ({how})")
    return 0


def _list(*, as_json: bool) -> int:
    from macprovider.weights.cache_dir import cache_dir
    from macprovider.weights.listing import listed_models
    from macprovider.weights.progress import size_text

    cache = cache_dir()
    models = listed_models(cache)
    if as_json:
        print(json.dumps({"cache": str(cache), "models": [model.as_json() for model in models]}, indent=2))
        return 0
    width = max((len(model.id) for model in models), default=2)
    print(f"{'ID':<{width}}  {'PARAMETERS':>12}  {'BITS':>4}  {'SIZE':>9}  {'STATE':<10}  LAST USED")
    for model in models:
        parameters = f"{model.parameters:,}" if model.parameters and model.parameters < 10**9 else _billions(model.parameters)
        state = "packaged" if model.source == "packaged" and model.complete else "complete" if model.complete else "incomplete"
        bits = f"{model.bits:g}" if model.bits else "-"
        print(f"{model.id:<{width}}  {parameters:>12}  {bits:>4}  {size_text(model.bytes):>9}  {state:<10}  {model.last_used or '-'}")
    print(f"cache: {cache}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from macprovider.weights.cache_dir import cache_dir
    from macprovider.weights.cached import cached_snapshots, find_snapshot
    from macprovider.weights.classify import EXIT_INTEGRITY, TransientFetchError
    from macprovider.weights.pull import local_folder
    from macprovider.weights.verify import check_folder, check_snapshot
    from modelwright.tiny import PREFIX, TINY_NAMES

    if (arguments.id is None) != arguments.all:
        raise UsageError("models verify: found " + ("both an ID and --all" if arguments.all else "no ID") + "; allowed: an ID, or --all.")
    cache = cache_dir()
    found: list[tuple[str, str, list[WeightFault]]] = []
    for name in [PREFIX + short for short in TINY_NAMES] if arguments.all else [arguments.id]:
        local = local_folder(name)
        if local is not None:
            found.append((name, str(local), check_folder(local)))
        elif (snapshot := find_snapshot(cache, name, arguments.revision)) is not None:
            found.append((name, str(snapshot.folder), check_snapshot(snapshot)))
        else:
            raise TransientFetchError(f"{name} is not in the weight cache {cache}; fetch it by `macprovider-cli models pull {name}`.")
    if arguments.all:
        found += [(snapshot.model, str(snapshot.folder), check_snapshot(snapshot)) for snapshot in cached_snapshots(cache)]
    if arguments.json:
        print(json.dumps([_verified_json(*entry) for entry in found], indent=2))
    else:
        for name, folder, faults in found:
            print(f"{name}: {'whole' if not faults else f'{len(faults)} faults' if len(faults) > 1 else '1 fault'} ({folder})")
            for fault in faults:
                print(f"  {fault.sentence}")
    return EXIT_INTEGRITY if any(faults for _, _, faults in found) else 0


def _verified_json(name: str, folder: str, faults: list[WeightFault]) -> dict[str, object]:
    named = [{"file": fault.file, "kind": fault.kind, "sentence": fault.sentence} for fault in faults]
    return {"id": name, "folder": folder, "whole": not faults, "faults": named}


def _export(arguments: argparse.Namespace) -> int:
    from macprovider.weights.cache_dir import cache_dir
    from macprovider.weights.gguf_export import export_gguf
    from macprovider.weights.progress import size_text
    from macprovider.weights.pull import pull

    pulled = pull(arguments.id, cache=cache_dir(), revision=arguments.revision, offline=True, log=sys.stderr)
    written = export_gguf(pulled.folder, arguments.out, name=arguments.id, kind=arguments.type)
    print(f"{arguments.out}: {written.tensors} tensors, {size_text(written.bytes)}, {arguments.type}")
    return 0


def _candidates(engine: str | None, *, as_json: bool) -> int:
    from dataclasses import asdict

    from macprovider.weights.candidates import built_in

    lists = {name: built_in(name) for name in ([engine] if engine else ENGINES)}
    if as_json:
        print(json.dumps({name: [asdict(candidate) for candidate in entries] for name, entries in lists.items()}, indent=2))
        return 0
    for name, entries in lists.items():
        print(f"{name}:")
        for candidate in entries:
            print(f"  {candidate.id:<46} {candidate.params_b:>4g}B  {candidate.bits:>2} bit  {candidate.weights_gb:>5g} GB")
    return 0


def _billions(parameters: int | None) -> str:
    return f"{parameters / 1e9:.2f}B" if parameters else "-"


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Inside, SIGTERM ends the work as Ctrl-C does: through every `finally`."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: a library's caller keeps its own signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
