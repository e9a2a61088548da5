from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.small_job import small_job
from helpers.tiny_random import random_llama
from scaler_wizard import strategies
from scaler_wizard.resolve import resolve_document
from scaler_wizard.strategies import StrategyPlan
from scaler_wizard.training import RungTrainer, stack_windows, training_arguments, warmup_steps


def windows(count: int, length: int = 24) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        ids = torch.randint(0, 250, (length,), generator=generator)
        labels = ids.clone()
        labels[: int(torch.randint(1, length // 2, (1,), generator=generator))] = -100
        found.append({"input_ids": ids, "labels": labels, "position_ids": torch.arange(length)})
    return found


def trainer(tmp_path: Path, *, micro: int, accumulation: int, chunk: int | None, steps: int = 3) -> RungTrainer:
    overrides = {"rungs": {"512": {"steps": steps, "micro_batch_size": micro, "gradient_accumulation": accumulation}}}
    job = resolve_document(small_job(tmp_path, training={**overrides, "embedding_learning_rate": 1e-4, "batch_tokens": None}))
    rung = job.rungs[0]
    torch.manual_seed(0)
    strategy = strategies.get("lora")
    model = strategy.prepare(random_llama(), StrategyPlan("lora", 4, 8, 0.0, train_embeddings=True))
    return RungTrainer(
        model=model,
        arguments=training_arguments(job, rung, tmp_path / "out", bf16=False, cpu=True, checkpointing=False),
        windows=windows(steps * micro * accumulation),  # type: ignore[arg-type]
        strategy=strategy,
        save=lambda fill, step: None,
        loss_chunk=chunk,
        embedding_learning_rate=job.training.embedding_learning_rate,
        callbacks=[],
    )


def state(made: RungTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in made.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("steps", "expected"), [(400, 20), (100, 10), (9, 0)])
def test_warm_up_is_at_most_a_tenth(tmp_path: Path, steps: int, expected: int) -> None:
    assert warmup_steps(resolve_document(small_job(tmp_path)), steps) == expected


def test_half_the_micro_batch_with_twice_the_accumulation_trains_the_same(tmp_path: Path) -> None:
    """What the retry after running out of GPU memory relies on: windows differ in labelled tokens, the update does not."""
    whole, halved = (trainer(tmp_path, micro=m, accumulation=a, chunk=16) for m, a in ((4, 1), (2, 2)))
    whole.train()
    halved.train()
    for name, value in state(whole).items():
        assert torch.allclose(value, state(halved)[name], atol=2e-5), name


def test_chunked_and_whole_logits_train_the_same(tmp_path: Path) -> None:
    chunked, whole = (trainer(tmp_path, micro=2, accumulation=2, chunk=chunk) for chunk in (7, None))
    chunked.train()
    whole.train()
    for name, value in state(chunked).items():
        assert torch.allclose(value, state(whole)[name], atol=2e-5), name


def test_embeddings_and_norms_have_their_own_learning_rate(tmp_path: Path) -> None:
    made = trainer(tmp_path, micro=1, accumulation=1, chunk=None)
    groups = made.create_optimizer().param_groups
    assert [group["lr"] for group in groups] == [1e-3, 1e-4]
    assert len(groups[1]["params"]) == 1 + 5  # the tied embedding once, and five norms
    assert all(group["betas"] == (0.9, 0.95) and group["weight_decay"] == 0.0 and group["fused"] for group in groups)


def test_windows_come_in_their_own_order(tmp_path: Path) -> None:
    made = trainer(tmp_path, micro=2, accumulation=1, chunk=None)
    seen = [row for batch in made.get_train_dataloader() for row in batch["input_ids"]]
    assert all(torch.equal(row, window["input_ids"]) for row, window in zip(seen, windows(6), strict=True))


def test_stacking() -> None:
    batch = stack_windows(windows(3))
    assert batch["input_ids"].shape == (3, 24) and set(batch) == {"input_ids", "labels", "position_ids"}
