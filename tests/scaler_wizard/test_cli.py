"""The command as a user types it: the seed's invocation, every row of the argument table with its exit code, the dry run."""

from __future__ import annotations

import json
import signal
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
    assert plan["config_sha256"] == config["config_sha256"]
    assert any("no contract" in warning for warning in plan["warnings"])
    assert any("wishes for distillation" in note for note in config["notes"])
    assert config["warnings"] == []
    assert {"gpu_name", "vram_total", "vram_free", "gpu_count", "ram_total", "ram_free", "memory_plan"} <= set(hardware)
    out, err = capsys.readouterr()
    assert out.count(config["config_sha256"]) == 1 and f"config digest: {config['config_sha256']}" in out
    assert "sign" not in out
    assert err.startswith("checking the model and the dataset …\n")


def test_a_dry_run_reads_no_weights(workplace: Path) -> None:
    (workplace / "models" / "tiny-llama" / "model.safetensors").unlink()
    (workplace / "models" / "tiny-llama" / "model.safetensors").write_bytes(b"no weights")
    assert main([*SEED, "--dry-run"]) == 0


def test_a_yarn_plan_states_the_attention_factor(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SEED, "--dry-run", "--json", "--context-method", "yarn", "--yarn-ramp", "paper"]) == 0
    out, err = capsys.readouterr()
    plan = json.loads(out)
    assert "checking" not in err
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
        "--target-context", "5", "--persona", "brave", "--dry-run",
    ]  # fmt: skip
    code, err = run(words, capsys)
    assert code == 2
    assert [line.split(":")[0] for line in sorted(err.splitlines())] == [
        "--dataset", "--lora-rank", "--persona", "--target-context", "--template",
    ]  # fmt: skip


HEAVY = "{'torch', 'transformers', 'datasets', 'peft', 'accelerate', 'huggingface_hub', 'numpy', 'pyarrow'}"


def in_a_fresh_process(words: list[str]) -> tuple[int, str, set[str]]:
    """Exit code, what was said, and the heavy packages that were imported for it."""
    code = (
        "import sys; from scaler_wizard.cli import main; code = main(sys.argv[1:]); "
        f"print(*({HEAVY} & set(sys.modules)), file=sys.stdout); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            [*without("--template"), "--template", "nope", "--target-context", "8192", "--context-schedule", "4096,1024,foo"],
            ["--template: found 'nope'", "--context-schedule: found 'foo'", "--context-schedule: found 1024"],
        ),
        (
            [*without("--dataset"), "--dataset", "local://data/none.jsonl", "--probes", "passkye"],
            ["data/none.jsonl", "did you mean passkey"],
        ),
        ([*without("--base-model"), "--base-model", "owner/in-the-cloud", "--lora-rank", "0"], ["--lora-rank"]),
        ([word for word in BASE if word != "--dry-run"], ["there is no file config/human_contract.yaml"]),
    ],
)
def test_what_is_plainly_wrong_is_said_before_anything_heavy_is_imported(workplace: Path, words: list[str], said: list[str]) -> None:
    code, err, heavy = in_a_fresh_process(words)
    assert code in (2, 3) and heavy == set(), err
    assert [text for text in said if text not in err] == []
    assert len(err.splitlines()) == len(said) and "checking" not in err


def test_settings_contract_and_model_are_judged_together(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*without("--base-model"), "--base-model", "no/such/model/anywhere", "--contract", "broken.yaml"]
    (workplace / "broken.yaml").write_text("contract_version: 2.0.0\nsignoff: yes\n")
    code, err = run([*words, "--seed", "-1"], capsys)
    assert code == 2
    assert "--seed" in err and "contract_version" in err and "no/such/model/anywhere" in err
    code, err = run(words, capsys)
    assert code == 3
    assert "contract_version" in err and "no/such/model/anywhere" in err
    assert "--seed" not in err


def test_runtime_values_are_the_same_in_help_and_fault(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = "auto, cpu, single_gpu (multi_gpu and remote are not part of this version)"
    assert main(["--help"]) == 0
    assert values in " ".join(capsys.readouterr().out.split())
    for name in ("tpu", "multi_gpu", "remote"):
        code, err = run([*BASE, "--runtime", name], capsys)
        assert code == 2 and f"allowed: {values}" in err, err


def test_a_whole_section_cannot_be_set_to_one_value(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = run([*BASE, "--set", "scaling=5"], capsys)
    assert (code, err.startswith("--set scaling=5: found one value for a whole section")) == (2, True), err


def test_a_live_writer_is_named_with_what_to_do(workplace: Path) -> None:
    """A second process holds the directory: the command says who, since when, and how to follow or pause it; exit 1, as for a held lock."""
    script = (
        "import sys; from modelwright.rundir import RunDir\n"
        "run = RunDir.create('runs/held', kind='scaler_wizard', command=['the', 'first'])\n"
        "print('ready', flush=True); sys.stdin.read(); run.close()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        since = json.loads((workplace / "runs" / "held" / "writer.lock").read_text())["since"]
        words = [*SEED[:-1], "runs/held", "--dry-run"]
        answers = [in_a_fresh_process([*words[:-1], *more]) for more in (["--dry-run"], ["--dry-run", "--seed", "-1"])]
        writer.communicate("")
    code, err, heavy = answers[0]
    assert (code, heavy) == (1, set())
    for part in (f"process {writer.pid} on host", since, "the first", "runs watch runs/held", "runs pause runs/held"):
        assert part in err
    assert "--resume" not in err
    code, err, _ = answers[1]
    assert code == 2 and "--seed" in err and f"process {writer.pid}" in err


@pytest.mark.parametrize(
    ("program", "number"),
    [
        (["-m", "scaler_wizard.cli"], signal.SIGINT),
        (["-m", "modelwright.cli", "scale"], signal.SIGINT),
        (["-m", "scaler_wizard.cli"], signal.SIGTERM),
    ],
    ids=["SIGINT", "SIGINT at the front door", "SIGTERM"],
)
def test_an_interrupt_before_the_run_is_one_sentence_and_exit_7(workplace: Path, program: list[str], number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, *program, *SEED, "--dry-run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None and process.stderr.readline().startswith("checking")
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (7, "")
    assert err == f"Interrupted by {number.name} before a run began: none was started.\n"
    assert not (workplace / "runs").exists()


def test_the_guide_and_the_help_agree_about_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "scaler-wizard.md").read_text(encoding="utf-8")
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "Ctrl-C or SIGTERM before the run began (checks, dry run) | one sentence, no run is started | 7 |" in guide
    assert "7 aborted by a human, SIGINT or SIGTERM, at any moment" in text
    assert "1 unexpected, or a live process writes the run directory" in guide and "has a live writer" in text


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
