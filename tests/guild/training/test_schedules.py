"""The learning rate over a campaign: closed forms, and exact resume with a changed configuration."""

from __future__ import annotations

import math

import pytest
import torch

from guild.training.schedulers import build_scheduler
from guild.training.schedules import KINDS, Schedule, UnknownSchedulerError, schedule_of
from modelwright.errors import ConfigError


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_rises_in_equal_parts_and_never_stands_at_zero(kind: str) -> None:
    schedule = schedule_of(kind, 4, 20)
    assert [schedule.factor(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_closed_forms_and_the_floor() -> None:
    cosine, linear, constant = (schedule_of(kind, 10, 110, 0.1) for kind in KINDS)
    for step in range(10, 111):
        way = (step - 10) / 100
        assert cosine.factor(step) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * way)) / 2)
        assert linear.factor(step) == pytest.approx(0.1 + 0.9 * (1 - way))
        assert constant.factor(step) == 1.0
    assert cosine.factor(10**6) == linear.factor(10**6) == pytest.approx(0.1)
    assert schedule_of("cosine", 0, 0).factor(0) == 1.0


def test_it_is_the_librarys_cosine_without_a_floor() -> None:
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    library = get_cosine_schedule_with_warmup(optimizer, 10, 60).lr_lambdas[0]
    ours = Schedule("cosine", 10, 60, 0.0)
    assert [ours.factor(step) for step in range(10, 61)] == pytest.approx([library(step) for step in range(10, 61)])


def test_unknown_names_and_numbers_are_refused() -> None:
    with pytest.raises(UnknownSchedulerError, match=r"lr_scheduler: found 'cosin'.*Did you mean 'cosine'"):
        schedule_of("cosin", 1, 2)
    with pytest.raises(ConfigError) as caught:
        schedule_of("linear", -1, -2, 3.0)
    assert [fault.path for fault in caught.value.faults] == ["warmup_steps", "schedule_steps", "floor"]


def _optimizer(rate: float = 1.0) -> torch.optim.Optimizer:
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    return torch.optim.AdamW([{"params": [first]}, {"params": [second], "lr": rate / 10}], lr=rate)


def _rates(scheduler: torch.optim.lr_scheduler.LambdaLR, optimizer: torch.optim.Optimizer, steps: int) -> list[list[float]]:
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return seen


def test_a_resumed_schedule_goes_on_where_it_stood() -> None:
    schedule = schedule_of("cosine", 5, 40)
    optimizer = _optimizer()
    scheduler = build_scheduler(optimizer, schedule)
    whole = _rates(scheduler, optimizer, 30)
    assert whole == [[schedule.factor(step), 0.1 * schedule.factor(step)] for step in range(30)]
    for at in (0, 3, 5, 17):
        optimizer = _optimizer()
        assert _rates(build_scheduler(optimizer, schedule, at), optimizer, 30 - at) == whole[at:]
        fresh = _optimizer()
        resumed = build_scheduler(fresh, schedule)
        resumed.load_state_dict({"last_epoch": at})
        assert resumed.get_last_lr() == whole[at]
        assert _rates(resumed, fresh, 30 - at) == whole[at:]


def test_a_changed_learning_rate_takes_effect_after_a_resume() -> None:
    schedule = schedule_of("constant", 0, 0)
    old = _optimizer(1.0)
    saved = build_scheduler(old, schedule)
    _rates(saved, old, 3)
    new = _optimizer(0.5)
    scheduler = build_scheduler(new, schedule)
    new.load_state_dict(old.state_dict())
    scheduler.load_state_dict(saved.state_dict())
    assert [group["lr"] for group in new.param_groups] == [0.5, 0.05]
    assert scheduler.last_epoch == 3
