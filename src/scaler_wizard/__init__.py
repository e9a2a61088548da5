"""Scaler Wizard: stretch the context window of a language model, step by step and with evidence.

`load(run_dir)` gives back an exported model with its RoPE parameters set. Importing this package imports nothing else;
the rules (rank, schedule, breaker, contract …) work without torch.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from scaler_wizard.loading import load

        return load
    raise AttributeError(f"module 'scaler_wizard' has no attribute {name!r}")
