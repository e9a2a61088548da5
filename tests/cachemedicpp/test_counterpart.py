"""Which run counts as the same one without the contraction penalty (specs/medic.md, 5.1 [C17]; acceptance 39)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cachemedicpp.config.mixture import PACKAGE_FOLDER
from cachemedicpp.config.sections import RunConfig
from cachemedicpp.config.settings import load_run_config
from cachemedicpp.phases.layout import RESOLVED
from cachemedicpp.sensitivity.counterpart import Counterpart, find_counterpart
from cachemedicpp.training.state import repair_path
from helpers.medic_run import write_config

MIXTURE = (PACKAGE_FOLDER / "default_mix.yaml").read_text(encoding="utf-8")


def config(folder: Path, **overrides: Any) -> RunConfig:
    return load_run_config(
        write_config(folder / "given.yaml", "modelwright/tiny-0.4m"), {name.replace("__", "."): value for name, value in overrides.items()}
    )


def run_beside(own: Path, name: str, settings: RunConfig, step: int | None = 6) -> Path:
    """A sibling as train leaves it, as far as the search looks: its resolved configuration and a repair file."""
    sibling = own.with_name(name)
    (sibling / "checkpoints").mkdir(parents=True)
    (sibling / RESOLVED).write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
    if step is not None:
        repair_path(sibling, step).write_bytes(b"tensors")
    return sibling


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "main_contr"
    folder.mkdir(parents=True)
    return folder


def search(own: Path, settings: RunConfig, step: int | None = 6) -> Counterpart:
    return find_counterpart(settings, own, None if step is None else repair_path(own, step))


def test_a_run_without_the_penalty_is_its_own_counterpart(own: Path, tmp_path: Path) -> None:
    run_beside(own, "other", config(tmp_path, train__lambda_contr=0))
    assert search(own, config(tmp_path, train__lambda_contr=0.0)) == Counterpart("self")


def test_only_an_equal_configuration_is_accepted(own: Path, tmp_path: Path) -> None:
    settings = config(tmp_path)
    differences: dict[str, Any] = {"seed": 1235, "train__lr": 1e-4, "train__steps": 7, "repair__rank": 3, "stability__num_prompts": 9}
    for name, value in differences.items():
        run_beside(own, name, config(tmp_path, train__lambda_contr=0, **{name: value}))
    run_beside(own, "also_contracted", config(tmp_path, train__lambda_contr=0.1))
    (own.with_name("no_run")).mkdir()
    damaged = run_beside(own, "damaged", config(tmp_path, train__lambda_contr=0))
    (damaged / RESOLVED).write_text("seed: [", encoding="utf-8")
    assert search(own, settings) == Counterpart("missing_pair")
    right = run_beside(own, "z_right", config(tmp_path, train__lambda_contr=0))
    assert search(own, settings) == Counterpart("../z_right", repair_path(right, 6))


def test_mixtures_are_compared_by_content(own: Path, tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(MIXTURE, encoding="utf-8")
    (tmp_path / "c.yaml").write_text(MIXTURE.replace("0.25", "0.35"), encoding="utf-8")
    settings = config(tmp_path, corruption__mixture=str(tmp_path / "a.yaml"))
    run_beside(own, "other_weights", config(tmp_path, train__lambda_contr=0, corruption__mixture=str(tmp_path / "c.yaml")))
    assert search(own, settings).source == "missing_pair"
    run_beside(own, "same_weights", config(tmp_path, train__lambda_contr=0, corruption__mixture=str(tmp_path / "b.yaml")))
    assert search(own, settings).source == "../same_weights"


def test_its_checkpoint_must_be_of_the_same_step(own: Path, tmp_path: Path) -> None:
    settings, other = config(tmp_path), config(tmp_path, train__lambda_contr=0)
    halfway = run_beside(own, "halfway", other, step=3)
    assert search(own, settings) == Counterpart("pair_checkpoint_missing")
    assert search(own, settings, step=3) == Counterpart("../halfway", repair_path(halfway, 3))
    assert search(own, settings, step=None) == Counterpart("../halfway", repair_path(halfway, 3))  # untrained: its newest
    whole = run_beside(own, "whole", other)
    assert search(own, settings) == Counterpart("../whole", repair_path(whole, 6))


def test_the_name_that_the_rule_expects_comes_first(own: Path, tmp_path: Path) -> None:
    other = config(tmp_path, train__lambda_contr=0)
    run_beside(own, "a_first_by_name", other)
    run_beside(own, "ablation_no_contr", other)
    assert search(own, config(tmp_path)).source == "../ablation_no_contr"
    assert search(own.with_name("run"), config(tmp_path)).source == "../a_first_by_name"
