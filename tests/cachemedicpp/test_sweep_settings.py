"""Sweeps: every run is merged and checked before any starts; a held-out run gets its mixture and its grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cachemedicpp.config.settings import DEFAULT_PRESETS, config_hash, load_run_config, training_mixture_of
from cachemedicpp.config.sweeps import MIXTURE_FILE, load_sweep, run_documents
from modelwright.errors import ConfigError
from modelwright.files import write_yaml

FIELDS = {"train.steps": 5, "train.lambda_contr": 0.0}


def sweep(folder: Path, *runs: dict[str, Any], **fields: Any) -> Path:
    write_yaml(folder / "base.yaml", yaml.safe_load(DEFAULT_PRESETS[0].read_text(encoding="utf-8")))
    document = {"sweep_name": "s", "base_config": "base.yaml", "runs": list(runs), **fields}
    write_yaml(folder / "sweep.yaml", document)
    return folder / "sweep.yaml"


def faults(path: Path) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_sweep(path)
    assert caught.value.exit_code == 2
    return {fault.path: fault.sentence() for fault in caught.value.faults}


def test_runs_are_merged_in_any_order_of_their_overrides(tmp_path: Path) -> None:
    backwards = dict(reversed(FIELDS.items()))
    plan = load_sweep(sweep(tmp_path, {"name": "a", "overrides": FIELDS}, {"name": "b", "overrides": backwards}))
    assert [run.config.train.steps for run in plan.runs] == [5, 5]
    assert config_hash(plan.runs[0].config) == config_hash(plan.runs[1].config)
    assert plan.base_path == tmp_path / "base.yaml" and plan.settings.budget is None


def test_faults_of_all_runs_are_reported_before_any_starts(tmp_path: Path) -> None:
    runs = [
        {"name": "good", "overrides": {}},
        {"name": "through", "overrides": {"train.steps.many": 1}},
        {"name": "unknown", "overrides": {"train.stepz": 1, "repair.rank": 0}},
        {"name": "layers", "overrides": {"repair.protect_layers": [16, 17]}},
    ]
    found = faults(sweep(tmp_path, *runs))
    assert set(found) == {
        "run through: train.steps.many",
        "run unknown: train.stepz",
        "run unknown: repair.rank",
        "run layers: stability.layers",
    }
    assert "did you mean train.steps?" in found["run unknown: train.stepz"]


@pytest.mark.parametrize(
    ("runs", "fields", "path"),
    [
        ([], {}, "runs"),
        ([{"name": "a", "overrides": {}}, {"name": "a", "overrides": {}}], {}, "runs"),
        ([{"name": "../up", "overrides": {}}], {}, "runs.0.name"),
        ([{"name": "a"}], {}, "runs.0.overrides"),
        ([{"name": "a", "overrides": {}, "overides": {}}], {}, "runs.0.overides"),
        ([{"name": "a", "overrides": {}}], {"budget": {"max_total_gpu_hours": -1}}, "budget.max_total_gpu_hours"),
        ([{"name": "a", "overrides": {}}], {"swep_name": "x"}, "swep_name"),
        ([{"name": "a", "overrides": {}}], {"base_config": "nowhere.yaml"}, "base_config"),
    ],
)
def test_faults_of_the_sweep_file(tmp_path: Path, runs: list[dict[str, Any]], fields: dict[str, Any], path: str) -> None:
    assert path in faults(sweep(tmp_path, *runs, **fields))


def test_documents_of_a_plain_run(tmp_path: Path) -> None:
    (run,) = load_sweep(sweep(tmp_path, {"name": "a", "overrides": FIELDS}, out_root="unused", budget={"notes": "short"})).runs
    (name, document), *others = run_documents(run.config, tmp_path).items()
    assert (name, others) == ("sweep_resolved_config.yaml", [])
    write_yaml(tmp_path / name, document)
    assert config_hash(load_run_config(tmp_path / name)) == config_hash(run.config)


def test_a_held_out_run_trains_without_the_type_and_evaluates_it_alone(tmp_path: Path) -> None:
    protocol = {"eval.ood_protocol": "loto_holdout_quant_noise"}
    (run,) = load_sweep(sweep(tmp_path, {"name": "a", "overrides": protocol})).runs
    folder = tmp_path / "s" / "a"
    folder.mkdir(parents=True)
    for name, document in run_documents(run.config, folder).items():
        write_yaml(folder / name, document)
    mixture = yaml.safe_load((folder / MIXTURE_FILE).read_text())
    assert mixture["name"] == "ood_train_mix_loto_holdout_quant_noise"
    assert "quant_noise" not in mixture["weights"] and sum(mixture["weights"].values()) == pytest.approx(1.0, abs=1e-12)
    read = load_run_config(folder / "sweep_resolved_config.yaml")
    assert read.corruption.mixture == str(folder / MIXTURE_FILE)
    assert read.eval.corruption_eval.types == ("quant_noise",)
    assert training_mixture_of(read).weights == pytest.approx(mixture["weights"])
