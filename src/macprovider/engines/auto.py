"""What `--engine auto` stands for: the fastest engine, as measured, that can hold the model and honour what was asked."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

from macprovider.engines.base import EngineName, EngineSettings, Feature
from macprovider.engines.predicted import GIB, gib
from modelwright.errors import ModelwrightError

SPARE_DISK = 1 << 30
"""Bytes that an export must leave free."""
ROOM = 0.8
"""Share of the memory that a forecast may fill: the making of the export and the work of a step are not in it."""


@dataclass(frozen=True)
class Choice:
    """reason: one sentence, for the log."""

    engine: EngineName
    reason: str


def automatic(settings: EngineSettings, needs: frozenset[Feature] = frozenset()) -> Choice:
    """The engine for a model whose files are in `settings.folder`. needs: what requests will use for certain. Never raises: files that
    cannot be read are for the engine to complain of.

    `openvino` where it can be had: with 16-bit weights on a processor it makes more tokens per processor second than
    `transformers` (benchmarks/serve_peers). `transformers` otherwise, which holds every model, honours every knob and uses a GPU.
    The engines that are programs of their own are taken by name alone: `llamacpp` serves 8-bit weights unless told otherwise, and
    no run of `vllm` and `mlx` has been measured here.
    """
    try:
        obstacle = _against_openvino(settings, needs)
    except Exception as error:  # noqa: BLE001 - a folder may hold anything
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        obstacle = f"the model's files cannot be read ({first or type(error).__name__})"
    if obstacle:
        return Choice("transformers", f"engine transformers, since openvino cannot be taken: {obstacle}")
    return Choice("openvino", "engine openvino: on a processor it answers faster than transformers (docs/results) and can hold this model")


def _against_openvino(settings: EngineSettings, needs: frozenset[Feature]) -> str:
    """Why not, "" for no reason."""
    from importlib.util import find_spec

    if find_spec("openvino_genai") is None:
        return "the package openvino-genai is not installed"
    checks: tuple[Callable[[EngineSettings], str], ...] = (_for_a_gpu, _too_big, _refused, _without_room)
    missing = sorted(needs - _features())
    return f"it has no {', '.join(missing)}" if missing else next(filter(None, (check(settings) for check in checks)), "")


def _features() -> frozenset[Feature]:
    from macprovider.engines.openvino.engine import FEATURES

    return FEATURES


def _for_a_gpu(settings: EngineSettings) -> str:
    """A GPU that nothing here can count (AMD's, say) may be one that PyTorch uses."""
    from modelwright.hardware import inventory

    if settings.device != "auto":
        return ""
    count = inventory().gpu_count
    if count is None:
        return "" if sys.platform == "darwin" else "a GPU may be here"
    return "a GPU is here" if count else ""


def _refused(settings: EngineSettings) -> str:
    """By its flags, its kind, its tokenizer or its tensors."""
    from macprovider.engines.openvino.setup import WEIGHTS, described, refuse
    from macprovider.weights.gguf_export import check_exportable

    try:
        refuse(settings)
        described(settings)
        check_exportable(settings.folder, settings.model, WEIGHTS[settings.dtype])
    except ModelwrightError as error:
        return str(error).removeprefix("openvino: ").rstrip(".")
    return ""


def _too_big(settings: EngineSettings) -> str:
    """OpenVINO holds several copies of the weights and its whole cache from the start (see `forecast`)."""
    from macprovider.engines.forecast import predict
    from modelwright.hardware import inventory

    total = inventory().ram_total
    forecast = predict(str(settings.folder), settings, settings.max_context, "openvino").predicted_bytes
    if total is None or forecast is None or forecast <= ROOM * total * GIB:
        return ""
    return f"it would take {gib(forecast)} GiB of the {gib(round(total * GIB))} here"


def _without_room(settings: EngineSettings) -> str:
    """The export is a second copy of the weights, at most as large as the first; it is made once."""
    from macprovider.engines.gguf_file import export_path
    from macprovider.engines.openvino.setup import WEIGHTS

    place = export_path(settings.folder, WEIGHTS[settings.dtype])
    if place.is_file():
        return ""
    needed = sum(path.stat().st_size for path in settings.folder.glob("*.safetensors")) + SPARE_DISK
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return "" if free >= needed else f"its export needs {needed >> 20} MiB of disk in {place} and {free >> 20} are free"
