"""Training of a repair on any damage: distillation from the clean cache, as `cachemedicpp.training.distillation` does it.

Letters as in `subjects`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.medic_common.subjects import Damage, Pairs, Subject, checks_of, damaged, filled_cache, prefill, tail_logits, text_stream
from torch import Tensor

from cachemedicpp import seeds
from cachemedicpp.inputs.token_stream import draw_prefixes
from cachemedicpp.repair.attention import protecting
from cachemedicpp.repair.gram import contraction_ratio, identity_penalty
from cachemedicpp.repair.operator import RepairOperator
from cachemedicpp.repair.spec import Conditioning, Family, OperatorSpec, Sides, TokenGateSpec
from cachemedicpp.training.distillation import distillation_loss
from modelwright.errors import ModelwrightError


@dataclass(frozen=True)
class Training:
    """How an operator is trained; the start values, texts and draws depend on `seed` alone.

    batch texts of prefix_tokens + tail_tokens a step; temperature, lambda_id, lambda_contr, alpha_contr, grad_clip: as the
    configuration `train` names them (specs/medic.md, 4.1), with the values of `configs/medic/tiny.yaml`. clean_share: of steps
    without damage. token_gate, apply_to: see OperatorSpec.
    """

    steps: int = 80
    seed: int = 0
    family: Family = "D"
    rank: int = 8
    batch: int = 4
    prefix_tokens: int = 192
    tail_tokens: int = 32
    lr: float = 2e-3
    temperature: float = 2.0
    lambda_id: float = 1.0
    lambda_contr: float = 0.5
    alpha_contr: float = 0.9
    clean_share: float = 0.25
    grad_clip: float = 1.0
    apply_to: Sides = "KV"
    alpha_max: float = 0.9
    token_gate: TokenGateSpec | None = None


@dataclass(frozen=True)
class Lesson:
    """The clean half of a training step, which every damage can share. pairs: of the prefix. tail: ids `[B, n]`. target: `[B, n, V]`."""

    step: int
    pairs: Pairs
    tail: Tensor
    target: Tensor


def lessons(subject: Subject, training: Training) -> list[Lesson]:
    """The texts, clean caches and clean logits of all steps; hand them to `train_operator` when several damages share them."""
    stream = text_stream(subject, "train")
    length = training.prefix_tokens + training.tail_tokens
    made = []
    for step in range(1, training.steps + 1):
        ids = draw_prefixes(stream, length, seed=training.seed, step=step, batch=training.batch).to(subject.model.device)
        pairs, tail = prefill(subject, ids[:, : training.prefix_tokens]), ids[:, training.prefix_tokens :]
        made.append(Lesson(step, pairs, tail, tail_logits(subject, tail, pairs)))
    return made


def new_operator(subject: Subject, training: Training) -> RepairOperator:
    """An operator for every layer, the exact identity."""
    spec = OperatorSpec(
        training.family,
        training.rank,
        tuple(range(subject.layers)),
        training.apply_to,
        training.alpha_max,
        conditioning=Conditioning() if training.family == "C" else None,
        token_gate=training.token_gate,
    )
    return RepairOperator(spec, subject.layout, training.seed).to(subject.model.device)


def train_operator(
    subject: Subject,
    damage: Damage | None,
    training: Training,
    prepared: Sequence[Lesson] | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> RepairOperator:
    """An operator trained by distillation from the clean cache, as `cachemedicpp.training.distillation` does it.

    damage: None trains without any (the control). prepared: the `lessons` of an equal `training`. on_step: hears step and
    loss. Raises ModelwrightError when the loss is not finite.
    """
    operator = new_operator(subject, training)
    optimizer = torch.optim.Adam(operator.parameters(), lr=training.lr)
    for lesson in lessons(subject, training) if prepared is None else prepared:
        loss = _loss(subject, operator, lesson, damage, training)
        if not bool(loss.isfinite()):
            raise ModelwrightError(f"The loss of training step {lesson.step} is {float(loss.detach())}; lower lr or the damage.")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if training.grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(operator.parameters(), training.grad_clip)
        optimizer.step()
        if on_step is not None:
            on_step(lesson.step, float(loss.detach()))
    return operator


def _loss(subject: Subject, operator: RepairOperator, lesson: Lesson, damage: Damage | None, training: Training) -> Tensor:
    """Distillation and the penalties of one step (specs/medic.md, 4.2)."""
    draw = torch.rand((), generator=seeds.generator(training.seed, seeds.EVENT, seeds.TRAIN, lesson.step), dtype=torch.float64)
    clean = damage is None or float(draw) < training.clean_share
    stored = lesson.pairs if damage is None or clean else damaged(lesson.pairs, damage, lesson.step)
    queries: dict[int, Tensor] = {}

    def keep(layer: int, query: Tensor, key: Tensor, value: Tensor) -> None:
        queries[layer] = query[:, :, -1:].detach()

    cache, checks = filled_cache(subject, stored), checks_of(operator, lesson.pairs)
    with protecting(subject.model, operator, observe=keep, checks=checks, detach=True):
        logits = subject.model(input_ids=lesson.tail, past_key_values=cache, use_cache=True).logits
    loss = distillation_loss(lesson.target, logits, training.temperature)
    weight = training.lambda_id if clean else training.lambda_contr
    for layer, query in queries.items() if weight > 0 else ():
        if clean:
            penalty = identity_penalty(operator.layer(layer), query, *lesson.pairs[layer])
        else:
            rho = contraction_ratio(operator.layer(layer), query, stored[layer], lesson.pairs[layer]).rho
            penalty = (rho - training.alpha_contr).clamp_min(0).square()
        loss = loss + weight * penalty.mean()
    return loss


def as_settings(training: Training) -> Mapping[str, Any]:
    """The training's values for a result file."""
    return {name: value for name, value in vars(training).items() if name != "token_gate"} | {"token_gate": str(training.token_gate)}
