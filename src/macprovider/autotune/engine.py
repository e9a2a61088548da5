"""`--engine auto` for a whole run: one engine that can hold every candidate and honour every knob; and what `serve` would take."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from macprovider.autotune.options import Options
from macprovider.autotune.plan import Knobs, fit_knobs
from macprovider.capacity import capacity_of
from macprovider.engines.auto import Choice, automatic
from macprovider.engines.base import EngineName, EngineSettings, Feature
from macprovider.engines.forecast import files_of
from modelwright.errors import ModelwrightError

QUALITY_NEEDS: frozenset[Feature] = frozenset({"top_logprobs"})
"""The quality gate compares distributions."""
DECIDING = ("engine", "device", "dtype")
"""Settings of `serve` that change which engine it takes, or what that one is."""


def with_engine(options: Options) -> Options:
    """The options with the engine that `auto` stands for, and why. All candidates get the same one, so that they can be compared: one
    that suits the cell that takes the most memory and the probe of Stage 1, of every candidate.
    """
    from modelwright.hardware import inventory

    operator = None if options.repair is None else str(options.repair)
    context = max(options.max_context_axis or (options.target_context,))
    largest = Knobs(None, max(options.max_batch_axis), context, operator)
    probe = fit_knobs(options.target_context, inventory().ram_total)
    needs = QUALITY_NEEDS if options.quality_gate else frozenset()
    choice = Choice("transformers", "engine transformers: there is no candidate to look at")
    for model in options.candidate_models:
        choice = _choice(model, (largest, probe), needs)
        if choice.engine == "transformers":
            return replace(options, engine=choice.engine, engine_reason=f"{choice.reason} ({model})")
    return replace(options, engine=choice.engine, engine_reason=choice.reason)


def engine_of_serve(model: str, knobs: Knobs) -> EngineName:
    """What `serve` takes for a model on this machine when nothing names an engine."""
    return _choice(model, (knobs,), frozenset()).engine


def goes_without_saying(engine: str, model: str, knobs: Knobs, config: Path) -> bool:
    """Whether a `serve` command that names no engine takes `engine`: by itself, with nothing in the environment or in the settings file
    at `config` that could change it.
    """
    return not _decided_elsewhere(config) and engine_of_serve(model, knobs) == engine


def _decided_elsewhere(config: Path) -> bool:
    from macprovider.autotune.config_file.yaml_lines import YamlEditError, load
    from macprovider.settings import SETTINGS

    settings = [setting for setting in SETTINGS if setting.name in DECIDING]
    if any(os.environ.get(setting.variable) for setting in settings):
        return True
    with contextlib.suppress(OSError, UnicodeDecodeError, YamlEditError):
        return bool({setting.key for setting in settings} & load(config.read_text(encoding="utf-8"), str(config)).keys())
    return False


def _choice(model: str, wanted: Sequence[Knobs], needs: frozenset[Feature]) -> Choice:
    """wanted: knobs that will be served; looked at are the operator of the first, and those with the most tokens in all slots."""
    try:
        folder = files_of(model)
    except Exception:  # noqa: BLE001 - a cache may hold anything; fetching or serving the model says what is wrong
        folder = None
    if folder is None:
        return Choice("transformers", "engine transformers, since a model's files are not here yet")
    slots, context = max(((knobs.max_batch, knobs.max_context or _granted(folder, model)) for knobs in wanted), key=math.prod)
    kv_bits, operator = wanted[0].kv_bits, wanted[0].repair
    assert kv_bits in (None, 4, 8)
    settings = EngineSettings(
        model=model,
        folder=folder,
        kv_bits=kv_bits,  # type: ignore[arg-type]
        max_context=context,
        max_batch=slots,
        repair=None if operator is None else Path(operator),
    )
    return automatic(settings, needs)


def _granted(folder: Path, model: str) -> int:
    """The context that `serve` grants when none is asked for; a small one where the model's files do not say."""
    from modelwright.files import read_json
    from modelwright.hardware import inventory

    try:
        return capacity_of(None, read_json(folder / "config.json"), model, inventory().ram_total).max_context
    except (ModelwrightError, AttributeError, TypeError, ValueError, LookupError):
        return EngineSettings.max_context
