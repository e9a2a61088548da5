"""The command plots: six locked files and a report, or an exit status of 1 that names what is missing (specs/medic.md, 8.7, 9)."""

from __future__ import annotations

import math
import os
import re
import shutil
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cachemedicpp import eval as evaluate
from cachemedicpp import plots, stability, train
from cachemedicpp.paper.data import (
    BEST,
    NO_CONTRACTION,
    amplification_reduction,
    cells_of,
    clean_and_speed,
    score_curves,
    score_error,
    sensitivity_curves,
)
from cachemedicpp.paper.figures import COLOURS, DPI, MAP_SIZE, SIZE
from cachemedicpp.paper.inputs import read_results
from cachemedicpp.paper.tables import ablation_table, escaped, main_table
from cachemedicpp.schemas import SCHEMAS
from helpers.medic_results import write_results
from helpers.medic_run import contents, heartbeat, heartbeats, write_config
from helpers.tiny_random import save_model
from modelwright.files import read_json, read_jsonl, write_json
from modelwright.record import read_record
from modelwright.schema_registry import json_schema

LOCKED = {
    "paper/figures/figA_score_vs_eps.png",
    "paper/figures/figB_clean_vs_overhead_pareto.png",
    "paper/figures/figC_logit_sensitivity.png",
    "paper/figures/figD_amplification_map.png",
    "paper/tables/table_main_results.tex",
    "paper/tables/table_ablation_summary.tex",
}
BY_NAME = {artifact.name: artifact for artifact in SCHEMAS}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run after the command, figures and all."""
    run = write_results(tmp_path_factory.mktemp("plots") / "a_run")
    assert plots.main(["--run_dir", str(run)]) == 0
    return run


def valid(name: str, document: Any) -> None:
    jsonschema.Draft202012Validator(json_schema(BY_NAME[name])).validate(document)


def pixels(path: Path) -> tuple[int, int, float]:
    """Width, height and dots per inch of a PNG file."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    place = data.index(b"pHYs") + 4
    return width, height, struct.unpack(">I", data[place : place + 4])[0] * 0.0254


def mean_scores(run: Path) -> Any:
    return read_results(run).metrics["score_vs_eps"]


def test_help_imports_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; from cachemedicpp import plots\n"
        "try: plots.main(['--help'])\n"
        "finally: assert not {'torch', 'matplotlib', 'pydantic'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--run_dir" in done.stdout and "Exit status" in done.stdout


def test_exactly_the_six_locked_files_are_under_paper(drawn: Path) -> None:
    assert {str(path.relative_to(drawn)) for path in (drawn / "paper").rglob("*") if path.is_file()} == LOCKED == set(plots.locked_files())
    assert (drawn / "report.html").is_file()
    for name in sorted(LOCKED):
        if name.endswith(".png"):
            width, height = MAP_SIZE if "figD" in name else SIZE
            found = pixels(drawn / name)
            assert found[:2] == (round(width * DPI), round(height * DPI)) and found[2] == pytest.approx(220, abs=0.1)


def test_curves_have_their_locked_colours(drawn: Path) -> None:
    """Pixels of every colour are really in the figures."""
    from matplotlib.image import imread

    for name, curves in (("figA_score_vs_eps", list(COLOURS)[:3]), ("figC_logit_sensitivity", list(COLOURS))):
        image = (imread(drawn / f"paper/figures/{name}.png")[..., :3] * 255).round().astype(int).reshape(-1, 3)
        for curve in curves:
            wanted = [int(COLOURS[curve][place : place + 2], 16) for place in (1, 3, 5)]
            assert (abs(image - wanted).max(axis=1) <= 2).sum() > 200, (name, curve)


def test_records_fit_their_schemas(drawn: Path) -> None:
    valid("medic-plots-heartbeat", heartbeat(drawn, "plots"))
    for beat in heartbeats(drawn, "plots"):
        valid("medic-plots-heartbeat", beat)
    (line,) = read_jsonl(drawn / "logs/plots.jsonl").records
    valid("medic-log-record", line)
    assert set(line["outputs"]) == {*LOCKED, "report.html"} and len(line["inputs"]) == 3
    record = read_record(drawn)
    assert record.kind == "cachemedicpp" and record.status == "completed"


def test_a_second_call_makes_nothing_again_and_a_changed_input_everything(drawn: Path, tmp_path: Path) -> None:
    run = shutil.copytree(drawn, tmp_path / "a_run")
    before = {name: (run / name).stat().st_mtime_ns for name in (*LOCKED, "report.html")}
    assert plots.main(["--run_dir", str(run)]) == 0
    assert heartbeat(run, "plots")["reason"] == "already_completed"
    assert {name: (run / name).stat().st_mtime_ns for name in before} == before
    (run / "paper/tables/table_main_results.tex").write_text("mine")
    assert plots.main(["--run_dir", str(run)]) == 0
    assert heartbeat(run, "plots")["reason"] == "completed" and "tabular" in (run / "paper/tables/table_main_results.tex").read_text()
    assert contents(run / "paper") == contents(drawn / "paper")  # the same inputs give the same bytes
    write_results(run, recovered=0.9)
    assert plots.main(["--run_dir", str(run)]) == 0
    assert contents(run / "paper")["figures/figA_score_vs_eps.png"] != contents(drawn / "paper")["figures/figA_score_vs_eps.png"]


def test_every_missing_input_is_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plots.main(["--run_dir", str(tmp_path / "nowhere")]) == 1
    said = capsys.readouterr().err
    assert all(name in said for name in ("task_metrics.json", "stability_metrics.json", "config_resolved.yaml")) and "Traceback" not in said
    assert not (tmp_path / "nowhere").exists()

    run = write_results(tmp_path / "half", overhead=False)
    before = contents(run)
    assert plots.main(["--run_dir", str(run)]) == 1
    said = capsys.readouterr().err
    assert "decode_overhead" in said and "eval.measure_overhead" in said and contents(run) == before
    (run / "metrics/stability_metrics.json").unlink()
    assert plots.main(["--run_dir", str(run)]) == 1
    assert "cachemedicpp.stability" in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == ["config_resolved.yaml", "metrics"]


def test_a_damaged_or_foreign_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_results(tmp_path / "run")
    path = run / "metrics/stability_metrics.json"
    document = read_json(path)
    write_json(path, {**document, "config_hash": "0" * 64})
    assert plots.main(["--run_dir", str(run)]) == 1
    assert "another configuration" in capsys.readouterr().err
    write_json(path, {**document, "metrics": {}})
    assert plots.main(["--run_dir", str(run)]) == 1
    assert "stability.logit_sensitivity" in capsys.readouterr().err
    task = read_json(run / "metrics/task_metrics.json")
    task["settings"]["repair_checkpoint"] = {"step": 4, "sha256": "a" * 64}
    write_json(run / "metrics/task_metrics.json", task)
    write_json(path, document | {"settings": document["settings"] | {"repair_checkpoint": {"step": 2, "sha256": "b" * 64}}})
    assert plots.main(["--run_dir", str(run)]) == 1
    assert "different repair checkpoints (of steps 4 and 2)" in capsys.readouterr().err and not (run / "paper").exists()


def test_without_matplotlib_nothing_is_written(tmp_path: Path) -> None:
    run = write_results(tmp_path / "run")
    before = contents(run)
    code = "import sys; sys.modules['matplotlib'] = None\nfrom cachemedicpp.plots import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, "--run_dir", str(run)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "matplotlib is missing" in done.stderr and contents(run) == before


# ---------------------------------------------------------------------- numbers


def test_points_are_those_of_the_metrics_with_their_errors(drawn: Path) -> None:
    results = read_results(drawn)
    curves, stored = score_curves(results), results.metrics["score_vs_eps"]
    assert [point.y for point in curves["cachemedic"]] == stored["cachemedic"] and [point.x for point in curves[BEST]] == stored["eps"]
    # by hand: cells of a task share their examples, tasks are independent; the score of a perplexity is its inverse
    by_task = []
    for task in ("wikitext2_ppl", "sst2_prompted"):
        cells = cells_of(results, task=task, defence="no_defense", eps=0.32)
        errors = [cell["standard_error"] / (cell["value"] ** 2 if task == "wikitext2_ppl" else 1.0) for cell in cells]
        by_task.append(sum(errors) / len(errors))
    assert len(cells) == 2
    assert curves["no_defense"][-1].error == pytest.approx(math.hypot(*by_task) / 2)
    assert score_error(results, "cachemedic", None) == pytest.approx(curves["cachemedic"][0].error)
    speed = clean_and_speed(results)
    assert speed["cachemedic"].form == "collapsed" and speed["no_defense"].form is None
    assert speed["no_defense"].tokens_per_sec == 1000.0 and speed["cachemedic"].tokens_per_sec == 1000.0 - 20 * 7
    drifts = sensitivity_curves(results)
    assert [point.x for point in drifts[NO_CONTRACTION]] == [0.0, 1.0, 2.0] and drifts[NO_CONTRACTION][1].error == 0.05
    assert [point.y for point in drifts[NO_CONTRACTION]] == pytest.approx([0.1, 1.0, 1.9])
    assert amplification_reduction(results) == [[pytest.approx(-0.2), pytest.approx(0.3), pytest.approx(0.3)]] * 2


def test_without_a_counterpart_its_curve_is_left_out(tmp_path: Path) -> None:
    run = write_results(tmp_path / "run", drift={"baseline": 1.0, "heuristics": 2.0, "cachemedic": 0.8})
    assert NO_CONTRACTION not in sensitivity_curves(read_results(run))
    assert plots.main(["--run_dir", str(run)]) == 0
    assert "No run without the contraction penalty was there" in (run / "report.html").read_text()


# ---------------------------------------------------------------------- tables


def test_tables_hold_their_rows(drawn: Path) -> None:
    results = read_results(drawn)
    main, ablation = main_table(results), ablation_table(results)
    rows = [line for line in main.splitlines() if line.endswith(r"\\")]
    assert rows[0] == r"Method & Clean Score & Robustness AUC \\" and len(rows) == 4
    area, clean = results.metrics["robustness_auc"]["cachemedic"], results.metrics["clean_regression"]["cachemedic"]
    assert rows[3] == rf"CacheMedic++ & {clean:.4f} & {area:.4f} \\"
    assert rows[2].startswith(rf"Best heuristic ({escaped(results.best_heuristic)}) & ")
    assert [line.split(" & ")[0] for line in ablation.splitlines() if line.endswith(r"\\")][1:] == [
        "family", "rank", r"apply\_to", r"lambda\_contr", r"lambda\_id",
    ]  # fmt: skip
    assert r"lambda\_contr & 0.5 \\" in ablation


def test_every_special_character_is_escaped() -> None:
    assert escaped("a_b & 50% #1 {x} $ ~ ^ \\ \n") == (r"a\_b \& 50\% \#1 \{x\} \$ \textasciitilde{} \textasciicircum{} \textbackslash{}  ")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs the pdflatex program")
def test_the_tables_compile(drawn: Path, tmp_path: Path) -> None:
    inputs = "\n\n".join(rf"\input{{{drawn / name}}}" for name in sorted(LOCKED) if name.endswith(".tex"))
    (tmp_path / "paper.tex").write_text(rf"\documentclass{{article}}\begin{{document}}{inputs}\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and (tmp_path / "paper.pdf").exists(), done.stdout[-2000:]


def test_the_tables_are_plain_tabulars(drawn: Path) -> None:
    """What LaTeX needs where it cannot be tried: as many cells as columns, balanced braces, no unescaped sign."""
    for path in (drawn / "paper/tables").iterdir():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("%")]
        columns = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", lines[0])
        assert columns and lines[-1] == r"\end{tabular}"
        for line in lines[1:-1]:
            assert line == r"\hline" or (line.endswith(r" \\") and line.count(" & ") == len(columns[1]) - 1)
            assert not re.search(r"(?<!\\)[_%#$^~{}]", line)


# ---------------------------------------------------------------------- report


def test_the_report_says_what_was_found(drawn: Path) -> None:
    text = (drawn / "report.html").read_text(encoding="utf-8")
    plain = re.sub(r"<[^>]+>", "", text)
    assert not re.search(r"<script|https?:|<img|<link", text)
    for chart in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(chart)
    assert 'class="bar s2"' in text  # error bars
    assert "Over the whole grid the repair is better than no defence" in plain
    assert "marked no_harm and count for no gate: text perplexity under Gaussian noise at 0.08 and 0.32" in plain
    assert "Text and reviews are the offline files" in plain
    assert "0.90 times as far as without defence" in plain  # (0.1 + 0.8) / 1.0
    assert "With the contraction penalty (0.5) the drift is 0.90 times that without it" in plain  # (0.1 + 0.8) / (0.1 + 0.9)
    assert "One run of one seed decides no gate" in plain and "What this does not show" in plain
    assert "Gate 1: the repair works on the first model" in plain and "Gate 2" not in plain


def test_a_harmful_repair_is_called_harmful(tmp_path: Path) -> None:
    run = write_results(tmp_path / "run", recovered=-0.5, clean_cost=0.5)
    assert plots.main(["--run_dir", str(run)]) == 0
    plain = re.sub(r"<[^>]+>", "", (run / "report.html").read_text(encoding="utf-8"))
    assert "Over the whole grid the repair is worse than no defence" in plain
    assert "Not met: some task at epsilon &gt;= 0.08 beats the best heuristic" in plain


@pytest.mark.needs_chromium
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the chromium program")
@pytest.mark.parametrize("width", [1280, 500])
def test_the_report_fits_a_browser(drawn: Path, tmp_path: Path, width: int) -> None:
    """Chromium lays the page out without a horizontal scroll bar: wide tables scroll inside their own box."""
    probe = "<script>document.title = [document.documentElement.scrollWidth, innerWidth].join(' ')</script>"
    page = tmp_path / "page.html"
    page.write_text((drawn / "report.html").read_text(encoding="utf-8").replace("</body>", f"{probe}</body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    done = subprocess.run(["chromium", *flags, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True, timeout=300)
    found = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert found and int(found[1]) <= int(found[2]), found


# ---------------------------------------------------------------------- end to end


def test_a_real_run_from_training_to_figures(tmp_path: Path) -> None:
    """Train, evaluate, measure, draw: gate 1's figures exist, and every phase left its record."""
    save_model(tmp_path / "model")
    small = {
        "train.steps": 2,
        "eval.tasks": [{"name": "wikitext2_ppl", "num_examples": 4}],
        "eval.corruption_eval.eps": [0, 0.3],
        "eval.corruption_eval.types": ["gaussian"],
        "eval.max_seq_len": 96,
        "stability.num_prompts": 2,
        "stability.delta_norms": [0, 1.0],
    }
    config = write_config(tmp_path / "config.yaml", tmp_path / "model", small)
    run = tmp_path / "run"
    flags = ["--config", str(config), "--run_dir", str(run)]
    assert train.main(flags) == evaluate.main(flags) == stability.main(flags) == 0
    assert plots.main(["--run_dir", str(run)]) == 0
    assert {str(path.relative_to(run)) for path in (run / "paper").rglob("*") if path.is_file()} == LOCKED
    record = read_record(run)
    assert record.config is not None and record.config["model"]["name"] == str(tmp_path / "model")  # plots changes no record
    assert yaml.safe_load((run / "config_resolved.yaml").read_text())["train"]["steps"] == 2
    assert os.path.getsize(run / "report.html") > 10_000
