"""Which engine: by name, or the one that `auto` stands for."""

from __future__ import annotations

from typing import get_args

from macprovider.engines.base import Engine, EngineName, EngineSettings
from modelwright.errors import UsageError

HERE: tuple[EngineName, ...] = get_args(EngineName)
"""Engines that this version can run. `llamacpp`, `vllm` and `mlx` need a program of their own on PATH."""
NAMES: tuple[str, ...] = ("auto", *HERE)


def resolve_engine(name: str) -> EngineName:
    """The engine that `name` stands for. Raises UsageError for a name that is none.

    `auto` is `transformers`: the one engine that holds every model and honours every knob. It stays so until a benchmark of this
    repository shows a faster engine that does both.
    """
    for engine in HERE:
        if name == engine:
            return engine
    if name == "auto":
        return "transformers"
    raise UsageError(f"--engine: found {name!r}; allowed: {', '.join(NAMES)}.")


def make_engine(name: EngineName, settings: EngineSettings) -> Engine:
    """An engine that is not loaded yet."""
    if name == "openvino":
        from macprovider.engines.openvino.engine import OpenVinoEngine

        return OpenVinoEngine(settings)
    if name == "transformers":
        from macprovider.engines.embedded.engine import TransformersEngine

        return TransformersEngine(settings)
    from macprovider.engines.external.kinds import external_engine

    return external_engine(name, settings)
