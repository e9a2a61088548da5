"""Dynamic NTK (`dynamic_ntk`): the NTK base follows the length of the sequence at hand (Peng et al. 2024, section 3.3).

Inside the original context nothing changes. Beyond it the base is `b ((f n/L) - (f-1))^(d/(d-2))`; the option `factor`
is f, and its default 1 is the paper's `s = max(1, n/L)`. `max_position_embeddings` stays at L, because transformers
scales relative to it.

Two consequences for whoever evaluates or serves such a model. Keys in a KV cache keep the rotation of the length at
which they were cached, so cached decoding across L differs from a full forward pass: probe it prefill-only. And the
rotary module keeps the base of the longest sequence seen until a sequence shorter than L comes by, so results depend on
the batch before: call `apply.reset_dynamic_state` between sequences that must not influence each other.
"""

from __future__ import annotations

from typing import Any

from scaler_wizard.context_methods.base import RopeMethod, Stretch
from scaler_wizard.context_methods.ntk import NtkOptions
from scaler_wizard.context_methods.rope import dynamic_ntk_base, frequencies


def library_factor(stretch: Stretch) -> float:
    """f of the library's form; 1 is the paper's."""
    return 1.0 if stretch.options.factor is None else float(stretch.options.factor)


def realise(stretch: Stretch) -> dict[str, Any]:
    return {"rope_type": "dynamic", "rope_theta": stretch.settings.theta, "factor": library_factor(stretch)}


def reference(stretch: Stretch, seq_len: int | None) -> tuple[list[float], float]:
    settings = stretch.settings
    length = settings.original_context if seq_len is None else seq_len
    base = dynamic_ntk_base(settings.theta, settings.dimensions, length, settings.original_context, library_factor(stretch))
    return frequencies(settings.dimensions, base), 1.0


METHOD = RopeMethod("dynamic_ntk", NtkOptions, realise, reference, needs_finetune=False, dynamic=True, keeps_length=True)
