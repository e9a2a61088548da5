"""`--engine auto` for a whole run: one engine that can hold every candidate and honour every knob."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from macprovider.autotune.plan import Knobs
from macprovider.engines.auto import Choice, automatic
from macprovider.engines.base import EngineName, EngineSettings, Feature
from macprovider.engines.forecast import files_of

QUALITY_NEEDS: frozenset[Feature] = frozenset({"top_logprobs"})
"""The quality gate compares distributions."""


def engine_for_run(models: Sequence[str], largest: Knobs, *, quality_gate: bool) -> Choice:
    """What `auto` stands for in a run over `models`: all get the same engine, so that they can be compared. largest: the knobs that
    take the most memory, with the operator where cells have one.
    """
    needs = QUALITY_NEEDS if quality_gate else frozenset()
    choice = Choice("transformers", "engine transformers: there is no candidate to look at")
    for model in models:
        choice = _choice(model, largest, needs)
        if choice.engine == "transformers":
            return Choice("transformers", f"{choice.reason} ({model})")
    return choice


def engine_of_serve(model: str, knobs: Knobs) -> EngineName:
    """What `serve` takes for a model on this machine when no engine is named."""
    return _choice(model, knobs, frozenset()).engine


def _choice(model: str, knobs: Knobs, needs: frozenset[Feature]) -> Choice:
    folder = files_of(model)
    if folder is None:
        return Choice("transformers", "engine transformers, since a model's files are not here yet")
    assert knobs.kv_bits in (None, 4, 8)
    settings = EngineSettings(
        model=model,
        folder=folder,
        kv_bits=knobs.kv_bits,  # type: ignore[arg-type]
        max_context=knobs.max_context or EngineSettings.max_context,
        max_batch=knobs.max_batch,
        repair=None if knobs.repair is None else Path(knobs.repair),
    )
    return automatic(settings, needs)
