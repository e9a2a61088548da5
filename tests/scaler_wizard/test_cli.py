"""The command as a user types it: the seed's invocation, every row of the argument table with its exit code, the dry run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers.wizard import write_contract
from scaler_wizard.cli import main

SEED = [
    "--base-model", "models/tiny-llama",
    "--dataset", "local://data/instruction.jsonl",
    "--target-context", "16384",
    "--template", "balanced_scaling",
    "--output-dir", "runs/tinyllama-balanced",
]  # fmt: skip
BASE = ["--base-model", "models/tiny-llama", "--dataset", "local://data/instruction.jsonl", "--template", "budget_context", "--dry-run"]


def test_help_holds_the_exit_codes_and_the_seeds_command() -> None:
    done = subprocess.run([sys.executable, "-m", "scaler_wizard.cli", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "9 paused" in done.stdout
    assert "does not grow" in done.stdout
    assert "--base-model TinyLlama/TinyLlama-1.1B-Chat-v1.0" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from scaler_wizard.cli import main; main(['--help']); "
        "heavy = {'torch', 'transformers', 'pydantic', 'yaml', 'apsw', 'rich', 'jsonschema'} & set(sys.modules); "
        "print(heavy, file=sys.stderr); sys.exit(len(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_seeds_command_as_a_dry_run_writes_exactly_three_files(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SEED, "--dry-run"]) == 0
    folder = workplace / "runs" / "tinyllama-balanced"
    assert sorted(path.name for path in folder.iterdir()) == ["config.resolved.yaml", "hardware.json", "plan.json"]
    assert not (workplace / "config").exists()
    config = yaml.safe_load((folder / "config.resolved.yaml").read_text())
    plan = json.loads((folder / "plan.json").read_text())
    hardware = json.loads((folder / "hardware.json").read_text())
    assert config["scaling"]["context_schedule"] == [2048, 4096, 8192, 16384]
    assert config["dataset"]["identifier"] == "data/instruction.jsonl"
    assert [rung["s"] for rung in plan["rungs"]] == [1, 2, 4, 8]
    assert plan["rungs"][3]["method_parameters"]["rope_parameters"]["rope_theta"] == pytest.approx(10000 * 8 ** (16 / 14), rel=1e-6)
    assert plan["parameters"]["counted_by"] == "meta device"
    assert plan["data"]["records_sampled"] == 32
    assert plan["contract"]["digest_to_sign"] == config["config_sha256"]
    assert any("no contract" in warning for warning in plan["warnings"])
    assert any("wishes for distillation" in warning for warning in config["warnings"])
    assert {"gpu_name", "vram_total", "vram_free", "gpu_count", "ram_total", "ram_free", "memory_plan"} <= set(hardware)
    out = capsys.readouterr().out
    assert config["config_sha256"] in out


def test_a_dry_run_reads_no_weights(workplace: Path) -> None:
    (workplace / "models" / "tiny-llama" / "model.safetensors").unlink()
    (workplace / "models" / "tiny-llama" / "model.safetensors").write_bytes(b"no weights")
    assert main([*SEED, "--dry-run"]) == 0


def test_a_yarn_plan_states_the_attention_factor(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SEED, "--dry-run", "--json", "--context-method", "yarn", "--yarn-ramp", "paper"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["status"] == "planned"
    assert plan["rungs"][3]["attention_factor"] == pytest.approx(1.207944, rel=1e-6)
    assert plan["rungs"][3]["method_parameters"]["context_extension"]["options"]["ramp"] == "paper"


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(words)
    return code, capsys.readouterr().err


def without(flag: str) -> list[str]:
    index = BASE.index(flag)
    return BASE[:index] + BASE[index + 2 :]


TABLE: list[tuple[list[str], int, str]] = [
    (without("--base-model"), 2, "--base-model"),
    ([*without("--base-model"), "--base-model", "no/such/model/anywhere"], 5, "no/such/model/anywhere"),
    ([*without("--base-model"), "--base-model", "owner/not-in-the-cache", "--offline"], 5, "owner/not-in-the-cache"),
    ([*BASE, "--tokenizer", "no/such/tokenizer/anywhere"], 5, "no/such/tokenizer"),
    ([*without("--template"), "--template", "nope"], 2, "creative_fusion"),
    ([*BASE, "--lora-rank", "0"], 2, "--lora-rank"),
    ([*BASE, "--lora-rank", "513"], 2, "--lora-rank"),
    ([*BASE, "--lora-rank", "many"], 2, "--lora-rank"),
    ([*BASE, "--target-context", "2047"], 2, "--target-context"),
    ([*BASE, "--target-context", "131073"], 2, "--target-context"),
    ([*BASE, "--target-context", "16k"], 2, "--target-context"),
    ([*BASE, "--target-context", "8192", "--context-schedule", "4096,eight"], 2, "--context-schedule"),
    ([*BASE, "--target-context", "8192", "--context-schedule", "1024,4096"], 2, "base context 2048"),
    ([*BASE, "--target-context", "8192", "--context-schedule", "4096,16384"], 2, "16384"),
    ([*BASE, "--target-context", "8192", "--context-schedule", "-4096"], 2, "--context-schedule"),
    ([*without("--dataset"), "--dataset", "ftp://x"], 2, "hf://, local:// and synthetic://"),
    ([*without("--dataset"), "--dataset", "local://data/none.jsonl"], 2, "data/none.jsonl"),
    ([*without("--dataset"), "--dataset", "local://data/empty.jsonl"], 5, "no records"),
    ([*without("--dataset"), "--dataset", "local://data/mixed.jsonl"], 5, "mixed.jsonl:2"),
    ([*BASE, "--weak-supervision"], 2, "weak supervision"),
    ([*BASE, "--output-dir", "data/instruction.jsonl/run"], 2, "--output-dir"),
    ([*BASE, "--output-dir", "runs/held"], 2, "already holds a run"),
    ([*BASE, "--output-dir", "runs/fresh", "--resume"], 2, "--resume"),
    ([*BASE, "--teacher-model", "self"], 2, "--teacher-model"),
    ([*BASE, "--strategy", "prefix_tuning"], 2, "--strategy"),
    ([*BASE, "--telemetry-destination", "websocket"], 2, "websocket"),
    ([*BASE, "--telemetry-destination", "http"], 2, "--telemetry-endpoint"),
    ([*BASE, "--context-method", "yarm"], 2, "did you mean yarn"),
    ([*BASE, "--target-context", "8192", "--context-method", "yarn", "--method-params", "beta_fats=3"], 2, "beta_fast"),
    ([*BASE, "--learning-rate", "inf"], 2, "--learning-rate"),
    ([*BASE, "--contextt", "3"], 2, "--context"),
    ([*BASE, "--lora-rank"], 2, "expected one argument"),
    ([*BASE, "--config", "none.yaml"], 2, "none.yaml"),
    ([*BASE, "--set", "training.warmup=3"], 2, "training.warmup_steps"),
    ([*BASE, "--probes", "passkye"], 2, "did you mean passkey"),
    ([*BASE, "--strict"], 2, "contract"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code", "said"), TABLE, ids=[" ".join(words[len(BASE) - 2 :][:6]) for words, _, _ in TABLE])
def test_a_failing_value_has_its_exit_code(
    workplace: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    (workplace / "data" / "empty.jsonl").write_text("\n")
    (workplace / "data" / "mixed.jsonl").write_text('{"text": "a"}\n{"prompt": "a", "completion": "b"}\n')
    held = workplace / "runs" / "held"
    held.mkdir(parents=True)
    (held / "run.json").write_text("{}")
    before = sorted(workplace.rglob("*"))
    found, err = run(words, capsys)
    assert (found, said in err) == (code, True), err
    assert "Traceback" not in err
    assert sorted(workplace.rglob("*")) == before  # nothing was written


def test_not_a_causal_model_exits_5(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "models" / "tiny-llama" / "config.json").unlink()
    (workplace / "models" / "tiny-llama" / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    code, err = run(BASE, capsys)
    assert code == 5
    assert "causal" in err


def test_a_tokenizer_beyond_the_embeddings_exits_5(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = workplace / "models" / "tiny-llama" / "config.json"
    config = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**config, "vocab_size": 200}))
    code, err = run([*BASE, "--output-dir", "runs/x"], capsys)
    assert code == 5
    assert "--resize-embeddings" in err
    assert main([*BASE, "--output-dir", "runs/y", "--resize-embeddings"]) == 0


def test_five_faults_are_five_lines(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--base-model", "models/tiny-llama", "--dataset", "ftp://x", "--template", "nope", "--lora-rank", "900",
        "--target-context", "5", "--persona", "brave",
    ]  # fmt: skip
    code, err = run(words, capsys)
    assert code == 2
    assert [line.split(":")[0] for line in sorted(err.splitlines())] == [
        "--dataset", "--lora-rank", "--persona", "--target-context", "--template",
    ]  # fmt: skip


def test_contract_decides_between_0_and_3(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = workplace / "config" / "human_contract.yaml"
    write_contract(path)
    path.write_text(path.read_text().replace("1.0.0", "2.0.0"))
    code, err = run([*BASE, "--output-dir", "runs/a"], capsys)
    assert code == 3
    assert "contract_version" in err
    assert not (workplace / "runs").exists()
    write_contract(path, config_sha256="ab" * 32)
    code, err = run([*BASE, "--output-dir", "runs/b"], capsys)
    assert code == 3
    assert "config_sha256" in err
    write_contract(path, base_model="another/model")
    assert run([*BASE, "--output-dir", "runs/c"], capsys)[0] == 3
    write_contract(path)
    assert run([*BASE, "--output-dir", "runs/d"], capsys)[0] == 0


def test_a_real_run_without_contract_exits_3_and_writes_nothing(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(workplace.rglob("*"))
    code, err = run(SEED, capsys)
    assert code == 3
    assert "contract" in err
    assert sorted(workplace.rglob("*")) == before


def test_json_output_tells_a_program_what_failed(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE, "--lora-rank", "0", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert (document["status"], document["exit_code"]) == ("failed", 2)
    assert "--lora-rank" in document["error"]
