from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import pytest
import torch
from transformers import PreTrainedModel

from helpers.tiny_random import byte_tokenizer, random_gpt2, random_llama
from modelwright.errors import UsageError
from modelwright.probes.passkey import Passkey
from modelwright.probes.protocol import ProbeItem, ProbeResult, Score, Variant, mean_result
from modelwright.probes.quiet import undisturbed
from modelwright.probes.runner import ProbeProgress, ProbeStopped, greedy, run_probe

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}


@dataclass(frozen=True)
class Echo:
    """A probe whose answer is what plain greedy decoding of the same model gives: a runner that decodes rightly scores
    1.
    """

    model: PreTrainedModel
    name: str = "echo"
    metric: str = "agreement"
    higher_is_better: bool = True
    min_length: int = 8
    new_tokens: int = 6

    def build(self, tokenizer: Any, length: int, n: int, seed: int, variant: Variant = "raw") -> list[ProbeItem]:
        items = []
        for i in range(n):
            generator = torch.Generator().manual_seed(1000 * seed + i)
            ids = torch.randint(97, 122, (length - i % 3,), generator=generator)
            items.append(ProbeItem(tuple(ids.tolist()), self._reference(ids, tokenizer), i / 10, length, self.new_tokens))
        return items

    def _reference(self, ids: torch.Tensor, tokenizer: Any) -> str:
        """One row, no padding, no cache, a fresh model state for every token."""
        fresh = type(self.model)(self.model.config)
        fresh.load_state_dict(self.model.state_dict())
        fresh.eval()
        row = ids.tolist()
        for _ in range(self.new_tokens):
            row.append(int(fresh(torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
            if row[-1] == tokenizer.eos_token_id:
                break
        return str(tokenizer.decode(row[len(ids) :], skip_special_tokens=True))

    def score(self, item: ProbeItem, output: str) -> float:
        return float(output == item.answer)

    def aggregate(self, scores: Sequence[Score], length: int) -> ProbeResult:
        return mean_result(self, scores, length)


def _model(**overrides: Any) -> PreTrainedModel:
    model = random_llama(**overrides)
    model.generation_config.eos_token_id = byte_tokenizer().eos_token_id
    return model


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_batches_and_padding_do_not_change_the_answer(batch_size: int) -> None:
    model = _model()
    (result,) = run_probe(model, byte_tokenizer(), Echo(model), [60], n=7, batch_size=batch_size)
    assert (result.mean, result.n, result.cache, result.failures) == (1.0, 7, "kv", ())
    assert result.seconds > 0 and result.by_depth["60"] == 1.0


def test_learned_positions_with_padding() -> None:
    model = random_gpt2()
    model.generation_config.eos_token_id = byte_tokenizer().eos_token_id
    (result,) = run_probe(model, byte_tokenizer(), Echo(model), [40], n=6, batch_size=4)
    assert result.mean == 1.0


def test_dynamic_rope_runs_without_a_cache_and_without_memory_of_longer_prompts() -> None:
    model = _model(rope_parameters=DYNAMIC, max_position_embeddings=32)
    results = run_probe(model, byte_tokenizer(), Echo(model), [100, 40, 80], n=3, batch_size=1)
    assert [result.mean for result in results] == [1.0, 1.0, 1.0]
    assert {result.cache for result in results} == {"prefill"}


def test_a_repetition_penalty_of_the_model_does_not_bend_greedy_decoding() -> None:
    model = _model()
    model.generation_config.repetition_penalty = 5.0
    settings = model.generation_config
    (result,) = run_probe(model, byte_tokenizer(), Echo(model), [60], n=4)
    assert result.mean == 1.0
    assert model.generation_config is settings


def test_leaves_no_trace_in_training() -> None:
    """Two identical trainings with dropout; one is probed between the steps. Weights, modes, gradients and RNG stay
    bit-identical.
    """

    def train(probing: bool) -> tuple[list[torch.Tensor], list[bool], list[bool], float]:
        model = _model(attention_dropout=0.3, rope_parameters=DYNAMIC, max_position_embeddings=32)
        model.train()
        model.model.layers[0].eval()  # a mode that a plain model.train() afterwards would lose
        model.model.embed_tokens.weight.requires_grad_(False)
        random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for step in range(3):
            ids = torch.randint(0, 250, (2, 40 + step))
            model(input_ids=ids, labels=ids).loss.backward()
            coverage = [parameter.grad is not None for parameter in model.parameters()]
            optimizer.step()
            if probing:
                run_probe(model, byte_tokenizer(), Echo(model), [90, 40], n=2)
                with undisturbed(model):
                    torch.rand(3), random.random(), numpy.random.rand()
            assert coverage == [parameter.grad is not None for parameter in model.parameters()]
            optimizer.zero_grad()
        flags = [parameter.requires_grad for parameter in model.parameters()]
        modes = [module.training for module in model.modules()]
        return [p.detach().clone() for p in model.parameters()], flags, modes, random.random() + numpy.random.rand()

    plain, probed = train(False), train(True)
    assert all(torch.equal(a, b) for a, b in zip(plain[0], probed[0], strict=True))
    assert plain[1:] == probed[1:]


def test_restores_after_an_error_too() -> None:
    model = _model().train()
    inside: list[bool] = []

    def fail() -> None:
        with undisturbed(model):
            inside.extend([model.training, torch.is_grad_enabled()])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert inside == [False, False]
    assert model.training and torch.is_grad_enabled()


def test_failures_score_zero_and_are_told() -> None:
    model = random_gpt2(n_positions=64)
    model.generation_config.eos_token_id = byte_tokenizer().eos_token_id
    (result,) = run_probe(model, byte_tokenizer(), Passkey(), [300], n=2)
    assert (result.mean, result.n) == (0.0, 2)
    assert "gave no answer" in result.failures[0]


def test_progress_and_stopping() -> None:
    model = _model()
    told: list[ProbeProgress] = []
    run_probe(model, byte_tokenizer(), Echo(model), [20, 30], n=4, batch_size=2, progress=told.append)
    assert told[-1] == ProbeProgress(8, 8, 30)
    assert [step.done for step in told] == sorted(step.done for step in told)
    with pytest.raises(ProbeStopped) as stopped:
        run_probe(model, byte_tokenizer(), Echo(model), [20, 30], n=4, should_stop=lambda: len(told) > 4, progress=told.append)
    assert [result.length for result in stopped.value.results] == [20]


def test_result_is_plain_json() -> None:
    import json

    model = _model()
    (result,) = run_probe(model, byte_tokenizer(), Passkey(), [320], n=2, seed=9, variant="chat")
    record = json.loads(json.dumps(result.as_dict()))
    wanted = {
        "name",
        "length",
        "metric",
        "n",
        "mean",
        "ci_low",
        "ci_high",
        "by_depth",
        "seconds",
        "prompt_variant",
        "seed",
    }
    assert wanted <= set(record)
    assert (record["prompt_variant"], record["seed"]) == ("chat", 9)


def test_greedy_through_peft_uses_the_adapter() -> None:
    peft = pytest.importorskip("peft")
    base = _model()
    torch.manual_seed(0)
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False))
    rows = [list(range(60, 80))]
    with undisturbed(model):
        adapted = greedy(model, rows, 6, 258)
        with model.disable_adapter():
            plain = greedy(model, rows, 6, 258)
    assert adapted != plain
    assert model.generation_config.max_new_tokens != 6 and base.generation_config.max_new_tokens != 6


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"variant": "chatty"}, "raw, chat"),
        ({"n": 0}, "at least 1"),
        ({"lengths": [4, 20]}, "at least 8 tokens; found the lengths 4"),
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], says: str) -> None:
    model = _model()
    with pytest.raises(UsageError, match=says):
        run_probe(model, byte_tokenizer(), Echo(model), **{"lengths": [20], **wrong})
