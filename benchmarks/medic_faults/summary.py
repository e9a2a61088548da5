"""From the tables of the trials to the rows of the result: repair, detection, clean cost, verdicts. Pure; no torch.

A part is what `trials.measure_kind` gives for one kind of fault; `clean` is what `trials.measure_clean` gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.medic_faults.defences import PLAIN, TRAINED
from benchmarks.medic_faults.verdicts import Table, compare, over_kinds, paired_table, repair_summary, share, two_way_interval

Part = Mapping[str, Any]
ALL = "all"
"""The mean over the kinds of fault, text by text."""
RIVALS = ("none", "guard", "clip", "recompute", "zero_block")
"""What every trained defence is paired with."""
ROUNDING = 1e-6
"""Nats below which a fault without defence counts as without effect."""
QUANTITIES = ("kl", "unchanged", "finite")


def with_all(parts: Sequence[Part]) -> list[Part]:
    """The parts and the mean over them."""
    names = list(parts[0]["kl"])
    mean: dict[str, Any] = {
        quantity: {name: over_kinds({part["kind"]: part[quantity][name] for part in parts}) for name in names} for quantity in QUANTITIES
    }
    return [*parts, {"kind": ALL, **mean}]


def repair_rows(model: str, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """One row for each kind, `ALL` included, and defence. harmed and kl_worst of `ALL` are over single trials of every kind."""
    rows = []
    for part in with_all(parts):
        undefended: Table = part["kl"]["none"]
        for name in part["kl"]:
            found = repair_summary(part["kl"][name], part["unchanged"][name], part["finite"][name], undefended)
            if part["kind"] == ALL:
                own = [repair_summary(one["kl"][name], one["unchanged"][name], one["finite"][name], one["kl"]["none"]) for one in parts]
                found["harmed"] = sum(one["harmed"] for one in own) / len(own)
                found["kl_worst"] = max(one["kl_worst"] for one in own)
            rows.append({"model": model, "kind": part["kind"], "defence": name, "seeds": len(part["kl"][name]), **found})
    return rows


def detection_rows(model: str, parts: Sequence[Part], clean: Part) -> list[dict[str, Any]]:
    """One row for each kind and detector: struck blocks, the share found (mean over seeds), false alarms on clean text, AUC."""
    rows = []
    for part in parts:
        for name, found in part["found_blocks"].items():
            alarms = clean["false_alarms"][name]
            areas = [value for value in part["auc"].get(name, []) if value is not None]
            rows.append(
                {
                    "model": model,
                    "kind": part["kind"],
                    "detector": name,
                    "struck_blocks": part["struck_blocks"],
                    "found": share(sum(found), part["struck_blocks"] * len(found)),
                    "clean_blocks": clean["clean_blocks"],
                    "false_alarms": share(sum(alarms), clean["clean_blocks"] * len(alarms)),
                    "auc": sum(areas) / len(areas) if areas else None,
                    "auc_by_seed": areas,
                }
            )
    return rows


def comparison_rows(model: str, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Each trained defence against each rival by kind: paired difference of divergences, ours − theirs, and the verdict.

    A trained defence behind clipping is compared with clipping; `recompute` is the checksum with recomputation.
    """
    return [
        {"model": model, "kind": part["kind"], "ours": one.name, "theirs": rival, **compare(part["kl"][one.name], part["kl"][rival])}
        for part in with_all(parts)
        for one in TRAINED
        for rival in RIVALS
    ]


def clean_rows(model: str, clean: Part) -> list[dict[str, Any]]:
    """The price on undamaged caches: divergence, and the factor on the perplexity of the text, each with its interval."""
    rows = []
    for name in [*PLAIN, *(one.name for one in TRAINED)]:
        change = two_way_interval(paired_table(clean["nats"][name], clean["nats"]["none"]).tolist())
        rows.append(
            {
                "model": model,
                "defence": name,
                "kl": two_way_interval(clean["kl"][name]).as_dict(),
                "unchanged": sum(map(sum, clean["unchanged"][name])) / sum(map(len, clean["unchanged"][name])),
                "perplexity_factor": {"estimate": math.exp(change.estimate), "low": math.exp(change.low), "high": math.exp(change.high)},
            }
        )
    return rows


def fault_rows(model: str, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """What the faults are: inverted bits of a trial (mean), blocks struck and so recomputed, and how many trials have an effect."""
    rows = []
    for part in parts:
        undefended = part["kl"]["none"][0]
        rows.append(
            {
                "model": model,
                "kind": part["kind"],
                "trials": len(undefended),
                "flipped_bits": part["flipped_bits"],
                "blocks_per_fault": part["struck_blocks"] / len(undefended),
                "with_effect": sum(value > ROUNDING for value in undefended) / len(undefended),
                "not_finite": 1 - sum(part["finite"]["none"][0]) / len(undefended),
            }
        )
    return rows
