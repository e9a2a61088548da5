"""The Markdown of the study: tables, and sentences that are computed from the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
ALL = "all"
SHOWN_RIVALS = (("clip", "range clipping"), ("recompute", "checksum with recomputation"), ("none", "no defence"))
VERDICTS = ("better", "undecided", "worse")


def page(result: Mapping[str, Any]) -> list[str]:
    """The lines of the section, without its title. result: what `medic_faults.run` wrote."""
    lines: list[str] = []
    for model in result["settings"]["models"]:
        own = {
            key: [row for row in result[key] if row["model"] == model]
            for key in ("results", "faults", "detection", "comparisons", "clean", "costs")
        }
        lines += [*_setting(model, result["settings"], own), *_faults(result["settings"], own), *_detection(result["settings"], own)]
        lines += [*_repair(result["settings"], own), *_verdicts(result["settings"], own), *_price(result["settings"], own)]
    return lines


def _setting(model: str, settings: Row, own: Mapping[str, Sequence[Row]]) -> list[str]:
    cost = own["costs"][0]
    return [
        "",
        f"`{model}`, {settings['prefix']} cached tokens in {settings['dtype']}, blocks of {settings['size']}, {settings['trials']} faults "
        f"of each kind, each in a test text of its own, the same fault for every defence; {_count(settings['training_seeds'], 'operator')} "
        f"of each trained defence, {settings['steps']} steps. Clipping ranges come from train text, widened by "
        f"{100 * cost['clip_margin']:.0f} % of the range, the margin being chosen on validation text. A divergence is the mean over "
        f"{settings['tail']} tokens against the clean cache as stored, capped at {cost['ceiling']:.2f} nats (log of the vocabulary), which "
        "is also what an answer with logits that are not finite counts.",
    ]


def _faults(settings: Row, own: Mapping[str, Sequence[Row]]) -> list[str]:
    undefended = {row["kind"]: row for row in own["results"] if row["defence"] == "none"}
    rows = [
        (
            row["kind"],
            settings["kinds"][row["kind"]],
            f"{row['flipped_bits']:.1f}",
            f"{row['blocks_per_fault']:.2f}",
            _percent(row["with_effect"]),
            _percent(row["not_finite"]),
            _percent(1 - undefended[row["kind"]]["unchanged"]),
        )
        for row in own["faults"]
    ]
    header = (
        "fault",
        "what it is",
        "bits changed",
        "blocks to recompute",
        "changes the output",
        "output not finite",
        "greedy text changed",
    )
    harmless = [row["kind"] for row in own["faults"] if undefended[row["kind"]]["kl"]["low"] < settings["harm"]]
    said = f"Hardly any harm (lower end of the interval below {settings['harm']:g} nats without defence): {_listed(harmless)}."
    return [
        "",
        "What the faults do without defence:",
        *_grid(header, rows),
        said if harmless else "Every kind of fault does harm on average.",
    ]


def _detection(settings: Row, own: Mapping[str, Sequence[Row]]) -> list[str]:
    kinds = [row["kind"] for row in own["faults"]]
    by = {(row["kind"], row["detector"]): row for row in own["detection"]}
    detectors = list(dict.fromkeys(row["detector"] for row in own["detection"]))
    gated = [name for name in detectors if any(by[kind, name]["auc"] is not None for kind in kinds)]
    first = [
        (name, *(_percent(by[kind, name]["found"]) for kind in kinds), _percent(by[kinds[0], name]["false_alarms"], 2))
        for name in detectors
    ]
    second = [(name, *(_number(by[kind, name]["auc"]) for kind in kinds)) for name in gated]
    return [
        "",
        f"Detection: share of the struck blocks that are found. A gate's threshold is what {100 * settings['false_alarms']:g} % of clean "
        "validation blocks exceed; false alarms are counted on clean test caches.",
        *_grid(("detector", *kinds, "false alarms"), first),
        "The gate of D by token: chance that it is wider open on a damaged token than on a clean one (0.5 is blind, below it closes on "
        "damage):",
        *_grid(("gate of", *kinds), second),
        _detection_words(own, by, kinds, detectors),
    ]


def _detection_words(own: Mapping[str, Sequence[Row]], by: Mapping[Any, Row], kinds: Sequence[str], detectors: Sequence[str]) -> str:
    mean = {name: sum(by[kind, name]["found"] for kind in kinds) / len(kinds) for name in detectors}
    best = max(detectors, key=lambda name: mean[name])
    gates = [name for name in detectors if name not in ("checksum", "range")]
    words = f"Over all kinds {best} finds most ({_percent(mean[best])})"
    words += f"; the checksum {_percent(mean['checksum'])}, the range check {_percent(mean['range'])}"
    if gates:
        top = max(gates, key=lambda name: mean[name])
        words += f", the best gate ({top}) {_percent(mean[top])}"
    return words + "."


def _repair(settings: Row, own: Mapping[str, Sequence[Row]]) -> list[str]:
    kinds = [*(row["kind"] for row in own["faults"]), ALL]
    by = {(row["kind"], row["defence"]): row for row in own["results"]}
    defences = list(dict.fromkeys(row["defence"] for row in own["results"]))
    means = [(settings["defences"][name], *(_interval(by[kind, name]["kl"]) for kind in kinds)) for name in defences]
    rest = [
        (
            settings["defences"][name],
            *(_percent(by[kind, name]["unchanged"]) for kind in kinds),
            _percent(by[ALL, name]["harmed"]),
            f"{by[ALL, name]['kl_worst']:.3f}",
        )
        for name in defences
    ]
    return [
        "",
        "Repair: mean divergence in nats with its 95 % interval over faults and operators.",
        *_grid(("defence", *kinds), means),
        f"Share of trials whose {settings['greedy']} greedy tokens are those of the clean cache; share of all trials that a defence makes "
        f"worse than none by more than {settings['harm']:g} nats; worst trial.",
        *_grid(("defence", *kinds, "made worse", "worst, nats"), rest),
    ]


def _verdicts(settings: Row, own: Mapping[str, Sequence[Row]]) -> list[str]:
    kinds = list(dict.fromkeys(row["kind"] for row in own["comparisons"]))
    chosen = [row for row in own["comparisons"] if row["theirs"] in dict(SHOWN_RIVALS)]
    by = {(row["kind"], row["ours"], row["theirs"]): row for row in chosen}
    lines = []
    for rival, words in SHOWN_RIVALS[:2]:
        rows = [
            (
                settings["defences"][ours],
                *(f"{_interval(by[kind, ours, rival]['effect'], True)} {by[kind, ours, rival]['verdict']}" for kind in kinds),
            )
            for ours in dict.fromkeys(row["ours"] for row in chosen)
        ]
        lines += [
            "",
            f"Against {words}: paired difference in nats, fault by fault, with its 95 % interval; below zero the repair is better.",
        ]
        lines += _grid(("repair", *kinds), rows)
    for ours in dict.fromkeys(row["ours"] for row in chosen):
        for rival, words in SHOWN_RIVALS:
            found = {row["kind"]: row["verdict"] for row in chosen if row["ours"] == ours and row["theirs"] == rival}
            lines.append(f"- {settings['defences'][ours]} against {words}: {verdict_words(found)}")
    return lines


def verdict_words(verdicts: Mapping[str, str]) -> str:
    """`better on 2 kinds (a, b), undecided on …; over all kinds worse.` of kind → verdict."""
    parts = []
    for said in VERDICTS:
        kinds = [kind for kind, verdict in verdicts.items() if verdict == said and kind != ALL]
        if kinds:
            parts.append(f"{said} on {_count(len(kinds), 'kind')} ({', '.join(kinds)})")
    return ", ".join(parts) + (f"; over all kinds {verdicts[ALL]}." if ALL in verdicts else ".")


def _price(settings: Row, own: Mapping[str, Sequence[Row]]) -> list[str]:
    cost = own["costs"][0]
    ms, per_block = cost["ms"], cost["us_per_block"]
    looks = {"guard": ms["guard"], "clip": ms["clip"], "recompute": ms["checksum"], "zero_block": ms["checksum"]}
    rows = []
    for row in own["clean"]:
        name = row["defence"]
        step = cost["step_extra_ms"].get(name, looks.get(name, 0.0))
        if name in cost["step_extra_ms"]:
            step += ms["clip" if name.startswith("clip_") else "guard"]
        factor = row["perplexity_factor"]
        rows.append(
            (
                settings["defences"][name],
                _interval(row["kl"]),
                f"{100 * (factor['estimate'] - 1):+.3f} % ({100 * (factor['low'] - 1):+.3f} to {100 * (factor['high'] - 1):+.3f})",
                _percent(row["unchanged"]),
                f"{step:.2f}",
                _percent(cost["extra_bytes_share"].get(name, 0.0), 1),
            )
        )
    header = (
        "defence",
        "divergence, nats",
        "perplexity",
        "greedy text kept",
        "ms for one look at the whole cache",
        "bytes beside the cache",
    )
    return [
        "",
        "The price on undamaged caches, and of one look at every block (for D: what a decode step takes longer when its terms are computed "
        f"from what is stored now, as a fault after the write needs; a plain step takes {ms['step']:.2f} ms):",
        *_grid(header, rows),
        f"Per block of a layer's keys or values a checksum takes {per_block['checksum']:.0f} µs, clipping {per_block['clip']:.0f} µs. "
        f"Recomputing the last block takes {ms['prefill_block']:.2f} ms on the cache before it, a fresh prefill of everything up to it "
        f"{ms['prefill']:.2f} ms; recomputation is paid for once per fault, the looks whenever the cache is read.",
        "",
    ]


# ---- pieces


def _grid(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = ["", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def _interval(found: Mapping[str, float], signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{found['estimate']:{sign}.4f} ({found['low']:{sign}.4f} to {found['high']:{sign}.4f})"


def _percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
