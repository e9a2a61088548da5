"""The one model that an evaluator keeps in memory, for as long as the next evaluations are of the same checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guild.evaluation.answerers import Answerer
from guild.evaluation.subject import Subject

Weights = tuple[tuple[str, int, int], ...]
_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class _Kept:
    subject: Subject
    device: str
    weights: Weights
    answerer: Answerer


@dataclass
class Keeper:
    """Holds at most one answerer. It belongs to one process, which calls `drop` at its end."""

    _kept: _Kept | None = None

    @property
    def empty(self) -> bool:
        """Whether no model is held."""
        return self._kept is None

    def answerer(self, subject: Subject, device: str, make: Callable[[], Answerer]) -> Answerer:
        """Who answers for the subject: the one that is held, when it is for the same subject, device and weight files; else one that `make`
        makes, after the former one is given back."""
        weights = weight_files(subject.model)
        kept = self._kept
        if kept is None or (kept.subject, kept.device, kept.weights) != (subject, device, weights):
            self.drop()
            kept = self._kept = _Kept(subject, device, weights, make())
        return kept.answerer

    def drop(self) -> None:
        """Give the model's memory back."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.answerer.close()


def weight_files(model: str) -> Weights:
    """(name, bytes, time of the last change in ns) of the weight files in a model's folder: other ones are another model, even under the
    same name. Empty for a model that is no folder."""
    folder = Path(model)
    if not folder.is_dir():
        return ()
    found = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS)
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found)
