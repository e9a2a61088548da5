"""`autotune --html`: the page of a run says what its rows say, holds nothing live, and is there for every way a run can end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from helpers.tuning import Behaviour, Bench, Tuned, scripted_world, write_script
from macprovider.autotune.arguments import WrongArguments, parse
from macprovider.autotune.experiments.command import parse_experiment
from macprovider.autotune.experiments.runs import body
from macprovider.autotune.options import Inputs
from macprovider.autotune.outcome import SetupError
from macprovider.autotune.plan import Knobs
from macprovider.autotune.records import stored
from macprovider.autotune.records.database import TrialValues, TuningDatabase
from macprovider.autotune.records.machine import Machine
from macprovider.autotune.records.measured import measured
from macprovider.autotune.records.page import tuning_page
from macprovider.autotune.records.recommendation import document
from macprovider.autotune.run import execute, tune
from macprovider.autotune.session import World
from modelwright.report import number

X, Y, Z = "o/X-7B", "o/Y-3B", "o/Z-1B"
LIST = ("--candidate-models", f"{X},{Y},{Z}")
AXES = ("--kv-bits-axis", "unset,8", "--max-batch-axis", "1,2", "--stage2-replicates", "3")
NASTY = 'o/<script>alert("1")</script>&-7B'


class Page(HTMLParser):
    """A page taken apart: its tables as rows of texts by the heading they stand under, its figures by their title, all of its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self._heading, self._cell = "", False
        self.feed(text)
        self.close()
        assert self.open == []
        self.figures = {
            re.search(r'aria-label="([^"]*)"', figure)[1]: figure  # type: ignore[index]
            for figure in re.findall(r"<figure>.*?</figure>", text, re.DOTALL)
            if "aria-label" in figure
        }

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)
        if tag == "h2":
            self._heading = ""
        if tag == "table":
            self.tables.setdefault(self._heading, [])
        if tag == "tr":
            self.tables[self._heading].append([])
        if tag in ("td", "th"):
            self.tables[self._heading][-1].append("")
            self._cell = True

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open[-1:] == ["h2"]:
            self._heading += data
        if self._cell:
            self.tables[self._heading][-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")

    def rows(self, heading: str) -> list[dict[str, str]]:
        """The first table under a heading, as a mapping for each row."""
        head, *rows = self.tables[heading]
        return [dict(zip(head, row, strict=True)) for row in rows]


def checked(text: str) -> Page:
    """The page, after what holds for every one."""
    page = Page(text)
    assert not re.search(r"https?://|<script|//[a-z]|url\(|@import|javascript:", text)
    assert not {"script", "img", "link", "iframe", "object", "embed", "base", "a", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href") or name.startswith("on")]
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
    for _, x in re.findall(r'\b(x|cx)="(-?[\d.]+)"', text):
        assert 0 <= float(x) <= 360
    assert not re.search(r' (?:d|x|y|cx|cy|width|height)="[^"]*(?:nan|inf)', text)
    return page


def marks(figure: str) -> list[tuple[str, float, str]]:
    """Every mark of a chart: the first letters of its class, where it stands across, and what it says."""
    dots = re.findall(r'<circle class="([^"]+)" cx="([\d.]+)"[^>]*><title>([^<]*)</title>', figure)
    shapes = re.findall(r'<path class="(line[^"]+|dot[^"]+)" d="M([\d.]+) [^"]*"><title>([^<]*)</title>', figure)
    return [(kind, float(x), words) for kind, x, words in (*dots, *shapes)]


def held(row: Mapping[str, Any]) -> list[float]:
    return [replicate["tps"] for replicate in json.loads(row["measured_json"])["replicates"]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, monkeypatch, capsys)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


def stage(done: Tuned, number_of: int) -> list[dict[str, Any]]:
    return [row for row in done.trials if row["stage"] == number_of]


# --- what a whole run's page says


def test_the_tables_and_the_plots_say_what_the_rows_say(bench: Bench, file: Path) -> None:
    behaviours: dict[str, Behaviour] = {X: {"exit_in_load": 1, "log": "RuntimeError: cannot load"}, f"{Y} 8 2 256": {"fail_at": [3]}}
    done = bench.tune(behaviours, *LIST, *AXES, "--html", str(file))
    assert done.code == 0 and f"report: {file}\n" in done.err
    page, recommended = checked(file.read_text()), done.document["recommendation"]
    assert recommended["serve_command"] in page.text and f"autotune --candidate-models {Z}" in page.text
    assert number(recommended["tps_median"], 4) in page.text and done.run["recipe_hash"] in page.text
    assert done.document["machine"]["chip"] in page.text

    first = page.rows("Stage 1: which model")
    assert [(row["rank"], row["model"], row["verdict"]) for row in first] == [
        ("1", X, "does not fit"), ("2", Y, "fits"), ("3", Z, "not tried"),
    ]  # fmt: skip
    load_s = json.loads(done.trials[1]["measured_json"])["load_s"]
    assert first[1]["load, s"] == number(load_s, 4) and first[2]["weights"] == "about 2.0 GB"
    assert done.trials[0]["notes"] in page.text

    rows, cells = page.rows("Stage 2: which settings"), stage(done, 2)
    assert len(rows) == len(cells) == 4
    for shown, row in zip(rows, cells, strict=True):
        assert shown["kv bits"] == ("unset" if row["kv_bits"] is None else str(row["kv_bits"]))
        assert (shown["batch"], shown["context"]) == (str(row["max_batch"]), str(row["max_context_cap"]))
        assert shown["tokens/s"] == number(row["agg_throughput_tps"], 4)
        assert shown["first token p95, ms"] == number(row["ttft_p95_ms"], 4)
        assert (shown["verdict"], shown["kept"]) == ("fits" if row["fits"] else "does not fit", "kept" if row["kept"] else "")
        assert shown["cache, bytes per token"] == "64"
        rates = [rate for rate in held(row) if rate is not None]
        assert shown["least to most"] == f"{number(min(rates), 4)} to {number(max(rates), 4)}"
        assert number(median(rates), 4) == shown["tokens/s"]
    assert sum(row["kept"] == "kept" for row in rows) == 1 and rows[3]["requests"] == "3, 1 failed"
    assert cells[3]["notes"] in page.text


def test_the_throughput_plot_has_every_request_the_tie_band_and_the_winner(bench: Bench, file: Path) -> None:
    behaviours: dict[str, Behaviour] = {f"{X} 8 1 256": {"token_s": 0.02}, f"{X} 8 2 256": {"status": 500}}
    done = bench.tune(behaviours, "--candidate-models", X, *AXES, "--tps-tie-epsilon", "0.05", "--html", str(file))
    figure, cells = checked(file.read_text()).figures["Tokens per second of each cell"], stage(done, 2)
    drawn = marks(figure)
    fitting = [row for row in cells if row["fits"]]
    assert sum("request" in words for _, _, words in drawn) == sum(len(held(row)) for row in fitting) == 9

    places = {words: x for _, x, words in drawn}
    slow, fast = cells[2], max(fitting, key=lambda row: row["agg_throughput_tps"])

    def label(row: Mapping[str, Any]) -> str:
        return f"kv {row['kv_bits'] or 'unset'}, batch {row['max_batch']}, median: {number(row['agg_throughput_tps'], 4)}"

    span = fast["agg_throughput_tps"] - slow["agg_throughput_tps"]
    scale = (places[label(fast)] - places[label(slow)]) / span
    band = re.search(r'<rect class="h3" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', figure)
    assert band is not None and scale > 0
    assert float(band[1]) + float(band[2]) == pytest.approx(places[label(fast)], abs=0.1)  # it ends at the fastest
    assert float(band[2]) == pytest.approx(0.05 * fast["agg_throughput_tps"] * scale, abs=0.1)
    for row in fitting:  # every dot of a cell stands where its request's rate belongs
        dots = sorted(x for _, x, words in drawn if words.startswith(f"kv {row['kv_bits'] or 'unset'}, batch {row['max_batch']}, request"))
        wanted = sorted(places[label(slow)] + (rate - slow["agg_throughput_tps"]) * scale for rate in held(row))
        assert dots == pytest.approx(wanted, abs=0.2)

    (kept,) = (row for row in cells if row["kept"])
    assert [words for kind, _, words in drawn if "winner" in kind] == [label(kept)]
    assert ">recommended</text>" in figure and ">not measured</text>" in figure and ">does not fit</text>" in figure
    numbers = figure[figure.index("<details>") :]
    assert all(number(rate, 4) in numbers for row in fitting for rate in held(row))  # the same without eyes


def test_a_gate_nearby_is_a_line_and_a_far_one_is_named(bench: Bench, file: Path) -> None:
    title = "Time to the first token of each cell"
    near = bench.tune({X: {"first_s": 0.2}}, "--candidate-models", X, "--gate-ttft-ms", "600", "--html", str(file))
    figure = checked(file.read_text()).figures[title]
    line = re.search(r'<path class="line s1" d="M([\d.]+) ', figure)
    (row,) = stage(near, 2)
    (mark,) = (x for kind, x, words in marks(figure) if "winner" in kind)
    assert line is not None and float(line[1]) > mark and "gate 600 ms" in figure
    assert number(row["ttft_p95_ms"], 4) in figure
    bench.tune({}, "--candidate-models", X, "--html", str(file))
    figure = checked(file.read_text()).figures[title]
    assert 'class="line s1"' not in figure and "gate 60\u202f000 ms, far beyond this edge" in figure


def test_memory_of_the_cache_is_drawn_only_where_cells_differ(bench: Bench, file: Path) -> None:
    title = "Tokens per second against memory of the cache"
    done = bench.tune({}, "--candidate-models", X, "--max-batch-axis", "1,2", "--html", str(file))
    figure = checked(file.read_text()).figures[title]
    assert all(row["fits"] for row in done.trials) and "full KV cache, kB" in figure
    assert {words.split(":")[1].split(" at ")[1] for _, _, words in marks(figure)} == {number(64 * 256 / 1e3, 4), number(64 * 512 / 1e3, 4)}
    bench.tune({}, "--candidate-models", X, "--html", str(file))
    assert title not in checked(file.read_text()).figures


def test_the_stored_newest_run_gives_the_same_page(bench: Bench, file: Path) -> None:
    bench.tune({Y: {"exit_in_load": 1}}, "--candidate-models", f"{Y},{Z}", *AXES, "--html", str(file))
    again = file.with_name("again.html")
    told = bench.command("--report-only", "--db-path", str(bench.database), "--html", str(again))
    assert told.code == 0 and told.err.strip() == f"report: {again}" and "RECOMMENDATION" in told.out
    assert again.read_text() == file.read_text() and "serve o/Z-1B" in again.read_text()


# --- the other ends


def test_nothing_fits(bench: Bench, file: Path) -> None:
    done = bench.tune({X: {"exit_in_load": 1}, Y: {"status": 500}, Z: {"pull": 4, "pull_log": "no network"}}, *LIST, "--html", str(file))
    page = checked(file.read_text())
    assert done.code == 3 and "Autotune: no recommendation" in page.text
    assert f"The smallest one, {Z}: pre-warm transient: no network" in page.text
    assert [row["verdict"] for row in page.rows("Stage 1: which model")] == ["does not fit", "does not fit", "not fetched"]
    assert all(row["notes"] in page.text for row in done.trials) and page.figures == {} and "--apply" not in page.text


def test_a_model_that_fits_without_a_cell_that_does(bench: Bench, file: Path) -> None:
    done = bench.tune({f"{X} unset 1 256": {"slots": 9}}, "--candidate-models", X, "--html", str(file))
    page = checked(file.read_text())
    assert done.code == 3 and f"{X} fits, but none of its settings could be served: knob not in effect" in page.text
    assert page.rows("Stage 2: which settings")[0]["verdict"] == "does not fit" and "No value was measured" in page.text


def interrupted(bench: Bench, at: str, *flags: str) -> Tuned:
    """A run that gets SIGINT when the candidate `model batch` is about to start."""
    scripted = scripted_world(write_script(bench.script, {}))

    def serve(model: str, knobs: Knobs, port: int, config: Path, engine: str) -> list[str]:
        if f"{model} {knobs.max_batch}" == at:
            os.kill(os.getpid(), signal.SIGINT)
        return list(scripted.serve(model, knobs, port, config, engine))

    return bench.outcome(tune(parse(bench.flags(*flags))[0], World(serve, scripted.pull, scripted.conflicts)))


def test_a_partial_run_says_so_first(bench: Bench, file: Path) -> None:
    done = interrupted(bench, f"{X} 2", "--candidate-models", X, "--max-batch-axis", "1,2,3", "--html", str(file))
    page = checked(file.read_text())
    assert done.code == 130 and done.document["recommendation"]["partial"] is True
    lead = page.text[page.text.index("Partial: the run ended early (interrupted)") :]
    assert "It is best served" in lead and "--apply" not in page.text and "never written into the settings file" in page.text
    assert ">best so far</text>" in file.read_text() and ">recommended</text>" not in file.read_text() and "no end was written" in page.text
    rows = page.rows("Stage 2: which settings")
    assert [(row["kept"], row["verdict"]) for row in rows] == [("best so far", "fits"), ("", "not finished")]


def test_an_interrupted_run_without_a_model_recommends_nothing(bench: Bench, file: Path) -> None:
    done = interrupted(bench, f"{X} 1", *LIST, "--html", str(file))
    page = checked(file.read_text())
    assert done.code == 130 and "The run was interrupted before a model was chosen." in page.text and "Serve it" not in page.text
    assert [row["verdict"] for row in page.rows("Stage 1: which model")] == ["not finished", "not tried", "not tried"]


def test_a_conflict_and_wrong_weights_have_their_page_too(bench: Bench, file: Path) -> None:
    from macprovider.autotune.live.conflicts import Conflict

    live = Conflict("foreground", "foreground-PID-4711", 4711, argv=("macprovider-cli", "serve"), program="macprovider-cli")
    assert bench.tune({}, *LIST, "--html", str(file), conflicts=lambda port: [live]).code == 4
    assert "Another provider or another tuning run was in the way." in checked(file.read_text()).text
    assert bench.tune({X: {"pull": 7, "pull_log": "a wrong digest."}}, *LIST, "--html", str(file)).code == 7
    page = checked(file.read_text())
    assert f"must not be served. {X}: pre-warm integrity: a wrong digest." in page.text
    assert page.rows("Stage 1: which model")[0]["verdict"] == "wrong weights"


def test_an_experiment_shows_what_it_found(bench: Bench, file: Path) -> None:
    words = ["kv-axis", *bench.flags("--kv-bits-axis", "unset,8", "--candidate-models", f"{X},{Y}", "--html", str(file))]
    options, plan = parse_experiment(words)
    done = bench.outcome(execute(options, scripted_world(write_script(bench.script, {})), body(plan), plan.name))
    page = checked(file.read_text())
    assert done.code == 0 and f"report: {file}" in done.err and "Autotune experiment: kv-axis" in page.text
    assert done.document["finding"]["advice"] in page.text and "recommends nothing" in page.text and "Serve it" not in page.text
    rows = page.rows("Stage 2: which settings")
    assert [(row["model"], row["kv bits"]) for row in rows] == [(X, "unset"), (X, "8"), (Y, "unset"), (Y, "8")]
    assert "h3" not in page.figures["Tokens per second of each cell"], "speeds of two models are never compared"
    assert ">X-7B</text>" in page.figures["Tokens per second of each cell"] and "winner" not in file.read_text()


# --- rows as they may be


def stored_run(folder: Path, cells: Sequence[tuple[Knobs, TrialValues]], models: Sequence[str] = (X,), chip: str = "A chip") -> str:
    """The page of a run with these cells, of the models in turn, in a real database; nothing is recommended."""
    database = TuningDatabase(folder / "rows.sqlite")
    inputs = Inputs(256, tuple(models), 1, 3, 60000, 0.02, "transformers")
    database.begin_run("r", inputs, Machine(16, chip, "an <b>OS</b>", "1.4.0"))
    for place, (knobs, values) in enumerate(cells):
        database.end_trial(database.begin_trial("r", 2, models[place % len(models)], knobs, 256, 8), values)
    database.end_run("r", "interrupted")
    run, trials = database.run("r"), database.trials("r")
    database.close()
    return tuning_page(document(run, trials, folder / "rows.sqlite"), run, trials)


def values(notes: str = "", quality: Any = None, **more: Any) -> TrialValues:
    limits = {"min_agreement": 0.9, "max_kl": 0.02}
    replicate = {"ttft_ms": 100.0, "seconds": 1.0, "tps": 10.0}
    held = {"replicates": [replicate], "load_s": 1.5, "engine": {"context": 256}, "quality": quality, "quality_limits": limits, **more}
    return TrialValues(not notes, notes, 0, 1, 100, 10.0, 100.0, held)


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    cells = [(Knobs(None, 1, 256), values(f"provider exited: {NASTY}")), (Knobs(8, 1, 256), values())]
    page = checked(stored_run(tmp_path, cells, [NASTY, "o/<b>&-1B"], NASTY))
    assert page.text.count('<script>alert("1")</script>') >= 3 and "an <b>OS</b>" in page.text and "b" not in page.tags
    assert f"provider exited: {NASTY}" in page.text and page.text.count("<b>&-1B") >= 4  # tables and charts
    assert [row["model"] for row in page.rows("Stage 2: which settings")] == [NASTY, "o/<b>&-1B"]


def test_quality_stands_against_its_limits(tmp_path: Path) -> None:
    good = {"prompts": 12, "same": 12, "agreement": 1.0, "kept": 1.0, "kl": 0.005, "compared": 9}
    poor = {"prompts": 12, "same": 6, "agreement": 0.5, "kept": 0.7, "kl": 0.03, "compared": 9}
    refused = values("quality below the gate: 6 of 12 greedy answers the same", poor)
    rows = [(Knobs(None, 1, 256), values()), (Knobs(8, 1, 256), values("", good)), (Knobs(8, 2, 256), values("", good))]
    page = checked(stored_run(tmp_path, [*rows, (Knobs(4, 1, 256), refused)]))
    assert [(row["answers the same"], row["KL, nats"]) for row in page.rows("Stage 2: which settings")] == [
        ("–", "–"), ("12 of 12", "0.0050"), ("12 of 12", "0.0050"), ("6 of 12", "0.030"),
    ]  # fmt: skip
    agreement = page.figures["Greedy answers that are the same as with the unquantised cache"]
    kl = page.figures["Divergence of the next token from the unquantised cache"]
    for figure, axis, wanted in ((agreement, (0.5, 1.0), 0.9), (kl, (0.005, 0.03), 0.02)):
        drawn = {words.split(",")[0]: (kind, x) for kind, x, words in marks(figure)}
        assert set(drawn) == {"kv 8", "kv 4"}, "one strip for a setting, and none for the cache that all are compared with"
        assert "s5" in drawn["kv 4"][0] and "s0" in drawn["kv 8"][0]
        line = re.search(r'<path class="line s1" d="M([\d.]+) ', figure)
        low, high = sorted((drawn["kv 8"][1], drawn["kv 4"][1]))
        assert line is not None
        assert float(line[1]) == pytest.approx(low + (high - low) * (wanted - axis[0]) / (axis[1] - axis[0]), abs=0.2)
    assert "limit: at least 0.9" in agreement and "limit: at most 0.02" in kl


def test_an_engine_without_probabilities_has_no_plot_of_divergence(tmp_path: Path) -> None:
    found = {"prompts": 12, "same": 12, "agreement": 1.0, "kept": 1.0, "kl": None, "compared": 0}
    page = checked(stored_run(tmp_path, [(Knobs(8, 1, 256), values("", found))]))
    assert [title for title in page.figures if "Divergence" in title or "Greedy" in title] == [
        "Greedy answers that are the same as with the unquantised cache"
    ]


def test_memory_and_a_repair_are_shown_where_there_are_any(tmp_path: Path) -> None:
    memory = {"predicted_bytes": 3_000_000, "peak_bytes": 5_500_000}
    page = checked(stored_run(tmp_path, [(Knobs(8, 1, 256, "/runs/a/repair_step_500.pt"), values(memory=memory)), (Knobs(8), values())]))
    first, second = page.rows("Stage 2: which settings")
    assert (first["memory predicted"], first["memory peak"], first["repair"]) == ("3.0 MB", "5.5 MB", "repair_step_500.pt")
    assert (second["memory predicted"], second["repair"], second["context"]) == ("–", "none", "default")
    assert "with repair" in page.figures["Tokens per second of each cell"]
    plain = checked(stored_run(tmp_path / "b", [(Knobs(8, 1, 256), values())])).rows("Stage 2: which settings")[0]
    assert not {"memory predicted", "memory peak", "repair", "answers the same", "KL, nats"} & set(plain)


def test_an_unfinished_or_damaged_row_says_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    database = TuningDatabase(tmp_path / "db.sqlite")
    database.begin_run("r", Inputs(256, (X,), 1, 3, 60000, 0.02, None), Machine(16, "chip", "os", "1.4.0"))
    database.begin_trial("r", 1, X, Knobs(), 256, 8)
    run, trials = database.run("r"), database.trials("r")
    database.close()
    page = checked(tuning_page(document(run, trials, tmp_path), run, trials))
    assert "it is still at work, or it was ended from outside" in page.text
    assert page.rows("Stage 1: which model")[0]["verdict"] == "not finished"
    for text in ("{broken", "[]", '{"replicates": 3, "engine": [], "load_s": "long", "quality": 1}', '{"replicates": [{"tps": true}, 4]}'):
        (found,) = measured([{**trials[0], "measured_json": text}], 1)
        assert (found.rates, found.times, found.load_s, dict(found.facts), dict(found.quality)) == ((), (), None, {}, {})


# --- the file


def test_a_page_that_cannot_be_written_costs_the_run_nothing(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "taken-away"
    folder.mkdir()
    scripted = scripted_world(write_script(bench.script, {}))

    def serve(model: str, knobs: Knobs, port: int, config: Path, engine: str) -> list[str]:
        shutil.rmtree(folder, ignore_errors=True)
        return list(scripted.serve(model, knobs, port, config, engine))

    options, _ = parse(bench.flags("--candidate-models", X, "--html", str(folder / "report.html")))
    done = bench.outcome(tune(options, World(serve, scripted.pull, scripted.conflicts)))
    assert done.code == 0 and done.document["recommendation"]["model"] == X and done.run["exit_reason"] == "ok"
    assert "--html: Cannot write" in done.err and "--report-only --html" in done.err and "report: " not in done.err
    with pytest.raises(SetupError, match="--html: Cannot write"):
        stored.report_only(replace(options, report_only=True))


def test_a_file_that_cannot_be_is_refused_before_anything_starts(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bench.database)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for text, why in (
        (str(tmp_path), "a folder"),
        (f"{tmp_path}/new/", "a folder"),
        (str(tmp_path / "no" / "x.html"), "whose folder does not exist"),
        (str(bench.database), "uses for something else"),
        (str(tmp_path / "link"), "uses for something else"),
        (str(tmp_path / "loop"), "exists"),
        ("/dev/null", "no plain file"),
        (" ", "a path"),
        (str(tmp_path / ("x" * 300)), "long"),
    ):
        bench.database.parent.mkdir(exist_ok=True)
        with pytest.raises(WrongArguments) as caught:
            parse(bench.flags("--html", text, "--port", "0"))
        assert {fault.path for fault in caught.value.faults} == {"--html", "--port"} and why in str(caught.value), text
    done = bench.command("--html", str(tmp_path), "--db-path", str(bench.database), "--candidate-models", X)
    assert done.code == 2 and done.trials == [] and done.err.strip().endswith("exit_reason=config_error")


@pytest.mark.parametrize("flag", ["--dry-run", "--check-stale"])
def test_what_measures_nothing_has_no_page(flag: str, file: Path) -> None:
    with pytest.raises(WrongArguments, match=f"--html: found {flag} beside it") as caught:
        parse([flag, "--html", str(file), "--port", "0"])
    assert len(caught.value.faults) == 2 and not file.exists()


def test_an_older_page_is_replaced_behind_a_link(bench: Bench, file: Path) -> None:
    file.write_text("old")
    link = file.with_name("link.html")
    link.symlink_to(file)
    bench.tune({}, "--candidate-models", X, "--html", str(link))
    assert link.is_symlink() and file.read_text().startswith("<!DOCTYPE html>")
    assert [path.name for path in file.parent.glob(".*.tmp")] == []
