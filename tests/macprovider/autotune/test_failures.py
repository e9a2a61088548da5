"""Every way a candidate can fail (specification 5.4), each by a real process that fails that way; and read-back of the knobs."""

from __future__ import annotations

import os
import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from helpers.tuning import Behaviour, Bench, processes_naming, scripted_world, write_script
from macprovider import places
from macprovider.autotune.arguments import parse
from macprovider.autotune.candidate.ports import port_free
from macprovider.autotune.candidate.readback import disagreement
from macprovider.autotune.measuring.gate import exited_in_load, log_tail, verdict
from macprovider.autotune.measuring.measure import Replicate, aggregate, p95
from macprovider.autotune.plan import Knobs
from macprovider.autotune.records.database import TuningDatabase
from macprovider.autotune.run import tune
from modelwright.home import ensure_folder
from modelwright.lock import WriterLock

X = "o/X-7B"
ONE = ("--candidate-models", X)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("behaviour", "flags", "notes"),
    [
        ({"exit_in_load": 3, "log": "first\nValueError: x\nlast"}, (), r"provider exited rc=3 during load; log tail: ValueError: x"),
        ({"exit_in_load": -9, "log": "loading shards"}, (), r"provider exited rc=137 during load \(likely OOM\); log tail: loading shards"),
        ({"exit_in_load": 1, "log": "out of memory"}, (), r"provider exited rc=1 during load \(likely OOM\); log tail: out of memory"),
        ({"never_ready": True}, ("--ready-timeout", "1"), r"ready timeout after 1s \(last: .+\)"),
        ({"status": 500}, (), r"request error: HTTP 500: scripted: told to fail"),
        ({"no_content": True}, (), r"request error: the answer has no content"),
        ({"break_after": 2}, (), r"request error: the answer broke off before its end"),
        ({"mute": True}, ("--request-timeout", "1"), r"request error: no whole answer within 1s"),
        ({"first_s": 0.3}, ("--gate-ttft-ms", "100"), r"ttft p95 \d+ms > gate 100ms"),
        ({"leak": "so<|im_end|>"}, (), r"stop-token leak: <\|im_end\|>"),
        ({"die_after": 3}, (), r"provider exited rc=1 during probe; log tail: MemoryError: out of memory in the middle"),
        ({"die_after": 3, "last_breath": 0.2}, (), r"provider exited rc=1 during probe; log tail: MemoryError: .+"),
        ({"whole": {}}, ("--quality-gate",), r"quality prompts: an answer that is no chat completion \(KeyError: 'choices'\)"),
        ({"no_engine": True}, (), r"knob not in effect: the engine could not be read back \(HTTP 404 without facts\)"),
        ({"kv_bits": 8}, (), r"knob not in effect: kv_bits asked unset, engine has 8"),
    ],
)  # fmt: skip
def test_a_failure_has_its_reason(bench: Bench, behaviour: Behaviour, flags: tuple[str, ...], notes: str) -> None:
    done = bench.tune({X: behaviour}, *ONE, *flags)
    assert done.code == 3
    (row,) = done.trials
    assert re.fullmatch(notes, row["notes"]), row["notes"]
    assert row["fits"] == 0 and row["stage"] == 1
    assert port_free(bench.port) and not processes_naming(str(bench.script))


def test_a_knob_that_did_not_take_effect_makes_the_cell_infeasible(bench: Bench) -> None:
    done = bench.tune({f"{X} 8 1 256": {"kv_bits": None}}, *ONE, "--kv-bits-axis", "8,unset")
    first, second = (row for row in done.trials if row["stage"] == 2)
    assert first["notes"] == "knob not in effect: kv_bits asked 8, engine has none" and not first["fits"]
    assert second["fits"] and done.document["recommendation"]["knobs"]["kv_bits"] is None


def test_a_candidate_that_ignores_sigterm_is_killed_with_its_children(bench: Bench) -> None:
    done = bench.tune({X: {"ignore_term": True, "grandchild": True}}, *ONE, "--drain-grace", "1")
    assert done.code == 0
    assert port_free(bench.port) and not processes_naming(str(bench.script))


def test_no_usage_is_no_throughput(bench: Bench) -> None:
    done = bench.tune({X: {"no_usage": True}}, *ONE)
    assert done.code == 3 and "no throughput" in done.document["infeasible"][0]["reason"]
    assert done.trials[0]["fits"] == 1 and done.trials[0]["agg_throughput_tps"] is None


def test_a_noisy_stream_is_read(bench: Bench) -> None:
    assert bench.tune({X: {"noise": True}}, *ONE).trials[0]["agg_throughput_tps"] > 0


def test_a_failed_warm_up_does_not_fail_the_gate(bench: Bench) -> None:
    assert bench.tune({X: {"fail_at": [1]}}, *ONE).code == 0


def test_a_warm_up_that_is_too_long_is_sent_again_shorter(bench: Bench) -> None:
    done = bench.tune({X: {"context": 150}}, *ONE)
    warm_ups = [line for line in done.logs.splitlines() if line.startswith("REQUEST")]
    assert len(warm_ups) >= 2 and "HTTP 413" in done.trials[0]["notes"]
    first, second = (int(line.split()[2]) for line in warm_ups[:2])
    assert second < 0.6 * first


def test_prompts_of_a_candidate_begin_differently_and_fit(bench: Bench) -> None:
    done = bench.tune({}, *ONE, "--stage1-replicates", "4", "--stage2-replicates", "3", "--target-context", "1000")
    asked = [re.fullmatch(r"REQUEST (\d+) (\d+) (\d+) '(.*)'", line) for line in done.logs.splitlines() if line.startswith("REQUEST")]
    assert len(asked) == 9 and all(asked)
    openings = [found[4].split(".")[0] for found in asked if found]
    assert len(set(openings[:5])) == 5 and len(set(openings[5:])) == 4  # within one candidate no two are alike
    assert openings[1:4] == openings[6:9]  # the next candidate is asked the same
    measured = [(int(found[2]), int(found[3])) for found in asked if found and found[1] != "1"]
    assert all(prompt + answer <= 1000 and prompt >= 0.9 * (1000 - answer) for prompt, answer in measured)


def test_settings_of_the_operator_do_not_reach_a_candidate(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from macprovider.autotune.candidate.provider import child_environment

    monkeypatch.setenv("MACPROVIDER_KV_BITS", "8")
    monkeypatch.setenv("MACPROVIDER_COORDINATOR_URL", "wss://pool.example")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    found = child_environment(7, offline=True)
    assert not [name for name in found if name.startswith("MACPROVIDER_")]
    assert found["HF_HUB_OFFLINE"] == "1" and found["MODELWRIGHT_PARENT_PIPE"] == "7"
    assert "HF_HUB_OFFLINE" not in child_environment(7, offline=False)


def test_a_port_that_something_else_took_is_a_conflict(bench: Bench) -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", bench.port))
        other.listen()
        done = bench.tune({}, *ONE)
    assert done.code == 4 and done.run["exit_reason"] == "provider_conflict" and str(bench.port) in done.err
    assert done.trials[-1]["notes"].startswith(f"interrupted: Port {bench.port} is taken") and done.document["infeasible"] == []


def test_an_unexpected_exception_leaves_its_trace(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: str) -> tuple[str, ...]:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("macprovider.autotune.trial.stop_texts", broken)
    done = bench.tune({}, *ONE)
    assert done.code == 70 and done.run["exit_reason"] == "internal_error" and done.run["recommendation_json"] is None
    assert "ZeroDivisionError: a defect" in done.trials[-1]["notes"] and len(done.trials[-1]["notes"]) <= 480
    assert "ZeroDivisionError" in done.err and done.document["exit_reason"] == "internal_error"
    assert done.document["infeasible"] == []  # a defect of ours says nothing about the candidate


def test_a_database_that_takes_no_row_is_told_in_a_sentence(bench: Bench) -> None:
    TuningDatabase(bench.database).close()
    connection = apsw.Connection(str(bench.database))
    connection.execute("CREATE TRIGGER t BEFORE INSERT ON tune_runs BEGIN SELECT RAISE(ABORT, 'no more rows'); END")
    connection.close()
    for flags in (bench.flags(*ONE), bench.flags("--port", "0")):
        done = bench.command(*flags)
        assert done.code == 2 and "Traceback" not in done.err and done.err.endswith("exit_reason=config_error\n")
        assert f"--db-path: {bench.database} cannot be used as a tuning database" in done.err and "no more rows" in done.err


def test_a_disk_that_fills_up_in_the_middle_is_told_in_a_sentence(bench: Bench) -> None:
    world = scripted_world(write_script(bench.script, {}))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def serve(*what: Any) -> list[str]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
        return world.serve(*what)  # type: ignore[no-any-return]

    try:
        code = tune(parse(bench.flags(*ONE))[0], replace(world, serve=serve))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    done = bench.outcome(code)
    assert code == 70 and "Traceback" not in done.err and "cannot be used as a tuning database" in done.err
    assert (done.run["exit_reason"], done.run["ended_at_utc"]) == ("internal_error", None)  # as a crash reads


def test_two_runs_of_one_user_exclude_each_other_whatever_their_databases(bench: Bench) -> None:
    lock = WriterLock(ensure_folder(places.logs_folder()), command=["macprovider-cli", "autotune"])
    try:
        done = bench.tune({}, *ONE)
    finally:
        lock.release()
    assert done.code == 4 and "Another autotune is at work" in done.err and f"process {os.getpid()}" in done.err and done.trials == []
    assert bench.tune({}, *ONE).code == 0


# --- the pure rules below


def test_log_tail_is_the_first_line_of_trouble_or_the_end() -> None:
    assert log_tail("fine\n  Traceback (most recent call last):\nValueError: x") == "Traceback (most recent call last):"
    assert len(log_tail("error " + "x" * 1000)) == 240
    assert log_tail("a" * 500) == "a" * 240
    assert len(exited_in_load(1, "error " + "y" * 1000)) <= 480


def test_the_gate_takes_the_first_reason() -> None:
    good, slow, leaky = Replicate(10, 1, 5, 5), Replicate(900, 1, 5, 5), Replicate(10, 1, 5, 5, leak="<|end|>")
    assert verdict([good], 100) == ""
    assert verdict([good, slow], 100) == "ttft p95 900ms > gate 100ms"
    assert verdict([slow, leaky], 100) == "stop-token leak: <|end|>"
    assert verdict([leaky, Replicate(None, 1, error="HTTP 500")], 100) == "request error: HTTP 500"
    assert verdict([], 100)


def test_aggregates_are_those_of_the_specification() -> None:
    assert p95([3.0, 1.0, 2.0]) == 3.0
    assert p95([float(value) for value in range(1, 21)]) == 19.0
    assert p95([float(value) for value in range(1, 101)]) == 95.0
    found = aggregate([Replicate(1, 1, 10, 0), Replicate(2, 1, 13, 4), Replicate(None, 1, error="x")])
    assert (found.tps, found.prompt_tokens, found.n_err, found.ttft_p95_ms) == (4.0, 11, 1, 2)


def test_read_back_names_every_difference() -> None:
    facts = {"kv_bits": None, "slots": 1, "context": 128}
    told = disagreement(Knobs(8, 4, 256), facts)
    assert told == (
        "knob not in effect: kv_bits asked 8, engine has none; max_batch asked 4, engine has 1; max_context asked 256, engine has 128"
    )
    assert disagreement(Knobs(None, 1, 100), facts) == ""  # a block of 128 holds 100 tokens
    assert disagreement(Knobs(None, 1, None), facts) == ""
