"""Step 1: precedence and origins, the rungs, the digest, and parity of flags and document."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelwright.errors import ConfigError, UsageError
from modelwright.hardware import Cpu, HardwareInventory
from scaler_wizard.arguments import parse
from scaler_wizard.digest import digested
from scaler_wizard.resolve import resolve, resolve_document
from scaler_wizard.resolved import ORIGINS, ResolvedJob

BASE = ["--base-model", "models/tiny-llama", "--dataset", "local://data/instruction.jsonl", "--output-dir", "runs/x"]


def machine(ram_free: float = 24.0) -> HardwareInventory:
    return HardwareInventory(
        gpu_name=None, vram_total=0, vram_free=0, gpu_count=0, ram_total=64, ram_free=ram_free,
        cpu=Cpu(model="x", logical=2, usable=2), disk_free_gb=1,
    )  # fmt: skip


def job(*words: str, ram_free: float = 24.0) -> ResolvedJob:
    return resolve(parse([*BASE, *words]), inventory=machine(ram_free))


def document(**sections: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": {"base_model": "models/tiny-llama"},
        "scaling": {"template": "max_context", "target_context": 8192},
        "dataset": {"source": "local_upload", "identifier": "data/instruction.jsonl"},
        "safety": {},
        "contract": {"version": "1.0.0"},
        "output_dir": "runs/x",
    }
    return {**body, **sections}


def test_the_flag_beats_job_adaptive_template_and_default(workplace: Path) -> None:
    path = workplace / "job.yaml"
    path.write_text(yaml.safe_dump(document(training={"steps_per_rung": 7, "learning_rate": 1e-3})))
    found = job("--config", str(path), "--steps-per-rung", "9", "--set", "training.warmup_steps=3")
    values, origins = found.document(), found.origins
    for path_, value, origin in [
        ("training.steps_per_rung", 9, "cli"),
        ("training.warmup_steps", 3, "cli"),
        ("training.learning_rate", 1e-3, "job"),
        ("scaling.template", "max_context", "job"),
        ("scaling.target_context", 8192, "job"),
        ("scaling.lora_rank", 4, "adaptive"),
        ("scaling.context_multiplier", 16, "template"),
        ("safety.telemetry.profile", "high_resolution", "template"),
        ("seed", 42, "default"),
    ]:
        node: Any = values
        for part in path_.split("."):
            node = node[part]
        assert (path_, node, origins[path_]) == (path_, value, origin)
    assert set(origins.values()) <= set(ORIGINS)


def test_every_leaf_has_an_origin(workplace: Path) -> None:
    from scaler_wizard.origins import leaves
    from scaler_wizard.resolved import settings_of

    found = job()
    assert set(found.origins) == {path for path in leaves(settings_of(found)) if path != "schema_version"}


@pytest.mark.parametrize("ram_free", [1.5, 8.0, 60.0])
def test_a_named_rank_is_the_rank_whatever_the_hardware(workplace: Path, ram_free: float) -> None:
    found = job("--lora-rank", "24", "--template", "budget_context", ram_free=ram_free)
    assert found.scaling.lora_rank == 24
    assert found.origins["scaling.lora_rank"] == "cli"
    assert found.scaling.lora_alpha >= 48


def test_without_the_adaptive_rule_the_template_decides_and_alpha_follows_a_named_rank(workplace: Path) -> None:
    found = job("--template", "max_context", "--no-adaptive-rank")
    assert (found.scaling.lora_rank, found.scaling.lora_alpha, found.origins["scaling.lora_rank"]) == (12, 32, "template")
    found = job("--template", "max_context", "--no-adaptive-rank", "--lora-rank", "6")
    assert (found.scaling.lora_rank, found.scaling.lora_alpha) == (6, 16)


def test_auto_asks_the_recommender(workplace: Path) -> None:
    found = job("--use-case", "long_context", ram_free=21)
    assert (found.scaling.template, found.origins["scaling.template"]) == ("max_context", "adaptive")
    assert found.scaling.target_context == 2048 * 16
    assert "max_context for long_context" in found.recommendation
    assert job("--template", "auto", ram_free=4).scaling.template == "budget_context"


def test_no_dataset_is_a_recorded_warning(workplace: Path) -> None:
    words = ["--base-model", "models/tiny-llama", "--template", "budget_context"]
    found = resolve(parse(words), inventory=machine())
    assert found.dataset.reference == "synthetic://mixed"
    assert any("synthetic://mixed" in warning for warning in found.warnings)
    assert found.output_dir.parts[0] == "runs"
    assert found.output_dir.name.endswith("-tiny-llama-budget_context")
    with pytest.raises(UsageError, match="synthetic://mixed"):
        resolve(parse([*words, "--strict"]), inventory=machine())


def test_a_target_equal_to_the_base_warns_and_expands_nothing(workplace: Path) -> None:
    found = job("--target-context", "2048", "--template", "budget_context")
    assert any("nothing is expanded" in warning for warning in found.warnings)
    assert found.scaling.context_schedule == (2048,)


def test_the_schedule_is_cleaned_and_ends_at_the_target(workplace: Path) -> None:
    found = job("--target-context", "12288", "--context-schedule", "8192, 4096,8192", "--template", "budget_context")
    assert found.scaling.context_schedule == (2048, 4096, 8192, 12288)
    assert found.scaling.growth == "explicit"
    assert [rung.phase for rung in found.rungs] == [1, 2, 3, 3]
    assert [rung.beyond_growth for rung in found.rungs] == [False, False, False, False]
    assert job("--growth", "single_shot", "--target-context", "16384").rungs[1].beyond_growth


def test_batches_by_tokens_and_overrides_per_rung(workplace: Path) -> None:
    found = job(
        "--target-context", "8192", "--template", "budget_context", "--micro-batch-tokens", "4096", "--batch-tokens", "16384",
        "--set", "training.rungs={4096: {steps: 5, learning_rate: 0.001}}",
    )  # fmt: skip
    assert [(rung.micro_batch_size, rung.gradient_accumulation) for rung in found.rungs] == [(2, 4), (1, 4), (1, 2)]
    assert [(rung.steps, rung.learning_rate) for rung in found.rungs] == [(400, 2e-5), (5, 0.001), (400, 2e-5)]
    assert [rung.native_fraction for rung in found.rungs] == [1.0, 0.2, 0.2]
    with pytest.raises(ConfigError, match=r"training\.rungs\.5000"):
        job("--target-context", "8192", "--set", "training.rungs={5000: {steps: 5}}")


def test_max_train_tokens_cuts_every_rung_alike(workplace: Path) -> None:
    found = job("--target-context", "4096", "--template", "budget_context", "--max-train-tokens", "122880", "--steps-per-rung", "40")
    assert [rung.steps for rung in found.rungs] == [20, 20]
    assert any("50 %" in note for note in found.notes)


def test_passkey_stands_in_at_every_rung(workplace: Path) -> None:
    found = job("--target-context", "4096", "--template", "budget_context")
    assert found.rungs[1].probes == ("synthetic_longform", "retrieval_qa")
    assert all("passkey" in rung.run_probes and "sliding_ppl" in rung.run_probes for rung in found.rungs)
    assert not any("passkey" in warning for warning in found.warnings)


def test_a_template_that_wishes_for_distillation_is_no_warning_but_a_wish_of_the_user_is(workplace: Path) -> None:
    found = job("--template", "balanced_scaling", "--strict")  # warnings would be errors
    assert not any("distillation" in warning for warning in found.warnings)
    assert any("template balanced_scaling wishes for distillation" in note for note in found.notes)
    found = job("--template", "balanced_scaling", "--set", "distillation.use_distillation=true")
    assert any("distillation was asked for" in warning for warning in found.warnings)
    assert not found.distillation.use_distillation


def test_qlora_only_when_named(workplace: Path) -> None:
    found = job("--template", "budget_context", ram_free=6)
    assert not found.scaling.use_qlora
    assert any("--strategy qlora" in note for note in found.notes)
    named = ("--template", "budget_context", "--strategy", "qlora")
    if find_spec("bitsandbytes") is None:
        with pytest.raises(ConfigError, match="bitsandbytes"):
            job(*named)
    else:
        assert job(*named).scaling.use_qlora


def test_persona_sets_limits_that_a_named_value_beats(workplace: Path) -> None:
    limits = job("--persona", "experimental", "--min-accuracy", "0.1").safety.circuit_breaker
    assert (limits.window_steps, limits.max_perplexity_delta, limits.min_accuracy, limits.hard_stop) == (20, 0.30, 0.1, False)


def test_embeddings_train_from_a_stretch_of_four(workplace: Path) -> None:
    assert not job("--target-context", "4096").scaling.train_embeddings
    assert job("--target-context", "8192").scaling.train_embeddings
    assert not job("--target-context", "8192", "--train-embeddings", "off").scaling.train_embeddings


def test_yarn_above_32k_and_ntk_below(workplace: Path) -> None:
    assert job("--target-context", "32768").scaling.context_method == "ntk"
    assert job("--target-context", "65536").scaling.context_method == "yarn"


def test_the_digest_ignores_host_paths_and_changes_with_settings(workplace: Path) -> None:
    plain = job("--target-context", "4096", "--template", "budget_context")
    model, data = workplace / "models" / "tiny-llama", workplace / "data" / "instruction.jsonl"
    words = ["--base-model", str(model), "--dataset", f"local://{data}", "--output-dir", "runs/other", "--contract", "elsewhere.yaml"]
    moved = resolve(parse([*words, "--template", "budget_context", "--target-context", "4096"]), inventory=machine())
    assert moved.config_sha256 == plain.config_sha256
    assert str(workplace) not in json.dumps(digested(moved))
    assert job("--target-context", "4096", "--template", "budget_context", "--seed", "7").config_sha256 != plain.config_sha256
    (workplace / "data" / "instruction.jsonl").write_text('{"text": "other"}\n')
    assert job("--target-context", "4096", "--template", "budget_context").config_sha256 != plain.config_sha256


def test_flags_and_document_resolve_to_the_same_config_apart_from_origins(workplace: Path) -> None:
    by_flags = job("--template", "max_context", "--target-context", "8192")
    by_document = resolve_document(document(), inventory=machine())
    assert by_flags.config_sha256 == by_document.config_sha256
    first, second = by_flags.document(), by_document.document()
    assert first.pop("origins") != second.pop("origins")
    assert first == second
    assert by_document.contract == {"version": "1.0.0"}


def test_a_document_with_five_faults_reports_five(workplace: Path) -> None:
    broken = document(
        scaling={"template": "max_contex", "target_context": 5, "lora_rnak": 3},
        safety={"circuit_breaker": {"window_steps": 3}},
    )
    del broken["contract"]
    with pytest.raises(ConfigError) as caught:
        resolve_document(broken, inventory=machine())
    assert {fault.path for fault in caught.value.faults} == {
        "--template", "scaling.target_context", "scaling.lora_rnak", "safety.circuit_breaker.window_steps", "contract",
    }  # fmt: skip
    assert "did you mean max_context" in str(caught.value)
    assert "lora_rank" in str(caught.value)


def test_adaptive_values_of_a_dry_run_stay_when_memory_moves(workplace: Path) -> None:
    from modelwright.files import make_folder
    from scaler_wizard.digest import write_config

    first = job("--template", "budget_context", ram_free=30)
    changed = replace(first, scaling=replace(first.scaling, lora_rank=5, lora_alpha=17))
    write_config(changed, make_folder("runs/x"))
    second = job("--template", "budget_context", ram_free=5)
    assert (second.scaling.lora_rank, second.scaling.lora_alpha) == (5, 17)
    assert any("recorded" in note for note in second.notes)
    assert job("--template", "budget_context", "--target-context", "8192", ram_free=5).scaling.lora_rank == 4


def test_the_exported_job_schema_is_in_step() -> None:
    from scaler_wizard.job import plugin_interface

    path = Path(__file__).parents[2] / "src" / "scaler_wizard" / "templates" / "plugin_interface.yaml"
    assert path.read_text(encoding="utf-8") == plugin_interface()
