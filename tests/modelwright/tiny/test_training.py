"""Training: deterministic, exactly resumable, honest about checkpoints that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modelwright.errors import DamagedFileError, LoadError, MissingFileError
from modelwright.tiny.batches import ANSWER_WEIGHT, make_batch, repeated_tokens
from modelwright.tiny.checkpoint import CHECKPOINT_NAME
from modelwright.tiny.recipe import FINISHING, MINIATURE, Stage
from modelwright.tiny.training import Prepared, Progress, build_model, train, weighted_loss


def _weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


def _equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(_weights(first), _weights(second), strict=True))


def test_equal_seeds_train_equal_models_and_the_loss_falls(prepared: Prepared, tmp_path: Path) -> None:
    seen: list[Progress] = []
    first = train(MINIATURE, prepared, 0, tmp_path / "a", report=seen.append)
    second = train(MINIATURE, prepared, 0, tmp_path / "b")
    other = train(MINIATURE, prepared, 1, tmp_path / "c")
    assert _equal(first, second)
    assert not _equal(first, other)
    assert seen[-1].step == 20 and seen[-1].seconds_left == 0.0
    ids, weights = make_batch(prepared.data, Stage(1, 8, 64, FINISHING), 99, 0)
    with torch.no_grad():
        before = weighted_loss(build_model(MINIATURE, prepared.tokenizer, 0), ids, weights)
        assert weighted_loss(first, ids, weights) < before - 0.5


@pytest.mark.parametrize("stop", [1, 10, 13])
def test_a_stopped_training_resumes_bit_for_bit(prepared: Prepared, tmp_path: Path, stop: int) -> None:
    whole = train(MINIATURE, prepared, 0, tmp_path / "whole")
    train(MINIATURE, prepared, 0, tmp_path / "parts", stop_after=stop)
    resumed = train(MINIATURE, prepared, 0, tmp_path / "parts", resume=True)
    assert _equal(whole, resumed)


def test_checkpoints_that_cannot_be_used_are_named(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no checkpoint"):
        train(MINIATURE, prepared, 0, tmp_path, resume=True)
    train(MINIATURE, prepared, 0, tmp_path, stop_after=2)
    with pytest.raises(LoadError, match="another recipe, seed or data"):
        train(MINIATURE, prepared, 1, tmp_path, resume=True)
    with pytest.raises(LoadError, match="another recipe, seed or data"):
        train(replace(MINIATURE, matrix_rate=0.5), prepared, 0, tmp_path, resume=True)
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DamagedFileError, match="safetensors"):
        train(MINIATURE, prepared, 0, tmp_path, resume=True)


def test_batches_depend_on_seed_and_step_only(prepared: Prepared) -> None:
    stage = Stage(1, 6, 96, FINISHING)
    ids, weights = make_batch(prepared.data, stage, 0, 7)
    again, _ = make_batch(prepared.data, stage, 0, 7)
    other, _ = make_batch(prepared.data, stage, 0, 8)
    assert torch.equal(ids, again) and not torch.equal(ids, other)
    assert ids.shape == weights.shape == (6, 96)
    assert set(weights.unique().tolist()) <= {0.0, 1.0, ANSWER_WEIGHT}
    assert not weights[:, 0].any()
    assert int(ids.min()) >= 0 and int(ids.max()) < 1024
    assert not weights[ids == prepared.data.pad].any()


def test_repeated_runs_repeat() -> None:
    from random import Random

    for seed in range(50):
        tokens, answers = repeated_tokens(Random(seed), 64, 6, 1024)
        period = next(p for p in range(1, 64) if tokens[p:] == tokens[:-p])
        assert answers == [position > period for position in range(64)]


def test_weighted_loss_equals_the_plain_definition(prepared: Prepared) -> None:
    model = build_model(MINIATURE, prepared.tokenizer, 0)
    ids, weights = make_batch(prepared.data, Stage(1, 3, 48, FINISHING), 0, 0)
    with torch.no_grad():
        logs = model(input_ids=ids).logits.log_softmax(-1)
        total = norm = 0.0
        for row in range(3):
            for position in range(1, 48):
                weight = float(weights[row, position])
                total -= weight * float(logs[row, position - 1, ids[row, position]])
                norm += weight
        assert float(weighted_loss(model, ids, weights)) == pytest.approx(total / norm, rel=1e-5)


def test_an_unknown_kind_of_row_is_refused(prepared: Prepared) -> None:
    with pytest.raises(ValueError, match="allowed are text"):
        make_batch(prepared.data, Stage(1, 1, 32, (("poem", 1.0),)), 0, 0)
