"""On a model that really predicts text: stretching without any fine-tuning beats not stretching, beyond the window."""

from __future__ import annotations

from typing import Any

import pytest

from modelwright.tiny import tiny_model_path
from scaler_wizard.context_methods import get_method
from scaler_wizard.context_methods.apply import reset_dynamic_state

DOCUMENTS = 4


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    folder = tiny_model_path("modelwright/tiny-1.5m")
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32", local_files_only=True).eval()


@pytest.fixture(scope="module")
def documents(model: Any) -> Any:
    """Held-out source text, [DOCUMENTS, 4 L] token ids."""
    import torch
    from transformers import AutoTokenizer

    from modelwright.tiny.corpus import load_corpus
    from modelwright.tiny.evaluation import held_out_documents

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path("modelwright/tiny-1.5m"), local_files_only=True)
    length = 4 * model.config.max_position_embeddings
    rows = []
    for text in held_out_documents(load_corpus()):
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(tokens) >= length:
            rows.append(tokens[:length])
        if len(rows) == DOCUMENTS:
            break
    return torch.tensor(rows)


def loss_at(model: Any, documents: Any, length: int) -> float:
    """Mean negative log-likelihood per token (nats) of the first `length` tokens, one document per pass."""
    import torch

    losses = []
    for row in documents:
        reset_dynamic_state(model)
        with torch.no_grad():
            tokens = row[None, :length]
            losses.append(float(model(input_ids=tokens, labels=tokens, use_cache=False).loss))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("method_id", "opts"), [("yarn", {}), ("yarn", {"ramp": "paper"}), ("ntk", {}), ("dynamic_ntk", {})])
def test_four_times_the_window_without_fine_tuning(method_id: str, opts: dict[str, Any], model: Any, documents: Any) -> None:
    original = model.config.max_position_embeddings
    method = get_method(method_id)
    inside, beyond = loss_at(model, documents, original), loss_at(model, documents, 4 * original)
    applied = method.apply(model, method.parameters(model.config, 4 * original, **opts))
    stretched = loss_at(model, documents, 4 * original)
    method.revert(model, applied)
    assert inside < beyond, "the model is not lost beyond its window, so it can prove nothing here"
    assert stretched < beyond
    assert loss_at(model, documents, original) == inside
