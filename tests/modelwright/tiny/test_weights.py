"""The weights in the package: complete, small, as measured, and usable without project code."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from modelwright.errors import LoadError
from modelwright.files import sha256_file
from modelwright.tiny import PREFIX, TINY_NAMES, evaluation, tiny_model_path, weights_folder
from modelwright.tiny.card import render_card
from modelwright.tiny.corpus import load_corpus
from modelwright.tiny.recipe import RECIPES

MADE = [name for name in TINY_NAMES if (weights_folder() / name / "model.safetensors").is_file()]
family = pytest.mark.parametrize("name", MADE)
LARGEST_BYTES = 16_000_000


@family
def test_a_packaged_model_predicts_source_text_in_plain_transformers(name: str) -> None:
    folder = tiny_model_path(PREFIX + name)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(model) is LlamaForCausalLM
    ids = tokenizer("import os\nimport sys\n\n\nclass Reader:\n    def __init__(self, path):\n        self.", return_tensors="pt")[
        "input_ids"
    ]
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
    assert loss < 4.5  # a uniform guess over 1,024 tokens is 6.93
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


@family
def test_card_and_figures_agree_with_each_other_and_with_the_weights(name: str) -> None:
    folder = tiny_model_path(name)
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    assert (folder / "README.md").read_text(encoding="utf-8") == render_card(figures)
    assert figures["weights_sha256"] == sha256_file(folder / "model.safetensors")
    assert figures["name"] == name
    assert figures["recipe"] == json.loads(json.dumps(asdict(RECIPES[name]))), "the weights are not of this recipe"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert figures["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert model.config.max_position_embeddings == 512


def test_the_family_shares_one_tokenizer_and_fits_its_size() -> None:
    folders = [tiny_model_path(name) for name in MADE]
    assert "tiny-1.5m" in MADE
    assert len({sha256_file(folder / "tokenizer.json") for folder in folders}) == 1
    total = sum(path.stat().st_size for path in weights_folder().rglob("*") if path.is_file())
    assert total <= LARGEST_BYTES


def test_the_middle_model_retrieves_inside_its_window_and_fails_beyond_by_its_own_figures() -> None:
    passkey = json.loads((tiny_model_path("tiny-1.5m") / "figures.json").read_text(encoding="utf-8"))["measured"]["passkey"]["raw"]
    assert min(passkey[length] for length in ("160", "256", "512")) >= 0.95
    assert max(passkey["1024"], passkey["2048"]) <= 0.05


def test_the_middle_model_answers_a_passkey_question_now() -> None:
    folder = tiny_model_path("tiny-1.5m")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert evaluation.measure_passkey(model, tokenizer, chat=False, lengths=(256,), samples=6)["256"] >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("chat", [False, True])
def test_the_middle_model_measures_as_its_card_says(chat: bool) -> None:
    folder = tiny_model_path("tiny-1.5m")
    stated = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    measured = evaluation.measure_passkey(model, tokenizer, chat=chat)
    for length, accuracy in stated["measured"]["passkey"]["chat" if chat else "raw"].items():
        assert measured[length] == pytest.approx(accuracy, abs=0.02)  # another CPU may flip a near tie
    corpus = load_corpus()
    if not chat and corpus.digest == stated["data"]["digest"]:
        bits = evaluation.measure_bits_per_byte(model, tokenizer, corpus)
        assert bits["512"] == pytest.approx(stated["measured"]["bits_per_byte"]["512"], abs=0.005)


def test_unknown_and_missing_models_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory) -> None:
    with pytest.raises(LoadError, match=r"allowed are modelwright/tiny-0\.4m"):
        tiny_model_path("modelwright/tiny-9m")
    monkeypatch.setattr("modelwright.tiny.weights_folder", lambda: tmp_path)
    with pytest.raises(LoadError, match="make-tiny --size 5m"):
        tiny_model_path("modelwright/tiny-5m")
