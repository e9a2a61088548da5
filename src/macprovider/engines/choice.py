"""Which engine, by its name; `auto` is decided in `macprovider.engines.auto`."""

from __future__ import annotations

from typing import Literal, get_args

from macprovider.engines.base import Engine, EngineName, EngineSettings
from modelwright.errors import UsageError

HERE: tuple[EngineName, ...] = get_args(EngineName)
"""Engines that this version can run. `llamacpp`, `vllm` and `mlx` need a program of their own on PATH."""
NAMES: tuple[str, ...] = ("auto", *HERE)
REPAIRING: tuple[EngineName, ...] = ("transformers",)
"""Engines that carry a CacheMedic operator; the others refuse `--repair` by name."""


def known_engine(name: str) -> EngineName | Literal["auto"]:
    """`name`, when it is an engine or `auto`. Raises UsageError."""
    for engine in HERE:
        if name == engine:
            return engine
    if name == "auto":
        return "auto"
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
