"""What `--engine auto` stands for: the fastest engine, as measured, that can hold the model and honour what was asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from macprovider.engines.base import EngineName, EngineSettings, Feature
from macprovider.engines.predicted import GIB, gib
from modelwright.errors import ModelwrightError

SPARE_DISK = 1 << 30
"""Bytes that an export must leave free."""


@dataclass(frozen=True)
class Choice:
    """reason: one sentence, for the log."""

    engine: EngineName
    reason: str


def automatic(settings: EngineSettings, needs: frozenset[Feature] = frozenset()) -> Choice:
    """The engine for a model whose files are in `settings.folder`. needs: what requests will use for certain.

    `openvino` where it can be had: with 16-bit weights on a processor it makes more tokens per processor second than
    `transformers` (benchmarks/serve_peers). `transformers` otherwise, which holds every model, honours every knob and uses a GPU.
    The engines that are programs of their own are taken by name alone: `llamacpp` serves 8-bit weights unless told otherwise, and
    no run of `vllm` and `mlx` has been measured here.
    """
    obstacle = _against_openvino(settings, needs)
    if obstacle:
        return Choice("transformers", f"engine transformers, since openvino cannot be taken: {obstacle}")
    return Choice("openvino", "engine openvino: on a processor it answers faster than transformers (docs/results) and can hold this model")


def _against_openvino(settings: EngineSettings, needs: frozenset[Feature]) -> str:
    """Why not, "" for no reason."""
    from importlib.util import find_spec

    if find_spec("openvino_genai") is None:
        return "the package openvino-genai is not installed"
    checks: tuple[Callable[[EngineSettings], str], ...] = (_for_a_gpu, _refused, _too_big, _without_room)
    missing = sorted(needs - _features())
    return f"it has no {', '.join(missing)}" if missing else next(filter(None, (check(settings) for check in checks)), "")


def _features() -> frozenset[Feature]:
    from macprovider.engines.openvino.engine import FEATURES

    return FEATURES


def _for_a_gpu(settings: EngineSettings) -> str:
    from modelwright.hardware import inventory

    return "a GPU is here" if settings.device == "auto" and inventory().gpu_count else ""


def _refused(settings: EngineSettings) -> str:
    from macprovider.engines.openvino.setup import described, refuse

    try:
        refuse(settings)
        described(settings)
    except ModelwrightError as error:
        return str(error).removeprefix("openvino: ").rstrip(".")
    return ""


def _too_big(settings: EngineSettings) -> str:
    """OpenVINO holds several copies of the weights (see `forecast`). Where transformers would not fit either, size is no reason."""
    from macprovider.engines.forecast import predict
    from modelwright.hardware import inventory

    total = inventory().ram_total
    theirs, ours = (
        predict(str(settings.folder), settings, settings.max_context, name).predicted_bytes for name in ("openvino", "transformers")
    )
    if total is None or theirs is None or ours is None or theirs <= total * GIB or ours > total * GIB:
        return ""
    return f"it would take {gib(theirs)} GiB of {gib(round(total * GIB))} here, transformers {gib(ours)}"


def _without_room(settings: EngineSettings) -> str:
    """The export is a second copy of the weights, at most as large as the first."""
    from macprovider.places import cache_folder

    needed = sum(path.stat().st_size for path in settings.folder.glob("*.safetensors")) + SPARE_DISK
    place = cache_folder()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return "" if free >= needed else f"its export needs {needed >> 20} MiB of disk in {place} and {free >> 20} are free"
