"""One training step and what many of them do: frozen base, penalties, draws by step, every family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cachemedicpp.config.mixture import find_split
from cachemedicpp.config.mixture import training_mixture as without
from cachemedicpp.config.sections import RunConfig
from cachemedicpp.config.settings import load_run_config, training_mixture_of
from cachemedicpp.repair.attainability import attainable_rho
from cachemedicpp.training.distillation import (
    Recipe,
    StepResult,
    distillation_loss,
    draw_event,
    fit,
    needs_donor,
    operator_of,
    optimizer_of,
    recipe_of,
    training_step,
)
from helpers.medic_run import write_config
from helpers.tiny_random import random_gpt2, random_llama
from modelwright.errors import ModelwrightError

MODEL = random_llama().requires_grad_(False)
STREAM = torch.randint(0, 256, (600,), generator=torch.Generator().manual_seed(5))
OTHER_FAMILIES: dict[str, dict[str, Any]] = {
    "A": {},
    "B": {"repair.family": "B"},
    "C": {"repair.family": "C", "repair.conditioning": {"use_layer_embedding": True, "use_head_embedding": True}},
    "D": {"repair.family": "D", "repair.token_gate": {"hidden": 4, "basis": 2, "neighbour": True, "checksum": True}},
}


def settings(folder: Path, **overrides: Any) -> RunConfig:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_run_config(write_config(folder / "config.yaml", "modelwright/tiny-1.5m", named))


def recipe(config: RunConfig, only: str = "gaussian") -> Recipe:
    """The recipe with one type of corruption (no donor needed)."""
    made = recipe_of(config, training_mixture_of(config))
    return replace(made, mixture=replace(made.mixture, weights={only: 1.0}))


def test_bounds_of_what_a_query_can_reach() -> None:
    """The table of [C15]."""
    for rank, bound in ((4, 0.968), (8, 0.935), (16, 0.866)):
        assert attainable_rho(64, rank) == pytest.approx(bound, abs=5e-4)
    assert attainable_rho(64, 24) < 0.8 and attainable_rho(64, 28) == pytest.approx(0.75)


def test_distillation_loss_against_the_formula() -> None:
    target, logits = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    p, q = (target.double() / 2).softmax(-1), (logits.double() / 2).softmax(-1)
    expected = sum(float((p[b, t] * (p[b, t] / q[b, t]).log()).sum()) for b in range(2) for t in range(3)) / 6
    assert float(distillation_loss(target, logits, 2.0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_the_base_model_stays_what_it_was(tmp_path: Path, family: str) -> None:
    """Acceptance 22; a new operator is the identity, so nothing is lost on the first clean step."""
    overrides = {name.replace(".", "__"): value for name, value in OTHER_FAMILIES[family].items()}
    config = settings(tmp_path, train__clean_batch_prob=0.6, **overrides)
    before = {name: parameter.clone() for name, parameter in MODEL.named_parameters()}
    operator = operator_of(config, MODEL)
    start = {name: parameter.detach().clone() for name, parameter in operator.named_parameters()}
    steps: list[StepResult] = []
    fit(MODEL, operator, STREAM, recipe(config), on_step=steps.append)
    for name, parameter in MODEL.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.grad is None
    moved = [name for name, parameter in operator.named_parameters() if not torch.equal(parameter, start[name])]
    assert moved and all(parameter.dtype == torch.float32 for parameter in operator.parameters())
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert {step.corruption["type"] for step in steps} == {"none", "gaussian"}
    first_clean = next(step for step in steps if step.corruption["type"] == "none")
    assert first_clean.loss_contr == 0.0 and not first_clean.rho


@pytest.mark.parametrize("inject", ["stored", "inline"])
def test_an_identity_repair_has_rho_one(tmp_path: Path, inject: str) -> None:
    """Acceptance 20, first half. (inline: the later layer sees what the first one did, in both tensors alike)"""
    inline = {"corruption__inject": "inline", "train__batch_size": 1} if inject == "inline" else {}
    config = settings(tmp_path, train__clean_batch_prob=0.0, **inline)
    operator = operator_of(config, MODEL)
    done = training_step(MODEL, operator, optimizer_of(operator, config.train), STREAM, recipe(config), 1)
    assert len(done.rho) == 2 * config.train.batch_size
    assert all(rho == pytest.approx(1.0, abs=1e-5) for rho in done.rho)
    assert done.loss_contr == pytest.approx(2 * (1 - config.train.alpha_contr) ** 2, rel=1e-4)
    assert done.values()["rho_mean"] == pytest.approx(1.0, abs=1e-5) and done.loss_kd > 0


@pytest.mark.parametrize("why", ["epsilon", "time", "heads"])
def test_a_corruption_without_effect_contributes_nothing(tmp_path: Path, why: str) -> None:
    """Acceptance 20, second half."""
    overrides: dict[str, Any] = {
        "epsilon": {"corruption__eps_grid": [0.0]},
        "time": {"corruption__axes__N_recent": 400},
        "heads": {"corruption__axes__head_mode": "bernoulli", "corruption__axes__p_head": 0.0},
    }[why]
    config = settings(tmp_path, train__clean_batch_prob=0.0, **overrides)
    operator = operator_of(config, MODEL)
    done = training_step(MODEL, operator, optimizer_of(operator, config.train), STREAM, recipe(config), 1)
    assert (done.loss_contr, done.rho, done.values()["rho_p95"]) == (0.0, (), None)
    assert done.loss_total == pytest.approx(0.0, abs=1e-6) and done.loss_total < 1


def test_steps_depend_on_their_number_alone(tmp_path: Path) -> None:
    """Stopping after any step and going on with what the optimiser holds changes no bit. (26, the arithmetic)"""
    config = settings(tmp_path)
    whole = operator_of(config, MODEL)
    fit(MODEL, whole, STREAM, recipe(config))
    parts = operator_of(config, MODEL)
    half = replace(recipe(config), settings=config.train.model_copy(update={"steps": 3}))
    optimizer = fit(MODEL, parts, STREAM, half)
    again = operator_of(config, MODEL)
    again.load_state_dict(parts.state_dict())
    second = optimizer_of(again, config.train)
    second.load_state_dict(optimizer.state_dict())
    torch.rand(7)  # the process's own stream of random numbers plays no part
    fit(MODEL, again, STREAM, recipe(config), optimizer=second, first=4)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, dict(again.named_parameters())[name]), name


def test_training_lowers_the_damage(tmp_path: Path) -> None:
    """Family A fits one repeated corrupted step, so gradients point the right way through cache, attention and gates."""
    config = settings(tmp_path, train__clean_batch_prob=0.0, train__lr=0.02, train__lambda_contr=0.0, corruption__eps_grid=[0.5])
    operator = operator_of(config, MODEL)
    optimizer = optimizer_of(operator, config.train)
    losses = [training_step(MODEL, operator, optimizer, STREAM, recipe(config), 1).loss_kd for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]


def test_other_layouts_train_too(tmp_path: Path) -> None:
    config = settings(tmp_path, train__steps=1, train__clean_batch_prob=0.0)
    model = random_gpt2().requires_grad_(False)
    steps: list[StepResult] = []
    fit(model, operator_of(config, model), STREAM, recipe(config), on_step=steps.append)
    assert steps[0].loss_kd > 0


def test_a_held_out_type_is_never_drawn(tmp_path: Path) -> None:
    """Acceptance 35, the training side."""
    config = settings(tmp_path, eval__ood_protocol="loto_holdout_gaussian")
    mixture = training_mixture_of(config)
    assert mixture == without(training_mixture_of(settings(tmp_path)), find_split("loto_holdout_gaussian"))
    made = recipe_of(config, mixture)
    drawn = [draw_event(made, step).type for step in range(1, 400)]
    assert "gaussian" not in drawn and len(set(drawn)) == 6 and sum(mixture.weights.values()) == pytest.approx(1.0)
    assert 0.15 < drawn.count("none") / len(drawn) < 0.35
    assert needs_donor(mixture, "gaussian")


def test_a_loss_that_is_not_finite_ends_the_step(tmp_path: Path) -> None:
    config = settings(tmp_path, train__clean_batch_prob=0.0)
    operator = operator_of(config, MODEL)
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(ModelwrightError, match="loss of training step 3 is nan"):
        training_step(MODEL, operator, optimizer_of(operator, config.train), STREAM, recipe(config), 3)
