"""The command `python -m cachemedicpp.prefetch`: fetch models and data before they are needed. (specs/medic.md, 8.10)

Of a model only configuration, tokenizer and safetensors weights in the top folder are fetched: pickled weights are never
loaded, and copies in other formats below it would only cost space. Without a target the two configurations inside the
package are read (`settings.DEFAULT_PRESETS`), which `configs/medic` links to: so an installed wheel has them too. The hub
client is imported when something is downloaded, not before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.tiktoken", "*.jinja", "vocab.txt", "merges.txt")
"""What is fetched of a model: configuration, weights, and the tokenizer in whatever form it has."""
LEFT_OUT = ("*/*", "consolidated*")
"""Copies of the weights that transformers does not read: other formats in folders, and the one-file form beside the shards."""
EXIT_INTERRUPTED = 130
EXIT_CODES = "Exit status: 0 everything is there, 1 something could not be fetched, 2 bad flags or configurations, 130 interrupted."


@dataclass(frozen=True)
class Target:
    """A model on the hub, in a folder or in this package. revision: branch, tag or commit; None the default one."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"model={self.name} revision={self.revision or 'default'}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, see EXIT_CODES."""
    arguments = _parser().parse_args(argv)
    from cachemedicpp.phases.running import guarded

    def start() -> int:
        targets = wanted_targets(arguments.config, arguments.model)
        try:
            return prefetch(targets, arguments.cache_dir, arguments.local_files_only, arguments.with_data, arguments.dry_run)
        except KeyboardInterrupt:
            print("Interrupted; what was fetched so far is kept, and the same command goes on from there.", file=sys.stderr)
            return EXIT_INTERRUPTED

    return guarded(start)


def prefetch(targets: Sequence[Target], cache_dir: Path | None, local_files_only: bool, with_data: bool, dry_run: bool) -> int:
    """Fetch every target, and the data sets with `with_data`; returns 0, or 1 when one of them could not be had.

    All are tried; each failure is a sentence on standard error. A dry run prints and does nothing else.
    """
    from cachemedicpp.phases.base_model import choose_model_cache
    from modelwright.errors import LoadError

    if dry_run:
        for target in targets:
            print(f"[prefetch:dry-run] {target}")
        for uri in data_sets() if with_data else ():
            print(f"[prefetch:dry-run] data={uri}")
        return 0
    choose_model_cache()
    failed = False
    for target in targets:
        try:
            print(f"[prefetch] {target} path={fetch_model(target, cache_dir, local_files_only)}", flush=True)
        except LoadError as error:
            failed = True
            print(error, file=sys.stderr, flush=True)
    for uri in data_sets() if with_data else ():
        try:
            fetch_data(uri, local_files_only)
            print(f"[prefetch] data={uri}", flush=True)
        except LoadError as error:
            failed = True
            print(error, file=sys.stderr, flush=True)
    return 1 if failed else 0


# ---------------------------------------------------------------------- targets


def wanted_targets(configs: Iterable[str | Path], specs: Iterable[str]) -> tuple[Target, ...]:
    """The models of configurations, then those of `--model`, each once; without either those of the two presets.

    Raises ConfigError (exit 2) with the faults of all of them.
    """
    from cachemedicpp.config.settings import DEFAULT_PRESETS
    from modelwright.errors import ConfigError, Fault

    configs, specs = list(configs), list(specs)
    found: list[Target] = []
    faults: list[Fault] = []
    for path in configs if configs or specs else DEFAULT_PRESETS:
        try:
            found += config_targets(Path(path))
        except ConfigError as error:
            faults += error.faults
    for spec in specs:
        try:
            found.append(spec_target(spec))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return tuple(dict.fromkeys(found))


def spec_target(spec: str) -> Target:
    """The target of `REPO` or `REPO@REV`, split at the first `@`. Raises ConfigError for an empty part."""
    from modelwright.errors import ConfigError, Fault

    name, at, revision = (part.strip() for part in spec.partition("@"))
    if not name or (at and not revision):
        empty = "name" if not name else "revision"
        raise ConfigError([Fault(f"--model {spec!r}", f"an empty {empty}", "REPO or REPO@REV, for example gpt2-medium@main")])
    return Target(name, revision or None)


def config_targets(path: Path) -> list[Target]:
    """The models of a run configuration, or of the runs of a sweep: its base with the `model` overrides of each run.

    Looks at the model only, so a configuration that is not finished yet will do. Raises ConfigError.
    """
    from cachemedicpp.config.settings import read_document

    document = read_document(path, "--config")
    if "base_config" in document or "runs" in document:
        return _sweep_targets(document, path)
    return [_target(document, str(path))]


def _sweep_targets(document: Mapping[str, Any], path: Path) -> list[Target]:
    from cachemedicpp.config.overrides import merge_overrides
    from cachemedicpp.config.settings import find_file, read_document
    from modelwright.errors import ConfigError, Fault

    base, runs = document.get("base_config"), document.get("runs")
    base_path = find_file(base, path.parent) if isinstance(base, str) and base else None
    faults = []
    if base_path is None:
        todo = f"it counts from {path.parent} or the working folder"
        faults.append(Fault(f"{path}: base_config", repr(base), "the path of a run configuration", todo))
    if not isinstance(runs, list) or not runs or not all(isinstance(run, Mapping) for run in runs):
        faults.append(Fault(f"{path}: runs", repr(runs), "a list of name and overrides", "see configs/medic/sweeps"))
    if faults:
        raise ConfigError(faults)
    assert base_path is not None and isinstance(runs, list)
    model = {"model": read_document(base_path, "base_config").get("model")}
    found = []
    for number, run in enumerate(runs):
        overrides = run.get("overrides") or {}
        of_model = {str(key): value for key, value in overrides.items() if str(key).partition(".")[0] == "model"}
        merged, wrong = merge_overrides(model, of_model)
        faults += wrong
        try:
            found.append(_target(merged, f"{path}: run {run.get('name', number)}"))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    return found


def _target(document: Mapping[str, Any], where: str) -> Target:
    from modelwright.errors import ConfigError, Fault

    model = document.get("model")
    if not isinstance(model, Mapping):
        found = "nothing" if model is None else repr(model)
        raise ConfigError([Fault(f"{where}: model", found, "a mapping with a name", "write `model: {name: REPO}`")])
    name, revision = model.get("name"), model.get("revision")
    faults = []
    if not isinstance(name, str) or not name.strip():
        faults.append(Fault(f"{where}: model.name", repr(name), "the id of a model on the hub, or a folder", "name the model"))
    if revision is not None and (not isinstance(revision, str) or not revision.strip()):
        faults.append(
            Fault(f"{where}: model.revision", repr(revision), "a branch, tag or commit, or null", "name it, or leave the key out")
        )
    if faults:
        raise ConfigError(faults)
    return Target(str(name).strip(), revision)


# ---------------------------------------------------------------------- fetching


def fetch_model(target: Target, cache_dir: Path | None = None, local_files_only: bool = False) -> Path:
    """The folder with configuration, tokenizer and weights; a model in a folder or in this package is there already.

    cache_dir: hub cache in place of the environment's. Raises LoadError.
    """
    from modelwright.errors import LoadError
    from modelwright.loading import HUB_ID, TINY_PREFIX, missing_weight_files, resolve_model

    if target.name.startswith(TINY_PREFIX) or Path(target.name).expanduser().exists() or not HUB_ID.match(target.name):
        path = resolve_model(target.name).path
        assert path is not None
        return path.absolute()
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                target.name,
                revision=target.revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=list(MODEL_FILES),
                ignore_patterns=list(LEFT_OUT),
            )
        )
    except Exception as error:  # the hub client has no common base class for its network, cache and permission errors
        cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        what = "it is not in the cache" if local_files_only else "the hub did not deliver it"
        todo = (
            "leave --local_files_only out where there is a network" if local_files_only else "check the name, the revision and the network"
        )
        raise LoadError(f"{target}: {what} ({type(error).__name__}: {cause.rstrip('.')}); {todo}.") from error
    missing = missing_weight_files(folder)
    if missing and local_files_only:
        raise LoadError(f"{target}: the cache lacks {', '.join(missing)}; leave --local_files_only out where there is a network.")
    if missing:
        raise LoadError(
            f"{target}: the repository holds no complete safetensors weights (missing: {', '.join(missing)}), and other formats can run "
            "code when opened; name a revision that has them."
        )
    return folder


def data_sets() -> list[str]:
    """References of every split that train, eval and stability read from the hub."""
    from cachemedicpp.inputs.sources import HUB_REVIEWS, HUB_TEXT

    text = [f"{HUB_TEXT}?split={split}" for split in ("train", "validation", "test")]
    return text + [f"{HUB_REVIEWS}?split={split}" for split in ("train", "validation")]


def fetch_data(uri: str, local_files_only: bool = False) -> None:
    """Have a split in the cache of the library `datasets`, by reading its first row. Raises LoadError."""
    from modelwright.data.references import parse_reference
    from modelwright.data.sources import iterate_rows
    from modelwright.errors import LoadError

    if next(iterate_rows(parse_reference(uri), local_files_only), None) is None:
        raise LoadError(f"The dataset {uri} has no rows; fetch it again.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cachemedicpp.prefetch",
        description="Fetch the models of run or sweep configurations, so that they run later without a network.",
        epilog="Example: python -m cachemedicpp.prefetch --config configs/medic/mve.yaml --model gpt2-large --with_data\n\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="YAML",
        help="run or sweep configuration, repeatable (default, without --model: the MVE and the gpt2-large smoke configuration)",
    )
    parser.add_argument("--model", action="append", default=[], metavar="REPO[@REV]", help="a further model, repeatable")
    parser.add_argument(
        "--cache_dir",
        type=Path,
        metavar="D",
        help="hub cache for the models; set HF_HUB_CACHE to it when they are used (default: the usual one)",
    )
    parser.add_argument("--local_files_only", action="store_true", help="ask no hub; say what the cache lacks")
    parser.add_argument("--with_data", action="store_true", help="also fetch Wikitext-2 and SST-2 into the cache of the library datasets")
    parser.add_argument("--dry_run", action="store_true", help="print the targets and download nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
