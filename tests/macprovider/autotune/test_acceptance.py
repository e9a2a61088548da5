"""The acceptance criteria of the specification (13) over scripted candidates: real processes on a real port, real SQLite. The same
over real `serve` processes: test_real_serve.py; AC-5, AC-12, AC-14, AC-15, AC-19: test_choose.py, test_recipe.py, test_arguments.py;
AC-9: test_apply.py; AC-10, AC-13: test_signals.py.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.tuning import Behaviour, Bench, Tuned, scripted_world, wait_until
from macprovider.autotune.arguments import parse
from macprovider.autotune.candidate.ports import port_free
from macprovider.autotune.live.conflicts import Conflict
from macprovider.autotune.measuring.gate import verdict
from macprovider.autotune.measuring.measure import Replicate
from macprovider.autotune.options import Inputs
from macprovider.autotune.plan import Knobs
from macprovider.autotune.records.database import TuningDatabase
from macprovider.autotune.records.machine import Machine
from macprovider.autotune.session import Session, World, serve_argv
from macprovider.autotune.trial import Trial, _Findings, _finish, begin
from macprovider.autotune.watch import Watch

X, Y, Z = "o/X-7B", "o/Y-3B", "o/Z-1B"
LIST = ("--candidate-models", f"{X},{Y},{Z}")
CRASH: Behaviour = {"exit_in_load": 1, "log": "starting\nRuntimeError: cannot load\n"}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, monkeypatch, capsys)


def test_ac1_the_first_feasible_candidate_ends_the_walk(bench: Bench) -> None:
    done = bench.tune({X: CRASH}, *LIST)
    assert done.code == 0 and done.run["exit_reason"] == "ok"
    assert done.document["recommendation"]["model"] == Y
    assert done.document["alternates"] == [Z]
    assert {row["model"] for row in done.trials} == {X, Y}
    assert f"macprovider-cli autotune --candidate-models {Z}" in done.out


def test_ac2_only_the_last_fits(bench: Bench) -> None:
    done = bench.tune({X: CRASH, Y: {"status": 503}}, *LIST)
    first = [row for row in done.trials if row["stage"] == 1]
    assert [(row["model"], row["fits"]) for row in first] == [(X, 0), (Y, 0), (Z, 1)]
    assert all(row["notes"] for row in first[:2])
    assert done.document["recommendation"]["model"] == Z and done.document["alternates"] == []
    assert [(entry["model"], entry["rank"]) for entry in done.document["infeasible"]] == [(X, 1), (Y, 2)]


def test_ac3_nothing_fits(bench: Bench) -> None:
    models = ("--candidate-models", f"{Y},{X},{Z}")
    done = bench.tune({X: CRASH, Y: {"no_content": True}, Z: {"status": 500}}, *models)
    assert done.code == 3 and done.run["exit_reason"] == "no_feasible" and done.run["recommendation_json"] is None
    told = done.err[done.err.index("No candidate can be served") :]
    assert "256 tokens" in told.splitlines()[0]
    assert told.index(Z) < told.index(Y) < told.index(X)
    assert "HTTP 500" in told.splitlines()[1] and "--target-context" in told and "--candidate-models" in told
    assert done.document["recommendation"] is None and done.document["recipe_hash"] is None


def test_ac4_the_median_is_stored(tmp_path: Path) -> None:
    row = _stored(tmp_path, [Replicate(100, 10, 90, 20), Replicate(300, 10, 92, 21), Replicate(200, 20, 91, 41)])
    assert row["agg_throughput_tps"] == 2.05 and row["ttft_p95_ms"] == 300 and row["measured_prompt_tokens"] == 91
    assert (row["fits"], row["n_err"], row["replicates_n"]) == (1, 0, 3)


def test_ac4_one_error_among_three_is_infeasible(bench: Bench, tmp_path: Path) -> None:
    row = _stored(tmp_path, [Replicate(100, 10, 90, 20), Replicate(None, 1, error="HTTP 500"), Replicate(200, 20, 91, 41)])
    assert (row["fits"], row["n_err"]) == (0, 1)
    done = bench.tune({X: {"fail_at": [3]}}, "--candidate-models", X, "--stage1-replicates", "3")
    assert done.code == 3
    assert (done.trials[0]["fits"], done.trials[0]["n_err"], done.trials[0]["replicates_n"]) == (0, 1, 3)
    assert done.trials[0]["notes"] == "request error: HTTP 500: scripted: told to fail"


def test_ac6_a_live_provider_is_named_and_nothing_starts(bench: Bench) -> None:
    live = Conflict("foreground", "foreground-PID-4711", 4711, argv=("macprovider-cli", "serve"), program="macprovider-cli")
    done = bench.tune({}, *LIST, conflicts=lambda port: [live])
    assert done.code == 4 and done.run["exit_reason"] == "provider_conflict" and done.run["ended_at_utc"]
    assert "foreground-PID-4711" in done.err and "--drain" in done.err
    assert done.trials == [] and done.document["exit_reason"] == "provider_conflict"


def test_ac6_two_runs_exclude_each_other(bench: Bench) -> None:
    from modelwright.lock import WriterLock

    bench.database.parent.mkdir()
    lock = WriterLock(bench.database.parent, command=["another", "autotune"])
    try:
        done = bench.tune({}, *LIST)
    finally:
        lock.release()
    assert done.code == 4 and "another autotune" in done.err and done.run["exit_reason"] == "provider_conflict"
    assert bench.tune({}, *LIST).code == 0


def test_ac7_every_candidate_is_told_not_to_join(bench: Bench) -> None:
    seen: list[list[str]] = []
    scripted = scripted_world(bench.script)

    def serve(model: str, knobs: Knobs, port: int, config: Path, engine: str) -> list[str]:
        seen.append(serve_argv(model, knobs, port, config, engine))
        assert config.read_bytes() == b""
        return scripted.serve(model, knobs, port, config, engine)

    bench.script.write_text("{}")
    from macprovider.autotune.run import tune

    tune(parse(bench.flags(*LIST, "--max-batch-axis", "1,2"))[0], World(serve, scripted.pull, scripted.conflicts))
    assert len(seen) == 3
    assert all("--no-join" in argv and "--config" in argv for argv in seen)
    assert "--kv-bits" not in seen[0] and "--max-context" not in seen[0]


def test_ac8_a_transient_failure_moves_on(bench: Bench) -> None:
    done = bench.tune({X: {"pull": 4, "pull_log": "fetching\nthe hub does not answer: timed out"}}, *LIST)
    assert done.code == 0 and done.document["recommendation"]["model"] == Y
    assert done.trials[0]["notes"] == "pre-warm transient: the hub does not answer: timed out"
    assert (done.trials[0]["fits"], done.trials[0]["n_err"], done.trials[0]["replicates_n"]) == (0, 1, 0)
    assert done.document["infeasible"][0]["reason"].startswith("pre-warm transient:")
    failing: Behaviour = {"pull": 4, "pull_log": "no network"}
    assert bench.tune({X: failing, Y: failing, Z: failing}, *LIST).run["exit_reason"] == "no_feasible"


def test_ac8_an_integrity_failure_aborts(bench: Bench) -> None:
    done = bench.tune({X: {"pull": 7, "pull_log": "model.safetensors: wrong SHA-256"}}, *LIST)
    assert done.code == 7 and done.run["exit_reason"] == "pre_warm_integrity_failure"
    assert [row["notes"] for row in done.trials] == ["pre-warm integrity: model.safetensors: wrong SHA-256"]
    assert "wrong SHA-256" in done.err and done.document["recommendation"] is None
    assert done.document["infeasible"] == [{"model": X, "rank": 1, "reason": "pre-warm integrity: model.safetensors: wrong SHA-256"}]


def test_ac9_apply_writes_the_recommendation_and_nothing_else(bench: Bench) -> None:
    config = bench.folder / "config.yaml"
    config.write_text("# mine\nmodel: old/model\nkv_bits: 8\ncoordinator_url: wss://pool.example/ws  # keep\n")
    config.chmod(0o600)
    done = bench.tune({X: CRASH}, *LIST, "--apply", "--config", str(config))
    assert done.code == 0 and done.run["applied"] == 1 and done.document["applied"] is True
    found = yaml.safe_load(config.read_text())
    assert found == {"model": Y, "coordinator_url": "wss://pool.example/ws", "max_concurrency_override": 1, "max_context_override": 256}
    assert [line for line in done.out.splitlines() if line.startswith("applied: ")]
    assert config.read_text().startswith("# mine\n") and "restart" in done.err


def test_ac9_a_failed_apply_keeps_the_recommendation(bench: Bench) -> None:
    config = bench.folder / "config.yaml"
    config.write_text("a: [broken\n")
    done = bench.tune({}, *LIST, "--apply", "--config", str(config))
    assert done.code == 8 and done.run["exit_reason"] == "ok" and done.run["applied"] == 0
    assert done.document["recommendation"]["model"] == X and config.read_text() == "a: [broken\n"


FIELDS: dict[str, Any] = {
    "spec_version": str, "run_id": str, "started_at": str, "ended_at": str, "machine": dict, "inputs": dict, "recommendation": dict,
    "alternates": list, "infeasible": list, "recipe_hash": str, "db_path": str, "exit_reason": str,
}  # fmt: skip
RECOMMENDATION: dict[str, Any] = {
    "model": str, "target_context": int, "knobs": dict, "tps_median": (int, float), "ttft_p95_ms": (int, float), "replicates": int,
    "serve_command": str, "partial": bool,
}  # fmt: skip


def test_ac11_the_document_has_every_field(bench: Bench) -> None:
    done = bench.tune({X: CRASH}, *LIST, "--kv-bits-axis", "8")
    told = done.document
    assert all(isinstance(told[name], kind) for name, kind in FIELDS.items())
    assert all(isinstance(told["recommendation"][name], kind) for name, kind in RECOMMENDATION.items())
    assert told["spec_version"] == "SPEC-013 v0.3" and str(uuid.UUID(told["run_id"])) == told["run_id"]
    assert told["started_at"].endswith("Z") and told["ended_at"].endswith("Z") and told["started_at"] <= told["ended_at"]
    assert set(told["machine"]) == {"ram_gb", "chip", "os_version", "binary_version"} and isinstance(told["machine"]["ram_gb"], int)
    assert told["inputs"] == {
        "target_context": 256, "candidate_models": [X, Y, Z], "stage1_replicates": 1, "stage2_replicates": 1, "gate_ttft_ms": 60000,
        "tps_tie_epsilon": 0.02,
    }  # fmt: skip
    assert told["recommendation"]["knobs"] == {"kv_bits": 8, "max_concurrency_override": 1, "max_context_override": 256}
    assert told["recommendation"]["serve_command"] == f"macprovider-cli serve --model {Y} --kv-bits 8 --max-batch 1 --max-context 256"
    assert told["db_path"] == str(bench.database) and Path(told["db_path"]).is_absolute()
    assert json.loads(done.run["recommendation_json"]) == told["recommendation"] and done.run["recipe_hash"] == told["recipe_hash"]
    before = done.out[: done.out.index("\n{") + 1]
    assert before.startswith("RECOMMENDATION\n") and not any(line.startswith("{") for line in before.splitlines())
    assert done.out.rstrip().endswith("}")


def test_the_document_is_printed_for_every_ending(bench: Bench) -> None:
    done = bench.tune({X: CRASH, Y: CRASH, Z: CRASH}, *LIST)
    assert set(FIELDS) <= set(done.document) and done.document["recommendation"] is None and done.document["alternates"] == []


def test_ac12_timings_do_not_change_the_hash(bench: Bench) -> None:
    slow = bench.tune({X: {"token_s": 0.02}}, "--candidate-models", X)
    fast = bench.tune({X: {"token_s": 0.001}}, "--candidate-models", X)
    assert slow.document["recommendation"]["tps_median"] != fast.document["recommendation"]["tps_median"]
    assert slow.document["recipe_hash"] == fast.document["recipe_hash"]


def test_ac16_rows_of_both_stages(bench: Bench) -> None:
    done = bench.tune({X: CRASH}, *LIST, "--kv-bits-axis", "8,unset", "--max-batch-axis", "2,1", "--stage2-replicates", "2")
    assert [(row["stage"], row["model"]) for row in done.trials if row["stage"] == 1] == [(1, X), (1, Y)]
    cells = [(row["kv_bits"], row["max_batch"], row["max_context_cap"], row["replicates_n"]) for row in done.trials if row["stage"] == 2]
    assert cells == [(8, 2, 256, 2), (8, 1, 256, 2), (None, 2, 256, 2), (None, 1, 256, 2)]
    assert sum(row["kept"] for row in done.trials) == 1 and not any(row["kept"] for row in done.trials if row["stage"] == 1)


def test_ac17_a_smaller_first_candidate_is_not_passed_over(bench: Bench) -> None:
    done = bench.tune({}, "--candidate-models", "o/small-1B,o/large-32B")
    assert done.document["recommendation"]["model"] == "o/small-1B" and done.document["alternates"] == []
    assert [row["model"] for row in done.trials if row["stage"] == 1] == ["o/small-1B"]


def test_ac18_the_faster_larger_context_is_recommended(bench: Bench) -> None:
    slow: Behaviour = {"token_s": 0.03}
    behaviours = {f"{X} unset 1 256": slow, f"{X} unset 2 256": slow}
    done = bench.tune(behaviours, "--candidate-models", X, "--max-context-axis", "512,256", "--max-batch-axis", "1,2")
    assert done.document["recommendation"]["knobs"]["max_context_override"] == 512
    cells = [(row["max_batch"], row["max_context_cap"]) for row in done.trials if row["stage"] == 2]
    assert cells == [(1, 256), (1, 512), (2, 256), (2, 512)]
    assert done.document["recommendation"]["target_context"] == 256


def test_no_feasible_cell_is_no_recommendation(bench: Bench) -> None:
    done = bench.tune({f"{X} unset 1 256": {"status": 500}}, *LIST)
    assert done.code == 3 and done.run["exit_reason"] == "no_feasible" and done.document["recommendation"] is None
    assert [entry["model"] for entry in done.document["infeasible"]] == [X] and "HTTP 500" in done.document["infeasible"][0]["reason"]
    assert {row["model"] for row in done.trials} == {X}


def test_one_provider_at_a_time_and_none_afterwards(bench: Bench) -> None:
    done = bench.tune({X: CRASH, Y: {"grandchild": True}}, *LIST, "--max-batch-axis", "1,2")
    assert done.code == 0
    assert port_free(bench.port)
    from helpers.tuning import processes_naming

    assert wait_until(lambda: not processes_naming(str(bench.script)))


def test_the_report_of_a_stored_run_is_the_same(bench: Bench) -> None:
    done = bench.tune({X: CRASH}, *LIST)
    again = bench.command("--report-only", "--json", "--db-path", str(bench.database))
    assert again.code == 0 and again.document == done.document
    assert again.out.splitlines()[:8] == done.out.splitlines()[:8]


def _stored(folder: Path, replicates: list[Replicate]) -> dict[str, Any]:
    """The row of a finished trial with these replicates."""
    options = parse(["--candidate-models", X, "--target-context", "256", "--db-path", str(folder / "direct.sqlite")])[0]
    database = TuningDatabase(options.db_path)
    database.begin_run("run", Inputs(), Machine(16, "chip", "os", "0"))
    session = Session("run", options, Machine(16, "chip", "os", "0"), database, Watch(None), World(), 16.0)
    trial = Trial(1, X, Knobs(), len(replicates))
    _finish(session, begin(session, trial), trial, _Findings(replicates), None)
    row = database.trials("run")[0]
    database.close()
    with sqlite3.connect(options.db_path) as reader:  # an independent reader sees the same
        assert reader.execute("SELECT agg_throughput_tps, fits FROM tune_trials").fetchone() == (row["agg_throughput_tps"], row["fits"])
    assert bool(row["fits"]) == (verdict(replicates, 60000) == "")
    return row


def test_tuned_is_what_a_reader_sees(bench: Bench) -> None:
    """The helper itself: a run that never began leaves nothing."""
    assert bench.outcome(0) == Tuned(0, "", "", {}, {}, [], "")
