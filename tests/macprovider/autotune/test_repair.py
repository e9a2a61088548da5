"""`--repair`: every quantised cache measured without an operator and with it, over scripted candidates and over a real `serve`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.repair_toys import random_operator
from helpers.served import served
from helpers.settings_file import OPERATOR, written
from helpers.tuning import Behaviour, Bench, Tuned
from macprovider.autotune.arguments import WrongArguments, parse
from macprovider.autotune.candidate.readback import disagreement
from macprovider.autotune.config_file.apply import Recommended, apply_recommendation
from macprovider.autotune.experiments.command import parse_experiment
from macprovider.autotune.plan import Knobs, cells, cells_of, serve_command
from macprovider.autotune.records.report import comparison
from macprovider.autotune.run import tune
from macprovider.autotune.session import World, pull_argv, serve_argv
from macprovider.settings import load_settings
from modelwright.files import make_folder
from modelwright.model_shape import ModelShape
from modelwright.tiny import tiny_model_path

SMALL = "modelwright/tiny-0.4m"
X = "o/X-7B"
QUIET: dict[str, Any] = {"protect_layers": (0, 1, 2), "alpha_max": 0.3}


def checkpoint(run: Path, model: str = SMALL, step: int = 7, **spec: Any) -> Path:
    """A repair file as a training writes it, for the heads of a packaged model."""
    import torch

    from cachemedicpp.repair.spec import HeadLayout
    from cachemedicpp.training.state import repair_path, save_repair

    shape = ModelShape.from_config(json.loads((tiny_model_path(model) / "config.json").read_text()))
    operator = random_operator(HeadLayout(shape.head_dim, shape.kv_heads, shape.heads), dtype=torch.float32, **{**QUIET, **spec})
    path = repair_path(run, step)
    make_folder(path.parent)
    save_repair(path, operator, step=step, config_hash="0", model_name=model)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("run"))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, monkeypatch, capsys)


def faults(*flags: str) -> list[str]:
    with pytest.raises(WrongArguments) as caught:
        parse(flags)
    return str(caught.value).splitlines()


# --- the cells and their names


def test_a_quantised_cell_stands_twice_and_an_unquantised_one_once() -> None:
    found = cells((None, 8, 4), (1, 2), (256,), 256, Path("/run/repair_step_1.pt"))
    name = "/run/repair_step_1.pt"
    assert [(knobs.kv_bits, knobs.max_batch, knobs.repair) for knobs in found] == [
        (None, 1, None), (None, 2, None),
        (8, 1, None), (8, 1, name), (8, 2, None), (8, 2, name),
        (4, 1, None), (4, 1, name), (4, 2, None), (4, 2, name),
    ]  # fmt: skip
    assert cells((None, 8), (1,), (256, 512), 256, Path(name))[2:] == [
        Knobs(8, 1, 256),
        Knobs(8, 1, 256, name),
        Knobs(8, 1, 512),
        Knobs(8, 1, 512, name),
    ]


def test_an_operator_is_named_wherever_knobs_are_and_only_where_there_is_one() -> None:
    plain, mended = Knobs(4, 1, 256), Knobs(4, 1, 256, "/my runs/repair_step_1.pt")
    assert mended.words() == f"{plain.words()}, repair repair_step_1.pt"
    assert mended.as_yaml() == plain.as_yaml() | {"repair": "/my runs/repair_step_1.pt"} and "repair" not in plain.as_yaml()
    assert serve_command("o/m", mended) == f"{serve_command('o/m', plain)} --repair '/my runs/repair_step_1.pt'"


@pytest.mark.parametrize(("asked", "engine"), [("/x/a.pt", None), (None, "/x/a.pt"), ("/x/a.pt", "/x/b.pt")])
def test_an_operator_that_the_engine_does_not_have_as_asked_is_no_knob_in_effect(asked: str | None, engine: str | None) -> None:
    facts = {"kv_bits": 4, "slots": 1, "context": 256}
    assert disagreement(Knobs(4, 1, 256, asked), facts | {"repair": asked}) == ""
    told = f"knob not in effect: repair asked {asked or 'none'}, engine has {engine or 'none'}"
    assert disagreement(Knobs(4, 1, 256, asked), facts | {"repair": engine}) == told


def test_the_comparison_has_a_row_only_where_one_of_both_has_an_operator() -> None:
    plain: dict[str, Any] = {
        "model": "m",
        "target_context": 256,
        "knobs": Knobs(4, 1, 256).as_yaml(),
        "tps_median": 1.0,
        "ttft_p95_ms": 1.0,
    }
    mended = plain | {"knobs": Knobs(4, 1, 256, "/x/a.pt").as_yaml()}
    assert "repair" not in comparison(plain, plain)
    for now, before in ((plain, mended), (mended, plain)):
        line = next(line for line in comparison(now, before).splitlines() if line.strip().startswith("repair"))
        assert "/x/a.pt" in line and "unset" in line and "(changed)" in line


# --- the flag


def test_the_newest_file_of_a_run_is_meant_once_and_for_all(tmp_path: Path) -> None:
    newest = checkpoint(tmp_path / "run", step=30)
    checkpoint(tmp_path / "run", step=9)
    for named in (newest, newest.parent, newest.parent.parent):
        assert parse(["--repair", str(named)])[0].repair == newest
    assert parse([])[0].repair is None


def test_every_fault_of_the_flag_at_once(trained: Path, tmp_path: Path) -> None:
    told = faults("--repair", str(tmp_path / "nowhere"), "--engine", "openvino", "--kv-bits-axis", "unset", "--port", "0")
    assert len(told) == 4 and sum(line.startswith("--repair: ") for line in told) == 3
    assert any("openvino" in line and "--engine transformers" in line for line in told)
    assert any("--kv-bits-axis" in line for line in told) and any("nowhere, which does not exist" in line for line in told)
    assert parse(["--repair", str(trained), "--engine", "auto"])[0].engine == "transformers"


def test_what_is_no_checkpoint_is_refused_in_words(trained: Path, tmp_path: Path) -> None:
    import torch

    text, other, half = tmp_path / "text.pt", tmp_path / "other.pt", tmp_path / "half.pt"
    text.write_text("no archive")
    torch.save({"step": 1}, other)
    half.write_bytes(trained.read_bytes()[: trained.stat().st_size // 2])
    for path, why in (
        (text, "no archive of tensors"),
        (other, "missing keys: config_hash"),
        (half, "which is no repair checkpoint"),
        (tmp_path, "has no checkpoints"),
    ):
        (line,) = faults("--repair", str(path))
        assert line.startswith(f"--repair: found {path}, which ") and why in line and "repair_step_<N>.pt" in line, line
    assert "--repair: found '\\n'" in faults("--repair", "\n")[0]


@pytest.mark.parametrize(
    ("spec", "word"), [({"family": "D"}, "family D"), ({"gate_rows": "last"}, "gate_rows"), ({"renormalise": True}, "renormalise")]
)
def test_an_operator_that_serve_refuses_for_every_model_is_refused_before_anything_starts(
    spec: dict[str, Any], word: str, tmp_path: Path
) -> None:
    (line,) = faults("--repair", str(checkpoint(tmp_path, **spec)))
    assert word in line and "served beside a quantised cache" in line


def test_the_plan_names_the_operator(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from macprovider.autotune_cli import main

    assert main(["--dry-run", "--repair", str(trained)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(str(trained) in line for line in lines) and any("Stage 2: 10 cells" in line for line in lines)
    assert sum(", repair repair_step_7.pt" in line for line in lines) == 4


def test_of_the_experiments_the_order_of_cells_has_repaired_ones(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, _ = parse_experiment(["order-bias", "--model", X, "--repair", str(trained)])
    assert len(cells_of(options)) == 10 and capsys.readouterr().err == ""
    options, _ = parse_experiment(["kv-axis", "--model", X, "--repair", str(trained)])
    assert options.repair is None and "--repair has a meaning for order-bias alone" in capsys.readouterr().err


# --- runs over scripted candidates


def whole(text: str, likely: float) -> Behaviour:
    """Answers every quality prompt with one token that is so likely."""
    from math import log

    told = {"token": text, "bytes": list(text.encode()), "logprob": log(likely)}
    content = [told | {"top_logprobs": [told]}]
    return {"whole": {"choices": [{"message": {"content": text}, "logprobs": {"content": content}}]}}


def test_the_gate_judges_a_cache_without_and_with_the_operator(bench: Bench, trained: Path) -> None:
    """Four bits answer otherwise, but with the operator as the unquantised cache does."""
    behaviours = {
        X: whole("a", 0.9) | Behaviour(token_s=0.03),
        f"{X} 4 1 256": whole("b", 0.6),
        f"{X} 4 1 256 repair": whole("a", 0.89) | Behaviour(token_s=0.001),
    }
    flags = ("--candidate-models", X, "--kv-bits-axis", "unset,4", "--quality-gate", "--repair", str(trained))
    done = bench.tune(behaviours, *flags, "--compare")
    assert done.code == 0, done.err
    rows = [row for row in done.trials if row["stage"] == 2]
    assert [(row["kv_bits"], row["repair"], row["fits"]) for row in rows] == [(None, None, 1), (4, None, 0), (4, str(trained), 1)]
    assert [row["repair"] for row in done.trials if row["stage"] == 1] == [None]
    told = done.document["cells"]
    assert [cell["knobs"].get("repair") for cell in told] == [None, None, str(trained)] and "repair" not in told[1]["knobs"]
    assert [cell["quality"] and cell["quality"]["same"] for cell in told] == [None, 0, 12]
    assert told[1]["notes"].startswith("quality below the gate: 0 of 12")
    recommended = done.document["recommendation"]
    assert recommended["knobs"]["repair"] == str(trained) and recommended["quality"]["same"] == 12
    assert recommended["serve_command"].endswith(f"--kv-bits 4 --max-batch 1 --max-context 256 --repair {shlex.quote(str(trained))}")
    assert f"  --repair:        {trained}" in done.out.splitlines()
    assert "kv_bits 4, max_batch 1, max_context 256, repair repair_step_7.pt" in done.err
    assert any("fits: " in line and "12 of 12 greedy answers the same, KL at least 0.0" in line for line in done.err.splitlines())
    again = bench.command("--report-only", "--json", "--show-pareto", "--db-path", str(bench.database))
    assert again.document == done.document and "repair repair_step_7.pt" in again.out


def test_the_verdict_on_a_setting_is_taken_once(bench: Bench, trained: Path) -> None:
    """Two widths, two verdicts: one for four bits, one for four bits with the operator."""
    behaviours = {
        X: whole("a", 0.9),
        f"{X} 4 1 256 repair": whole("b", 0.8),
        f"{X} 4 2 256": {"whole": {}},
        f"{X} 4 2 256 repair": {"whole": {}},
    }
    flags = ("--candidate-models", X, "--kv-bits-axis", "4", "--max-batch-axis", "1,2", "--quality-gate", "--repair", str(trained))
    done = bench.tune(behaviours, *flags, "--min-agreement", "0", "--max-kl", "9")
    assert [cell["quality"]["same"] for cell in done.document["cells"]] == [12, 0, 12, 0], done.err


def test_an_operator_that_did_not_take_effect_makes_its_cell_fail(bench: Bench, trained: Path) -> None:
    done = bench.tune({f"{X} 4 1 256 repair": {"repair": None}}, "--candidate-models", X, "--kv-bits-axis", "4", "--repair", str(trained))
    assert [row["notes"] for row in done.trials][1:] == [None, f"knob not in effect: repair asked {trained}, engine has none"]
    assert "repair" not in done.document["recommendation"]["knobs"]


def test_without_the_flag_nothing_speaks_of_a_repair(bench: Bench) -> None:
    done = bench.tune({}, "--candidate-models", X, "--kv-bits-axis", "unset,4", "--compare")
    assert "repair" not in json.dumps(done.document).replace("repairs", "") and "repair" not in done.out
    assert [row["repair"] for row in done.trials] == [None, None, None]


def test_apply_writes_the_operator_and_takes_it_out_again(bench: Bench, trained: Path) -> None:
    config = written(bench.folder, OPERATOR)
    slow: Behaviour = {"token_s": 0.03}
    flags = ("--candidate-models", X, "--kv-bits-axis", "4", "--config", str(config), "--apply")
    first = bench.tune({f"{X} 4 1 256": slow, f"{X} 4 1 256 repair": {"token_s": 0.001}}, *flags, "--repair", str(trained))
    assert yaml.safe_load(config.read_text())["repair"] == str(trained), first.err
    assert f"repair={trained} (backup at " in first.out
    assert load_settings({}, config=str(config), environ={}).settings.repair == trained
    other = bench.tune({}, *flags)  # it measured none, so the key is not its own
    assert yaml.safe_load(config.read_text())["repair"] == str(trained)
    assert f"also sets `repair: {trained}`, without which this was measured" in other.err
    last = bench.tune({f"{X} 4 1 256 repair": slow}, *flags, "--repair", str(trained))
    assert "repair" not in yaml.safe_load(config.read_text()) and "repair=unset" in last.out and "also sets" not in last.err
    assert config.read_text().endswith("log_format:   json\nmax_concurrency_override: 1\nmax_context_override: 256\n")


def test_a_path_with_blanks_and_quotes_is_written_so_that_serve_reads_it(tmp_path: Path) -> None:
    name = "/my 'runs'/#1: a \"b\"/repair_step_1.pt"
    path = written(tmp_path, OPERATOR)
    done = apply_recommendation(path, Recommended("o/m", 4, 256, 1, name, decides_repair=True))
    assert done.changed[-1] == "repair" and str(load_settings({}, config=str(path), environ={}).settings.repair) == name


# --- runs over a real provider


def real(bench: Bench, *flags: str) -> Tuned:
    return bench.outcome(
        tune(
            parse(bench.flags("--candidate-models", SMALL, "--max-tokens", "16", *flags))[0], World(serve_argv, pull_argv, lambda port: [])
        )
    )


@pytest.mark.slow
def test_a_real_provider_is_measured_without_and_with_a_real_operator(bench: Bench, trained: Path) -> None:
    limits = ("--quality-gate", "--min-agreement", "0", "--max-kl", "100")
    done = real(bench, "--kv-bits-axis", "unset,4", "--repair", str(trained.parent.parent), *limits)
    assert done.code == 0, done.err + done.logs
    rows = [row for row in done.trials if row["stage"] == 2]
    assert [(row["kv_bits"], row["repair"], row["fits"]) for row in rows] == [(None, None, 1), (4, None, 1), (4, str(trained), 1)]
    facts = [json.loads(row["measured_json"])["engine"] for row in done.trials]
    assert [found["repair"] for found in facts] == [None, None, None, str(trained)]
    unset, plain, mended = (cell["quality"] for cell in done.document["cells"])
    assert unset is None and plain["prompts"] == mended["prompts"] == 12
    assert plain["kl"] != mended["kl"] and mended["kl"] > 0, "the operator must matter"
    knobs = Knobs(4, 1, 256, done.document["cells"][2]["knobs"]["repair"])
    command = shlex.split(serve_command(SMALL, knobs))
    assert command[:4] == ["macprovider-cli", "serve", "--model", SMALL]
    with served(SMALL, *command[4:]) as server:
        answer = server.client().chat.completions.create(model=SMALL, messages=[{"role": "user", "content": "Hello"}], max_tokens=8)
        assert answer.usage.completion_tokens >= 1


@pytest.mark.slow
def test_an_operator_of_another_model_makes_its_cells_fail_in_serves_words(bench: Bench, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other", "modelwright/tiny-5m")
    done = real(bench, "--kv-bits-axis", "4", "--repair", str(other))
    notes = [row["notes"] for row in done.trials]
    assert done.code == 0 and notes[:2] == [None, None], done.err
    assert notes[2].startswith("provider exited rc=") and "use the repair of this model" in notes[2] and "KV heads" in notes[2]
    assert "repair" not in done.document["recommendation"]["knobs"]
