"""Dynamic NTK keeps the frequencies of the longest text it read; nothing here may depend on that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.small_job import small_job
from helpers.tiny_random import byte_tokenizer, random_llama
from modelwright.files import read_json
from modelwright.probes.quiet import start_afresh, undisturbed
from modelwright.probes.sliding_ppl import perplexity
from scaler_wizard import strategies
from scaler_wizard.context_methods import get_method
from scaler_wizard.export import logits_of
from scaler_wizard.resolve import resolve_document
from scaler_wizard.runner import run_job
from scaler_wizard.strategies import StrategyPlan
from scaler_wizard.training import RungTrainer, training_arguments

WINDOW = 64


def dynamic_model() -> Any:
    """A random Llama of 64 tokens, stretched to 512 by dynamic NTK."""
    torch.set_num_threads(1)
    model, method = random_llama(max_position_embeddings=WINDOW), get_method("dynamic_ntk")
    method.apply(model, method.parameters(model.config, 512))
    return model


def read_long(model: Any, length: int = 400) -> None:
    with torch.no_grad():
        model(input_ids=torch.arange(length)[None] % 250, use_cache=False)


def frequencies(model: Any) -> torch.Tensor:
    return next(module for module in model.modules() if hasattr(module, "inv_freq")).inv_freq.clone()


def row(length: int, seed: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 250, (length,), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids.clone(), "position_ids": torch.arange(length)}


def test_a_long_text_does_leave_a_trace_in_the_library() -> None:
    """The fault that the rest of this file guards against: a text of the original length after a longer one reads differently."""
    model, short = dynamic_model(), row(WINDOW, 1)["input_ids"][None]
    with torch.no_grad():
        fresh = model(input_ids=short, use_cache=False).logits
        read_long(model)
        stale = model(input_ids=short, use_cache=False).logits
        start_afresh(model)
        reset = model(input_ids=short, use_cache=False).logits
    assert not torch.equal(stale, fresh) and torch.equal(reset, fresh)


class Recorder(RungTrainer):
    """Keeps the frequencies with which each micro-batch was computed, and its loss."""

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.seen.append((inputs["input_ids"].shape[1], frequencies(model), float(loss)))
        return loss


def losses_of(tmp_path: Path, windows: list[dict[str, torch.Tensor]]) -> list[tuple[int, torch.Tensor, float]]:
    """One micro-batch per window at a learning rate of 0, accumulated in pairs."""
    steps = len(windows) // 2
    rungs = {"512": {"steps": steps, "micro_batch_size": 1, "gradient_accumulation": 2, "learning_rate": 1e-30}}
    job = resolve_document(small_job(tmp_path, training={"rungs": rungs, "batch_tokens": None}))
    strategy = strategies.get("lora")
    torch.manual_seed(0)
    model = strategy.prepare(dynamic_model(), StrategyPlan("lora", 4, 8, 0.0))
    made = Recorder(
        model=model,
        arguments=training_arguments(job, job.rungs[0], tmp_path / "out", bf16=False, cpu=True, checkpointing=False),
        windows=windows,  # type: ignore[arg-type]
        strategy=strategy,
        save=lambda fill, step: None,
        loss_chunk=64,
        embedding_learning_rate=None,
        callbacks=[],
    )
    made.seen = []  # type: ignore[attr-defined]
    made.train()
    return made.seen  # type: ignore[attr-defined,no-any-return]


def test_a_micro_batch_is_trained_the_same_after_a_longer_one(tmp_path: Path) -> None:
    """Short windows after long ones, inside one optimizer step and across two: same frequencies, same loss as alone."""
    short, long = row(WINDOW, 1), row(400, 2)
    middle = row(200, 3)
    mixed = losses_of(tmp_path, [long, middle, long, short, short, middle])
    alone = {length: losses_of(tmp_path, [window, window])[0] for length, window in ((WINDOW, short), (200, middle), (400, long))}
    assert [length for length, _, _ in mixed] == [400, 200, 400, WINDOW, WINDOW, 200]
    for length, used, _ in mixed:
        assert torch.equal(used, alone[length][1]), length
    assert not torch.equal(alone[WINDOW][1], alone[200][1]) and not torch.equal(alone[200][1], alone[400][1])
    for index, (length, _, loss) in enumerate(mixed):
        predicted = sum(other - 1 for other, _, _ in mixed[index // 2 * 2 : index // 2 * 2 + 2])  # tokens of its optimizer step
        assert loss * predicted == pytest.approx(alone[length][2] * 2 * (length - 1), rel=1e-6)


def test_perplexity_of_a_short_text_does_not_depend_on_the_one_before() -> None:
    model, tokenizer = dynamic_model(), byte_tokenizer()
    short, long = "amber birch cedar dune ember fjord grove heron inlet jun", "kelp lagoon maple ochre " * 20
    alone = [perplexity(model, tokenizer, [text], 400) for text in (short, long)]
    read_long(model)
    for order in ((short, long), (long, short), (long, short, long)):
        together = perplexity(model, tokenizer, order, 400)
        expected = sum(alone[text == long].nll for text in order)
        assert together.nll == pytest.approx(expected, rel=1e-9)


def test_an_evaluation_puts_the_state_of_training_back() -> None:
    model = dynamic_model()
    read_long(model, 200)
    before = frequencies(model)
    with undisturbed(model):
        read_long(model, 400)
        assert not torch.equal(frequencies(model), before)
    assert torch.equal(frequencies(model), before)


def test_logits_compared_at_export_do_not_depend_on_the_text_before() -> None:
    model = dynamic_model()
    ids = row(WINDOW, 5)["input_ids"].tolist()
    fresh = logits_of(model, ids)
    read_long(model)
    assert torch.equal(logits_of(model, ids), fresh)


@pytest.mark.timeout(600)
def test_a_whole_run_with_dynamic_ntk_exports_what_it_measured(tmp_path: Path) -> None:
    """The merged weights agree with the adapters although the last thing that was read was a long text."""
    job = small_job(
        tmp_path,
        scaling={"context_method": "dynamic_ntk", "growth": "single_shot", "train_embeddings": "off"},
        training={"steps_per_rung": 1},
        evaluation={"eval_every": 0, "eval_tokens": 512},
        gate={"max_growth": 4.0},
        export={"merge": True},
    )
    assert run_job(job).status == "completed"
    config = read_json(tmp_path / "run" / "model" / "config.json")
    assert config["rope_parameters"]["rope_type"] == "dynamic" and config["max_position_embeddings"] == 512
    (results,) = (tmp_path / "run" / "benchmarks" / "results").glob("*.json")
    assert {detail["cache"] for detail in read_json(results)["final"]["details"] if "cache" in detail} == {"prefill"}
