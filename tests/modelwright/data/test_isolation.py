"""Documents in one window do not see each other: shown on logits, with the ways that leak beside the ways that do
not.
"""

from __future__ import annotations

from array import array
from itertools import pairwise

import pytest
import torch
from transformers import PreTrainedModel

from helpers.tiny_random import random_gpt2, random_llama, random_qwen3
from modelwright.data.encoding import EncodedDocument
from modelwright.data.packing import block_mask, collate, pack

WINDOW = 128
TOLERANCE = 1e-5
LEAK = 1e-1


@pytest.fixture(params=[random_llama, random_qwen3, random_gpt2], ids=["llama", "qwen3", "gpt2"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return request.param()


def _batch() -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """A packed batch of two rows, and for each piece of the first row its ids."""
    generator = torch.Generator().manual_seed(1)
    documents = []
    for length in (37, 50, 23, 61, 60):
        ids = array("i", torch.randint(0, 250, (length,), generator=generator).tolist())
        documents.append(EncodedDocument(ids, array("i", ids), "text", "x"))
    packed = pack(documents, WINDOW, pad_id=258, seed=0)
    assert len(packed) == 2
    batch = collate([packed[0], packed[1]])
    return batch, [torch.tensor(list(d.input_ids)) for d in documents]


def _error(model: PreTrainedModel, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> float:
    """Largest difference between a packed document's logits and its logits alone, over all documents of all rows."""
    worst = 0.0
    for row in range(len(logits)):
        positions = batch["position_ids"][row]
        starts = [*(positions == 0).nonzero().flatten().tolist(), WINDOW]
        for begin, end in pairwise(starts):
            alone = model(input_ids=batch["input_ids"][row : row + 1, begin:end]).logits[0]
            worst = max(worst, float((logits[row, begin:end] - alone).abs().max()))
    return worst


@torch.no_grad()
def test_the_batch_as_collated_isolates(model: PreTrainedModel) -> None:
    batch, _ = _batch()
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    assert _error(model, model(**inputs).logits, batch) <= TOLERANCE


@torch.no_grad()
def test_the_explicit_block_mask_isolates(model: PreTrainedModel) -> None:
    batch, _ = _batch()
    mask = block_mask(batch["position_ids"])
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], attention_mask=mask).logits
    assert _error(model, logits, batch) <= TOLERANCE


@torch.no_grad()
def test_a_mask_of_ones_leaks(model: PreTrainedModel) -> None:
    batch, _ = _batch()
    ones = torch.ones_like(batch["input_ids"])
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], attention_mask=ones, use_cache=False).logits
    assert _error(model, logits, batch) > LEAK


@torch.no_grad()
def test_the_default_cache_leaks() -> None:
    model = random_llama()
    batch, _ = _batch()
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=True).logits
    assert _error(model, logits, batch) > LEAK


@torch.no_grad()
def test_plain_positions_leak(model: PreTrainedModel) -> None:
    batch, _ = _batch()
    assert _error(model, model(input_ids=batch["input_ids"], use_cache=False).logits, batch) > LEAK


def test_loss_of_a_batch_is_the_loss_of_its_documents() -> None:
    """No label crosses a boundary: the packed loss equals the token-weighted mean of the losses alone."""
    model = random_llama()
    batch, documents = _batch()
    packed = model(**batch).loss.item()
    total = sum(model(input_ids=ids[None], labels=ids[None]).loss.item() * (len(ids) - 1) for ids in documents)
    assert packed == pytest.approx(total / sum(len(ids) - 1 for ids in documents), rel=1e-5)


def test_training_gradients_do_not_cross() -> None:
    """The gradient of one document's loss with respect to another's embeddings is exactly zero."""
    model = random_llama()
    batch, _ = _batch()
    embedded = model.get_input_embeddings()(batch["input_ids"][:1]).detach().requires_grad_()
    positions = batch["position_ids"][:1]
    logits = model(inputs_embeds=embedded, position_ids=positions, use_cache=False).logits
    starts = (positions[0] == 0).nonzero().flatten().tolist()
    logits[0, starts[1] :].square().sum().backward()
    assert embedded.grad is not None
    assert float(embedded.grad[0, : starts[1]].abs().max()) == 0.0
    assert float(embedded.grad[0, starts[1] :].abs().max()) > 0.0
