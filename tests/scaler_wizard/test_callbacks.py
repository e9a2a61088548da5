from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl

from modelwright.errors import ModelwrightError
from scaler_wizard.callbacks import CheckpointCallback, ControlCallback, GradientSetGuard, StepRecorder, adapter_norm
from scaler_wizard.circuit_breaker import CBConfig, CircuitBreaker
from scaler_wizard.outcomes import BreakerStop
from scaler_wizard.resolved import RungPlan
from scaler_wizard.session import Halt, Position

RUNG = RungPlan(1, 1024, 2.0, 2, 10, 1e-4, 0.2, 2, 3, (), ("passkey",), "", False)


@dataclass
class Recorded:
    """What the callbacks use of a session, kept in lists."""

    save_every: int = 4
    log_every: int = 1
    at: Position = field(default_factory=Position)
    halt: Halt | None = None
    metrics: list[tuple[str, float | None]] = field(default_factory=list)
    beats: int = 0
    polls: int = 0

    @property
    def job(self) -> Any:
        telemetry = SimpleNamespace(log_every=self.log_every, profile="standard")
        return SimpleNamespace(training=SimpleNamespace(save_every=self.save_every), safety=SimpleNamespace(telemetry=telemetry))

    def offset(self, rung: RungPlan) -> int:
        return 20

    def log(self, metric: str, value: float | None, **extra: Any) -> None:
        self.metrics.append((metric, value))

    def beat(self) -> None:
        self.beats += 1

    def poll(self) -> None:
        self.polls += 1


def recorder(session: Recorded, loss: float, norm: float = 1.0) -> StepRecorder:
    breaker = CircuitBreaker(CBConfig(), printer=lambda line: None)
    made = StepRecorder(session, breaker, RUNG)  # type: ignore[arg-type]
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])
    made.trainer = SimpleNamespace(  # type: ignore[assignment]
        step_loss=torch.tensor(loss), step_grad_norm=torch.tensor(norm), optimizer=optimizer, trained=[]
    )
    return made


def step(made: StepRecorder, number: int) -> None:
    state = SimpleNamespace(global_step=number)
    made.on_step_begin(None, state, None)
    made.trainer.step_loss = torch.tensor(2.0)  # type: ignore[union-attr]
    made.on_pre_optimizer_step(None, SimpleNamespace(global_step=number - 1), None)
    state.global_step = number
    made.on_step_end(None, state, None)


def test_every_step_counts_tokens_and_is_recorded_at_its_global_step() -> None:
    session = Recorded()
    made = recorder(session, 2.0)
    step(made, 1)
    step(made, 2)
    assert (session.at.step, session.at.tokens, session.beats) == (22, 2 * 2 * 3 * 1024, 2)
    names = [name for name, _ in session.metrics]
    assert names.count("train/loss") == 2 and "throughput/tokens_per_s" in names
    assert dict(session.metrics)["train/learning_rate"] == 0.5


def test_a_sparse_profile_keeps_first_last_and_every_tenth() -> None:
    made = recorder(Recorded(log_every=5), 2.0)
    assert [number for number in range(1, 11) if made.due(number)] == [1, 5, 10]


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_values_that_are_not_finite_stop_before_the_optimizer(loss: float, norm: float) -> None:
    made = recorder(Recorded(), loss, norm)
    with pytest.raises(BreakerStop) as stop:
        made.on_pre_optimizer_step(None, SimpleNamespace(global_step=4), None)
    assert stop.value.telegram["step"] == "25" and stop.value.telegram["action"] == "stop"
    assert stop.value.exit_code == 6


def test_a_changed_set_of_gradients_is_found_after_an_evaluation() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    for parameter in parameters:
        parameter.grad = torch.ones(2)
    guard = GradientSetGuard()
    guard.trainer = SimpleNamespace(trained=parameters)  # type: ignore[assignment]
    guard.on_pre_optimizer_step(None, None, None)
    parameters[1].grad = None
    guard.on_pre_optimizer_step(None, None, None)  # not looked at between evaluations
    guard.evaluated()
    with pytest.raises(ModelwrightError, match="2 of 3"):
        guard.on_pre_optimizer_step(None, None, None)


def test_saves_on_schedule_and_at_the_end() -> None:
    saved = []
    callback = CheckpointCallback(Recorded(), RUNG)  # type: ignore[arg-type]
    for number in range(1, 11):
        control = callback.on_step_end(None, SimpleNamespace(global_step=number), TrainerControl())
        saved += [number] if control.should_save else []
    assert saved == [4, 8, 10]


def test_a_halt_saves_and_leaves_the_loop() -> None:
    session = Recorded()
    callback = ControlCallback(session)  # type: ignore[arg-type]
    calm = callback.on_step_end(None, SimpleNamespace(global_step=1), TrainerControl())
    assert not calm.should_save and not calm.should_training_stop
    session.halt = Halt("pause", "test", "")
    control = callback.on_step_end(None, SimpleNamespace(global_step=2), TrainerControl())
    assert control.should_save and control.should_training_stop
    assert session.polls == 2


def test_adapter_norm_is_the_norm_of_all_tensors() -> None:
    tensors = [torch.nn.Parameter(torch.tensor([3.0])), torch.nn.Parameter(torch.tensor([4.0]))]
    assert adapter_norm(tensors) == pytest.approx(5.0)
