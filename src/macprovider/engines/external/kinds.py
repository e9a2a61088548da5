"""The external engines by name."""

from __future__ import annotations

from macprovider.engines.base import EngineName, EngineSettings
from macprovider.engines.external.dialect import Dialect
from macprovider.engines.external.engine import ExternalEngine


def external_engine(name: EngineName, settings: EngineSettings) -> ExternalEngine:
    """An engine that is not loaded yet; `name` is llamacpp, vllm or mlx."""
    dialect: Dialect
    if name == "llamacpp":
        from macprovider.engines.external.llamacpp import LlamaCpp

        dialect = LlamaCpp()
    elif name == "vllm":
        from macprovider.engines.external.vllm import Vllm

        dialect = Vllm()
    else:
        from macprovider.engines.external.mlx import Mlx

        dialect = Mlx()
    return ExternalEngine(settings, dialect)
