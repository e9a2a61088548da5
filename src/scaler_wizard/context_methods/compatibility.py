"""Whether an architecture takes a patched configuration as it is written, and what to know before it does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from scaler_wizard.context_methods.settings import RECORD, RopeSettings, UnsupportedContextError


def check_patch_loads(config: Any, patch: Mapping[str, Any], method: str) -> None:
    """Build the patched configuration and make sure the architecture keeps it as written.

    Some classes refuse a RoPE type (Phi-3 knows only longrope) and some rewrite it: both are found here, before any
    weight is loaded. Raises UnsupportedContextError.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    document = dict(config) if isinstance(config, Mapping) else config.to_dict()
    for legacy in ("rope_scaling", "rope_theta"):
        document.pop(legacy, None)
    model_type = document.get("model_type", "")
    factory = CONFIG_MAPPING[model_type] if isinstance(config, Mapping) else type(config)
    wanted = dict(patch["rope_parameters"])
    try:
        with quiet_transformers():
            built = factory.from_dict({**document, **patch, "rope_parameters": dict(wanted)})
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise UnsupportedContextError(
            f"The model type {model_type!r} does not accept RoPE type {wanted['rope_type']!r}, which method {method!r} needs ({error})."
        ) from error
    kept = built.rope_parameters or {}
    changed = sorted(key for key, value in wanted.items() if kept.get(key) != value)
    if changed:
        raise UnsupportedContextError(
            f"The model type {model_type!r} rewrites {', '.join(changed)} of the RoPE parameters that method "
            f"{method!r} needs: "
            "choose another context method."
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from warning about a configuration that is only built to be looked at."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def stretch_warnings(settings: RopeSettings, patch: Mapping[str, Any]) -> tuple[str, ...]:
    """Facts a user should read before stretching a model that can be stretched."""
    found = []
    if settings.sliding_window is not None:
        found.append(
            f"Attention slides over {settings.sliding_window} tokens: RoPE is stretched, but tokens further back are "
            "reached only "
            "through deeper layers."
        )
    if settings.already_scaled and settings.record is None:
        found.append(
            f"The base is already scaled ({settings.rope_type}, {settings.current_context} tokens); its scaling is "
            "replaced, composed "
            f"from the original {settings.original_context} tokens."
        )
    if settings.record is not None and settings.record["method"] != patch[RECORD]["method"]:
        found.append(f"The base was stretched with {settings.record['method']} before; {patch[RECORD]['method']} replaces it.")
    return tuple(found)
