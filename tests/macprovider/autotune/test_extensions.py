"""What goes beyond the first version: prune, objective, resume, compare, pareto, stale; all off unless asked for."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from helpers.tuning import Bench
from macprovider.autotune.arguments import parse
from macprovider.autotune.options import Inputs
from macprovider.autotune.plan import Knobs
from macprovider.autotune.records.database import TuningDatabase
from macprovider.autotune.records.history import proved_infeasible
from macprovider.autotune.records.machine import this_machine

X, Y, Z = "o/X-7B", "o/Y-3B", "o/Z-1B"
LIST = ("--candidate-models", f"{X},{Y},{Z}")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, monkeypatch, capsys)


def sql(bench: Bench, statement: str) -> None:
    connection = apsw.Connection(str(bench.database))
    connection.execute(statement)
    connection.close()


def test_prune_ends_a_beaten_cell_and_keeps_the_choice(bench: Bench) -> None:
    behaviours = {f"{X} unset 2 256": {"token_s": 0.03}, f"{X} 8 1 256": {"fail_at": [2]}}
    axes = ("--candidate-models", X, "--max-batch-axis", "1,2", "--kv-bits-axis", "unset,8", "--stage2-replicates", "5")
    whole = bench.tune(behaviours, *axes)  # type: ignore[arg-type]
    pruned = bench.tune(behaviours, *axes, "--prune")  # type: ignore[arg-type]
    assert [row["replicates_n"] for row in whole.trials if row["stage"] == 2][:3] == [5, 5, 5]
    cells = [(row["kv_bits"], row["max_batch"], row["replicates_n"], row["fits"]) for row in pruned.trials if row["stage"] == 2]
    assert cells[:3] == [(None, 1, 5, 1), (None, 2, 3, 1), (8, 1, 1, 0)] and len(cells) == 4
    assert pruned.document["recommendation"]["knobs"]["max_concurrency_override"] in (1, 2)
    assert [row["kept"] for row in pruned.trials if row["stage"] == 2][1:3] == [0, 0]


def test_capacity_prefers_concurrency_in_a_tie(bench: Bench) -> None:
    flags = ("--candidate-models", X, "--max-batch-axis", "1,4,2", "--tps-tie-epsilon", "0.9")
    assert bench.tune({}, *flags, "--objective", "capacity").document["recommendation"]["knobs"]["max_concurrency_override"] == 4


def test_resume_skips_what_a_crashed_run_proved(bench: Bench) -> None:
    first = bench.tune({X: {"exit_in_load": 1, "log": "error: too large"}, Y: {"pull": 4, "pull_log": "no network"}}, *LIST)
    assert first.document["recommendation"]["model"] == Z
    sql(bench, "UPDATE tune_runs SET exit_reason = 'internal_error', ended_at_utc = NULL, recommendation_json = NULL")
    again = bench.tune({}, *LIST, "--resume")
    rows = [(row["model"], row["fits"], row["notes"]) for row in again.trials if row["stage"] == 1]
    assert rows[0] == (X, 0, first.trials[0]["notes"])  # not started again, the reason is the same
    assert rows[1] == (Y, 1, None) and "too large" in again.document["infeasible"][0]["reason"]
    assert bench.tune({}, *LIST, "--resume").document["recommendation"]["model"] == X  # a run that ended proves nothing


@pytest.mark.parametrize(
    ("notes", "flags", "proved"),
    [
        ("ready timeout after 5s (last: x)", ("--ready-timeout", "600"), False),
        ("ready timeout after 600s (last: x)", ("--ready-timeout", "600"), True),
        ("request error: no whole answer within 9s", ("--request-timeout", "10"), False),
        ("request error: no whole answer within 9s", ("--request-timeout", "9"), True),
        ("internal error: ZeroDivisionError: x", (), False),
        ("interrupted: Port 1 is taken by another program.", (), False),
        ("stop-token leak: </s>", (), True),
        ("stop-token leak: </s>", ("--max-tokens", "9"), False),
    ],
)
def test_resume_takes_as_proof_only_what_would_come_again(bench: Bench, notes: str, flags: tuple[str, ...], proved: bool) -> None:
    database = TuningDatabase(bench.database)
    options, machine = parse(bench.flags(*LIST, "--resume", *flags))[0], this_machine("transformers")
    database.begin_run("crashed", Inputs.of(vars(options)), machine)
    row = database.begin_trial("crashed", 1, X, Knobs(), options.target_context, 8)
    database.note_trial(row, notes)
    assert proved_infeasible(database.runs(), database.trials(), options, machine) == ({X: notes} if proved else {})
    database.close()


def test_a_stored_report_compares_and_stands_side_by_side(bench: Bench) -> None:
    bench.tune({X: {"exit_in_load": 1}}, *LIST)
    bench.tune({}, *LIST)
    told = bench.command("--report-only", "--compare", "--show-pareto", "--apply", "--db-path", str(bench.database))
    assert told.code == 0 and "COMPARED WITH" in told.out and "SIDE BY SIDE" in told.out and "biggest" in told.out
    line = next(line for line in told.out.splitlines() if line.strip().startswith("model  "))
    assert X in line and Y in line and "(changed)" in line
    assert "--apply is not used" in told.err and not (bench.folder / ".config/macprovider/config.yaml").exists()


def test_an_engine_that_serve_would_not_take_by_itself_is_named(bench: Bench) -> None:
    done = bench.tune({}, "--candidate-models", X, "--engine", "openvino", "--apply")
    assert done.code == 0 and "--engine openvino" in done.document["recommendation"]["serve_command"]
    assert "set `engine: openvino` in" in done.err


def test_compare_puts_both_side_by_side(bench: Bench) -> None:
    first = bench.tune({X: {"exit_in_load": 1}}, *LIST, "--compare")
    assert "there is no earlier recommendation" in first.out
    second = bench.tune({}, *LIST, "--compare")
    line = next(line for line in second.out.splitlines() if line.strip().startswith("model  "))
    assert X in line and Y in line and "(changed)" in line


def test_pareto_names_the_three(bench: Bench) -> None:
    bench.tune({X: {"token_s": 0.05}}, "--candidate-models", X)
    done = bench.tune({}, "--candidate-models", Z, "--show-pareto")
    told = {line.split()[0]: line for line in done.out.splitlines() if line.startswith(("biggest", "fastest", "balanced"))}
    assert X in told["biggest"] and Z in told["fastest"] and len(told) == 3
    assert done.document["recommendation"]["model"] == Z


def test_stale_names_what_changed(bench: Bench) -> None:
    nothing = bench.command("--check-stale", "--db-path", str(bench.database))
    assert nothing.code == 2 and nothing.err.strip().endswith("exit_reason=config_error")
    bench.tune({}, "--candidate-models", X)
    assert bench.command("--check-stale", "--db-path", str(bench.database)).code == 0
    sql(bench, "UPDATE tune_runs SET binary_version = '0.0.1'")
    stale = bench.command("--check-stale", "--db-path", str(bench.database))
    assert stale.code == 1 and "was 0.0.1" in stale.out and "autotune" in stale.out


def test_the_spread_stands_beside_the_winner(bench: Bench) -> None:
    done = bench.tune({}, "--candidate-models", X, "--stage2-replicates", "3")
    told = done.document["recommendation"]
    assert told["tps_min"] <= told["tps_median"] <= told["tps_max"]
    assert "(n=3 replicates, " in done.out
