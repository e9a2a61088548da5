"""From recipe to folder: what plain transformers loads, figures, card, resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from modelwright.tiny import evaluation, training
from modelwright.tiny.card import render_card
from modelwright.tiny.making import WORK_FOLDER, make
from modelwright.tiny.recipe import MINIATURE
from modelwright.tiny.training import Prepared


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer samples and shorter lengths: the machinery is tested here, not the model."""
    monkeypatch.setattr(evaluation, "PASSKEY_LENGTHS", (160, 256))
    monkeypatch.setattr(evaluation, "TEXT_LENGTHS", (128, 512))
    monkeypatch.setattr(evaluation, "PASSKEY_SAMPLES", 3)
    monkeypatch.setattr(evaluation, "SENTIMENT_SAMPLES", 6)


@pytest.mark.usefixtures("quick")
def test_a_made_folder_loads_in_plain_transformers_and_states_its_figures(prepared: Prepared, tmp_path: Path) -> None:
    out = tmp_path / "miniature"
    said: list[str] = []
    figures = make(MINIATURE, prepared, 0, out, say=said.append)
    assert not (out / WORK_FOLDER).exists()
    assert json.loads((out / "figures.json").read_text()) == json.loads(json.dumps(figures))
    assert (out / "README.md").read_text(encoding="utf-8") == render_card(figures)
    assert set(figures["measured"]["passkey"]["raw"]) == {"160", "256"}
    with safe_open(out / "model.safetensors", "pt") as stored:
        names = stored.keys()  # the handle itself cannot be iterated
        assert {stored.get_tensor(name).dtype for name in names} == {torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.float32
    assert model.config.rope_parameters["rope_theta"] == 10_000.0
    assert model.config.max_position_embeddings == 512
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert model.generation_config.eos_token_id == [tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")]
    ids = tokenizer("import os", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=4, min_new_tokens=4).shape[1] == ids.shape[1] + 4
    assert said


@pytest.mark.usefixtures("quick")
def test_making_goes_on_from_a_checkpoint(prepared: Prepared, tmp_path: Path) -> None:
    whole = make(MINIATURE, prepared, 0, tmp_path / "whole")
    training.train(MINIATURE, prepared, 0, tmp_path / "parts" / WORK_FOLDER, stop_after=7)
    parts = make(MINIATURE, prepared, 0, tmp_path / "parts", resume=True)
    assert parts["weights_sha256"] == whole["weights_sha256"]
    assert parts["measured"] == whole["measured"]


def test_held_out_documents_are_of_one_length(prepared: Prepared) -> None:
    documents = evaluation.held_out_documents(prepared.corpus)
    assert documents and all(len(text) == evaluation.DOCUMENT_CHARACTERS for text in documents)
