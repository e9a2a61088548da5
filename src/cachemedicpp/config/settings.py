"""Reading a run configuration: paths, overrides, all faults at once, and the hash that names it. (specs/medic.md, 7)

    config = load_run_config("configs/medic/mve.yaml", {"train.steps": 100})
    config_hash(config)          # what resume compares
    resolved_document(config)    # what config_resolved.yaml holds; loads again to the same hash

A relative path in a configuration counts from the folder of its file, then from the working folder, then from this
package. Paths found are absolute afterwards, so nothing downstream needs to know where the configuration lay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachemedicpp.config.overrides import merge_overrides
from cachemedicpp.config.rules import MISSING, at, rule_faults, targeted_faults, whole_numbers
from cachemedicpp.config.sections import RunConfig
from modelwright.config import Layer, resolve
from modelwright.errors import ConfigError, DamagedFileError, Fault, ModelwrightError, StorageError
from modelwright.files import read_yaml, sha256_bytes, sha256_file

if TYPE_CHECKING:
    from cachemedicpp.config.mixture import Mixture

PACKAGE = Path(__file__).parents[1]
PRESETS = PACKAGE / "presets"
"""The configurations an installed package carries; `configs/medic` links to them."""
DEFAULT_PRESETS = (PRESETS / "mve.yaml", PRESETS / "second_smoke.yaml")
"""What `prefetch` reads when no target is given."""
_PATH_KEYS = ("eval.ood_splits_path", "data.offline_paths.wikitext2", "data.offline_paths.sst2")


def load_run_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The checked run configuration of a YAML file.

    overrides: dotted path → value, applied before the check. Raises ConfigError (exit 2) with every fault: an unreadable
    file; unknown keys with the nearest valid name; missing and wrong values; broken rules between keys; a mixture or a
    split that does not exist.
    """
    path = Path(path)
    return run_config_from(read_document(path, "--config"), path.parent, overrides, source=path.name)


def run_config_from(
    document: Mapping[str, Any], base: str | Path = ".", overrides: Mapping[str, Any] | None = None, *, source: str = "file"
) -> RunConfig:
    """The checked run configuration of a document already in memory.

    base: the folder that its relative paths count from. source: what messages call the document. Raises ConfigError.
    """
    merged, faults = merge_overrides(document, overrides or {})
    _anchor_paths(merged, Path(base))
    derived = _derived_defaults(merged)
    config: RunConfig | None = None
    try:
        config = resolve(RunConfig, [Layer("derived", derived), Layer(source, merged)]).value
    except ConfigError as error:
        faults += error.faults
    faults += rule_faults(_filled(derived, merged))
    faults += _mixture_faults(merged) + _split_faults(merged)
    if config is None or faults:
        raise ConfigError(sorted(set(faults), key=lambda fault: (fault.path, fault.found)))
    return config


def read_document(path: Path, asked_by: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError naming the flag or key `asked_by` and the file."""
    try:
        document = read_yaml(path)
    except DamagedFileError as error:
        raise ConfigError([Fault(f"{asked_by} {path}", f"a damaged file ({error.where})", error.expected, "correct that place")]) from error
    except StorageError as error:
        raise ConfigError([Fault(f"{asked_by} {path}", "no readable file", "the path of a YAML file", str(error))]) from error
    if not isinstance(document, dict):
        found = f"a {type(document).__name__}"
        raise ConfigError([Fault(f"{asked_by} {path}", found, "a mapping of keys and values", "start from a file under configs/medic")])
    return {str(key): value for key, value in document.items()}


def find_file(reference: str | Path, base: str | Path = ".") -> Path | None:
    """The file that a path in a configuration means: below `base`, below the working folder, else below this package.

    None when there is none; a packaged data file such as `data/offline/sst2_sample.jsonl` is found from everywhere.
    """
    for folder in (Path(base), Path("."), PACKAGE):
        candidate = (folder / reference).absolute()
        if candidate.is_file():
            return candidate
    return None


# ---------------------------------------------------------------------- what names a configuration


def config_hash(config: RunConfig) -> str:
    """SHA-256 (hex) of `hashed_document` as JSON: sorted keys, separators `,` and `:`, ASCII escapes. [C28] [C17]

    Raises ModelwrightError when the mixture file has gone since the configuration was read.
    """
    text = json.dumps(hashed_document(config), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return sha256_bytes(text.encode("ascii"))


def check_same_config(config: RunConfig, recorded: str, where: str) -> None:
    """Raise ConfigError (exit 2) when a run that is to go on was made with another configuration.

    recorded: the hash that the file `where` holds.
    """
    current = config_hash(config)
    if current != recorded:
        todo = "give the configuration of the run, choose another --run_dir, or start anew with --no-resume"
        raise ConfigError([Fault("config_hash", f"{current[:12]}…", f"{recorded[:12]}… as recorded in {where}", todo)])


def hashed_document(config: RunConfig) -> dict[str, Any]:
    """The resolved configuration with files by content instead of by path, so that a moved run directory still resumes.

    The mixture stands there whole, a splits file and the offline texts as SHA-256; offline texts that are not used as null.
    """
    document = config.model_dump(mode="json")
    document["corruption"]["mixture"] = mixture_of(config).as_dict()
    document["eval"]["ood_splits_path"] = _by_content(config.eval.ood_splits_path)
    offline = document["data"]["offline_paths"]
    for name, reference in offline.items():
        offline[name] = _by_content(reference) if config.data.use_offline else None
    return document


def resolved_document(config: RunConfig, folder: str | Path | None = None) -> dict[str, Any]:
    """Every value of the configuration, defaults filled in, as `config_resolved.yaml` holds it.

    folder: where the document will lie; paths inside it are written relative to it, so that the folder can be moved.
    """
    document = config.model_dump(mode="json")
    if folder is None:
        return document
    for path in ("corruption.mixture", *_PATH_KEYS):
        *way, last = path.split(".")
        section = document
        for part in way:
            section = section[part]
        value = section[last]
        if value is not None and Path(value).is_absolute() and Path(value).is_relative_to(Path(folder).absolute()):
            section[last] = str(Path(value).relative_to(Path(folder).absolute()))
    return document


def is_counterpart(config: RunConfig, other: RunConfig) -> bool:
    """Whether `other` is `config` trained without the contraction penalty: all else equal, the seed included. [C17]"""
    own, its = hashed_document(config), hashed_document(other)
    own["train"].pop("lambda_contr")
    return its["train"].pop("lambda_contr") == 0 and own == its


# ---------------------------------------------------------------------- mixture and held-out type


def mixture_of(config: RunConfig) -> Mixture:
    """The mixture that the configuration names, the held-out type (if any) still in it."""
    from cachemedicpp.config.mixture import load_mixture

    return load_mixture(config.corruption.mixture)


def training_mixture_of(config: RunConfig) -> Mixture:
    """The mixture to train with: `mixture_of`, without the held-out type and with weights of sum 1 under `ood_protocol`."""
    from cachemedicpp.config.mixture import find_split, training_mixture

    mixture = mixture_of(config)
    if config.eval.ood_protocol is None:
        return mixture
    return training_mixture(mixture, find_split(config.eval.ood_protocol, config.eval.ood_splits_path))


def evaluated_types(config: RunConfig) -> tuple[str, ...]:
    """The corruption types of the evaluation: `eval.corruption_eval.types`, or the held-out type alone."""
    from cachemedicpp.config.mixture import find_split

    if config.eval.ood_protocol is None:
        return config.eval.corruption_eval.types
    return (find_split(config.eval.ood_protocol, config.eval.ood_splits_path).test_type,)


# ---------------------------------------------------------------------- steps of the reading


def _derived_defaults(document: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that follow from other keys: what a family implies, and the layers of the stability metrics."""
    derived: dict[str, Any] = {}
    family, protected = at(document, "repair.family"), at(document, "repair.protect_layers")
    if family == "B":
        derived["repair"] = {"orthonormal": True}
    if family == "D":
        derived["repair"] = {"form": "extended", "token_gate": {}}
    if whole_numbers(protected) and isinstance(document.get("stability"), Mapping):
        derived["stability"] = {"layers": list(protected)}
    return derived


def _filled(derived: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """`document` over the derived defaults, section by section."""
    filled = dict(document)
    for name, values in derived.items():
        own = document.get(name)
        if isinstance(own, Mapping):
            filled[name] = {**values, **own}
    return filled


def _anchor_paths(document: dict[str, Any], base: Path) -> None:
    """Make every path that leads to a file outside this package absolute; names and missing files stay as written."""
    mixture = at(document, "corruption.mixture")
    if isinstance(mixture, str) and mixture:
        from cachemedicpp.config.mixture import PACKAGE_FOLDER, mixture_path

        own = (base / mixture).absolute()
        try:
            found = own if own.is_file() else mixture_path(mixture, [base]).absolute()
        except StorageError:
            found = None
        if found is not None and not found.is_relative_to(PACKAGE_FOLDER):
            document["corruption"]["mixture"] = str(found)
    for path in _PATH_KEYS:
        value = at(document, path)
        found = find_file(value, base) if isinstance(value, str) and value else None
        if found is not None and not found.is_relative_to(PACKAGE):
            *way, last = path.split(".")
            section: Any = document
            for part in way:
                section = section[part]
            section[last] = str(found)


def _mixture_faults(document: Mapping[str, Any]) -> list[Fault]:
    from cachemedicpp.config.mixture import load_mixture

    reference = at(document, "corruption.mixture")
    if not isinstance(reference, str) or not reference:
        return []
    try:
        mixture = load_mixture(reference)
    except ConfigError as error:
        return list(error.faults)
    except ModelwrightError as error:
        why = str(error).removeprefix("corruption.mixture: ")
        return [Fault("corruption.mixture", repr(reference), "a mixture file, or the name of a packaged mixture", why)]
    drawn = mixture.weights.get("targeted", 0) > 0
    return targeted_faults(document, "corruption.mixture") if drawn else []


def _split_faults(document: Mapping[str, Any]) -> list[Fault]:
    from cachemedicpp.config.mixture import find_split

    name, path = at(document, "eval.ood_protocol"), at(document, "eval.ood_splits_path")
    if not isinstance(name, str):
        return []
    path = None if path is MISSING else path
    if path is not None and find_file(str(path)) is None:
        return [Fault("eval.ood_splits_path", repr(path), "a splits file, or null for the packaged one", "correct the path")]
    try:
        find_split(name, None if path is None else find_file(str(path)))
    except ConfigError as error:
        return list(error.faults)
    except ModelwrightError as error:
        return [Fault("eval.ood_splits_path", repr(path), "a readable splits file", str(error))]
    return []


def _by_content(reference: str | None) -> str | None:
    """`sha256:<hex>` of the file a path means; the path itself where there is no file, null for null."""
    found = find_file(reference) if reference is not None else None
    return reference if found is None else f"sha256:{sha256_file(found)}"
