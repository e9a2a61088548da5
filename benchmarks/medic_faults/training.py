"""The sizes of the study, its caches as they are stored, and the training of family D on its faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from benchmarks.medic_common.subjects import Damage, Pairs, Subject, checks_of, prefill, tail_logits, texts
from benchmarks.medic_common.training import Lesson, Training, lessons, new_operator, train_operator
from benchmarks.medic_faults.defences import TRAINED, Limits, Trained, clipped, gate_scores, gates, guard, threshold
from benchmarks.medic_faults.patterns import KINDS, CacheShape, draw_place, strike, trial_generator
from torch import Tensor

from cachemedicpp import seeds
from cachemedicpp.inputs.sources import Split
from cachemedicpp.repair.operator import RepairOperator
from cachemedicpp.repair.spec import TokenGateSpec


@dataclass(frozen=True)
class Study:
    """Sizes of the study. trials: faults of each kind, each in a text of its own. prefix, tail, greedy, size: tokens of the
    stored prefix, the scored tail, the greedy continuation and a block. training_seeds, steps, batch: of every operator."""

    trials: int = 144
    prefix: int = 192
    tail: int = 16
    greedy: int = 16
    size: int = 16
    training_seeds: int = 3
    steps: int = 240
    batch: int = 4
    rows: int = 16
    calibration: int = 64
    seed: int = 0
    dtype: str = "bfloat16"

    @property
    def stored_dtype(self) -> torch.dtype:
        return torch.float16 if self.dtype == "float16" else torch.bfloat16

    def shape(self, layers: int) -> CacheShape:
        return CacheShape(layers, self.prefix, self.size)


def stored_as(pairs: Pairs, dtype: torch.dtype) -> Pairs:
    return [(key.to(dtype), value.to(dtype)) for key, value in pairs]


def as_float(pairs: Pairs) -> Pairs:
    return stored_as(pairs, torch.float32)


def clean_caches(subject: Subject, study: Study, split: Split) -> list[Pairs]:
    """Stored clean caches of `study.calibration` texts of `train` or `validation`."""
    ids = texts(subject, split, study.calibration, study.prefix, study.seed)
    return [stored_as(prefill(subject, part), study.stored_dtype) for part in ids.split(study.rows)]


def training_of(study: Study, defence: Trained, seed: int) -> Training:
    """No contraction penalty: one flipped exponent is so large that the ratio would look at nothing else."""
    return Training(
        steps=study.steps,
        seed=seed,
        batch=study.batch,
        prefix_tokens=study.prefix,
        tail_tokens=study.tail,
        lambda_contr=0.0,
        token_gate=TokenGateSpec(checksum=defence.checksum),
    )


def stored_lessons(subject: Subject, study: Study, seed: int) -> list[Lesson]:
    """The clean halves of all training steps of a seed, on caches as they are stored."""
    made = []
    for lesson in lessons(subject, training_of(study, TRAINED[0], seed)):
        pairs = as_float(stored_as(lesson.pairs, study.stored_dtype))
        made.append(replace(lesson, pairs=pairs, target=tail_logits(subject, lesson.tail, pairs)))
    return made


def training_damage(subject: Subject, study: Study, limits: Limits, front: str, seed: int) -> Damage:
    """Row i of step s gets one fault, of a kind that is drawn evenly; then the plain defence in front."""
    shape = study.shape(subject.layers)

    def damage(key: Tensor, value: Tensor, layer: int, draw: int) -> tuple[Tensor, Tensor]:
        pair = [key.to(study.stored_dtype), value.to(study.stored_dtype)]
        pair = [x.clone() for x in pair]
        for row in range(key.shape[0]):
            number = draw * study.batch + row
            chosen = torch.randint(len(KINDS), (), generator=seeds.generator(seed, seeds.EVENT, seeds.TRAIN, draw, row))
            kind = KINDS[int(chosen)]
            generator = trial_generator(seed, seeds.TRAIN, kind, number)
            place = draw_place(shape, generator)
            if place.layer == layer:
                own = pair[place.side]
                own[row : row + 1] = strike(own[row : row + 1], kind, place, shape.size, generator)
        read = clipped([(pair[0], pair[1])], limits[layer : layer + 1])[0] if front == "clip" else (guard(pair[0]), guard(pair[1]))
        return read[0].float(), read[1].float()

    return damage


def train(subject: Subject, study: Study, limits: Limits, defence: Trained, seed: int, prepared: Sequence[Lesson]) -> RepairOperator:
    """One operator of a trained defence."""
    damage = training_damage(subject, study, limits, defence.front, seed)
    return train_operator(subject, damage, training_of(study, defence, seed), prepared).requires_grad_(False)


def new_operator_of(subject: Subject, study: Study, defence: Trained, seed: int) -> RepairOperator:
    """The untrained operator of a trained defence, to load one into."""
    return new_operator(subject, training_of(study, defence, seed))


def gate_threshold(operator: RepairOperator, caches: Sequence[Pairs], size: int, front: str, limits: Limits) -> Tensor:
    """Where the gate of one operator raises an alarm, from clean validation caches read through its front."""
    scores = []
    for stored in caches:
        read = as_float(clipped(stored, limits) if front == "clip" else stored)
        scores.append(gate_scores(gates(operator, read, checks_of(operator, as_float(stored))), size))
    return threshold(scores)
