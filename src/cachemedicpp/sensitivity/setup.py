"""What a stability measurement measures with: operators, heuristic, region and number format. (specs/medic.md, 5.1, 5.2; [C17] [C19])"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cachemedicpp.evaluation.grid import HEURISTICS
from cachemedicpp.sensitivity.progress import FALLBACK, FROM_METRICS
from modelwright.errors import DamagedFileError
from modelwright.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cachemedicpp.config.sections import RunConfig
    from cachemedicpp.repair.operator import RepairOperator
    from cachemedicpp.sensitivity.counterpart import Counterpart
    from cachemedicpp.sensitivity.passes import StabilitySetup

MEASURED_DTYPE: Final = "float32"
"""At delta = 1 an element moves by about one bfloat16 step, so half types would show their rounding."""
FALLBACK_HEURISTIC: Final = "smoothing"


def best_heuristic(folder: Path) -> tuple[str, str]:
    """The best heuristic of the run's evaluation and where its name stands; `smoothing` and `default` without an evaluation.

    Raises DamagedFileError when the metrics file names none of the heuristics.
    """
    path = folder / "metrics" / FROM_METRICS
    if not path.exists():
        return FALLBACK_HEURISTIC, FALLBACK
    document = read_json(path)
    metrics = document.get("metrics") if isinstance(document, dict) else None
    name = metrics.get("best_heuristic_name") if isinstance(metrics, dict) else None
    if name not in HEURISTICS:
        expected = f"metrics.best_heuristic_name, one of {', '.join(HEURISTICS)}"
        raise DamagedFileError(path, f"its best heuristic is {name!r}", expected, "Evaluate the run again with --no-resume")
    return str(name), FROM_METRICS


def amplification_delta(deltas: Sequence[float]) -> float:
    """The delta of the map: the first positive one of `delta_norms`, 1.0 if there is none."""
    return next((float(delta) for delta in deltas if delta > 0), 1.0)


def plain_attention(config: RunConfig) -> RunConfig:
    """The configuration with the library's sdpa: every variant runs the kernel that repaired layers run, and in float32."""
    return config.model_copy(update={"model": config.model.model_copy(update={"attn_implementation": "sdpa"})})


def stability_setup(config: RunConfig, model: PreTrainedModel, heuristic: str) -> StabilitySetup:
    """The setup of a run configuration. heuristic: of the second curve."""
    from cachemedicpp.evaluation.setup import served_form
    from cachemedicpp.faults.events import Axes
    from cachemedicpp.repair.heuristics import HeuristicSettings
    from cachemedicpp.repair.operator import layout_of
    from cachemedicpp.sensitivity.passes import StabilitySetup

    stability = config.stability
    heads = tuple(range(layout_of(model).kv_heads)) if stability.head_subset is None else stability.head_subset
    return StabilitySetup(
        seed=config.seed,
        layers=stability.layers,
        heads=heads,
        directions=stability.num_directions,
        topk=stability.topk_logits,
        axes=Axes(time_mode=stability.time_mode, N_recent=stability.N_recent, window=stability.window),
        heuristic=heuristic,
        heuristics=HeuristicSettings(**config.baseline.model_dump()),
        form=served_form(config),
        inline=config.corruption.inject == "inline",
    )


def operators(config: RunConfig, model: PreTrainedModel, checkpoint: Path | None, counterpart: Counterpart) -> dict[str, RepairOperator]:
    """`cachemedic`, and `cachemedic_no_contr` where another run is the counterpart. Raises as `evaluation.setup.evaluated_operator`."""
    from cachemedicpp.evaluation.setup import evaluated_operator
    from cachemedicpp.sensitivity.measure import NO_CONTRACTION, REPAIRED

    found = {REPAIRED: evaluated_operator(config, model, checkpoint)}
    if counterpart.checkpoint is not None:
        found[NO_CONTRACTION] = evaluated_operator(config, model, counterpart.checkpoint)
    return found
