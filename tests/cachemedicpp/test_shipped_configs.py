"""Every shipped configuration is valid, and holds the values of the specification's table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cachemedicpp.config.rules import at, check_against_model, config_warnings
from cachemedicpp.config.settings import DEFAULT_PRESETS, config_hash, load_run_config, resolved_document
from cachemedicpp.config.sweeps import load_sweep
from modelwright.loading import read_config, resolve_model
from modelwright.model_shape import ModelShape

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "medic"
RUN_CONFIGS = sorted(FOLDER.glob("*.yaml"))
SWEEPS = sorted((FOLDER / "sweeps").glob("*.yaml"))
SIX = ["gaussian", "dropout_zero", "orthogonal_rotation", "bitflipish_sparse", "quant_noise", "contiguous_overwrite"]
D1 = "Donor: This is a deterministic donor prompt for contiguous KV overwrite evaluation."
D2 = "Donor: Deterministic donor prompt for second-model overwrite evaluation."
FILES = ("mve", "fast_base", "second_smoke", "second_fast")

# Section 7.1: one row per key, one column per file; "=" repeats the first column.
TABLE: dict[str, tuple[Any, ...]] = {
    "seed": (1234, 1234, 777, 1234),
    "device": ("cuda", "=", "=", "="),
    "dtype": ("bfloat16", "=", "=", "="),
    "model.name": ("gpt2-medium", "gpt2-medium", "gpt2-large", "gpt2-large"),
    "model.attn_implementation": ("eager", "=", "=", "="),
    "repair.family": ("A", "=", "=", "="),
    "repair.rank": (8, "=", "=", "="),
    "repair.protect_layers": ([8, 9, 10, 11], "=", [20, 21, 22, 23], [12, 13, 14, 15]),
    "repair.apply_to": ("KV", "=", "=", "="),
    "repair.alpha_max": (0.9, "=", "=", "="),
    "repair.conditioning": (None, "=", "=", "="),
    "corruption.mixture": ("default_mix", "=", "=", "="),
    "corruption.eps_grid": ([0, 0.01, 0.02, 0.04, 0.08, 0.16], "=", [0, 0.02, 0.04, 0.08], [0, 0.02, 0.04, 0.08]),
    "corruption.axes.p_head": (0.25, "=", "=", "="),
    "corruption.axes.N_recent": (32, 32, 64, 32),
    "corruption.params.overwrite_window": ([16, 48], "=", [32, 96], "="),
    "corruption.params.donor_prompt": (D1, "=", D2, "="),
    "corruption.params.bitflip_p": (0.0005, "=", "=", "="),
    "train.steps": (12000, 4500, 4000, 2500),
    "train.lr": (2e-4, "=", "=", "="),
    "train.prefix_len": (96, 80, 96, 80),
    "train.lambda_id": (1.0, 1.5, 1.0, 1.5),
    "train.lambda_contr": (0.5, "=", "=", "="),
    "train.alpha_contr": (0.8, "=", "=", "="),
    "train.clean_batch_prob": (0.2, 0.25, 0.2, 0.25),
    "train.save_every": (1000, 1500, 1000, 1000),
    "eval.corruption_eval.eps": ([0, 0.02, 0.04, 0.08, 0.16], [0, 0.04, 0.08, 0.16], [0, 0.04, 0.08], [0, 0.08, 0.16]),
    "eval.corruption_eval.types": (
        SIX,
        "=",
        ["gaussian", "orthogonal_rotation", "bitflipish_sparse"],
        ["gaussian", "orthogonal_rotation", "contiguous_overwrite"],
    ),
    "eval.max_seq_len": (256, "=", "=", "="),
    "stability.num_prompts": (200, 100, 100, 60),
    "stability.delta_norms": ([0, 0.5, 1, 2], [0, 1, 2], [0, 0.5, 1], [0, 1, 2]),
    "stability.num_directions": (8, 4, 6, 4),
    "stability.topk_logits": (1000, 512, 1000, 512),
    "stability.layers": ([8, 9, 10, 11], "=", [20, 21, 22, 23], [12, 13, 14, 15]),
    "stability.N_recent": (32, 32, 64, 32),
    "data.use_offline": (False, "=", "=", "="),
    "data.long_context.context_len": (2048, "=", 3072, "="),
    "data.long_context.position_frac": (0.35, "=", "=", "="),
    # defaults of the new keys
    "repair.gate_rows": ("per_query", "=", "=", "="),
    "repair.form": ("collapsed", "=", "=", "="),
    "corruption.severity": ("scaled", "=", "=", "="),
    "corruption.inject": ("stored", "=", "=", "="),
    "train.lambda_w": (0.0, "=", "=", "="),
    "train.tail_len": (1, "=", "=", "="),
    "eval.heuristic_mask": ("region", "=", "=", "="),
    "eval.batch_size": (16, "=", "=", "="),
    "eval.sst2_wording": ("auto", "=", "=", "="),
    "eval.needle_values": (None, "=", "=", "="),
    "repair.base": (None, "=", "=", "="),
}
EXAMPLES = ((2000, 1000, 200), (600, 400, 120), (500, None, 100), (400, 250, 80))
RUNS = {
    "all_holdouts": 6, "fast_core": 2, "fast_paper": 2, "full_matrix": 12, "lambda_probe": 1, "recovery_b": 2, "recovery_v_only": 2,
    "required": 20, "rotation_holdout": 6, "second_model": 1, "seed_replication_2026_2027": 4, "seed_replication_2028_2029": 4,
    "tiny": 4, "tiny_5m": 15, "tiny_holdout": 10, "tiny_rivals": 15, "tiny_seeds": 15, "tuned_pair": 2,
}  # fmt: skip


def test_nothing_is_left_out() -> None:
    assert {path.stem for path in RUN_CONFIGS} == {*FILES, "tiny"}
    assert {path.stem for path in SWEEPS} == set(RUNS)


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=lambda path: path.stem)
def test_every_run_configuration_is_valid(path: Path) -> None:
    config = load_run_config(path)
    assert config_warnings(config) == []
    assert len(config_hash(config)) == 64


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_is_valid_and_its_runs_differ(path: Path) -> None:
    plan = load_sweep(path)
    assert plan.settings.sweep_name == path.stem
    assert len(plan.runs) == RUNS[path.stem] == len({config_hash(run.config) for run in plan.runs})
    for run in plan.runs:
        assert set(run.config.stability.layers) == set(run.config.repair.protect_layers)
        assert config_warnings(run.config) == []


@pytest.mark.parametrize("column", range(4), ids=FILES)
def test_values_are_those_of_the_table(column: int) -> None:
    config = load_run_config(FOLDER / f"{FILES[column]}.yaml")
    document = resolved_document(config)
    for key, row in TABLE.items():
        assert at(document, key) == (row[0] if row[column] == "=" else row[column]), key
    examples = {task.name: task.num_examples for task in config.eval.tasks}
    assert tuple(map(examples.get, ("wikitext2_ppl", "sst2_prompted", "needle_long_context"))) == EXAMPLES[column]


def test_the_presets_of_prefetch_are_one_file_each() -> None:
    assert [load_run_config(path).model.name for path in DEFAULT_PRESETS] == ["gpt2-medium", "gpt2-large"]
    for path in DEFAULT_PRESETS:
        assert (FOLDER / path.name).is_symlink() and (FOLDER / path.name).samefile(path)


@pytest.mark.parametrize("path", [FOLDER / "tiny.yaml", FOLDER / "sweeps" / "tiny.yaml"], ids=["tiny", "sweep"])
def test_the_tiny_study_fits_its_model(path: Path) -> None:
    configs = [load_run_config(path)] if path.parent == FOLDER else [run.config for run in load_sweep(path).runs]
    for config in configs:
        shape = ModelShape.from_config(read_config(resolve_model(config.model.name)))
        check_against_model(config, shape)
        assert config.data.use_offline and config.device == "cpu"


@pytest.mark.parametrize(("family", "rank"), [("A", 8), ("B", 11), ("C", 26)])
def test_families_of_the_required_sweep_have_about_equal_size(family: str, rank: int) -> None:
    """Section 3.3 at d = 64, 16 heads, four protected layers; orthonormal B has a learned share per direction and side."""
    d, layers, heads = 64, 4, 16
    gates = 2 * (d * rank + rank**2 + 2 * rank)
    size = {"A": layers * (4 * d * rank + gates), "B": layers * (2 * d * rank + gates + 2 * rank)}
    size["C"] = 4 * d * rank + gates + (layers + heads) * d
    assert abs(size[family] / 12928 - 1) < 0.04
    runs = [run.config.repair for run in load_sweep(FOLDER / "sweeps" / "required.yaml").runs]
    assert any(repair.family == family and repair.rank == rank for repair in runs)
