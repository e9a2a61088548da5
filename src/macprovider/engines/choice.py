"""Which engine: by name, or the one that `auto` stands for."""

from __future__ import annotations

from typing import get_args

from macprovider.engines.base import Engine, EngineName, EngineSettings
from modelwright.errors import UsageError

NAMES: tuple[str, ...] = ("auto", *get_args(EngineName))
HERE: tuple[EngineName, ...] = ("transformers", "openvino")
"""Engines that this version can run."""


def resolve_engine(name: str) -> EngineName:
    """The engine that `name` stands for. Raises UsageError for a name that is none, and for an engine that is not written yet.

    `auto` is `transformers`: the one engine that holds every model and honours every knob.
    """
    for engine in HERE:
        if name == engine:
            return engine
    if name == "auto":
        return "transformers"
    planned = " (it is planned, but not part of this version)" if name in NAMES else ""
    raise UsageError(f"--engine: found {name!r}{planned}; allowed: auto, {', '.join(HERE)}.")


def make_engine(name: EngineName, settings: EngineSettings) -> Engine:
    """An engine that is not loaded yet."""
    if name == "openvino":
        from macprovider.engines.openvino.engine import OpenVinoEngine

        return OpenVinoEngine(settings)
    from macprovider.engines.embedded.engine import TransformersEngine

    return TransformersEngine(settings)
