"""The mixture of corruptions: which types are drawn how often, from which file, and without which held-out type.

A mixture file holds `weights` by type and `default_params`, the operator numbers that a run configuration overrides key
by key. The default mixture and the six leave-one-type-out splits are package data. (specs/medic.md, 2.4 and 6.5)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from cachemedicpp.faults.events import ALL_TYPES, Event, OperatorParams
from modelwright.config import Layer, nearest, resolve
from modelwright.errors import ConfigError, Fault, MissingFileError
from modelwright.files import read_yaml

if TYPE_CHECKING:
    import torch

DEFAULT_MIX = "default_mix"
PACKAGE_FOLDER = Path(__file__).parents[1] / "mixtures"
SPLITS_FILE = PACKAGE_FOLDER / "ood_splits.yaml"


class _ParamsDocument(BaseModel):
    """`default_params` of a mixture file; every key may be left out, values are checked by `OperatorParams`."""

    model_config = ConfigDict(extra="forbid")
    dropout_p: float | None = None
    bitflip_p: float | None = None
    bitflip_eps_jump: float | None = None
    quant_bits: int | None = None
    rotation_seed: int | None = None
    overwrite_window: list[int] | None = None
    donor_prompt: str | None = None
    targeted_base_type: str | None = None


class _MixtureDocument(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    weights: dict[str, float]
    default_params: _ParamsDocument = Field(default_factory=_ParamsDocument)


class _SplitDocument(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    train_types: list[str] = Field(min_length=1)
    test_type: str


class _SplitsDocument(BaseModel):
    model_config = ConfigDict(extra="forbid")
    splits: list[_SplitDocument] = Field(min_length=1)


@dataclass(frozen=True)
class Mixture:
    """A checked mixture. `weights` are as the file gives them (not negative, sum above 0, any scale)."""

    name: str
    weights: Mapping[str, float]
    default_params: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The content, as it enters the configuration hash and is written to a file."""
        return {"name": self.name, "weights": dict(self.weights), "default_params": dict(self.default_params)}


@dataclass(frozen=True)
class Split:
    """One leave-one-type-out split: train on `train_types`, evaluate on `test_type` alone."""

    name: str
    train_types: tuple[str, ...]
    test_type: str


def mixture_path(reference: str, roots: Iterable[str | os.PathLike[str]] = ()) -> Path:
    """Where the mixture `reference` of a configuration lies.

    Tried in this order: the reference as a path; then below each root (the configuration's folder, the working
    folder): the path itself, `configs/corruption/<reference>.yaml`, `corruption/<reference>.yaml`; at last the mixtures
    of the package. Raises MissingFileError that lists every place tried.
    """
    tried = [Path(reference)]
    for root in map(Path, roots):
        tried += [root / reference, root / "configs" / "corruption" / f"{reference}.yaml", root / "corruption" / f"{reference}.yaml"]
    tried.append(PACKAGE_FOLDER / f"{reference}.yaml")
    for path in tried:
        if path.is_file():
            return path
    shipped = ", ".join(sorted(path.stem for path in PACKAGE_FOLDER.glob("*.yaml") if path != SPLITS_FILE))
    places = ", ".join(dict.fromkeys(map(str, tried)))
    raise MissingFileError(
        f"corruption.mixture: {reference!r} was found at none of {places}; give the path of a mixture file or one of: {shipped}.",
        reference,
    )


def load_mixture(reference: str = DEFAULT_MIX, roots: Iterable[str | os.PathLike[str]] = ()) -> Mixture:
    """The mixture that `reference` (a path or a name, see `mixture_path`) stands for.

    Raises MissingFileError, DamagedFileError for a file that is no YAML, ConfigError with every fault of its content.
    """
    path = mixture_path(reference, roots)
    return parse_mixture(read_yaml(path), str(path))


def parse_mixture(document: Any, source: str) -> Mixture:
    """A mixture from the content of its file. `source` names it in messages. Raises ConfigError with all faults."""
    checked = resolve(_MixtureDocument, [Layer(source, _mapping(document, source))]).value
    params = checked.default_params.model_dump(exclude_none=True)
    faults = _type_faults("weights", checked.weights, source)
    for kind, weight in checked.weights.items():
        if not 0 <= weight < math.inf:
            faults.append(Fault(f"{source}: weights.{kind}", repr(weight), "a finite number of at least 0", "correct the weight"))
    if not any(weight > 0 for weight in checked.weights.values()):
        found = "an empty table" if not checked.weights else "weights that are all 0"
        faults.append(Fault(f"{source}: weights", found, "at least one type with a weight above 0", "give a weight to a type"))
    try:
        OperatorParams(**params)
    except ConfigError as error:
        faults += [Fault(f"{source}: {fault.path}", fault.found, fault.allowed, fault.todo) for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return Mixture(checked.name, checked.weights, params)


def operator_params(mixture: Mixture, overrides: Mapping[str, Any]) -> OperatorParams:
    """The operator numbers of a run: the mixture's own, overridden key by key by `corruption.params`."""
    return OperatorParams(**{**mixture.default_params, **overrides})


def load_splits(path: str | os.PathLike[str] | None = None) -> dict[str, Split]:
    """The leave-one-type-out splits by name, from `path` (`eval.ood_splits_path`) or the package.

    Raises MissingFileError, DamagedFileError, or ConfigError with every fault of the content.
    """
    source = str(path or SPLITS_FILE)
    checked = resolve(_SplitsDocument, [Layer(source, _mapping(read_yaml(source), source))]).value
    faults: list[Fault] = []
    splits: dict[str, Split] = {}
    for split in checked.splits:
        faults += _type_faults(split.name, [*split.train_types, split.test_type], source)
        if split.test_type in split.train_types:
            found = f"{split.test_type!r} among train_types"
            faults.append(Fault(f"{source}: {split.name}", found, "a test_type that is not trained on", "take it out of train_types"))
        if split.name in splits:
            faults.append(Fault(f"{source}: {split.name}", "the name twice", "one split per name", "rename one of them"))
        splits[split.name] = Split(split.name, tuple(split.train_types), split.test_type)
    if faults:
        raise ConfigError(faults)
    return splits


def find_split(name: str, path: str | os.PathLike[str] | None = None) -> Split:
    """The split that `eval.ood_protocol` names. Raises ConfigError with the known names."""
    splits = load_splits(path)
    if name in splits:
        return splits[name]
    near = nearest(name, list(splits))
    todo = f"did you mean {near}?" if near else "name one of them, or null"
    raise ConfigError([Fault("eval.ood_protocol", repr(name), f"null, {', '.join(splits)}", todo)])


def only(mixture: Mixture, types: Sequence[str], name: str | None = None) -> Mixture:
    """The mixture restricted to `types`, with weights that sum to 1. Raises ConfigError when nothing is left to draw."""
    kept = {kind: weight for kind, weight in mixture.weights.items() if kind in types and weight > 0}
    total = sum(kept.values())
    if total <= 0:
        found = f"no weight above 0 among {', '.join(types) or 'no types at all'}"
        allowed = ", ".join(kind for kind, weight in mixture.weights.items() if weight > 0)
        raise ConfigError([Fault(f"mixture {mixture.name}", found, allowed, "keep at least one type that has a weight")])
    return Mixture(name or mixture.name, {kind: weight / total for kind, weight in kept.items()}, mixture.default_params)


def training_mixture(mixture: Mixture, split: Split) -> Mixture:
    """The mixture to train a held-out run with: `ood_train_mix_<split>`, without the split's test type, sum 1."""
    return only(mixture, split.train_types, f"ood_train_mix_{split.name}")


def sample_event(mixture: Mixture, eps_grid: Sequence[float], generator: torch.Generator) -> Event:
    """Draw one event: an index into `eps_grid` uniformly, then a type by weight.

    Raises ConfigError for an empty grid or a table without weight.
    """
    import torch

    if not eps_grid:
        raise ConfigError([Fault("corruption.eps_grid", "an empty list", "at least one number", "give the epsilons to draw from")])
    weights = only(mixture, list(mixture.weights)).weights
    index = int(torch.randint(len(eps_grid), (1,), generator=generator))
    share = float(torch.rand((), generator=generator, dtype=torch.float64))
    reached = 0.0
    kinds = list(weights)
    for kind in kinds:
        reached += weights[kind]
        if share < reached:
            return Event(kind, float(eps_grid[index]))
    return Event(kinds[-1], float(eps_grid[index]))  # rounding left the sum a hair below 1


def _mapping(document: Any, source: str) -> Mapping[str, Any]:
    if isinstance(document, Mapping):
        return document
    raise ConfigError([Fault(source, f"a {type(document).__name__}", "a mapping of keys and values", "correct the file")])


def _type_faults(path: str, types: Iterable[str], source: str) -> list[Fault]:
    return [
        Fault(f"{source}: {path}", repr(kind), ", ".join(ALL_TYPES), f"did you mean {near}?" if (near := nearest(kind, ALL_TYPES)) else "")
        for kind in types
        if kind not in ALL_TYPES
    ]
