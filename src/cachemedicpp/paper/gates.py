"""Gates 1 to 3, decided over many runs of different seeds: does the repair work, does it generalise, does it carry over?

    gates = decide_gates(main=[…], held_out=[…], second=[…])      # run directories that eval and stability have finished
    write_text(path, gates_markdown(gates));  write_json(path, gates_document(gates))

A number is taken from each run, and its mean over the seeds gets a bootstrap interval; every number is a comparison within
one run or of two runs of one seed, so the interval is a paired one. `pass`: the whole interval lies on the right side of the
limit. `fail`: the whole interval lies on the other side. Else, and always with fewer than `MIN_SEEDS` seeds, `undecided`.
Only cells in which the undefended model is harmed in every run count. (specs/medic.md, 10; [C25]) Needs numpy, no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cachemedicpp.evaluation.grid import NO_DEFENCE, REPAIR
from cachemedicpp.evaluation.outcomes import PERPLEXITY_TASKS
from cachemedicpp.paper.data import BEST, NO_CONTRACTION
from cachemedicpp.paper.gate_readings import Place, Reading, read_runs
from cachemedicpp.paper.gate_rules import MIN_SEEDS, Clause, Gate, Row, Verdict, clause_of, row_of
from modelwright.errors import UsageError

SMALLEST_EPSILON = 0.08
PERPLEXITY_RISE, ACCURACY_DROP = 1.5, 1.0
"""The largest clean cost, in percent and in points."""
CONTRACTION_DELTAS = (1.0, 2.0)
LARGE_DELTA = 1.0
TYPES_NEEDED = 2
_WORDS = {REPAIR: "repaired", NO_DEFENCE: "undefended", NO_CONTRACTION: "repaired without contraction"}


def decide_gates(
    main: Sequence[Path | str], held_out: Sequence[Path | str] = (), second: Sequence[Path | str] = (), *, minimum: int = MIN_SEEDS
) -> tuple[Gate, ...]:
    """Gates 1, 2 and 3.

    main: runs without a held-out type; held_out: leave-one-type-out runs, with and without the contraction penalty; second:
    runs of another model. Runs with lambda_contr = 0 serve as counterparts. minimum: seeds that a decision needs. Raises
    MissingFileError naming every missing file, UsageError for two runs of one kind and seed.
    """
    return (
        gate_one(_with_penalty(read_runs(main), "main"), minimum=minimum),
        gate_two(read_runs(held_out), minimum=minimum),
        gate_three(_with_penalty(read_runs(second), "second"), minimum=minimum),
    )


# ---------------------------------------------------------------------- the gates


def gate_one(runs: Sequence[Reading], *, minimum: int = MIN_SEEDS) -> Gate:
    """The repair beats the best heuristic somewhere, costs little on clean caches, and contraction lowers the sensitivity."""
    without = [run.run_id for run in runs if not run.has_figures]
    verdict: Verdict = "not measured" if not runs else "fail" if without else "pass"
    figures = Clause("figures A, B and C exist", (), None, verdict, f"missing in {', '.join(without)}" if without else "")
    deltas = [_ratio(runs, REPAIR, NO_CONTRACTION, delta, minimum) for delta in CONTRACTION_DELTAS]
    note = "" if any(deltas) else "no run without the penalty was measured beside these"
    contraction = clause_of("contraction lowers the sensitivity at delta 1 or 2", deltas, 1, note)
    clauses = (
        figures,
        _beats_best_heuristic(runs, minimum),
        _clean_perplexity(runs, minimum),
        _clean_sentiment(runs, minimum),
        contraction,
    )
    return Gate(1, "the repair works on the first model", clauses, _seeds(runs))


def gate_two(runs: Sequence[Reading], *, minimum: int = MIN_SEEDS) -> Gate:
    """Some held-out type improves by contraction, and the repaired sensitivity lies below the baseline for delta >= 1."""
    gains, ratios, notes = [], [], []
    for split in sorted({run.held_out for run in runs if run.held_out is not None}):
        ours = _by_seed([run for run in runs if run.held_out == split and run.lambda_contr > 0], split)
        theirs = _by_seed([run for run in runs if run.held_out == split and run.lambda_contr == 0], f"{split} with lambda_contr 0")
        both = sorted(ours.keys() & theirs.keys())
        harmed = _harmed_in_all([*(ours[seed] for seed in both), *(theirs[seed] for seed in both)])
        if both and harmed:
            values = {seed: ours[seed].relative_score(REPAIR, harmed) - theirs[seed].relative_score(REPAIR, harmed) for seed in both}
            gains.append(row_of(f"{split}: relative score, contraction minus none, {_listed(harmed)}", values, "above", 0.0, "", minimum))
        else:
            notes.append(f"{split}: " + ("no cell is harmed in every run" if both else "no pair of runs with and without contraction"))
        for delta in _large_deltas(ours.values()):
            row = _ratio(list(ours.values()), REPAIR, NO_DEFENCE, delta, minimum, f"{split}: ")
            ratios += [row] if row else []
    clauses = (
        clause_of("a held-out type improves over lambda_contr = 0", gains, 1, "; ".join(notes)),
        clause_of("the repaired sensitivity is below the undefended one at every delta from 1", ratios, None, ""),
    )
    return Gate(2, "the repair helps with a type it was not trained on", clauses, _seeds(runs))


def gate_three(runs: Sequence[Reading], *, minimum: int = MIN_SEEDS) -> Gate:
    """On the second model the curve improves over no defence under two types, and the sensitivity is reduced."""
    harmed, gains, spared = _harmed_in_all(runs), [], []
    for kind in sorted({place[1] for run in runs for place in run.places}):
        places = [place for place in harmed if place[1] == kind]
        if not places:
            spared.append(kind)
            continue
        values = {run.seed: run.relative_score(REPAIR, places) - run.relative_score(NO_DEFENCE, places) for run in runs}
        gains.append(row_of(f"{kind}: relative score, repaired minus undefended", values, "above", 0.0, "", minimum))
    note = f"no cell is harmed in every run: {', '.join(spared)}" if spared else ""
    ratios = [_ratio(runs, REPAIR, NO_DEFENCE, delta, minimum) for delta in _large_deltas(runs)]
    clauses = (
        clause_of("the curve improves under at least two types", gains, TYPES_NEEDED, note),
        clause_of("the repaired sensitivity is below the undefended one at every delta from 1", ratios, None, ""),
    )
    return Gate(3, "the repair works on a second model", clauses, _seeds(runs))


# ---------------------------------------------------------------------- clauses of gate 1


def _beats_best_heuristic(runs: Sequence[Reading], minimum: int) -> Clause:
    harmed, rows, spared = _harmed_in_all(runs), [], []
    for task, eps in dict.fromkeys((place[0], place[2]) for run in runs for place in run.places if place[2] >= SMALLEST_EPSILON):
        places = [place for place in harmed if (place[0], place[2]) == (task, eps)]
        if not places:
            spared.append(f"{task} at {eps:g}")
            continue
        values = {run.seed: _mean(run.scores[REPAIR][place] - run.scores[BEST][place] for place in places) for run in runs}
        what = f"{task} at epsilon {eps:g}: score, repaired minus best heuristic, {_listed(places)}"
        rows.append(row_of(what, values, "above", 0.0, "", minimum))
    note = f"not harmed in every run, so left out: {', '.join(spared)}" if spared else ""
    return clause_of(f"some task at epsilon >= {SMALLEST_EPSILON:g} beats the best heuristic", rows, 1, note)


def _clean_perplexity(runs: Sequence[Reading], minimum: int) -> Clause:
    rows = []
    for task in PERPLEXITY_TASKS:
        values = {run.seed: 100.0 * (run.clean[task][REPAIR] / run.clean[task][NO_DEFENCE] - 1.0) for run in runs if _both(run, task)}
        rows += [row_of(f"{task}: clean rise", values, "at most", PERPLEXITY_RISE, "%", minimum)] if values else []
    return clause_of(f"clean perplexity rises by at most {PERPLEXITY_RISE:g} %", rows, None, "")


def _clean_sentiment(runs: Sequence[Reading], minimum: int) -> Clause:
    task = "sst2_prompted"
    values = {run.seed: 100.0 * (run.clean[task][NO_DEFENCE] - run.clean[task][REPAIR]) for run in runs if _both(run, task)}
    rows = [row_of(f"{task}: clean drop", values, "at most", ACCURACY_DROP, "points", minimum)] if values else []
    return clause_of(f"clean SST-2 accuracy drops by at most {ACCURACY_DROP:g} point", rows, None, "")


def _both(run: Reading, task: str) -> bool:
    return task in run.clean and {NO_DEFENCE, REPAIR} <= run.clean[task].keys()


def _ratio(runs: Sequence[Reading], ours: str, theirs: str, delta: float, minimum: int, prefix: str = "") -> Row | None:
    """Ratio of two sensitivities of each run at `delta`, which shall lie below 1; None where no run has both."""
    values = {
        run.seed: run.drift[ours][delta].value / run.drift[theirs][delta].value
        for run in runs
        if delta in run.drift[ours] and delta in run.drift[theirs] and run.drift[theirs][delta].value > 0
    }
    return (
        row_of(f"{prefix}delta {delta:g}: sensitivity, {_WORDS[ours]} / {_WORDS[theirs]}", values, "below", 1.0, "", minimum)
        if values
        else None
    )


# ---------------------------------------------------------------------- runs and cells


def _with_penalty(runs: Sequence[Reading], kind: str) -> list[Reading]:
    """The runs trained with the contraction penalty, one per seed and all of one model."""
    models = sorted({run.model for run in runs})
    if len(models) > 1:
        raise UsageError(f"The runs of {kind} are of different models ({', '.join(models)}); a gate is decided for one.")
    return list(_by_seed([run for run in runs if run.lambda_contr > 0], kind).values())


def _by_seed(runs: Iterable[Reading], kind: str) -> dict[int, Reading]:
    found: dict[int, Reading] = {}
    for run in runs:
        if run.seed in found:
            raise UsageError(f"Two runs of {kind} have seed {run.seed}: {found[run.seed].run_id} and {run.run_id}; give one of them.")
        found[run.seed] = run
    return found


def _seeds(runs: Iterable[Reading]) -> tuple[int, ...]:
    return tuple(sorted({run.seed for run in runs}))


def _harmed_in_all(runs: Sequence[Reading]) -> list[Place]:
    """The cells that every run measured and in which every run's undefended model was harmed, in grid order."""
    return [place for place in runs[0].places if all(place in run.harmed for run in runs)] if runs else []


def _large_deltas(runs: Iterable[Reading]) -> list[float]:
    return sorted({delta for run in runs for delta in run.drift[NO_DEFENCE] if delta >= LARGE_DELTA})


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _listed(places: Iterable[Place]) -> str:
    """The corruption types of some cells."""
    return ", ".join(dict.fromkeys(kind for _, kind, _ in places))


# ---------------------------------------------------------------------- documents


def gates_document(gates: Sequence[Gate]) -> list[dict[str, Any]]:
    """The gates as JSON values."""
    return [gate.as_dict() for gate in gates]


def gates_markdown(gates: Sequence[Gate]) -> str:
    """One table for all gates: a line per clause, and one per number that it rests on."""
    lines = ["| Gate | Requirement | Mean over seeds [95 % interval] | Seeds | Limit | Verdict |", "|---|---|---|---|---|---|"]
    for gate in gates:
        lines.append(f"| **{gate.number}** | **{gate.title}** | | {len(gate.seeds)} | | **{gate.verdict}** |")
        for clause in gate.clauses:
            note = f" ({clause.note})" if clause.note else ""
            lines.append(f"| {gate.number} | {clause.name}{note} | | | {_needed(clause)} | {clause.verdict} |")
            lines += [
                f"| | {row.what} | {_shown(row)} | {len(row.values)} | {row.side} {row.limit:g} | {row.verdict} |" for row in clause.rows
            ]
    return "\n".join(lines) + "\n"


def _needed(clause: Clause) -> str:
    return "" if len(clause.rows) < 2 else "all" if clause.needed is None else f"at least {clause.needed}"


def _shown(row: Row) -> str:
    unit = f" {row.unit}" if row.unit else ""
    return f"{row.effect.estimate:.4g}{unit} [{row.effect.low:.4g}, {row.effect.high:.4g}]"
