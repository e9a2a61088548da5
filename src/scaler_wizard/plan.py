"""The dry run: everything a run would do, worked out without reading a weight.

Writes exactly `config.resolved.yaml`, `hardware.json` and `plan.json` into the output directory. The model is built on torch's
meta device only to count parameters; without torch the counts are arithmetic.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from modelwright.errors import LoadError
from modelwright.hardware import HardwareInventory
from modelwright.model_shape import ModelShape
from scaler_wizard.contract import AcceptedContract
from scaler_wizard.digest import CONFIG_FILE, write_config
from scaler_wizard.draft_checks import RECORDS_CHECKED, method_options
from scaler_wizard.memory_plan import memory_plan, shortfall_sentence
from scaler_wizard.profile_recommender import profile_of
from scaler_wizard.resolved import ResolvedJob, RungPlan, plain
from scaler_wizard.rung_plans import trained_tokens

PLAN_FILE, HARDWARE_FILE = "plan.json", "hardware.json"
SCHEMA_VERSION = "1.0"


def dry_run(job: ResolvedJob, hardware: HardwareInventory, accepted: AcceptedContract | None) -> dict[str, Any]:
    """Work out the plan, write the three files, and return the plan.

    `accepted` is None when there is no contract yet. Raises LoadError when tokenizer or data cannot be read.
    """
    from modelwright.files import make_folder, write_json

    memory = memory_plan(job, profile_of(hardware))
    plan = build_plan(job, memory, accepted)
    folder = make_folder(job.output_dir)
    write_config(job, folder)
    write_json(folder / HARDWARE_FILE, {**hardware.model_dump(mode="json"), "memory_plan": memory})
    write_json(folder / PLAN_FILE, plan)
    return plan


def build_plan(job: ResolvedJob, memory: dict[str, Any], accepted: AcceptedContract | None) -> dict[str, Any]:
    """The content of plan.json."""
    warnings = list(job.warnings)
    if not memory["fits"]:
        warnings.append(shortfall_sentence(memory).rstrip("."))
    if accepted is None:
        warnings.append(
            f"there is no contract at {job.paths.contract}: a run needs one that consents to this configuration; "
            "write it with `python -m scaler_wizard.contract template`"
        )
    fits = {entry["length"]: entry for entry in memory["rungs"]}
    return {
        "schema_version": SCHEMA_VERSION,
        "config_sha256": job.config_sha256,
        "fits": memory["fits"],
        "model": job.model.base_model,
        "base_context": job.scaling.base_context,
        "target_context": job.scaling.target_context,
        "context_method": job.scaling.context_method,
        "template": job.scaling.template,
        "recommendation": job.recommendation,
        "rank_factors": list(job.rank_factors),
        "rungs": [_rung(job, rung, fits[rung.length]) for rung in job.rungs],
        "steps": sum(rung.steps for rung in job.rungs),
        "trained_tokens": sum(trained_tokens(rung) for rung in job.rungs),
        "parameters": count_parameters(job),
        "memory": memory,
        "data": sample_data(job),
        "contract": _contract(job, accepted),
        "files": files_of(job),
        "warnings": warnings,
        "notes": list(job.notes) + list(accepted.contract.notes if accepted else ()),
    }


def _rung(job: ResolvedJob, rung: RungPlan, memory: dict[str, Any]) -> dict[str, Any]:
    parameters, factor = context_parameters(job, rung.length)
    return {
        **plain(asdict(rung)),
        "s": rung.scale,
        "trained_tokens": trained_tokens(rung),
        "method": job.scaling.context_method if rung.length > job.scaling.base_context else None,
        "method_parameters": parameters,
        "attention_factor": factor,
        "memory_gib": memory["total_gib"],
        "fits": memory["fits"],
        "gate": rung.beyond_growth or job.gate.mode != "contract",
    }


def context_parameters(job: ResolvedJob, length: int) -> tuple[dict[str, Any], float]:
    """What the configuration says at a rung, and the factor on cos and sin; the base rung changes nothing."""
    if length <= job.scaling.base_context:
        return {}, 1.0
    from scaler_wizard.context_methods import get_method

    scaling = job.scaling
    method = get_method(scaling.context_method)
    options = method_options(scaling.context_method, scaling.method_params, scaling.yarn_ramp)
    parameters = method.parameters(dict(job.model_config), length, **options)
    _, factor = method.inv_freq(dict(job.model_config), length, **options)
    return plain(parameters), float(factor)


def count_parameters(job: ResolvedJob) -> dict[str, Any]:
    """Base and trainable parameters and the share that trains; `counted_by` says how they were counted."""
    from importlib.util import find_spec

    shape = ModelShape.from_config(job.model_config)
    base, how = shape.parameters(), "arithmetic" if shape.exact else "estimate"
    if find_spec("torch") and find_spec("transformers"):
        from modelwright.loading import count_parameters as count_on_meta

        base, how = count_on_meta(job.model_config), "meta device"
    adapters = shape.lora_parameters(job.scaling.lora_rank)
    beside = shape.embedding_parameters() + shape.norm_parameters() if job.scaling.train_embeddings else 0
    trainable, total = adapters + beside, base + adapters
    return {
        "base": base,
        "adapters": adapters,
        "embeddings_and_norms": beside,
        "trainable": trainable,
        "share": trainable / total,
        "counted_by": how,
        "sentence": f"{trainable:,} of {total:,} parameters train ({100 * trainable / total:.2f} %)",
    }


def sample_data(job: ResolvedJob) -> dict[str, Any]:
    """Token lengths of at most 32 records and how well they pack at the base length.

    Raises LoadError when the tokenizer does not load, has ids beyond the embeddings, or the records cannot be read.
    """
    from modelwright.data.encoding import encode_records
    from modelwright.data.packing import length_histogram, pack
    from modelwright.data.references import parse_reference
    from modelwright.data.sources import load_records
    from modelwright.loading import check_tokenizer, load_tokenizer
    from scaler_wizard.model_facts import tokenizer_source

    tokenizer = load_tokenizer(tokenizer_source(job))
    if not job.model.resize_embeddings:
        check_tokenizer(tokenizer, ModelShape.from_config(job.model_config).vocabulary)
    records = load_records(parse_reference(job.dataset.reference), limit=RECORDS_CHECKED, offline=job.offline)
    documents = list(encode_records(records, tokenizer))
    length = job.scaling.base_context
    pad = next((value for value in (tokenizer.pad_token_id, tokenizer.eos_token_id) if value is not None), 0)
    try:
        packing: dict[str, Any] | None = pack(documents, length, pad_id=pad, seed=job.seed).report.as_dict()
    except LoadError:
        packing = None  # the sample alone may hold no answer that fits; the run reads all records
    lengths = [len(document) for document in documents]
    return {
        "records_sampled": len(documents),
        "tokens": sum(lengths),
        "longest": max(lengths),
        "length_histogram": length_histogram(lengths),
        "packing_efficiency": packing["efficiency"] if packing else None,
        "packing": packing,
    }


def _contract(job: ResolvedJob, accepted: AcceptedContract | None) -> dict[str, Any]:
    return {
        "state": "accepted" if accepted else "missing",
        "file": str(job.paths.contract),
        "contract_sha256": accepted.contract.sha256 if accepted else None,
    }


def files_of(job: ResolvedJob) -> list[str]:
    """Files and folders a real run would write, relative to its directory."""
    files = [
        "run.json",
        CONFIG_FILE,
        HARDWARE_FILE,
        "human_contract.yaml",
        "run_metadata.json",
        "metrics.jsonl",
        "events.jsonl",
        "logs/flight_log.jsonl",
        "heartbeat.json",
        "heartbeat.jsonl",
        "telegram.json",
        "cockpit_payload.json",
        "memory.json",
        "checkpoints/phase_0/",
        *(f"checkpoints/rung_{rung.length}/" for rung in job.rungs),
        *(f"checkpoints/phase_{phase}/" for phase in sorted({rung.phase for rung in job.rungs})),
        "checkpoints/phase_4/",
        "adapters/",
        "tokenizer/",
        "model/config.json",
        "benchmarks/results/",
    ]
    return [*files, "merged/"] if job.export.merge else files


def summary(plan: dict[str, Any], folder: Path) -> str:
    """The plan on one screen."""
    lines = [
        f"Dry run of {plan['model']}: {plan['base_context']} -> {plan['target_context']} tokens with {plan['context_method']}, "
        f"template {plan['template']}",
        f"  {plan['parameters']['sentence']}, counted by {plan['parameters']['counted_by']}",
        f"  {'rung':>8} {'s':>6} {'steps':>6} {'tokens':>12} {'attention':>10} {'memory GiB':>11}  fits",
    ]
    for rung in plan["rungs"]:
        lines.append(
            f"  {rung['length']:>8} {rung['s']:>6.3g} {rung['steps']:>6} {rung['trained_tokens']:>12,} "
            f"{rung['attention_factor']:>10.4f} {rung['memory_gib']:>11.2f}  {'yes' if rung['fits'] else 'no'}"
        )
    efficiency = plan["data"]["packing_efficiency"]
    packed = "" if efficiency is None else f", packing {100 * efficiency:.0f} %"
    lines.append(f"  data: {plan['data']['records_sampled']} records read, longest {plan['data']['longest']} tokens{packed}")
    lines += [f"  note: {text}" for text in plan["notes"]]
    lines += [f"  warning: {text}" for text in plan["warnings"]]
    lines.append(f"  config digest: {plan['config_sha256']}")
    lines.append(f"  written to {folder}: {CONFIG_FILE}, {HARDWARE_FILE}, {PLAN_FILE}")
    return "\n".join(lines)
