"""The flags of autotune: their rules, their faults all at once, and the record of a wrong command line (specification 4)."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.tuning import Bench
from macprovider.autotune.arguments import WrongArguments, parse
from macprovider.autotune.options import Options


def options(*flags: str) -> Options:
    return parse(flags)[0]


def faults(*flags: str) -> str:
    with pytest.raises(WrongArguments) as caught:
        parse(flags)
    return str(caught.value)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, monkeypatch, capsys)


def test_defaults_are_those_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("MACPROVIDER_CONFIG", raising=False)
    found = options()
    assert (found.target_context, found.stage1_replicates, found.stage2_replicates, found.gate_ttft_ms) == (2000, 1, 3, 60000)
    assert (found.kv_bits_axis, found.max_batch_axis, found.max_context_axis) == ((None, 4, 8), (1, 2), ())
    assert (found.tps_tie_epsilon, found.max_duration, found.port, found.retain_runs) == (0.02, 7200, 18080, 50)
    assert (found.ready_timeout, found.request_timeout, found.max_tokens) == (600, 180, 48)
    assert (found.live_grace_s, found.candidate_grace_s) == (30, 10)
    assert str(found.db_path) == "/home/somebody/.config/macprovider/autotune.sqlite"
    assert str(found.config) == "/home/somebody/.config/macprovider/config.yaml"


def test_an_explicit_grace_governs_both() -> None:
    assert (options("--drain-grace", "0").live_grace_s, options("--drain-grace", "7").candidate_grace_s) == (0, 7)


def test_the_request_timeout_follows_the_gate() -> None:
    assert options("--gate-ttft-ms", "100000").request_timeout == 220


def test_ac14_the_first_of_the_built_in_list_is_the_largest() -> None:
    assert options().candidate_models[0] == "Qwen/Qwen2.5-32B-Instruct"
    assert len(options().candidate_models) == 5


def test_ac15_an_explicit_list_wins_over_a_size_flag_with_one_warning() -> None:
    found = options("--candidate-models", "a,b,c", "--max-model-size", "7B")
    assert found.candidate_models == ("a", "b", "c")
    assert len(found.warnings) == 1 and "--max-model-size" in found.warnings[0]


def test_ac18_a_context_cell_below_the_target_is_refused() -> None:
    told = faults("--target-context", "4000", "--max-context-axis", "2000,4000")
    assert "--max-context-axis" in told and "2000" in told and "4000" in told


def test_ac19_size_filters() -> None:
    assert options("--max-model-size", "8B").candidate_models == (
        "Qwen/Qwen2.5-Coder-7B-Instruct", "meta-llama/Llama-3.2-3B-Instruct", "meta-llama/Llama-3.2-1B-Instruct",
    )  # fmt: skip
    assert options("--max-model-size", "8", "--min-model-size", "3b").candidate_models == (
        "Qwen/Qwen2.5-Coder-7B-Instruct", "meta-llama/Llama-3.2-3B-Instruct",
    )  # fmt: skip
    assert "no model of that size" in faults("--max-model-size", "0.5B")
    assert "--min-model-size" in faults("--max-model-size", "3", "--min-model-size", "7B")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--target-context", "0"), "--target-context"),
        (("--candidate-models", "a,,b"), "--candidate-models"),
        (("--candidate-models", "a,b,"), "--candidate-models"),
        (("--candidate-models", "Org/A,org/a"), "--candidate-models"),
        (("--candidate-models", ""), "--candidate-models"),
        (("--max-model-size", "0B"), "--max-model-size"),
        (("--max-model-size", "big"), "--max-model-size"),
        (("--kv-bits-axis", "unset,2"), "--kv-bits-axis"),
        (("--kv-bits-axis", "4,4"), "--kv-bits-axis"),
        (("--max-batch-axis", "0"), "--max-batch-axis"),
        (("--max-batch-axis", "1,1"), "--max-batch-axis"),
        (("--max-context-axis", "4000,4000"), "--max-context-axis"),
        (("--gate-ttft-ms", "0"), "--gate-ttft-ms"),
        (("--tps-tie-epsilon", "nan"), "--tps-tie-epsilon"),
        (("--tps-tie-epsilon", "-0.1"), "--tps-tie-epsilon"),
        (("--min-agreement", "1.01"), "--min-agreement"),
        (("--max-kl", "-1"), "--max-kl"),
        (("--max-duration", "0"), "--max-duration"),
        (("--port", "65536"), "--port"),
        (("--retain-runs", "0"), "--retain-runs"),
        (("--drain-grace", "-1"), "--drain-grace"),
        (("--max-tokens", "2000"), "--max-tokens"),
        (("--engine", "abacus"), "--engine"),
        (("--objective", "luck"), "--objective"),
        (("--port",), "--port"),
        (("--kv-bits-axes", "4"), "--kv-bits-axis"),
    ],
)
def test_a_wrong_value_is_named(flags: tuple[str, ...], named: str) -> None:
    assert named in faults(*flags)


def test_every_fault_at_once() -> None:
    told = faults("--target-context", "x", "--port", "0", "--kv-bits-axis", "3", "--candidate-models", "a,,b", "--nonsense")
    assert len(told.splitlines()) == 5


CELL = st.text(st.characters(categories=["L", "N"], include_characters="/-._"), min_size=1, max_size=12).filter(lambda text: text[0] != "-")


@given(
    st.lists(CELL, min_size=1, max_size=6, unique_by=lambda cell: unicodedata.normalize("NFC", cell).lower()),
    st.lists(st.sampled_from(["", " "])),
)
def test_candidate_order_is_verbatim(models: list[str], blanks: list[str]) -> None:
    padding = blanks[0] if blanks else ""
    assert options("--candidate-models", ",".join(padding + model + padding for model in models)).candidate_models == tuple(models)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=5, unique=True), st.integers(1, 10**6))
def test_the_context_axis_is_sorted_and_stays_above_the_target(cells: list[int], target: int) -> None:
    flags = ["--target-context", str(target), "--max-tokens", "1", "--max-context-axis", ",".join(map(str, cells))]
    if target == 1:
        assert "--max-tokens" in faults(*flags)
    elif min(cells) < target:
        assert str(min(cells)) in faults(*flags)
    else:
        assert options(*flags).max_context_axis == tuple(sorted(cells))


@given(st.permutations(["unset", "4", "8"]), st.permutations([1, 2, 4]))
def test_the_other_axes_keep_the_operators_order(bits: list[str], batches: list[int]) -> None:
    found = options("--kv-bits-axis", ",".join(bits), "--max-batch-axis", ",".join(map(str, batches)))
    assert found.kv_bits_axis == tuple(None if bit == "unset" else int(bit) for bit in bits)
    assert found.max_batch_axis == tuple(batches)


def test_a_wrong_command_line_leaves_one_finished_row(bench: Bench) -> None:
    done = bench.command(
        "--target-context", "x", "--candidate-models", "a,,b", "--stage1-replicates", "2", "--db-path", str(bench.database), "--json"
    )
    assert done.code == 2 and done.err.strip().splitlines()[-1] == "exit_reason=config_error"
    assert done.run["exit_reason"] == "config_error" and done.run["ended_at_utc"] is not None
    assert (done.run["target_context"], done.run["candidate_models_json"], done.run["stage1_replicates"]) == (0, "[]", 2)
    assert done.document["exit_reason"] == "config_error" and done.document["recommendation"] is None
    assert done.trials == []


def test_a_database_that_cannot_be_opened_leaves_stderr_alone(bench: Bench) -> None:
    (bench.folder / "file").write_text("not a folder")
    done = bench.command("--port", "0", "--db-path", str(bench.folder / "file" / "x.sqlite"))
    assert done.code == 2 and done.err.strip().endswith("exit_reason=config_error") and done.out == ""
    good = bench.command("--candidate-models", "a", "--db-path", str(bench.folder / "file" / "x.sqlite"))
    assert good.code == 2 and good.err.strip().endswith("exit_reason=config_error")


def test_dry_run_touches_nothing(bench: Bench) -> None:
    done = bench.command(
        "--dry-run", "--candidate-models", "o/B-3B,o/A-7B", "--db-path", str(bench.database), "--max-context-axis", "4000,2000"
    )
    assert done.code == 0 and not bench.database.parent.exists()
    assert list(bench.folder.iterdir()) == []
    assert done.out.index("o/B-3B") < done.out.index("o/A-7B")
    assert done.out.count("kv_bits unset") == 4 and "max_context 2000" in done.out


def test_report_only_needs_a_run(bench: Bench) -> None:
    done = bench.command("--report-only", "--db-path", str(bench.database))
    assert done.code == 2 and not bench.database.exists() and done.err.strip().endswith("exit_reason=config_error")


def test_a_prototype_database_has_no_report(bench: Bench) -> None:
    import sqlite3

    bench.folder.joinpath("db").mkdir()
    with sqlite3.connect(bench.database) as writer:
        writer.execute("CREATE TABLE tune_trials (id INTEGER)")
    writer.close()
    for question in ("--report-only", "--check-stale"):
        done = main_with(question, "--db-path", str(bench.database))
        assert done == 2


def main_with(*words: str) -> int:
    from macprovider.autotune_cli import main

    return main(list(words))


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = (
        "import sys; from macprovider.autotune_cli import main; code = main(['--dry-run']); "
        "import macprovider.autotune.run, macprovider.autotune.experiments.command, macprovider.autotune.trial; "
        "print(sorted({'torch', 'transformers', 'starlette'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--db-path", "~nobody-here/x"), "--db-path: found '~nobody-here/x'; allowed: a path below a home folder that exists."),
        (("--config", "~nobody-here/x"), "--config: found '~nobody-here/x'; allowed: a path below a home folder that exists."),
        (("--target-context", "99999999999"), "--target-context: found '99999999999'; allowed: a whole number from 1 to 2147483647."),
        (("--request-timeout", "1e300"), "--request-timeout: found '1e300'; allowed: a finite number above 0 and at most 604800."),
        (("--ready-timeout", "1e9"), "--ready-timeout: found '1e9'; allowed: a finite number above 0 and at most 604800."),
        (("--json=1",), "--json: found '1'; allowed: the flag alone, it takes no value."),
    ],
)
def test_the_sentence_says_what_is_allowed(flags: tuple[str, ...], told: str) -> None:
    assert faults(*flags) == told


def test_a_user_without_a_home_is_told_to_name_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("MACPROVIDER_CONFIG", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    told = bench.command("--candidate-models", "o/m")
    assert told.code == 2 and told.err.startswith("HOME: found no home folder") and told.err.endswith("exit_reason=config_error\n")


def test_ctrl_c_before_a_run_began_is_no_traceback(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(words: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("macprovider.autotune.arguments.parse", interrupted)
    told = bench.command("--dry-run")
    assert told.code == 130 and told.err == "interrupted; nothing was started\n"
