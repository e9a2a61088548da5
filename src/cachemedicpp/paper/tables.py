r"""The two locked LaTeX tables: plain `tabular`, no package needed, ready for `\input`. (specs/medic.md, 9)"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cachemedicpp.evaluation.records import CURVES
from cachemedicpp.paper.data import defence_of, shown_name
from cachemedicpp.paper.inputs import RunResults

MAIN = "paper/tables/table_main_results.tex"
ABLATION = "paper/tables/table_ablation_summary.tex"
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
}


def draw_tables(results: RunResults) -> dict[str, bytes]:
    """Both tables in UTF-8, by their names within the run directory."""
    return {MAIN: main_table(results).encode(), ABLATION: ablation_table(results).encode()}


def main_table(results: RunResults) -> str:
    """Clean score and robustness AUC of no defence, the best heuristic (named) and the repair."""
    clean, areas = results.metrics["clean_regression"], results.metrics["robustness_auc"]
    rows = [
        [shown_name(results, curve), _four_decimals(clean.get(defence_of(results, curve))), _four_decimals(areas.get(curve))]
        for curve in CURVES
    ]
    return _tabular(results, ("Method", "Clean Score", "Robustness AUC"), rows, "lrr")


def ablation_table(results: RunResults) -> str:
    """The five settings by which ablations differ."""
    repair, train = results.config.repair, results.config.train
    rows = [
        ["family", repair.family],
        ["rank", str(repair.rank)],
        ["apply_to", repair.apply_to],
        ["lambda_contr", f"{train.lambda_contr:g}"],
        ["lambda_id", f"{train.lambda_id:g}"],
    ]
    return _tabular(results, ("Setting", "Value"), rows, "ll")


def escaped(text: str) -> str:
    """`text` with every character that LaTeX would read as a command made harmless; control characters become blanks."""
    return "".join(_SPECIAL.get(sign, sign) for sign in re.sub(r"[\x00-\x1f\x7f]", " ", text))


def _tabular(results: RunResults, header: Sequence[str], rows: Sequence[Sequence[str]], columns: str) -> str:
    lines = [" & ".join(map(escaped, row)) + r" \\" for row in (header, *rows)]
    run = re.sub(r"[^\x20-\x7e]", "?", results.run_id)
    head = f"% run {run}, configuration {results.config_hash[:12]}, written by python -m cachemedicpp.plots"
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\hline", lines[0], r"\hline", *lines[1:], r"\hline", r"\end{tabular}"]
    return "\n".join([head, *body]) + "\n"


def _four_decimals(value: float | None) -> str:
    return "--" if value is None else f"{value:.4f}"
