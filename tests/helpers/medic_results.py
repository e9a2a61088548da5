"""A CacheMedic run that has been evaluated, without the hour it takes: real files, aggregated by the real code from chosen examples."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cachemedicpp.config.settings import config_hash, load_run_config, resolved_document
from cachemedicpp.evaluation.aggregation import Cell
from cachemedicpp.evaluation.comparison import aggregate
from cachemedicpp.evaluation.grid import DEFENCES, NO_DEFENCE, REPAIR, Unit, grid_units
from cachemedicpp.evaluation.outcomes import ExampleScore
from cachemedicpp.phases.layout import RESOLVED
from helpers.medic_run import TINY
from modelwright.files import make_folder, write_json, write_yaml

TASKS = ("wikitext2_ppl", "sst2_prompted")
EPS = (0.0, 0.08, 0.32)
EXAMPLES = 12
HARM = {"gaussian": 0.0, "quant_noise": 0.9}
"""What a corruption of epsilon 0.32 takes from the undefended model: nats per token, and as much accuracy."""


def write_results(
    run: Path,
    *,
    seed: int = 1234,
    recovered: float = 0.5,
    clean_cost: float = 0.0,
    drift: Mapping[str, float] | None = None,
    overrides: Mapping[str, Any] | None = None,
    overhead: bool = True,
) -> Path:
    """Write the three inputs of plots into `run`; returns it.

    recovered: share of the harm that the repair takes back; every heuristic takes back 0.1 and costs 0.2 nats on clean
    caches. clean_cost: nats that the repair costs there. drift: curve of the stability metrics → slope of its drift.
    """
    config = load_run_config(TINY, {"seed": seed, "eval.corruption_eval.types": list(HARM), **(overrides or {})})
    make_folder(run / "metrics")
    write_yaml(run / RESOLVED, resolved_document(config, run))
    digest = config_hash(config)
    cells = [Cell(unit, _examples(unit, seed, recovered, clean_cost)) for unit in grid_units(TASKS, tuple(HARM), EPS)]
    metrics = aggregate(cells, EPS, seed=seed, resamples=400)
    metrics["overhead"] = {}
    if overhead:
        metrics["decode_overhead"] = _decode_rows()
    settings = {"tasks": list(TASKS), "eps": list(EPS), "types": list(HARM), "ood_protocol": config.eval.ood_protocol}
    task = {"run_id": run.name, "config_hash": digest, "metrics": metrics, "settings": settings | {"checkpoint_loaded": True}}
    write_json(run / "metrics/task_metrics.json", task)
    slopes = {"baseline": 1.0, "heuristics": 2.0, "cachemedic": 0.8, "cachemedic_no_contr": 0.9} if drift is None else drift
    write_json(run / "metrics/stability_metrics.json", _stability(run.name, digest, metrics["best_heuristic_name"], slopes))
    return run


def _examples(unit: Unit, seed: int, recovered: float, clean_cost: float) -> tuple[ExampleScore, ...]:
    harm = HARM.get(unit.corruption_type, 0.0) * unit.epsilon / max(EPS)
    shares = {NO_DEFENCE: (0.0, 0.0), REPAIR: (recovered, clean_cost)}
    share, cost = shares.get(unit.defence, (0.1, 0.2))
    lost = harm * (1.0 - share) + cost
    found = []
    for index in range(EXAMPLES):
        noise = random.Random(f"{seed} {unit.task} {index}").random()
        if unit.task == "wikitext2_ppl":
            found.append(ExampleScore(unit.task, index, index, 20, 20 * (1.5 + 0.4 * noise + lost * (0.9 + 0.2 * noise)), None))
        else:
            right = 0.95 - lost > (index + 0.5 * noise) / EXAMPLES
            found.append(ExampleScore(unit.task, index, index, 1, 0.3 if right else 1.4, right, (-0.3, -1.4)))
    return tuple(found)


def _decode_rows() -> list[dict[str, Any]]:
    rows: list[tuple[str, str | None]] = [(name, None) for name in DEFENCES[:-1]]
    rows += [(REPAIR, form) for form in ("materialised", "extended", "collapsed")]
    return [
        {
            "defense": name, "form": form, "batch": 4, "prompt_tokens": 128, "prefill_ms": 20.0 + number, "prefill_tokens_per_sec": 6400.0,
            "decode_ms_per_token": 4.0 + number, "decode_tokens_per_sec": 1000.0 - 20 * number, "peak_gpu_mem_gb": None,
            "cache_bytes_per_token": 768.0, "repeats": 20,
        }
        for number, (name, form) in enumerate(rows)
    ]  # fmt: skip


def _stability(run_id: str, digest: str, heuristic: str, slopes: Mapping[str, float], deltas: Sequence[float] = (0.0, 1.0, 2.0)) -> Any:
    def curve(name: str, delta: float) -> dict[str, Any] | None:
        if name not in slopes:
            return None
        zero = 0.0 if name == "baseline" else 0.1
        return {"value": zero + slopes[name] * delta, "value_at_zero": zero, "excess": slopes[name] * delta, "standard_error": 0.05}

    norms = dict.fromkeys(("delta_pair_norm", "delta_pair_rel_norm", "delta_k_rel_norm", "delta_v_rel_norm"), 0.1)
    curves = ("baseline", "heuristics", "cachemedic", "cachemedic_no_contr")
    layers, heads = [1, 2], [0, 1, 2]
    before = [[2.0 + 0.1 * head + layer for head in heads] for layer in layers]
    after = [[value - (0.3 if head else -0.2) for head, value in enumerate(row)] for row in before]
    details = {
        "num_prompts": 8, "num_directions": 2, "topk_logits": 256, "time_mode": "old_only", "N_recent": 16, "amplification_delta_norm": 1.0,
        "best_heuristic_name": heuristic, "checkpoint_loaded": True, "delta_injection_shared_across_variants": True,
        "cachemedic_no_contr_source": "../without" if "cachemedic_no_contr" in slopes else "missing_pair",
    }  # fmt: skip
    metrics = {
        "stability.logit_sensitivity": [
            {"delta_norm": delta, **{name: curve(name, delta) for name in curves}, **norms} for delta in deltas
        ],
        "stability.amplification_map": {"layers": layers, "heads": heads, "baseline": before, "cachemedic": after},
        "stability.settings": details,
    }
    settings = {"delta_norms": list(deltas), "layers": layers, "heads": heads}
    return {"run_id": run_id, "config_hash": digest, "metrics": metrics, "settings": settings}
